"""The flags of `streamfit train`, made from the description of a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import Field
from typing import Annotated, Any

from streamfit.cli import app, pipeline
from streamfit.cli.pipeline import InvalidOptionError, Pipeline
from streamfit.cli.registries import REGISTRIES
from streamfit.cli.values import ChoicesKind, FlagKind
from streamfit.errors import ConfigurationError

__all__ = ["flag_of", "from_flags", "parameters"]

_PANELS = {
    "source": "Source",
    "model": "Model",
    "training": "Training",
    "bad_samples": "Bad samples",
    "checkpoint": "Checkpoints",
}


def flag_of(section: str, name: str) -> str:
    """Name the flag of an option.

    Examples
    --------
    >>> flag_of("model", "batch_size"), flag_of("checkpoint", "directory")
    ('--batch-size', '--checkpoint')
    """
    for its_section, item, option in pipeline.options():
        if (its_section, item.name) == (section, name):
            return _flag(item, option)
    return f"[{section}]"


def parameters() -> Iterator[inspect.Parameter]:
    """Make the parameters of the command, from which Typer makes its flags."""
    for section, item, option in pipeline.options():
        name = f"{section}__{item.name}"
        if (section, item.name) == ("source", "location"):
            kind: Any = Annotated[str, app.Argument(help=option.help, metavar="SOURCE")]
            yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind)
            continue
        flag = _flag(item, option)
        keywords: dict[str, Any] = {
            "help": option.help,
            "rich_help_panel": _PANELS[section],
        }
        if isinstance(option.kind, FlagKind):
            annotation: Any = bool | None
            flag = f"{flag}/--no-{flag[2:]}"
        else:
            annotation = list[str] | None if isinstance(option.kind, ChoicesKind) else str | None
            keywords["metavar"] = option.kind.metavar
            if option.registry is not None:
                keywords["autocompletion"] = _completion(option.registry)
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(item),
            annotation=Annotated[annotation, app.Option(flag, **keywords)],
        )


def from_flags(given: dict[str, Any]) -> Pipeline:
    """Make a pipeline of what Typer found, by the names of `parameters`."""
    values: dict[tuple[str, str], Any] = {}
    for section, item, option in pipeline.options():
        value = given.get(f"{section}__{item.name}")
        if value is None or value == []:
            continue
        if isinstance(value, str):
            try:
                value = option.kind.of_text(value)
            except ConfigurationError as error:
                raise InvalidOptionError(section, item.name, str(error)) from None
        values[section, item.name] = value
    return Pipeline.of_values(values)


def _flag(item: Field[Any], option: pipeline.Option) -> str:
    """Name the flag; the one positional argument is in capitals."""
    return option.flag or f"--{item.name.replace('_', '-')}"


def _default(item: Field[Any]) -> Any:
    """Return the default as a flag would give it."""
    if item.default is None or item.default in ("", ()):
        return None
    return item.default if isinstance(item.default, bool) else str(item.default)


def _completion(registry: str) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in sorted(REGISTRIES[registry]()) if name.startswith(incomplete)]

    return complete
