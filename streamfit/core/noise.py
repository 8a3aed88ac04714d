"""The gradient noise scale: how many samples an update can use (McCandlish et al. 2018).

With `G` the gradient of the mean loss and `Sigma` the covariance of the samples' gradients, a
micro-batch of `B` samples estimates `G` with variance `tr(Sigma) / B`. At `B = tr(Sigma) / |G|^2`,
the simple noise scale, signal and noise are equal: much smaller batches make steps that are mostly
noise, much larger ones make steps that hardly get better.

Both parts have unbiased estimates from inside one micro-batch of `n` samples with gradients `g_i`
and weights `s_i`. With `q = sum s_i^2 / (sum s_i)^2`, which is `1 / n` when all weights are equal::

    mean    = sum s_i g_i / sum s_i
    noise   = (sum s_i |g_i|^2 / sum s_i - |mean|^2) / (1 - q)
    signal  = |mean|^2 - q noise

Numerator and denominator are smoothed apart, since the mean of ratios is not the ratio of means.

A learner that keeps its rows, and sees no gradients of single samples, takes those of parts of
them, in training of the two halves of a micro-batch (appendix A.1 of the paper: estimates at two
batch sizes). With `h_k` the mean gradient of part `k`, `S_k` the sum of its weights, `T_k` that of
their squares and `S = sum S_k`::

    noise   = sum S_k |h_k - mean|^2 / (sum T_k / S_k - q S)

For equal halves that is `n / 4 |h_1 - h_2|^2`, and `signal = h_1 . h_2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from streamfit.core.validation import check_integer, check_real
from streamfit.errors import ConfigurationError
from streamfit.types import FloatArray

__all__ = [
    "GradientNoise",
    "NoiseMoments",
    "NoiseScale",
    "check_noise_scale",
    "estimates_of_parts",
    "moments_fit",
    "moments_of",
    "noise_scale_from_config",
]

EVERY = 8
"""How often linear learners measure unless told otherwise."""


@dataclass(frozen=True)
class NoiseScale:
    """How to measure the gradient noise scale while training.

    Parameters
    ----------
    decay
        Of the running means, for each measurement, in (0, 1). They look back on about
        `1 / (1 - decay)` measured micro-batches.
    every
        Measure one micro-batch in `every`. A measured one costs more; None: 8, and 16 for a
        `KerasLearner`, where that hardly shows (docs/batch-size.md says how much).

    Examples
    --------
    >>> import streamfit as sf
    >>> model = sf.LinearRegression(batch_size=50, noise_scale=sf.NoiseScale(decay=0.9, every=1))
    >>> for i in range(1000):
    ...     model.learn_one({"x": i % 7}, 2.0 * (i % 7) + (-1) ** i)
    >>> model.gradient_noise.n
    20
    """

    decay: float = 0.99
    every: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "decay", check_real("decay", self.decay, positive=True, below=1.0))
        if self.every is not None:
            object.__setattr__(self, "every", check_integer("every", self.every, minimum=1))

    def get_config(self) -> dict[str, Any]:
        """Return a JSON-safe description."""
        return asdict(self)


def check_noise_scale(noise_scale: object) -> NoiseScale | None:
    """Return what a learner's argument means: True is the default, False none."""
    if isinstance(noise_scale, bool) or noise_scale is None:
        return NoiseScale() if noise_scale else None
    if not isinstance(noise_scale, NoiseScale):
        raise ConfigurationError(
            f"noise_scale must be True, False or a sf.NoiseScale, not {noise_scale!r:.60}"
        )
    return noise_scale


def noise_scale_from_config(config: dict[str, Any] | None) -> NoiseScale | None:
    """Make what `get_config` described."""
    return None if config is None else NoiseScale(**config)


FOLLOWED = NoiseScale(decay=0.95)
"""What a schedule turns on: it has to notice when the noise changes."""


@dataclass(frozen=True)
class GradientNoise:
    """What is known of the gradient and its noise: running means over measured micro-batches.

    Parameters
    ----------
    n
        Micro-batches measured; those of a single sample say nothing and do not count.
    signal
        Estimate of `|G|^2`, the squared length of the gradient; by chance it may be negative.
    noise
        Estimate of `tr(Sigma)`, the variance of one sample's gradient.
    scale
        `noise / signal`, the simple noise scale, in samples; infinite where `signal` is not
        positive, NaN before the first measurement.
    low, high
        Bounds of a 95% confidence interval of the scale (Fieller 1954). `high` is infinite while
        the gradient cannot be told from 0, as near a minimum: the scale is then at least `low`.

    Notes
    -----
    The gradient is that of the loss; penalties are no part of it. It moves while a model learns:
    the interval is about the mean over what `decay` looks back on.
    """

    n: int
    signal: float
    noise: float
    scale: float
    low: float
    high: float


@dataclass
class NoiseMoments:
    """Running means of the estimates, of their squares and their product.

    `weight` and `weight_2` are the sums of the measurements' weights and squared weights, which
    say how much the means can be trusted.
    """

    n: int = 0
    weight: float = 0.0
    weight_2: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    signal_2: float = 0.0
    noise_2: float = 0.0
    product: float = 0.0

    def add(self, signal: float, noise: float, decay: float) -> None:
        """Take in one measurement."""
        new = 1.0 - decay
        values = (signal, noise, signal * signal, noise * noise, signal * noise)
        if not all(map(math.isfinite, values)):
            return
        self.n += 1
        self.weight = decay * self.weight + new
        self.weight_2 = decay * decay * self.weight_2 + new * new
        for name, value in zip(_MEANS, values, strict=True):
            setattr(self, name, decay * getattr(self, name) + new * value)

    def as_list(self) -> list[float]:
        """Return all but the count, in the order of the fields."""
        return [self.weight, self.weight_2, *(getattr(self, name) for name in _MEANS)]

    def gradient_noise(self) -> GradientNoise:
        """Say what follows."""
        if not self.n:
            return GradientNoise(0, *[math.nan] * 5)
        signal, noise = self.signal / self.weight, self.noise / self.weight
        scale = noise / signal if signal > 0.0 else math.inf
        return GradientNoise(self.n, signal, noise, scale, *self._interval(signal, noise))

    def _interval(self, signal: float, noise: float) -> tuple[float, float]:
        """Return the ratios `t` that `noise - t signal = 0` does not contradict."""
        share = self.weight_2 / self.weight**2  # 1 / the effective number of measurements
        if not share < 1.0 - 1e-9:
            return 0.0, math.inf
        freedom = (1.0 - share) / share
        t2 = _student(freedom) ** 2
        v_signal = max(0.0, self.signal_2 / self.weight - signal**2) / freedom
        v_noise = max(0.0, self.noise_2 / self.weight - noise**2) / freedom
        covariance = (self.product / self.weight - signal * noise) / freedom
        a = signal**2 - t2 * v_signal
        b = noise * signal - t2 * covariance
        c = noise**2 - t2 * v_noise
        root = math.sqrt(max(0.0, b * b - a * c))
        if a > 0.0 and signal > 0.0:
            return max(0.0, (b - root) / a), (b + root) / a
        if a >= 0.0 or c <= 0.0:
            return 0.0, math.inf
        return max(0.0, (b - root) / a), math.inf


_MEANS = ("signal", "noise", "signal_2", "noise_2", "product")


def moments_of(n: int, values: FloatArray) -> NoiseMoments:
    """Make moments of a count and of what `as_list` returned."""
    return NoiseMoments(n, *values.tolist())


def moments_fit(n: int, values: FloatArray) -> bool:
    """Say whether what is left of the averages' weights is between 0 and 1, and 0 at first."""
    left = values[:2]
    return bool(((left > 0.0) & (left <= 1.0) == bool(n)).all())


def estimates_of_parts(
    gradients: Sequence[FloatArray], weights: Sequence[FloatArray]
) -> tuple[float, float] | None:
    """Estimate signal and noise from the gradients of parts of the samples.

    Parameters
    ----------
    gradients
        Weighted mean gradient of each part, one dimension.
    weights
        Weights of the samples of each part.

    Returns
    -------
    tuple of float, or None
        Both unbiased; None where a part has no weight, or one sample nearly all of it.

    Examples
    --------
    >>> import numpy as np
    >>> from streamfit.core.noise import estimates_of_parts
    >>> estimates_of_parts([np.array([3.0]), np.array([1.0])], [np.ones(4), np.ones(4)])
    (3.0, 8.0)
    """
    sums = np.array([w.sum() for w in weights])
    squares = np.array([(w**2).sum() for w in weights])
    total = sums.sum()
    if not (sums > 0.0).all():
        return None
    q = squares.sum() / total**2
    if not q <= 0.9 or len(sums) < 2:
        return None
    h = np.array(gradients)
    mean = sums @ h / total
    spread = sums @ ((h - mean) ** 2).sum(axis=1)
    noise = float(spread / ((squares / sums).sum() - q * total))
    return float(mean @ mean - q * noise), noise


def _student(freedom: float) -> float:
    """Return the 97.5% quantile of Student's t (expansion about the normal quantile)."""
    z = 1.959963984540054
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
