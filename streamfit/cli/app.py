"""The application, and the words of Typer that its commands are written in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from typer import Argument, Exit, Option, Typer

__all__ = ["Argument", "Exit", "Option", "State", "app"]

app = Typer(
    name="streamfit",
    help="Streaming online learning.",
    epilog="Exit codes are listed in docs/operations.md.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

State: TypeAlias = Annotated[Path, Argument(help="The checkpoint directory.", metavar="STATE")]
