"""`streamfit verify`: whether the model was learned from these data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from connectors.describe import source_from_config, source_from_url
from streamfit.cli.app import Exit, Option, State, command
from streamfit.errors import ConfigurationError, StreamfitError
from streamfit.types import Source
from streamfit.verification import load
from streamfit.verification import verify as verify_journal

__all__ = ["verify"]

EQUAL, DIFFERENT, NOT_VERIFIED = 0, 1, 2


@command(epilog="Exit code 0: equal; 1: different; 2: could not be verified.")
def verify(
    state: State,
    source: Annotated[
        str | None,
        Option(
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
        raise Exit(NOT_VERIFIED) from None
    print(found)
    raise Exit(EQUAL if found.equal else DIFFERENT)


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
