"""One update of `streamfit.offline`: the gradient of a set of samples, and the step against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from streamfit import _offline_formulas as formulas
from streamfit._offline_noise import OfflineNoise
from streamfit.types import FloatArray

__all__ = ["Arrival", "Descent"]


class Arrival(NamedTuple):
    """A sample as it was seen when it came."""

    x: FloatArray
    """A 1 for the intercept, then the features, scaled by what was known of them by then."""
    y: float
    s: float
    """Its weight."""
    n_classes: int
    """How many classes were known, its own among them; 1 where there is one output."""


class Descent:
    """Gradient descent on `theta`: the intercept, then the weights; a row of them a class."""

    def __init__(self, config: dict[str, Any], n_features: int) -> None:
        self.config = config
        self.softmax = config["loss"]["id"] == "cross_entropy"
        shape: tuple[int, ...] = (1 + n_features,)
        if self.softmax:
            shape = (len(config["classes"] or ()), *shape)
        n_slots = formulas.N_SLOTS.get(config["optimizer"]["id"], 1)
        self.theta = np.zeros(shape)
        self.slots: formulas.Slots = (np.zeros(shape),) * n_slots
        self.l1_had, self.l1_total = np.zeros(shape)[..., 1:], 0.0
        scaler = config.get("scaler")
        self.scaler = None if scaler is None else formulas.Scaler(n_features, scaler.get("bound"))
        self.n_updates = self.n_refused = 0
        self.noise = None
        if config.get("noise_scale") is not None:
            schedule = config["batch_size"]
            follows = isinstance(schedule, dict) and schedule["id"] == "noise_scale"
            self.noise = OfflineNoise(config["noise_scale"], schedule if follows else None)

    @property
    def batch_size(self) -> int:
        """Size of the micro-batch at hand."""
        if self.noise is not None and self.noise.schedule is not None:
            return self.noise.size
        return formulas.size(self.config["batch_size"], self.n_updates)

    def arrival(self, x: FloatArray, y: float, s: float) -> Arrival:
        """Take in a sample: it may bring a class, and the scaler learns of it."""
        if self.softmax and y == len(self.theta):  # a class begins with zeros
            self.theta, self.l1_had, *slots = (
                np.vstack([array, np.zeros_like(array, shape=(1, array.shape[1]))])
                for array in (self.theta, self.l1_had, *self.slots)
            )
            self.slots = tuple(slots)
        if self.scaler is not None:
            if s > 0:
                self.scaler.learn(x)
            x = self.scaler.scale(x)
        return Arrival(np.append(1.0, x), y, s, len(self.theta) if self.softmax else 1)

    def _predicted(self, batch: Sequence[Arrival]) -> tuple[FloatArray, ...]:
        """`x_i`, `p_i`, `y_i`, `s_i` and `L'(p_i, y_i)`."""
        X, y, s, n_classes = (np.array(column) for column in zip(*batch, strict=True))
        loss = dict(self.config["loss"])
        p = X @ self.theta.T
        if self.softmax:  # what a sample did not know of had no probability
            p = np.where(np.arange(len(self.theta)) < n_classes[:, None], p, -np.inf)
        slope = formulas.SLOPES[loss.pop("id")](p, y, **loss)
        return X, p, y, s, np.where(np.isnan(p), p, slope)

    def curvature(self, batch: Sequence[Arrival]) -> FloatArray:
        """`sum_{i in B} s_i L''(p_i, y_i) x_i^2`."""
        X, p, y, s, slope = self._predicted(batch)
        loss = dict(self.config["loss"])
        formula = formulas.CURVATURES.get(loss.pop("id"))
        h = slope**2 if formula is None else formula(p, y, **loss)
        c: FloatArray = np.where(s > 0, s * h.T, 0.0) @ X**2
        return c

    def slopes(self, batch: Sequence[Arrival]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`s_i L'(p_i, y_i)` of each sample, a row of them a class; rows `x_i`, weights `s_i`."""
        X, _, _, s, slope = self._predicted(batch)
        slope = np.where(s > 0, s * slope.T, 0.0)  # not 0 times infinity
        if self.config["clip_gradient"] is not None:
            slope = np.clip(slope, -self.config["clip_gradient"], self.config["clip_gradient"])
        return slope, X, s

    def gradient(self, slope: FloatArray, X: FloatArray, s: FloatArray) -> FloatArray:
        """`sum_{i in B} s_i L'(p_i, y_i) x_i / sum_{i in B} s_i + l2 w`."""
        g: FloatArray = slope @ X
        if self.config["reduction"] == "mean":
            g = g / s.sum() if s.sum() > 0 else 0.0 * g
        g[..., 1:] += self.config["l2"] * self.theta[..., 1:]
        return g

    def update(self, batch: Sequence[Arrival], share: float = 1.0) -> None:
        """Step once from the samples in `batch`, the learning rate multiplied by `share`."""
        config, measured = self.config, self.slopes(batch)
        g = self.gradient(*measured)
        optimizer = {k: v for k, v in config["optimizer"].items() if k not in ("id", "lr")}
        lr = formulas.rate(config["optimizer"], self.n_updates) * share

        optimized = config["fit_intercept"] and config["intercept_lr"] is None
        g_optimizer = g.copy()
        g_optimizer[..., 0] *= optimized
        if config["optimizer"]["id"] == "auto":
            c = self.curvature(batch)
            c[..., 0] *= optimized
            total = sum(sample.s for sample in batch) if config["reduction"] == "mean" else 1.0
            prior = formulas.prior(config["loss"]["id"])
            theta, slots = formulas.auto(
                self.theta, total * g_optimizer, self.slots, c, prior, share
            )
        else:
            step = formulas.STEPS[config["optimizer"]["id"]]
            theta, slots = step(
                self.theta, g_optimizer, self.slots, self.n_updates, lr, **optimizer
            )
        if not optimized:
            theta[..., 0] = self.theta[..., 0]
        if config["fit_intercept"] and config["intercept_lr"] is not None:
            theta[..., 0] -= config["intercept_lr"] * share * g[..., 0]

        l1_had, l1_total = self.l1_had, self.l1_total + config["l1"] * lr
        if config["l1"] > 0:
            theta[..., 1:], l1_had = formulas.l1_penalty(theta[..., 1:], l1_had, l1_total)

        allowed = np.inf if config.get("max_weight") is None else config["max_weight"]
        finite = all(np.isfinite(array).all() for array in (g, theta, l1_had, l1_total, *slots))
        if finite and (np.abs(theta[..., 1:]) <= allowed).all():
            self.theta, self.slots, self.l1_had, self.l1_total = theta, slots, l1_had, l1_total
            if self.noise is not None:
                slope, X, s = measured
                fitted = X if config["fit_intercept"] else X[:, 1:]
                self.noise.after_update(slope, fitted, s, self.n_updates)
            self.n_updates += 1
        else:
            self.n_refused += 1
