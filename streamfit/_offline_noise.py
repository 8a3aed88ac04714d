"""The gradient noise scale of `streamfit.offline`: a covariance, as the textbook has it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamfit.core.noise import NoiseMoments, moments_of
from streamfit.types import FloatArray

__all__ = ["OfflineNoise"]


class OfflineNoise:
    """Measures micro-batches, and chooses their size where a schedule follows the noise."""

    def __init__(self, config: dict[str, Any], batch_size: dict[str, Any] | None) -> None:
        self.decay, self.every = config["decay"], config["every"] or 8
        self.schedule = batch_size
        self.size = 0 if batch_size is None else batch_size["minimum"]
        self.before = NoiseMoments()  # of what was measured before the copies parted
        self.measured: list[tuple[float, float]] = []

    def after_update(self, slopes: FloatArray, X: FloatArray, s: FloatArray, t: int) -> None:
        """Take in a micro-batch: rows `X`, slopes times weights, weights `s`; `t` updates before.

        An update of a single sample, or of one that outweighs all others, tells of no noise.
        """
        if t % self.every == 0 and s.sum() > 0.0:
            q = (s**2).sum() / s.sum() ** 2
            if q <= 0.9:
                self._measure(slopes[..., s > 0], X[s > 0], s[s > 0], q)
        if self.schedule is not None and (t + 1) % self.schedule["every"] == 0:
            self.size = self._next_size(self.schedule["minimum"], self.schedule["maximum"])

    def _measure(self, slopes: FloatArray, X: FloatArray, s: FloatArray, q: float) -> None:
        slopes = np.atleast_2d(slopes / s)  # an output a row
        g = (slopes[:, :, None] * X).transpose(1, 0, 2).reshape(len(s), -1)
        mean = (s[:, None] * g).sum(axis=0) / s.sum()
        noise = (s * ((g - mean) ** 2).sum(axis=1)).sum() / s.sum() / (1.0 - q)
        signal = (mean**2).sum() - q * noise
        if np.isfinite([signal**2, noise**2, noise * signal]).all():
            self.measured.append((float(signal), float(noise)))

    def moments(self) -> NoiseMoments:
        """Sum up what was measured: the newest counts `1 - decay`, each before it `decay` times."""
        n = len(self.measured)
        weight = (1.0 - self.decay) * self.decay ** np.arange(n)[::-1]
        signal, noise = np.array(self.measured).reshape(n, 2).T
        means = [(weight * v).sum() for v in (signal, noise, signal**2, noise**2, signal * noise)]
        older = np.array(self.before.as_list()) * self.decay**n
        older[1] *= self.decay**n
        newer = np.array([weight.sum(), (weight**2).sum(), *means])
        return moments_of(self.before.n + n, older + newer)

    def begin_at(self, moments: NoiseMoments) -> None:
        """Go on from an average, as if that had been measured so far."""
        self.before, self.measured = moments, []

    def _next_size(self, minimum: int, maximum: int) -> int:
        """Follow the noise scale, at most to twice or half the size."""
        now = self.moments()
        if not now.n:
            return self.size
        wanted = 1.0001 * now.noise / now.signal if now.signal > 0.0 else math.inf  # no ties
        bounded = min(max(wanted, math.ceil(self.size / 2), minimum), 2 * self.size, maximum)
        return math.floor(bounded + 0.5)
