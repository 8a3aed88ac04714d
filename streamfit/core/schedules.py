"""Schedules: learning rates and batch sizes that depend on the number of updates made.

Every schedule counts updates, never samples, epochs or time, so that it is part of what a stream
and its offline replay share. `t` is the number of updates made before the one at hand.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from streamfit._kernels import learning_rate
from streamfit.core.validation import check_integer, check_real
from streamfit.errors import ConfigurationError

__all__ = [
    "BatchSizeSchedule",
    "Constant",
    "CosineWarmup",
    "Exponential",
    "GeometricBatchSize",
    "InverseScaling",
    "MilestoneBatchSize",
    "NoiseScaleBatchSize",
    "Optimal",
    "Schedule",
    "Step",
    "batch_size_from_config",
    "from_config",
]


@dataclass(frozen=True)
class Schedule:
    """Base of the learning-rate schedules."""

    id: ClassVar[str]

    def rate(self, n_updates: int) -> float:
        """Learning rate of the update after `n_updates` updates."""
        return learning_rate(self.get_config(), n_updates)

    def get_config(self) -> dict[str, Any]:
        """Return a JSON-safe description that `from_config` turns back into the schedule."""
        return {"id": self.id, **asdict(self)}

    def _check(self, name: str, **bounds: Any) -> None:
        object.__setattr__(self, name, check_real(name, getattr(self, name), **bounds))

    def _check_integer(self, name: str, minimum: int) -> None:
        object.__setattr__(self, name, check_integer(name, getattr(self, name), minimum=minimum))


@dataclass(frozen=True)
class Constant(Schedule):
    """Always `lr`; what a plain number stands for."""

    id: ClassVar[str] = "constant"
    lr: float

    def __post_init__(self) -> None:
        self._check("lr", positive=True)


@dataclass(frozen=True)
class InverseScaling(Schedule):
    """`lr / (t + 1)^power`: scikit-learn's `invscaling`, River's `InverseScaling`.

    Examples
    --------
    >>> import streamfit as sf
    >>> schedule = sf.schedules.InverseScaling(0.1, power=0.5)
    >>> schedule.rate(0), schedule.rate(3)
    (0.1, 0.05)
    """

    id: ClassVar[str] = "inverse_scaling"
    lr: float
    power: float = 0.5

    def __post_init__(self) -> None:
        self._check("lr", positive=True)
        self._check("power", minimum=0.0)


@dataclass(frozen=True)
class Optimal(Schedule):
    """`1 / (alpha (t0 + t))` (Bottou 2012, "Stochastic Gradient Descent Tricks", section 5.2).

    Parameters
    ----------
    alpha
        Strength of the L2 regularization that goes with it, > 0.
    t0
        Makes the first steps small, > 0; the first rate is `1 / (alpha t0)`. scikit-learn and
        River derive it from the loss; here it is said outright.
    """

    id: ClassVar[str] = "optimal"
    alpha: float = 1e-4
    t0: float = 1e5

    def __post_init__(self) -> None:
        self._check("alpha", positive=True)
        self._check("t0", positive=True)
        if not self.alpha * self.t0 * sys.float_info.max > 1.0:
            raise ConfigurationError(
                f"alpha * t0 is so small that the first rate is infinite: {self!r}"
            )


@dataclass(frozen=True)
class Exponential(Schedule):
    """`lr decay^(t / every)`: Keras' `ExponentialDecay`."""

    id: ClassVar[str] = "exponential"
    lr: float
    decay: float
    every: int = 1

    def __post_init__(self) -> None:
        self._check("lr", positive=True)
        self._check("decay", positive=True)
        self._check_integer("every", 1)


@dataclass(frozen=True)
class Step(Schedule):
    """`lr decay^floor(t / every)`: PyTorch's `StepLR`, Keras' staircase."""

    id: ClassVar[str] = "step"
    lr: float
    decay: float
    every: int

    def __post_init__(self) -> None:
        self._check("lr", positive=True)
        self._check("decay", positive=True)
        self._check_integer("every", 1)


@dataclass(frozen=True)
class CosineWarmup(Schedule):
    """Linear up to `lr` over `warmup` updates, then half a cosine down to `minimum` at `total`.

    `lr (t + 1) / warmup` before, `minimum` after, and in between `minimum + (lr - minimum)
    (1 + cos(pi (t - warmup) / (total - warmup))) / 2` (Loshchilov and Hutter 2017, equation 5,
    without restarts).
    """

    id: ClassVar[str] = "cosine_warmup"
    lr: float
    total: int
    warmup: int = 0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        self._check("lr", positive=True)
        self._check("minimum", minimum=0.0)
        self._check_integer("warmup", 0)
        self._check_integer("total", self.warmup + 1)
        if self.minimum > self.lr:
            raise ConfigurationError(f"minimum must be at most lr, not {self.minimum!r}")


@dataclass(frozen=True)
class BatchSizeSchedule:
    """Base of the batch-size schedules; the size changes only between micro-batches."""

    id: ClassVar[str]

    def get_config(self) -> dict[str, Any]:
        """Return a JSON-safe description of the schedule."""
        return {"id": self.id, **asdict(self)}

    def _check_integer(self, name: str, minimum: int) -> None:
        object.__setattr__(self, name, check_integer(name, getattr(self, name), minimum=minimum))


@dataclass(frozen=True)
class GeometricBatchSize(BatchSizeSchedule):
    """Start at `initial`; after each `every` updates take `factor` times as many, rounded up.

    Parameters
    ----------
    initial, maximum
        Smallest and largest size.
    factor
        Growth, >= 1.
    every
        Updates between two growths.

    Examples
    --------
    >>> import streamfit as sf
    >>> growing = sf.schedules.GeometricBatchSize(1, factor=2, every=1, maximum=4)
    >>> model = sf.LinearRegression(batch_size=growing)
    >>> for i in range(11):  # micro-batches of 1, 2, 4 and 4
    ...     model.learn_one({"x": 1.0}, 1.0)
    >>> model.n_updates, model.n_pending
    (4, 0)
    """

    id: ClassVar[str] = "geometric"
    initial: int
    factor: float
    every: int
    maximum: int

    def __post_init__(self) -> None:
        self._check_integer("initial", 1)
        object.__setattr__(self, "factor", check_real("factor", self.factor, minimum=1.0))
        self._check_integer("every", 1)
        self._check_integer("maximum", self.initial)


@dataclass(frozen=True)
class MilestoneBatchSize(BatchSizeSchedule):
    """Start at `initial`; from given updates on take given sizes.

    Parameters
    ----------
    initial
        The first size.
    milestones
        Pairs `(n_updates, size)`: after that many updates, that size. The counts rise.

    Examples
    --------
    >>> import streamfit as sf
    >>> sf.schedules.MilestoneBatchSize(8, [(100, 32), (1000, 128)])
    MilestoneBatchSize(initial=8, milestones=[[100, 32], [1000, 128]])
    """

    id: ClassVar[str] = "milestones"
    initial: int
    milestones: list[list[int]]

    def __post_init__(self) -> None:
        self._check_integer("initial", 1)
        try:
            pairs = [(at, size) for at, size in self.milestones]
        except (TypeError, ValueError):
            raise ConfigurationError(
                f"milestones must be pairs (n_updates, size), not {self.milestones!r:.60}"
            ) from None
        before = 0
        for at, size in pairs:
            before = check_integer("milestones: n_updates", at, minimum=before + 1)
            check_integer("milestones: size", size, minimum=1)
        object.__setattr__(self, "milestones", [[int(at), int(size)] for at, size in pairs])


@dataclass(frozen=True)
class NoiseScaleBatchSize(BatchSizeSchedule):
    """Follow the measured gradient noise scale, the size at which signal and noise are equal.

    Starts at `minimum`. After each `every` updates the next size is the estimate so far, rounded,
    but at most twice and at least half the size before, for an estimate is uncertain. Where the
    estimate of the gradient is not above 0 the size doubles. A learner whose `noise_scale` is off
    gets `sf.NoiseScale(0.95)`.

    Parameters
    ----------
    minimum, maximum
        Smallest and largest size; `minimum` >= 2, since one sample says nothing about the noise.
    every
        Updates from one decision to the next.

    Examples
    --------
    >>> import streamfit as sf
    >>> following = sf.schedules.NoiseScaleBatchSize(2, 64, every=8)
    >>> model = sf.LinearRegression(batch_size=following)
    >>> for i in range(5000):  # labels that are mostly noise
    ...     model.learn_one({"x": 1.0}, float(i * i % 7))
    >>> model.current_batch_size
    64
    """

    id: ClassVar[str] = "noise_scale"
    minimum: int
    maximum: int
    every: int = 32

    def __post_init__(self) -> None:
        self._check_integer("minimum", 2)
        self._check_integer("maximum", self.minimum)
        self._check_integer("every", 1)


_SCHEDULES: dict[str, type[Schedule]] = {
    kind.id: kind for kind in (Constant, InverseScaling, Optimal, Exponential, Step, CosineWarmup)
}
_BATCH_SIZES: dict[str, type[BatchSizeSchedule]] = {
    kind.id: kind for kind in (GeometricBatchSize, MilestoneBatchSize, NoiseScaleBatchSize)
}


def from_config(config: float | dict[str, Any]) -> float | Schedule:
    """Make the learning rate that a configuration describes: a number stays a number."""
    if not isinstance(config, dict):
        return config
    options = dict(config)
    kind = _SCHEDULES.get(options.pop("id", None))
    if kind is None:
        raise ConfigurationError(f"unknown schedule {config!r}; known: {', '.join(_SCHEDULES)}")
    return kind(**options)


def batch_size_from_config(config: int | dict[str, Any] | None) -> int | BatchSizeSchedule | None:
    """Make the batch size that a configuration describes: a number or None stays itself."""
    if not isinstance(config, dict):
        return config
    options = dict(config)
    kind = _BATCH_SIZES.get(options.pop("id", None))
    if kind is None:
        raise ConfigurationError(f"unknown batch size {config!r}; known: {', '.join(_BATCH_SIZES)}")
    return kind(**options)
