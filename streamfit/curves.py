"""Learning curves: what the loss was after so many samples, updates and seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from streamfit.core.learner import LAST_BATCH, LinearLearner
from streamfit.core.noise import NoiseScale
from streamfit.core.validation import check_choice, check_integer
from streamfit.errors import ConfigurationError
from streamfit.types import Block, FeatureName, FloatArray, Learner

__all__ = [
    "AtRest",
    "Curve",
    "Resizable",
    "Trainable",
    "at_rest",
    "fresh",
    "learning_curve",
    "loss_at_rest",
]


@dataclass(frozen=True)
class Curve:
    """The loss of one model as it learned.

    Parameters
    ----------
    n_samples, n_updates, seconds
        What it had taken in, how often its weights had moved, and the CPU time that learning had
        cost, at each point; measuring the loss is not in it.
    loss
        Mean loss of the data at the weights of that moment.
    epoch_size
        Samples of one epoch.
    """

    n_samples: FloatArray
    n_updates: FloatArray
    seconds: FloatArray
    loss: FloatArray
    epoch_size: int

    @property
    def epochs(self) -> FloatArray:
        """Passes over the data at each point."""
        return self.n_samples / self.epoch_size


@dataclass(frozen=True)
class AtRest:
    """What data say of a model whose weights stand still.

    Parameters
    ----------
    loss
        Mean loss, without penalties.
    gradient
        Gradient of the mean loss by intercept and weights.
    signal, noise
        Estimates of the squared length of the gradient and of the variance of one sample's (see
        `sf.GradientNoise`), from all samples; NaN where there are too few.
    """

    loss: float
    gradient: FloatArray
    signal: float
    noise: float


class Resizable(Learner, Protocol):
    """A learner that is not linear, and that can be trained and measured at any batch size."""

    @property
    def batch_size(self) -> Any:
        """Samples of one update, None for a full batch."""

    def with_batch_size(self, batch_size: int | None) -> Resizable:
        """Return a copy that has learned nothing, for micro-batches of another size."""

    def loss_at_rest(self, block: Block) -> float:
        """Return the mean loss of a block, without changing the model."""

    def at_rest(self, block: Block, parts: int) -> AtRest:
        """Measure the model on a block without changing it; see `at_rest`."""


Trainable: TypeAlias = LinearLearner | Resizable


def fresh(model: Trainable, batch_size: int | None) -> Trainable:
    """Make a learner of the same configuration, but for the batch size, that has learned nothing.

    A Keras model begins with the weights that it has.
    """
    if isinstance(model, LinearLearner):
        return type(model).from_config({**model.get_config(), "batch_size": batch_size})
    return model.with_batch_size(batch_size)


def loss_at_rest(model: Trainable, block: Block) -> float:
    """Return the mean loss of a block, without changing the model."""
    if isinstance(model, LinearLearner):
        return at_rest(model, block).loss
    return model.loss_at_rest(block)


def at_rest(model: Trainable, block: Block, parts: int = 16) -> AtRest:
    """Measure a model on a block without changing it.

    Learners that are not linear say themselves how. Of a linear one a copy that takes the samples
    as one full batch, and is never told to update, has summed up their losses and their gradient at
    the weights as they are.

    Parameters
    ----------
    model, block
        What is measured on what.
    parts
        A model that shows no gradients of single samples is asked for those of so many parts of the
        block, which tell the noise; 1: that stays unknown.

    Examples
    --------
    >>> import streamfit as sf
    >>> from streamfit.curves import at_rest
    >>> found = at_rest(sf.LinearRegression(), sf.types.Block([[1.0], [2.0]], [1.0, 3.0]))
    >>> found.loss, found.gradient.tolist()
    (5.0, [-4.0, -7.0])
    """
    if not isinstance(model, LinearLearner):
        return model.at_rest(block, parts)
    ours = {k: v for k, v in model.state_dict().items() if "noise" not in k}
    state = {k: v for k, v in ours.items() if k not in ("gradient", "curvature", "n_measured")}
    once = NoiseScale(every=1).get_config()
    changes = {"batch_size": None, "scaler": None, "clip_gradient": None, "noise_scale": once}
    config = {**model.get_config(), **changes}
    if config["optimizer"]["id"] == "auto":  # or it brings a scaler
        config["optimizer"] = {**config["optimizer"], "scale": False}
    if model.scaler is not None:  # a copy with a scaler would go on learning of it
        mean, var = (state.pop(f"scaler_{name}")[1:] for name in ("mean", "var"))
        del state["n_scaled"]
        block = _scaled(block, state["features"], mean, var)
    config["features"] = None if model.hashing is None else config["features"]
    copy = type(model).from_config(config)
    measures = {k: v for k, v in copy.state_dict().items() if "noise" in k or k == "n_measured"}
    nothing = {"n_pending": 0, "weight_pending": 0.0, "batch_size": 0}
    copy.load_state_dict({**state, **measures, **nothing})
    copy.track_loss = True
    copy.learn_block(block, 0, len(block))
    weight = copy.loss_weight
    gradient = copy.state_dict().get("gradient", np.zeros_like(state["parameters"]))
    copy.flush()
    found = copy.gradient_noise
    if not weight > 0.0 or found is None:
        return AtRest(math.nan, np.full(gradient.shape, math.nan), math.nan, math.nan)
    mean = gradient.astype(np.float64) / weight
    return AtRest(copy.loss_sum / weight, mean, found.signal, found.noise)


def _scaled(block: Block, names: list[FeatureName], mean: FloatArray, var: FloatArray) -> Block:
    """Return a block with its features scaled by statistics that stand still."""
    columns = {name: j for j, name in enumerate(names)}
    X = np.zeros((len(block), len(names)))
    for i, row in enumerate(block.x):
        named = row if isinstance(row, Mapping) else zip(block.features or names, row, strict=False)
        for name, value in dict(named).items():
            if name in columns:
                X[i, columns[name]] = value
    moving = var > 0.0
    X = np.where(moving, (X - mean) / np.sqrt(np.where(moving, var, 1.0)), 0.0)
    return Block(X, block.y, block.w, features=names)


def learning_curve(
    model: Trainable,
    X: Any,
    y: Any,
    *,
    batch_size: int | None = None,
    epochs: int = 1,
    points: int = 60,
    last_batch: str = "apply",
) -> Curve:
    """Train a fresh model of the same configuration, and measure the loss on the way.

    Parameters
    ----------
    model
        Says what to train, but for the batch size. It is not changed.
    X, y
        The data, in order: an array, or a list of mappings; and the labels.
    batch_size
        Samples of one update; None: all of an epoch.
    epochs
        Passes over the data.
    points
        How often to measure: closer together at the beginning, where most happens.
    last_batch
        What becomes of the partial micro-batch at the end of each epoch.

    Examples
    --------
    >>> import streamfit as sf
    >>> from streamfit.curves import learning_curve
    >>> X, y = [[1.0], [2.0], [3.0], [4.0]], [2.0, 4.0, 6.0, 8.0]
    >>> curve = learning_curve(sf.LinearRegression(), X, y, batch_size=2, epochs=3)
    >>> curve.n_samples.tolist()[-1], curve.n_updates.tolist()[-1], curve.epochs.tolist()[-1]
    (12.0, 6.0, 3.0)
    """
    check_integer("epochs", epochs, minimum=1)
    check_integer("points", points, minimum=2)
    check_choice("last_batch", last_batch, LAST_BATCH)
    rows: Any = X if isinstance(X, list) and X and isinstance(X[0], Mapping) else np.asarray(X)
    block = Block(rows, np.asarray(y))
    n = len(block)
    if not n:
        raise ConfigurationError("a learning curve needs samples")
    copy = fresh(model, batch_size)
    stops = {int(k) for k in np.geomspace(1, n * epochs, points)} | {
        n * epoch for epoch in range(1, epochs + 1)
    }
    seconds, taken = 0.0, 0
    measured: list[tuple[float, ...]] = []
    for stop in [0, *sorted(stops)]:
        began = time.process_time()
        while taken < stop:
            start, end = taken % n, min(n, taken % n + stop - taken)
            copy.learn_block(block, start, end)
            taken += end - start
            if end == n:
                copy.flush(last_batch)
        seconds += time.process_time() - began
        loss = loss_at_rest(copy, block)
        measured.append((float(taken), float(copy.n_updates), seconds, loss))
    n_samples, n_updates, cpu_seconds, losses = np.array(measured).T
    return Curve(n_samples, n_updates, cpu_seconds, losses, epoch_size=n)
