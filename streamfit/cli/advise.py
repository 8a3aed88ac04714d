"""`streamfit advise`: which batch size, from a sample of a source."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

from streamfit.advisor import advise_batch_size
from streamfit.cli import flags
from streamfit.cli.app import Option, command
from streamfit.cli.build import build
from streamfit.cli.pipeline import InvalidOptionError
from streamfit.core.learner import LinearLearner
from streamfit.errors import ConfigurationError, UnsupportedError
from streamfit.terminal import print_table

__all__ = ["advise"]

_SECTIONS = ("source", "model")


def advise(**given: Any) -> None:
    """Train side by side at batch sizes 1, 2, 4, ... and all, and recommend one.

    streamfit advise flights.csv --target late --optimizer sgd --lr 0.3 --html report.html

    Reads a bounded sample of the source and keeps nothing. The flags are those of streamfit train
    for the source and the model.
    """
    budget, most, html = (given.pop(name) for name in ("budget", "max_samples", "html"))
    try:
        trainer = build(flags.from_flags(given))
    except InvalidOptionError as error:
        flag = flags.flag_of(error.section, error.name)
        raise ConfigurationError(f"{flag}: {error.reason}") from None
    model = trainer.model
    if not isinstance(model, LinearLearner):
        raise UnsupportedError(f"advise trains linear learners, not {type(model).__name__}")
    advice = advise_batch_size(model, trainer.source, budget=budget, max_samples=most)
    if html is not None:
        try:
            advice.to_html(html)
        except OSError as error:
            raise ConfigurationError(f"--html: {error}") from None
    print_table(advice.columns, advice.rows())
    print("\n".join(advice.reasons))


def _signature() -> inspect.Signature:
    """Give `advise` the flags of `train` for source and model, and its own."""
    own: dict[str, tuple[Any, Any]] = {
        "budget": (
            Annotated[float, Option(metavar="SECONDS", help="For reading and training together.")],
            10.0,
        ),
        "max_samples": (
            Annotated[int, Option(metavar="N", help="Samples to read, at most.")],
            10_000,
        ),
        "html": (
            Annotated[Path | None, Option(metavar="FILE", help="Write a report with plots too.")],
            None,
        ),
    }
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [p for p in flags.parameters() if p.name.partition("__")[0] in _SECTIONS]
    mine = [
        inspect.Parameter(name, keyword, default=default, annotation=kind)
        for name, (kind, default) in own.items()
    ]
    return inspect.Signature([*shared, *mine])


advise.__signature__ = _signature()  # type: ignore[attr-defined]
advise.__annotations__ = {p.name: p.annotation for p in _signature().parameters.values()}
command()(advise)
