"""`streamfit predict`: predictions of a saved model, for a source or the standard input."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Protocol

from connectors.describe import source_from_url
from streamfit.cli.app import Argument, Option, State, command
from streamfit.cli.output import as_json
from streamfit.cli.saved import fields_of, model_of, open_checkpoint
from streamfit.core.learner import LinearLearner
from streamfit.errors import BadSampleError, ConfigurationError
from streamfit.types import Block, Source

__all__ = ["predict"]


@command(
    epilog="Exit codes: 0 all were predicted; 10 a bad sample, unless --on-bad-sample skip; 30 "
    "there is no checkpoint; others are in docs/operations.md."
)
def predict(
    state: State,
    source: Annotated[
        str,
        Argument(
            metavar="[SOURCE]",
            help="As for streamfit train; by default the standard input. Label and weight need "
            "not be there; they are left out.",
            show_default=False,
        ),
    ] = "-",
    number: Annotated[
        int | None, Option(metavar="N", help="Which checkpoint; by default the newest.")
    ] = None,
    target: Annotated[
        str | None,
        Option(metavar="FIELD", help="The label, left out; by default the one that was learned."),
    ] = None,
    format_: Annotated[
        str | None,
        Option(
            "--format",
            metavar="NAME",
            help="What the standard input is: jsonl (the default), csv or libsvm.",
        ),
    ] = None,
    output: Annotated[str, Option(metavar="jsonl|csv", help="How to write predictions.")] = "jsonl",
    on_bad_sample: Annotated[
        str,
        Option(metavar="raise|skip", help="Stop at a bad sample, or write its error and go on."),
    ] = "raise",
    follow: Annotated[
        bool, Option("--follow", help="Kafka: wait for more, instead of ending where it ends now.")
    ] = False,
) -> None:
    """Predict with a saved model, one line for each sample, in order.

    streamfit predict state/ new.csv --output csv > predictions.csv

    The checkpoint is all that is needed: it knows the model, the label and the features. The model
    is as it was when the command started; a trainer may be at work in the directory.
    """
    if output not in _WRITERS:
        raise ConfigurationError(f"--output must be one of {', '.join(_WRITERS)}, not {output!r}")
    if on_bad_sample not in ("raise", "skip"):
        raise ConfigurationError(f"--on-bad-sample must be raise or skip, not {on_bad_sample!r}")
    saved = open_checkpoint(state, number)
    model = model_of(saved)
    fields = fields_of(saved)
    kafka = source.startswith("kafka://")
    if not kafka and ".json" not in source and source != "-":
        fields.pop("decoder", None)
    if format_ is not None:
        fields["format"] = format_
    if target is not None:
        fields["target"] = target
    if kafka:
        fields["stop_at_end"] = not follow
    opened = source_from_url(source, labelled=False, **fields)
    write = _WRITERS[output](model)
    try:
        for block in _looked_at(model, opened):
            for i, x in enumerate(_samples(block)):
                name = f"{block.key}:{block.offsets[i]}"
                try:
                    if i in block.errors:
                        raise block.errors[i]
                    write(name, _predicted(model, x))
                except BadSampleError as error:
                    if on_bad_sample == "raise":
                        error.at(block.source, block.partition, int(block.offsets[i]))
                        raise
                    write(name, {"error": str(error)})
            sys.stdout.flush()
    finally:
        opened.close()


def _looked_at(model: LinearLearner, source: Source) -> Iterator[Block]:
    """Hand out the blocks with samples in them; look at the first one's names."""
    first = True
    for block in source:
        if len(block):
            if first:
                _tell_what_is_unknown(model, block)
            first = False
            yield block


def _tell_what_is_unknown(model: LinearLearner, block: Block) -> None:
    """Warn of names that were never learned where learned ones are missing: a misspelt name."""
    if model.hashing is not None:
        return
    found = dict.fromkeys(name for x in _samples(block) if isinstance(x, Mapping) for name in x)
    unknown = [name for name in found if name not in model.index]
    missing = [name for name in model.index.names if name not in found]
    if unknown and missing:
        print(
            f"streamfit: {_listed(unknown)} in {block.source} was never learned and counts for "
            f"nothing; {_listed(missing)} was learned, and is in none of its first {len(block)} "
            "samples",
            file=sys.stderr,
        )


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def _samples(block: Block) -> Iterator[Any]:
    """Hand out the samples of a block, rows of a table with the names of their columns."""
    for x in block.x:
        if block.features is None or isinstance(x, Mapping):
            yield x
        else:
            yield dict(zip(block.features, x.tolist(), strict=True))


def _predicted(model: Any, x: Any) -> dict[str, Any]:
    if model.classes is not None:
        return {"prediction": model.predict_one(x), "probabilities": model.predict_proba_one(x)}
    prediction = model.predict_one(x)
    if isinstance(prediction, bool):
        return {"prediction": prediction, "probability": model.predict_proba_one(x)[True]}
    return {"prediction": prediction}


class _Write(Protocol):
    def __call__(self, name: str, found: dict[str, Any], /) -> None: ...


def _json_lines(_: LinearLearner) -> _Write:
    def write(name: str, found: dict[str, Any], /) -> None:
        print(as_json({"id": name, **found}))

    return write


def _csv(model: LinearLearner) -> _Write:
    """Write a header at once, and a column for each class there is."""
    lines = csv.writer(sys.stdout, lineterminator="\n")
    classes = model.classes
    probabilities = ["probability"] if classes is None else [f"probability {k}" for k in classes]
    if classes is None and not hasattr(model, "predict_proba_one"):
        probabilities = []
    lines.writerow(["id", "prediction", *probabilities, "error"])

    def write(name: str, found: dict[str, Any], /) -> None:
        values = list(found.get("probabilities", {}).values()) or [found.get("probability", "")]
        cells = (values + [""] * len(probabilities))[: len(probabilities)]
        lines.writerow([name, found.get("prediction", ""), *cells, found.get("error", "")])

    return write


_WRITERS = {"jsonl": _json_lines, "csv": _csv}
