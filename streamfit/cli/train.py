"""`streamfit train` and `streamfit run`: a pipeline of flags, or the same of a TOML file."""

from __future__ import annotations

import inspect
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

from streamfit.cli import flags, toml_file
from streamfit.cli.app import Argument, Option, command
from streamfit.cli.build import build
from streamfit.cli.output import Reporter
from streamfit.cli.pipeline import InvalidOptionError, Pipeline
from streamfit.errors import ConfigurationError

__all__ = ["run", "train"]

_EPILOG = (
    "Exit codes: 0 the source ended, or SIGTERM or Ctrl-C came (the state is saved); 2 an option "
    "was refused; others are in docs/operations.md."
)

Json = Annotated[
    bool | None,
    Option(
        "--json/--no-json",
        help="JSON lines, or a bar and a table; by default JSON where the output is no terminal.",
        show_default=False,
    ),
]
Every = Annotated[
    float, Option("--every", metavar="SECONDS", help="Time between two JSON lines, at least.")
]
LogLevel = Annotated[
    str, Option(metavar="LEVEL", help="Log lines to standard error: debug, info, warning, error.")
]


def train(**given: Any) -> None:
    """Train a model on a source of samples, and go on where it was left.

    streamfit train flights.csv --target late --batch-size 32 --checkpoint state/

    Each sample's loss, and each metric, is taken before the sample is learned. With --checkpoint
    the same command goes on from the newest checkpoint, whatever ended the run before.
    """
    output = {name: given.pop(name) for name in ("json", "every", "log_level")}
    as_toml = given.pop("toml")
    try:
        described = flags.from_flags(given)
        if as_toml:
            build(described)
            print(toml_file.write(described), end="")
            return
        _run(described, **output)
    except InvalidOptionError as error:
        flag = flags.flag_of(error.section, error.name)
        raise ConfigurationError(f"{flag}: {error.reason}") from None


def _signature() -> inspect.Signature:
    """Give `train` a flag for every option of a pipeline, and its own."""
    own = {
        "toml": Annotated[
            bool, Option("--toml", help="Print this as TOML, for streamfit run, and train nothing.")
        ],
        "json": Json,
        "every": Every,
        "log_level": LogLevel,
    }
    defaults = {"toml": False, "json": None, "every": 1.0, "log_level": "warning"}
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            *flags.parameters(),
            *(
                inspect.Parameter(name, keyword, default=defaults[name], annotation=kind)
                for name, kind in own.items()
            ),
        ]
    )


train.__signature__ = _signature()  # type: ignore[attr-defined]
train.__annotations__ = {p.name: p.annotation for p in _signature().parameters.values()}
command(epilog=_EPILOG)(train)


@command(epilog=_EPILOG)
def run(
    pipeline: Annotated[Path, Argument(help="A TOML file.", metavar="PIPELINE.toml")],
    check: Annotated[bool, Option("--check", help="Only check the file.")] = False,
    json: Json = None,
    every: Every = 1.0,
    log_level: LogLevel = "warning",
) -> None:
    """Train what a TOML file describes.

    Its sections and keys are the flags of streamfit train, which writes one with --toml.
    """
    try:
        described = toml_file.read(pipeline)
        if check:
            build(described)
            print(f"{pipeline} is valid")
            return
        _run(described, json, every, log_level)
    except InvalidOptionError as error:
        raise ConfigurationError(toml_file.place(pipeline, error)) from None


def _run(described: Pipeline, json: bool | None, every: float, log_level: str) -> None:
    levels = {"debug", "info", "warning", "error"}
    if log_level not in levels:
        raise ConfigurationError(f"--log-level must be one of {', '.join(sorted(levels))}")
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    as_json = not sys.stdout.isatty() if json is None else json
    reporter = Reporter(as_json=as_json, every=every)
    trainer = build(described, callbacks=[reporter], progress=not as_json)
    reporter.finished(trainer.run())
