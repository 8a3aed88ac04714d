"""The command line: `streamfit verify state/`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from connectors.describe import source_from_config, source_from_url
from streamfit.errors import ConfigurationError, StreamfitError
from streamfit.types import Source
from streamfit.verification import load, verify

__all__ = ["main"]

EQUAL, DIFFERENT, NOT_VERIFIED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parser = argparse.ArgumentParser(prog="streamfit", description="Streaming online learning.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "verify",
        help="train again offline from the journal and compare digests",
        description="Reads the data again in the order of the journal, trains offline, and "
        "compares digests with the newest checkpoint.",
        epilog="Exit code 0: equal; 1: different; 2: could not be verified.",
    )
    command.add_argument("state", type=Path, help="the checkpoint directory")
    command.add_argument(
        "--source",
        metavar="SPEC",
        help="where the data are, when not where the checkpoint says: "
        "kafka://host:port/topic?target=late, file.csv?target=late or file.jsonl?target=late",
    )
    command.set_defaults(run=_verify)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except StreamfitError as error:
        print(f"streamfit: {error}", file=sys.stderr)
        return NOT_VERIFIED
    return code


def _verify(options: argparse.Namespace) -> int:
    found = verify(options.state, _source(options.state, options.source))
    print(found)
    return EQUAL if found.equal else DIFFERENT


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
