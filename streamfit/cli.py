"""The command line: verify, checkpoints, rollback, takeover."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from connectors.describe import source_from_config, source_from_url
from streamfit import state_directory
from streamfit.errors import ConfigurationError, StreamfitError
from streamfit.state_directory import Summary
from streamfit.terminal import print_table
from streamfit.types import Source
from streamfit.verification import load
from streamfit.verification import verify as verify_journal

__all__ = ["main"]

EQUAL, DIFFERENT, NOT_VERIFIED = 0, 1, 2

app = typer.Typer(
    name="streamfit",
    help="Streaming online learning.",
    epilog="Exit codes are listed in docs/operations.md.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

State = Annotated[Path, typer.Argument(help="The checkpoint directory.", metavar="STATE")]


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


@app.command(epilog="Exit code 0: equal; 1: different; 2: could not be verified.")
def verify(
    state: State,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Where the data are, when not where the checkpoint says: "
            "kafka://host:port/topic?target=late, file.csv?target=late or file.jsonl?target=late",
        ),
    ] = None,
) -> None:
    """Train again offline from the journal and compare digests.

    Reads the data again in the order of the journal, trains offline, and compares digests with
    the newest checkpoint.
    """
    try:
        found = verify_journal(state, _source(state, source))
    except StreamfitError as error:
        print(f"streamfit: {error}", file=sys.stderr)
        raise typer.Exit(NOT_VERIFIED) from None
    print(found)
    raise typer.Exit(EQUAL if found.equal else DIFFERENT)


@app.command()
def checkpoints(
    state: State,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, for programs.")
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


@app.command()
def rollback(
    state: State,
    to: Annotated[int, typer.Option(metavar="N", help="Number of the checkpoint to go back to.")],
) -> None:
    """Go back to an earlier checkpoint: model, position and journal together.

    The checkpoints after it are removed, so copy the directory first if you may want them. What
    they had learned is learned again from the source. Refused while a trainer is at work.
    """
    removed = state_directory.roll_back(state, to)
    print(f"{state} is back at checkpoint {to}; removed {removed or 'nothing'}")


@app.command()
def takeover(state: State) -> None:
    """Shut out a process that holds the directory and cannot be killed.

    A process that wakes up later finds out before it publishes, and ends with exit code 34.
    """
    holder = state_directory.take_over(state)
    print(f"{state} is taken over; it was held by {holder}. Start the new trainer now.")


_COLUMNS = ("number", "time", "samples", "updates", "position", "digest", "valid")


def _row(summary: Summary) -> tuple[str, ...]:
    position = summary.position or {}
    return (
        str(summary.number),
        (summary.created or "-")[:19],
        _count(summary.n_samples),
        _count(summary.n_updates),
        " ".join(f"{key}={offset}" for key, offset in position.items()) or "-",
        (summary.digest or "-")[:16],
        "yes" if summary.problem is None else f"no: {summary.problem}",
    )


def _count(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"


def _source(state: Path, url: str | None) -> Source:
    if url is not None:
        return source_from_url(url)
    config = load(state)[0].trainer.get("source")
    if not isinstance(config, dict):
        raise ConfigurationError(
            f"the checkpoint in {state} does not know where its samples came from; give --source, "
            "or call streamfit.journal.verify(state, source) from Python"
        )
    return source_from_config(config)


if __name__ == "__main__":
    sys.exit(main())
