"""A pipeline as a TOML file: reading it, with errors that point at the line, and writing it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from streamfit.cli import pipeline
from streamfit.cli.pipeline import InvalidOptionError, Pipeline
from streamfit.cli.values import Choice, nearest
from streamfit.errors import ConfigurationError

__all__ = ["place", "read", "write"]


def read(path: Path) -> Pipeline:
    """Read a pipeline.

    Raises
    ------
    ConfigurationError
        When the file cannot be read, is not TOML, or has a section or key that there is not.
    InvalidOptionError
        When a value is refused.
    """
    text = _text(path)
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of which a TOMLDecodeError is one
        raise ConfigurationError(f"{path} is not TOML: {error}") from None
    known: dict[str, set[str]] = {section.name: set() for section in fields(Pipeline)}
    for section, item, _ in pipeline.options():
        known[section].add(item.name)
    values: dict[tuple[str, str], Any] = {}
    for section, keys in content.items():
        if section not in known:
            raise ConfigurationError(
                f"{_at(path, text, section)}: there is no section [{section}]; "
                f"{nearest(section, known)}"
            )
        if not isinstance(keys, dict):
            raise ConfigurationError(
                f"{_at(path, text, section)}: {section} is a section: write [{section}], and its "
                f"keys below: {', '.join(sorted(known[section]))}"
            )
        for name, value in keys.items():
            if name not in known[section]:
                raise ConfigurationError(
                    f"{_at(path, text, section, name)}: [{section}] has no key {name!r}; "
                    f"{_hint(section, name, known)}"
                )
            values[section, name] = value
    return Pipeline.of_values(values)


def place(path: Path, error: InvalidOptionError) -> str:
    """Say where in the file the value is that was refused, and why it was.

    Examples
    --------
    >>> error = InvalidOptionError("model", "l1", "expected a number, not 'a'")
    >>> print(place(Path("no-such-file"), error))
    no-such-file: model.l1: expected a number, not 'a'
    """
    name = f"{error.section}.{error.name}" if error.name else f"[{error.section}]"
    try:
        text = _text(path)
    except ConfigurationError:
        text = ""
    return f"{_at(path, text, error.section, error.name)}: {name}: {error.reason}"


def write(described: Pipeline) -> str:
    """Return the file that says what `described` does, without what is at its default."""
    sections: dict[str, list[str]] = {}
    for section, name, value in described.given():
        sections.setdefault(section, []).append(f"{name} = {_told(value)}")
    return "\n".join("\n".join([f"[{section}]", *lines, ""]) for section, lines in sections.items())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from None


def _hint(section: str, name: str, known: Mapping[str, set[str]]) -> str:
    """Name the nearest key of the section; or the section that has this one."""
    elsewhere = [other for other, names in known.items() if name in names]
    return f"it belongs into [{elsewhere[0]}]" if elsewhere else nearest(name, known[section])


def _at(path: Path, text: str, section: str, name: str = "") -> str:
    """Return `path:line`, as far as the line is found."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*\"?([\w-]+)", line):
            inside = header[1] == section
            if inside and not name:
                return f"{path}:{number}"
        elif not name and re.match(rf"\s*\"?{re.escape(section)}\b", line):
            return f"{path}:{number}"
        if header := re.match(rf"\s*\[\s*{re.escape(section)}\s*\.\s*\"?{re.escape(name)}\b", line):
            return f"{path}:{number}"
        if inside and name and re.match(rf"\s*\"?{re.escape(name)}\"?\s*[=.]", line):
            return f"{path}:{number}"
    return str(path)


def _told(value: Any) -> str:
    if isinstance(value, Choice):
        return json.dumps(str(value))
    if isinstance(value, tuple):
        return f"[{', '.join(map(_told, value))}]"
    return json.dumps(value)
