"""The design's dependency rule, read off the import statements.

::

    types, errors <- _kernels <- core <- offline, sources, checkpoint, journal, evaluation
                                       serving <- trainer <- adapters, distributed, cli
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import connectors
import streamfit

ROOTS = {
    "streamfit": Path(streamfit.__file__).parent,
    "connectors": Path(connectors.__file__).parent,
}

LAYERS = {
    "types": 0,
    "errors": 0,
    "events": 0,
    "_kernels": 1,
    "core": 2,
    "trainer": 4,
    "_run": 4,
    "_run_state": 4,
    "adapters": 5,
    "distributed": 5,
    "cli": 5,
    "__main__": 5,
}
"""Layer of each part of streamfit; what is not named is in the third: sources, checkpoint, ..."""

IMPURE = {"io", "os", "time", "datetime", "logging", "random", "pathlib", "socket", "threading"}


def module_name(root: str, path: Path) -> str:
    parts = path.relative_to(ROOTS[root]).with_suffix("").parts
    return ".".join([root, *(part for part in parts if part != "__init__")])


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it; `if TYPE_CHECKING` counts too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert all(alias.name != "*" for alias in node.names), f"{path}: import *"
            found.add(node.module or "")
            if node.module in ROOTS:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = {
    module_name(root, path): imports_of(path)
    for root, folder in ROOTS.items()
    for path in sorted(folder.rglob("*.py"))
}


def part(module: str) -> str:
    """`streamfit.core.learner` is of the part `core`."""
    return module.split(".")[1] if "." in module else ""


def layer(module: str) -> int:
    return LAYERS.get(part(module), 3)


def of_package(package: str, imports: set[str]) -> set[str]:
    return {name for name in imports if name.split(".")[0] == package}


LIBRARY = sorted(
    name
    for name in MODULES
    if name.startswith("streamfit.") and part(name) != "testing"  # which tests, so sees all
)


@pytest.mark.parametrize("module", LIBRARY)
def test_imports_point_downwards(module: str) -> None:
    inside = of_package("streamfit", MODULES[module])
    above = {name for name in inside if part(name) in LAYERS and layer(name) > layer(module)}
    assert not above


@pytest.mark.parametrize("module", LIBRARY)
def test_only_the_command_line_imports_connectors(module: str) -> None:
    if part(module) != "cli":
        assert not of_package("connectors", MODULES[module])


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("conn")))
def test_connectors_import_little_of_streamfit(module: str) -> None:
    allowed = {"types", "errors", "sources"}
    if module.startswith("connectors.codecs."):  # what is compiled is compiled there
        allowed.add("_kernels")
    assert {part(name) for name in of_package("streamfit", MODULES[module])} - {""} <= allowed


@pytest.mark.parametrize("module", [n for n in LIBRARY if part(n) in {"core", "_kernels"}])
def test_the_core_is_pure(module: str) -> None:
    assert not {name.split(".")[0] for name in MODULES[module]} & IMPURE
    path = ROOTS["streamfit"].parent.joinpath(*module.split("."))
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    assert "np.random" not in source.read_text(encoding="utf-8")


def test_the_textbook_loop_never_imports_the_kernels() -> None:
    assert not {name for name in MODULES["streamfit.offline"] if part(name) == "_kernels"}


@pytest.mark.parametrize(
    "client",
    [
        "kafka",
        "confluent_kafka",
        "safetensors",
        "orjson",
        "rich",
        "typer",
        "keras",
        "matplotlib",
        "ray",
        "sklearn",
        "starlette",
        "uvicorn",
        "prometheus_client",
    ],
)
def test_a_third_party_client_is_imported_in_one_module(client: str) -> None:
    users = [
        name
        for name, imports in MODULES.items()
        if of_package(client, imports) and not name.startswith("streamfit.testing")
    ]
    assert len(users) <= 1, users
