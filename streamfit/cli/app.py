"""The application, and the words of Typer that its commands are written in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from typer import Argument, Exit, Option, Typer
from typer.core import TyperCommand, TyperGroup

from streamfit import __version__
from streamfit.cli.registries import REGISTRIES

__all__ = ["Argument", "Exit", "Option", "State", "app", "command"]

Function = TypeVar("Function", bound=Callable[..., Any])

ORDER = ("train", "run", "predict", "inspect", "verify", "checkpoints", "rollback", "takeover")
"""The commands that come first in the help, in this order."""


class Commands(TyperGroup):
    """The commands, in an order that tells what they are for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands, the usual ones first."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


class Command(TyperCommand):
    """A command whose help has a heading for each group of options, and cuts no line short."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                group = getattr(parameter, "rich_help_panel", None) or "Options"
                heading = "Arguments" if is_argument else group
                groups.setdefault(heading, []).append((record[0], _with_names(record[1])))
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _with_names(text: str) -> str:
    """Put the names of a registry where the help says `{registry}`."""
    return re.sub(r"\{(\w+)\}", lambda found: ", ".join(REGISTRIES[found[1]]()), text)


app = Typer(
    name="streamfit",
    cls=Commands,
    help="Streaming online learning: train, continue, check and use linear models.",
    epilog="Every command explains itself: streamfit COMMAND --help. Exit codes: "
    "docs/operations.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"streamfit {__version__}")
        raise Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Take the options that belong to no command."""


State: TypeAlias = Annotated[Path, Argument(help="The checkpoint directory.", metavar="STATE")]


def command(epilog: str = "") -> Callable[[Function], Function]:
    """Make a function a command of the application."""
    return app.command(cls=Command, epilog=epilog or None)
