"""The command line: one file for each group of commands, which `main` runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from streamfit.cli import advise, demo, inspect, predict, proof, serving, states, train
from streamfit.cli.app import app
from streamfit.errors import StreamfitError

__all__ = ["main"]

COMMANDS = (train, advise, predict, inspect, proof, states, serving, demo)
"""The files of commands; being imported, they have added themselves to `app`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        app(None if arguments is None else list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except StreamfitError as error:
        print(f"streamfit: {error}", file=sys.stderr)
        return error.exit_code
    return 0
