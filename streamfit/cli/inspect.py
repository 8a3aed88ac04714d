"""`streamfit inspect`: what is in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from streamfit.checkpoint import Checkpoint
from streamfit.cli.app import Option, State, command
from streamfit.cli.output import as_json
from streamfit.cli.saved import model_of, open_checkpoint
from streamfit.core.learner import LinearLearner
from streamfit.errors import CheckpointMismatchError
from streamfit.terminal import print_table

__all__ = ["inspect"]


@command(epilog="Exit code 0; 30: there is no checkpoint; 31: it is damaged.")
def inspect(
    state: State,
    number: Annotated[
        int | None, Option(metavar="N", help="Which checkpoint; by default the newest.")
    ] = None,
    top: Annotated[
        int, Option(metavar="N", min=0, help="How many weights to show, the largest first.")
    ] = 10,
    json: Annotated[bool, Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Show what is in a checkpoint: the model, how far it is, and its largest weights.

    A trainer may be at work in the directory. Weights are those of the scaled features where the
    model has a scaler; hashed features have no names, so their columns are shown.
    """
    saved = open_checkpoint(state, number)
    facts, weights, note = _facts(saved), [], ""
    try:
        model = model_of(saved)
    except CheckpointMismatchError as error:
        note = str(error)
    else:
        facts |= _facts_of_model(model)
        weights = _largest(model, top)
    if json:
        print(as_json({**facts, "top_weights": weights}))
        return
    for name, value in _lines(facts):
        print(f"{name:<18}  {value}")
    if weights:
        columns = list(weights[0])
        rows = [[_shown(row[column]) for column in columns] for row in weights]
        print_table(columns, rows)
    if note:
        print(f"\n{note}")


def _facts(saved: Checkpoint) -> dict[str, Any]:
    run = saved.trainer
    weight = run.get("loss_weight") or 0.0
    shares = run.get("shares") or {}  # of a RayTrainer
    options = {name: value for name, value in saved.config.items() if name != "id"}
    return {
        "checkpoint": saved.number,
        "created": saved.created,
        "model": saved.config.get("id"),
        "options": options,
        "samples": saved.model.get("n_samples"),
        "updates": saved.model.get("n_updates"),
        "bad": run.get("n_bad"),
        "epochs": run.get("n_epochs"),
        "progressive_loss": run["loss_sum"] / weight if weight else None,
        "position": saved.position,
        "source": run.get("source"),
        "mode": shares.get("mode"),
        "shares": shares.get("n"),
    }


def _facts_of_model(model: LinearLearner) -> dict[str, Any]:
    weights = [value for _, _, value in _weights(model)]
    return {
        "pending": model.n_pending,
        "refused": model.n_refused,
        "classes": model.classes,
        "weights": len(weights),
        "not_zero": sum(value != 0.0 for value in weights),
        "norm": math.sqrt(math.fsum(value * value for value in weights)),
        "intercept": model.intercept,
        "digest": model.digest(),
    }


def _weights(model: LinearLearner) -> Iterator[tuple[Any, Any, float]]:
    """Tell class (None where there are none), feature and weight."""
    by_class = {None: model.weights} if model.classes is None else model.weights
    for label, weights in by_class.items():
        for feature, value in weights.items():
            yield label, feature, value


def _largest(model: LinearLearner, top: int) -> list[dict[str, Any]]:
    ranked = sorted(_weights(model), key=lambda row: -abs(row[2]))[:top]
    of_class = model.classes is not None
    return [
        {"feature": feature, **({"class": label} if of_class else {}), "weight": value}
        for label, feature, value in ranked
    ]


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                if inner is not None:
                    yield f"  {key}" if name == "options" else f"{name} {key}", _shown(inner)
        elif value is not None:
            yield name.replace("_", " "), _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        rest = {name: item for name, item in value.items() if name != "id" and item is not None}
        inner = " ".join(f"{name}={_shown(item)}" for name, item in rest.items())
        return " ".join(part for part in (str(value.get("id", "")), inner) if part)
    if isinstance(value, list):
        more = f", and {len(value) - 8} more" if len(value) > 8 else ""
        return ", ".join(map(str, value[:8])) + more
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
