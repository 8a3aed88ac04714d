"""The kinds of value that an option may have, the same in a flag and in a TOML file.

A flag is text and is read by `of_text`; a TOML value has a type already. Both then go through
`check`, so that what one accepts the other does.
"""

from __future__ import annotations

import difflib
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from streamfit.errors import ConfigurationError, shown

__all__ = [
    "Choice",
    "ChoiceKind",
    "ChoicesKind",
    "FlagKind",
    "IntegerKind",
    "Kind",
    "LabelsKind",
    "NamesKind",
    "NumberKind",
    "TextKind",
    "nearest",
]


@dataclass(frozen=True)
class Choice:
    """One of several things, with its options: `huber`, or `huber:epsilon=0.5`.

    In TOML it is the same text, or a table: `{kind = "huber", epsilon = 0.5}`.

    Parameters
    ----------
    kind
        Its name.
    options
        Its options by name.

    Examples
    --------
    >>> Choice.of_text("ftrl_proximal:alpha=0.1,l1=2")
    Choice(kind='ftrl_proximal', options={'alpha': 0.1, 'l1': 2})
    >>> str(Choice.of_text("milestones:initial=8,milestones=[[100,32],[900,64]]"))
    'milestones:initial=8,milestones=[[100, 32], [900, 64]]'
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_text(cls, text: str) -> Choice:
        """Read `kind` or `kind:option=value,option=value`."""
        kind, _, rest = text.partition(":")
        options: dict[str, Any] = {}
        for part in _split(rest):
            name, equals, value = part.partition("=")
            if not equals or not name.strip():
                raise ConfigurationError(f"{part!r} is not option=value")
            options[name.strip()] = _literal(value.strip())
        return cls(kind.strip(), options)

    def __str__(self) -> str:
        options = ",".join(f"{name}={_shown(value)}" for name, value in self.options.items())
        return f"{self.kind}:{options}" if options else self.kind


class Kind(Protocol):
    """A kind of value."""

    @property
    def metavar(self) -> str:
        """What a flag's help calls it."""

    def of_text(self, text: str) -> Any:
        """Read the text of a flag, not checked yet."""

    def check(self, value: Any) -> Any:
        """Return the value, or raise `ConfigurationError` saying what was expected."""


@dataclass(frozen=True)
class TextKind:
    """Text: a name, a path, a URL."""

    metavar: str = "TEXT"

    def of_text(self, text: str) -> Any:
        """Return the text itself."""
        return text

    def check(self, value: Any) -> str:
        """Accept text that is not empty."""
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"expected text, not {shown(value)}")
        return value


@dataclass(frozen=True)
class IntegerKind:
    """A whole number."""

    metavar: str = "INTEGER"

    def of_text(self, text: str) -> Any:
        """Read a number."""
        return _literal(text)

    def check(self, value: Any) -> int:
        """Accept an integer; its bounds are those of what it is given to."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigurationError(f"expected an integer, not {shown(value)}")
        return value


@dataclass(frozen=True)
class NumberKind:
    """A number."""

    metavar: str = "NUMBER"

    def of_text(self, text: str) -> Any:
        """Read a number."""
        return _literal(text)

    def check(self, value: Any) -> float:
        """Accept a finite number."""
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not -sys.float_info.max <= value <= sys.float_info.max
        ):
            raise ConfigurationError(f"expected a number, not {shown(value)}")
        return float(value)


@dataclass(frozen=True)
class FlagKind:
    """True or false."""

    metavar: str = ""

    def of_text(self, text: str) -> Any:
        """Read `true` or `false`."""
        return _literal(text)

    def check(self, value: Any) -> bool:
        """Accept true and false."""
        if not isinstance(value, bool):
            raise ConfigurationError(f"expected true or false, not {shown(value)}")
        return value


@dataclass(frozen=True)
class NamesKind:
    """Several names: `a,b,c`, in TOML a list."""

    metavar: str = "A,B,..."

    def of_text(self, text: str) -> Any:
        """Split at commas."""
        return [name.strip() for name in text.split(",")]

    def check(self, value: Any) -> tuple[str, ...]:
        """Accept a list of names."""
        if not _is_list(value) or not all(isinstance(name, str) and name for name in value):
            raise ConfigurationError(f"expected a list of names, not {shown(value)}")
        return tuple(value)


@dataclass(frozen=True)
class LabelsKind(NamesKind):
    """Several labels, which may be numbers."""

    def of_text(self, text: str) -> Any:
        """Split at commas; what looks like a number or true or false is that."""
        return [_literal(label) for label in super().of_text(text)]

    def check(self, value: Any) -> tuple[Any, ...]:
        """Accept a list of strings, integers and booleans."""
        if not _is_list(value) or not all(isinstance(label, str | int) for label in value):
            raise ConfigurationError(f"expected a list of labels, not {shown(value)}")
        return tuple(value)


@dataclass(frozen=True)
class ChoiceKind:
    """One of several things, with options.

    Parameters
    ----------
    number
        The type of the number that may stand in its place, if one may.
    """

    number: type[int] | type[float] | None = None
    metavar: str = "NAME[:OPTION=VALUE,...]"
    numbers: ClassVar[Mapping[type, Kind]] = {int: IntegerKind(), float: NumberKind()}

    def of_text(self, text: str) -> Any:
        """Read a number where one is meant, else the choice."""
        value = _literal(text) if self.number is not None else text
        return text if isinstance(value, str) else value

    def check(self, value: Any) -> Any:
        """Accept a number where one is meant, the text of a choice, or its table."""
        if self.number is not None and not isinstance(value, str | dict | Choice):
            return self.numbers[self.number].check(value)
        return _choice(value)


@dataclass(frozen=True)
class ChoicesKind:
    """Several such choices; a flag is repeated, in TOML it is a list."""

    metavar: str = "NAME[:OPTION=VALUE,...]"

    def of_text(self, text: str) -> Any:
        """Return the text itself, one choice."""
        return text

    def check(self, value: Any) -> tuple[Choice, ...]:
        """Accept a list of choices."""
        if not _is_list(value):
            raise ConfigurationError(f"expected a list, not {shown(value)}")
        return tuple(map(_choice, value))


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which of the known names was meant, or all of them when that is not plain.

    Examples
    --------
    >>> nearest("bach_size", ["batch_size", "loss"])
    'did you mean batch_size?'
    >>> nearest("zzz", ["sgd", "adam"])
    'known: adam, sgd'
    """
    names = sorted(known)
    lower = {n.lower(): n for n in names}
    found = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"did you mean {lower[found[0]]}?" if found else f"known: {', '.join(names)}"


def _choice(value: Any) -> Choice:
    if isinstance(value, str) and value:
        value = Choice.of_text(value)
    elif isinstance(value, dict):
        options = dict(value)
        value = Choice(options.pop("kind", ""), options)
    if not isinstance(value, Choice) or not isinstance(value.kind, str) or not value.kind:
        raise ConfigurationError(
            f'expected a name such as "a", "a:option=1" or {{kind = "a", option = 1}}, '
            f"not {shown(value)}"
        )
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value)


def _literal(text: str) -> Any:
    """Read text as TOML reads a value; what is no TOML value is text."""
    try:
        parsed = tomllib.loads(f"value = {text}\n")
    except (ValueError, RecursionError):  # of which a TOMLDecodeError is one
        return text
    return parsed["value"] if set(parsed) == {"value"} else text


def _split(text: str) -> list[str]:
    """Split at the commas that are in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part for part in parts if part]


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
