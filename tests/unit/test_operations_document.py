"""docs/operations.md says what each log line, exit code and metric means, and of no others."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import connectors
import streamfit as sf
from streamfit.errors import StreamfitError

DOCUMENT = Path(sf.__file__).parents[1] / "docs" / "operations.md"
SOURCES = [
    path
    for package in (sf, connectors)
    for path in sorted(Path(str(package.__file__)).parent.rglob("*.py"))
    if "testing" not in path.parts
]
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def table(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading."""
    section = DOCUMENT.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in rows]


def names(heading: str) -> list[str]:
    return [name for row in table(heading) for name in re.findall(r"`(\w+)(?:\(\))?`", row[0])]


def events_in_code() -> set[str]:
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                place = {"event": 0, "Repeated": 1}.get(node.func.id)
                if place is not None and isinstance(name := node.args[place], ast.Constant):
                    found.add(str(name.value))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^event=([a-z_]+)(?= |$)", node.value))
    return found


def test_every_event_is_documented_and_every_documented_event_is_there() -> None:
    documented = names("Log lines")
    assert len(documented) == len(set(documented)) > 10
    assert events_in_code() == set(documented)


def test_every_log_line_is_an_event() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name in ("_log", "log") and node.func.attr in LEVELS:
                line = ast.unparse(node.args[0])
                assert line.startswith(("event(", "'event=")), f"{path}:{node.lineno}: {line}"


def test_every_exit_code_is_documented() -> None:
    documented = {int(row[0]): row[1].split("`")[1] for row in table("Exit codes") if row[1]}
    errors = [getattr(sf.errors, name) for name in sf.errors.__all__]
    codes = {e.exit_code: e for e in reversed(errors) if issubclass(e, StreamfitError)}
    assert set(documented) == set(codes)
    for code, name in documented.items():
        assert getattr(sf.errors, name).exit_code == code


def test_every_metric_is_documented() -> None:
    fields = {field.name for field in dataclasses.fields(sf.TrainingReport)} - {"_lag"}
    assert set(names("Metrics")) == fields | {"lag", "partition_lag"}
