"""What a stream equals: the same samples learned offline, by a plain NumPy loop.

The three loops are the textbook's and share no code with the compiled kernels, so that the two
can check each other. They are written to be read, not to be fast: `_full_batch`, `_mini_batch`
and `_stochastic` say which samples make an update, `Descent.update` is that update, and
`_offline_formulas` has one formula for each loss, schedule and optimizer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamfit import _offline_formulas as formulas
from streamfit._offline_data import Data, read
from streamfit.core.learner import LAST_BATCH, LinearLearner
from streamfit.core.validation import check_choice, check_integer
from streamfit.errors import UpdateRefusedWarning
from streamfit.types import FeatureName, FloatArray

__all__ = ["OfflineFit", "fit_offline"]


@dataclass(frozen=True)
class OfflineFit:
    """What `fit_offline` learned.

    Parameters
    ----------
    weights, intercept
        The weight of each feature, and the intercept.
    parameters
        The same numbers as one array, the intercept first.
    n_updates, n_refused, n_pending
        Updates; updates refused for a number that was not finite; samples left waiting, which
        only `last_batch="carry"` leaves.
    digest
        `model.digest()` of the compiled replay; None from the NumPy loop.
    """

    weights: dict[FeatureName, float]
    intercept: float
    parameters: FloatArray
    n_updates: int
    n_refused: int
    n_pending: int
    digest: str | None = None


def fit_offline(
    model: LinearLearner,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    epochs: int = 1,
    last_batch: str = "apply",
    kernel: str = "numpy",
) -> OfflineFit:
    r"""Fit a fresh model of the same configuration to data at rest.

    The loss of sample `i` is `L(p_i, y_i)` at `p_i = w . x_i + b`, its weight is `s_i`. One
    update steps against the gradient over a set `B` of samples (`reduction="mean"`; `"sum"`
    does not divide)::

        g = sum_{i in B} s_i L'(p_i, y_i) x_i / sum_{i in B} s_i  +  l2 w
        w = w - lr g                                (SGD; see `sf.optim` for the others)

    Which samples are in `B` is the whole difference between

    - full-batch gradient descent, `batch_size=None`: all of them, one update an epoch;
    - mini-batch gradient descent: `batch_size` consecutive ones, in order;
    - stochastic gradient descent, `batch_size=1`: one sample, so `g = L'(p_i, y_i) x_i`.

    Parameters
    ----------
    model
        Says what to fit. It is not changed, and what it has learned is ignored.
    X
        Array of shape (n, n_features), data frame, or list of mappings (an absent feature is 0).
    y
        `n` labels.
    sample_weight
        `n` weights >= 0, one number for all, or None (1 each).
    epochs
        Passes over the data, in the same order.
    last_batch
        What becomes of `n < batch_size` samples left at the end of an epoch. `"apply"`: one
        update. `"scale"`: one update at learning rate `lr * n / batch_size`. `"drop"`: nothing.
        `"carry"`: the next epoch's samples fill the micro-batch up; at the very end they stay
        pending.
    kernel
        `"numpy"`: this module's loop, independent of the kernels and equal to them within
        rounding. `"compiled"`: the kernels, bitwise what a stream of the same samples learns.

    Returns
    -------
    OfflineFit
        Parameters and counts.

    Raises
    ------
    BadSampleError
        When the data are refused, before anything is computed.

    Examples
    --------
    >>> import streamfit as sf
    >>> from streamfit.offline import fit_offline
    >>> model = sf.LinearRegression(sf.optim.SGD(0.1), batch_size=2)
    >>> fit = fit_offline(model, [[1.0], [2.0], [3.0]], [2.0, 4.0, 6.0], epochs=2)
    >>> fit.n_updates, round(fit.weights[0], 3), round(fit.intercept, 3)
    (4, 1.644, 0.648)
    >>> stream = sf.LinearRegression(sf.optim.SGD(0.1), batch_size=2)
    >>> for epoch in range(2):
    ...     for x, label in [(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]:
    ...         stream.learn_one([x], label)
    ...     stream.flush()
    >>> again = fit_offline(
    ...     model, [[1.0], [2.0], [3.0]], [2.0, 4.0, 6.0], epochs=2, kernel="compiled"
    ... )
    >>> again.digest == stream.digest()
    True
    """
    check_choice("kernel", kernel, ("numpy", "compiled"))
    check_choice("last_batch", last_batch, LAST_BATCH)
    check_integer("epochs", epochs, minimum=1)
    config = model.get_config()
    data = read(config, X, y, sample_weight)
    if kernel == "compiled":
        return _fit_compiled(type(model), config, data, epochs, last_batch)
    return _fit_numpy(config, data, epochs, last_batch)


# ---- the textbook: three formulas for which samples make an update


def _full_batch(descent: Descent, n: int, epochs: int) -> None:
    """Full-batch gradient descent: all samples make one update, once an epoch."""
    for _ in range(epochs):
        if n:
            descent.update(range(n))


def _mini_batch(descent: Descent, n: int, epochs: int, last_batch: str) -> int:
    """Mini-batch gradient descent: consecutive samples make an update; returns who are left."""
    batch: list[int] = []
    for _ in range(epochs):
        for i in range(n):
            batch.append(i)
            if len(batch) == descent.batch_size:
                descent.update(batch)
                batch = []
        if batch and last_batch == "apply":
            descent.update(batch)
        if batch and last_batch == "scale":
            descent.update(batch, share=len(batch) / descent.batch_size)
        if last_batch != "carry":
            batch = []
    return len(batch)


def _stochastic(descent: Descent, n: int, epochs: int) -> None:
    """Stochastic gradient descent: each sample makes an update."""
    for _ in range(epochs):
        for i in range(n):
            descent.update([i])


class Descent:
    """Gradient descent on `theta`: the intercept, then the weights."""

    def __init__(self, config: dict[str, Any], data: Data) -> None:
        self.config = config
        self.X = np.column_stack([np.ones(len(data.y)), data.X])  # a 1 for the intercept
        self.y, self.s = data.y, data.w
        self.theta = np.zeros(self.X.shape[1])
        n_slots = formulas.N_SLOTS.get(config["optimizer"]["id"], 1)
        self.slots: formulas.Slots = (np.zeros_like(self.theta),) * n_slots
        self.l1_had, self.l1_total = np.zeros(len(self.theta) - 1), 0.0
        self.n_updates = self.n_refused = 0

    @property
    def batch_size(self) -> int:
        """Size of the micro-batch at hand."""
        return formulas.size(self.config["batch_size"], self.n_updates)

    def gradient(self, batch: Sequence[int]) -> FloatArray:
        """`sum_{i in B} s_i L'(p_i, y_i) x_i / sum_{i in B} s_i + l2 w`."""
        X, y, s = self.X[batch], self.y[batch], self.s[batch]
        loss = dict(self.config["loss"])
        p = X @ self.theta
        slope = formulas.SLOPES[loss.pop("id")](p, y, **loss)
        slope = s * np.where(np.isnan(p), p, slope)
        if self.config["clip_gradient"] is not None:
            slope = np.clip(slope, -self.config["clip_gradient"], self.config["clip_gradient"])
        g: FloatArray = slope @ X
        if self.config["reduction"] == "mean":
            g = g / s.sum() if s.sum() > 0 else 0.0 * g
        g[1:] += self.config["l2"] * self.theta[1:]
        return g

    def update(self, batch: Sequence[int], share: float = 1.0) -> None:
        """Step once from the samples in `batch`, the learning rate multiplied by `share`."""
        config, g = self.config, self.gradient(batch)
        optimizer = {k: v for k, v in config["optimizer"].items() if k not in ("id", "lr")}
        lr = formulas.rate(config["optimizer"], self.n_updates) * share

        optimized = config["fit_intercept"] and config["intercept_lr"] is None
        g_optimizer = g.copy()
        g_optimizer[0] *= optimized
        step = formulas.STEPS[config["optimizer"]["id"]]
        theta, slots = step(self.theta, g_optimizer, self.slots, self.n_updates, lr, **optimizer)
        if not optimized:
            theta[0] = self.theta[0]
        if config["fit_intercept"] and config["intercept_lr"] is not None:
            theta[0] -= config["intercept_lr"] * share * g[0]

        l1_had, l1_total = self.l1_had, self.l1_total + config["l1"] * lr
        if config["l1"] > 0:
            theta[1:], l1_had = formulas.l1_penalty(theta[1:], l1_had, l1_total)

        if all(np.isfinite(array).all() for array in (g, theta, l1_had, l1_total, *slots)):
            self.theta, self.slots, self.l1_had, self.l1_total = theta, slots, l1_had, l1_total
            self.n_updates += 1
        else:
            self.n_refused += 1


def _fit_numpy(config: dict[str, Any], data: Data, epochs: int, last_batch: str) -> OfflineFit:
    descent, n, n_pending = Descent(config, data), len(data.y), 0
    with np.errstate(all="ignore"):  # overflow is dealt with by refusing the update
        if config["batch_size"] is None:
            _full_batch(descent, n, epochs)
        elif config["batch_size"] == 1:
            _stochastic(descent, n, epochs)
        else:
            n_pending = _mini_batch(descent, n, epochs, last_batch)
    if descent.n_refused:
        warnings.warn(
            f"{descent.n_refused} updates were refused: a number was not finite",
            UpdateRefusedWarning,
            stacklevel=3,
        )
    theta = descent.theta
    return OfflineFit(
        weights=dict(zip(data.names, theta[1:].tolist(), strict=True)),
        intercept=float(theta[0]),
        parameters=theta,
        n_updates=descent.n_updates,
        n_refused=descent.n_refused,
        n_pending=n_pending,
    )


# ---- the kernels


def _fit_compiled(
    kind: type[LinearLearner], config: dict[str, Any], data: Data, epochs: int, last_batch: str
) -> OfflineFit:
    names = {"names": data.names, "fixed": False} if data.names else None
    clone = kind.from_config({**config, "features": names})
    for _ in range(epochs):
        clone.learn_many(data.X, data.y, data.w)
        clone.flush(last_batch)
    weights = clone.weights
    return OfflineFit(
        weights=weights,
        intercept=clone.intercept,
        parameters=np.array([clone.intercept, *weights.values()]),
        n_updates=clone.n_updates,
        n_refused=clone.n_refused,
        n_pending=clone.n_pending,
        digest=clone.digest(),
    )
