"""Test-then-train: what the model said about each sample before it learned it."""

from __future__ import annotations

import math
from collections import UserList
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from streamfit.errors import BadSampleError, ConfigurationError, shown
from streamfit.types import Block, FloatArray, Learner, ObservesSamples

__all__ = ["Evaluation"]


def _flat(metrics: Any) -> Iterator[Any]:
    """Yield single metrics; a sum of metrics, which River makes of `+`, is a list of them."""
    if hasattr(metrics, "update") and not isinstance(metrics, UserList):
        yield metrics
        return
    if not isinstance(metrics, Iterable) or isinstance(metrics, str):
        raise ConfigurationError(f"metrics: {shown(metrics)} is not a River metric")
    for metric in metrics:
        if isinstance(metric, UserList):
            yield from _flat(metric)
        else:
            yield metric


class Evaluation:
    """Progressive loss (always) and River metrics (if any) of one learner.

    The loss comes from the dot product that the gradient needs anyway. Metrics are River
    objects and cost what they cost: a prediction object and a Python call per sample.

    Parameters
    ----------
    model
        The learner; its `learn_block` is called here.
    metrics
        River metrics, updated in place.
    observers
        Monitors that are shown each prediction, before the metrics are.

    Raises
    ------
    ConfigurationError
        When a metric does not work with the model.
    """

    def __init__(
        self, model: Learner, metrics: Iterable[Any] = (), observers: Iterable[ObservesSamples] = ()
    ) -> None:
        self._model = model
        self._observers = list(observers)
        self.metrics: dict[str, Any] = {}
        for metric in _flat(metrics):
            if isinstance(metric, type):
                raise ConfigurationError(
                    f"metrics: pass an instance, {metric.__name__}(), not the class"
                )
            if not hasattr(metric, "update") or not hasattr(metric, "get"):
                raise ConfigurationError(f"metrics: {metric!r} is not a River metric")
            works_with = getattr(metric, "works_with", None)
            if works_with is not None and not works_with(getattr(model, "river_estimator", model)):
                raise ConfigurationError(
                    f"metrics: {type(metric).__name__} does not work with {type(model).__name__}"
                )
            name = type(getattr(metric, "obj", metric)).__name__
            self.metrics[name if name not in self.metrics else f"{name} {len(self.metrics)}"] = (
                metric
            )

    def learn(self, block: Block, start: int, stop: int) -> BadSampleError | None:
        """Let the model learn samples `start` to `stop`, and score what it predicted before.

        Returns
        -------
        BadSampleError or None
            What the model refused, and where it stopped. It is not raised, so that an error
            which a metric raises, of whatever type, is never taken for it.
        """
        scored = self.metrics or self._observers
        predictors = self._model.new_predictors(block) if scored else None
        before = self._model.n_samples
        bad = None
        try:
            self._model.learn_block(block, start, stop, predictors)
        except BadSampleError as error:
            bad = error
        finally:
            if predictors is not None:
                self._score(block, start, start + self._model.n_samples - before, predictors)
        return bad

    def _score(self, block: Block, start: int, stop: int, predictors: FloatArray) -> None:
        w = None if block.w is None else block.w[start:stop]
        self.score(block.y[start:stop], w, self._model.predictions(predictors[start:stop]))

    def score(self, ys: Any, ws: Any, predictions: Sequence[Any]) -> None:
        """Show labels, weights and predictions of samples to the observers and the metrics."""
        for i, prediction in enumerate(predictions):
            y, w = ys[i], 1.0 if ws is None else ws[i]
            label = prediction
            if isinstance(prediction, dict):
                label = max(prediction, key=prediction.__getitem__, default=None)
                y = bool(y) if type(label) is bool else y
            if label is None:  # nothing to say yet
                continue
            for observer in self._observers:
                observer.observe(y, prediction)
            for metric in self.metrics.values():
                wants_label = getattr(metric, "requires_labels", False)
                metric.update(y, label if wants_label else prediction, w)

    # ---- the progressive loss, summed up in the model, saved with the run

    def begin(self) -> None:
        """Start the progressive loss at nothing."""
        self._model.track_loss = True
        self._model.loss_sum = self._model.loss_weight = 0.0

    @property
    def progressive_loss(self) -> float:
        """Mean of the samples' losses, each before it was learned; NaN before the first."""
        weight = self._model.loss_weight
        return self._model.loss_sum / weight if weight else math.nan

    def state_dict(self) -> dict[str, float]:
        """Return the sums behind the progressive loss."""
        return {"loss_sum": self._model.loss_sum, "loss_weight": self._model.loss_weight}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from the sums that `state_dict` returned."""
        self._model.loss_sum = float(state["loss_sum"])
        self._model.loss_weight = float(state["loss_weight"])
