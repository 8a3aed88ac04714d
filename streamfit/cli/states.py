"""`streamfit checkpoints`, `rollback`, `takeover`: the directory of a trainer."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from streamfit import state_directory
from streamfit.cli.app import Option, State, command
from streamfit.state_directory import Summary
from streamfit.terminal import print_table

__all__ = ["checkpoints", "rollback", "takeover"]


@command()
def checkpoints(
    state: State,
    as_json: Annotated[
        bool, Option("--json", help="One JSON object a line, for programs.")
    ] = False,
) -> None:
    """List the checkpoints, oldest first, and say which are valid."""
    found = state_directory.summaries(state)
    if as_json:
        for summary in found:
            print(json.dumps(asdict(summary)))
    elif found:
        print_table(_COLUMNS, [_row(summary) for summary in found])
    else:
        print(f"no checkpoints in {state}")


@command()
def rollback(
    state: State,
    to: Annotated[int, Option(metavar="N", help="Number of the checkpoint to go back to.")],
) -> None:
    """Go back to an earlier checkpoint: model, position and journal together.

    The checkpoints after it are removed, so copy the directory first if you may want them. What
    they had learned is learned again from the source. Refused while a trainer is at work.
    """
    removed = state_directory.roll_back(state, to)
    print(f"{state} is back at checkpoint {to}; removed {removed or 'nothing'}")


@command()
def takeover(state: State) -> None:
    """Shut out a process that holds the directory and cannot be killed.

    A process that wakes up later finds out before it publishes, and ends with exit code 34.
    """
    holder = state_directory.take_over(state)
    print(f"{state} is taken over; it was held by {holder}. Start the new trainer now.")


_COLUMNS = ("number", "time", "samples", "updates", "position", "digest", "valid")


def _row(summary: Summary) -> tuple[str, ...]:
    position = summary.position or {}
    row = (
        str(summary.number),
        (summary.created or "-")[:19],
        _count(summary.n_samples),
        _count(summary.n_updates),
        " ".join(f"{key}={offset}" for key, offset in position.items()) or "-",
        (summary.digest or "-")[:16],
        "yes" if summary.problem is None else f"no: {summary.problem}",
    )
    # Whoever wrote the file does not write to the terminal.
    return tuple("".join(c if c.isprintable() else "?" for c in cell) for cell in row)


def _count(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"
