"""Losses: what a sample's prediction costs, and the slope that learning follows.

Every loss is a function of the *linear predictor* `p = w.x + b` and the label `y`. The objects
here are plain configuration; the arithmetic is in the compiled kernels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from streamfit._kernels import loss_gradient, loss_mean, loss_means, loss_value
from streamfit.core.validation import check_real
from streamfit.errors import ConfigurationError, UnsupportedError
from streamfit.types import FloatArray

__all__ = [
    "Absolute",
    "CrossEntropy",
    "EpsilonInsensitive",
    "HalfSquared",
    "Hinge",
    "Huber",
    "Log",
    "Loss",
    "ModifiedHuber",
    "Poisson",
    "Quantile",
    "Squared",
    "SquaredHinge",
    "from_config",
]


@dataclass(frozen=True)
class Loss:
    """Base of the losses."""

    id: ClassVar[str]

    def value(self, p: float, y: float) -> float:
        """Loss of the linear predictor `p` against the label `y`."""
        return loss_value(self.get_config(), p, y)

    def gradient(self, p: float, y: float) -> float:
        """Slope of the loss at `p`: its derivative by the linear predictor."""
        return loss_gradient(self.get_config(), p, y)

    def mean_one(self, p: float) -> float:
        """Prediction that the linear predictor `p` stands for: `p` itself unless said otherwise."""
        return loss_mean(self.get_config(), p)

    def mean(self, predictors: FloatArray) -> FloatArray:
        """Predictions that an array of linear predictors stands for; `mean_one` of each."""
        return loss_means(self.get_config(), np.ascontiguousarray(predictors))

    def get_config(self) -> dict[str, Any]:
        """Return a JSON-safe description that `from_config` turns back into the loss."""
        return {"id": self.id, **asdict(self)}

    def _check(self, name: str, **bounds: Any) -> None:
        object.__setattr__(self, name, check_real(name, getattr(self, name), **bounds))


@dataclass(frozen=True)
class Squared(Loss):
    """Squared error `(p - y)^2`, gradient `2 (p - y)`: as River and Keras define it.

    Examples
    --------
    >>> import streamfit as sf
    >>> loss = sf.losses.Squared()
    >>> loss.value(3.0, 1.0), loss.gradient(3.0, 1.0)
    (4.0, 4.0)
    """

    id: ClassVar[str] = "squared"


@dataclass(frozen=True)
class HalfSquared(Loss):
    """Half the squared error `(p - y)^2 / 2`, gradient `p - y`: as scikit-learn defines it.

    Examples
    --------
    >>> import streamfit as sf
    >>> loss = sf.losses.HalfSquared()
    >>> loss.value(3.0, 1.0), loss.gradient(3.0, 1.0)
    (2.0, 2.0)
    """

    id: ClassVar[str] = "half_squared"


@dataclass(frozen=True)
class Absolute(Loss):
    """Absolute error `|p - y|`, gradient `sign(p - y)`, 0 where they are equal."""

    id: ClassVar[str] = "absolute"


@dataclass(frozen=True)
class Huber(Loss):
    """Half the squared error up to `epsilon`, linear beyond (Huber 1964).

    `(p - y)^2 / 2` where `|p - y| <= epsilon`, else `epsilon (|p - y| - epsilon / 2)`.

    Parameters
    ----------
    epsilon
        Where it turns linear, > 0.
    """

    id: ClassVar[str] = "huber"
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        self._check("epsilon", positive=True)


@dataclass(frozen=True)
class EpsilonInsensitive(Loss):
    """`max(0, |p - y| - epsilon)`, the loss of support vector regression (Vapnik 1995).

    Parameters
    ----------
    epsilon
        Errors up to this size cost nothing, >= 0.
    """

    id: ClassVar[str] = "epsilon_insensitive"
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        self._check("epsilon", minimum=0.0)


@dataclass(frozen=True)
class Quantile(Loss):
    """Pinball loss: `alpha (y - p)` below the label, `(1 - alpha) (p - y)` above it.

    Parameters
    ----------
    alpha
        The quantile to predict, in (0, 1); 0.5 is the median.
    """

    id: ClassVar[str] = "quantile"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        self._check("alpha", positive=True, below=1.0)


@dataclass(frozen=True)
class Poisson(Loss):
    """Poisson loss `exp(p) - y p` for counts `y >= 0`; the prediction is their mean, `exp(p)`."""

    id: ClassVar[str] = "poisson"


@dataclass(frozen=True)
class Log(Loss):
    """Logistic loss (binary cross-entropy) for labels 0 and 1: `log(1 + exp(p)) - y p`.

    The gradient is `sigmoid(p) - y` (Bishop, Pattern Recognition and Machine Learning, 4.91), the
    prediction `sigmoid(p)`, the probability of label 1.

    Examples
    --------
    >>> import streamfit as sf
    >>> loss = sf.losses.Log()
    >>> round(loss.value(0.0, 1.0), 6), loss.gradient(0.0, 1.0)
    (0.693147, -0.5)
    """

    id: ClassVar[str] = "log"


@dataclass(frozen=True)
class Hinge(Loss):
    """Hinge loss `max(0, threshold - m)`, with the margin `m` = `p` for label 1 and `-p` for 0.

    It knows no probabilities: the prediction is 1 for a positive predictor, else 0 (as River).

    Parameters
    ----------
    threshold
        The margin beyond which nothing is lost, >= 0: 1 for a support vector machine, 0 for the
        perceptron.
    """

    id: ClassVar[str] = "hinge"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        self._check("threshold", minimum=0.0)


@dataclass(frozen=True)
class SquaredHinge(Loss):
    """Squared hinge loss `max(0, threshold - m)^2` of the margin `m`; predicts as `Hinge`.

    Parameters
    ----------
    threshold
        The margin beyond which nothing is lost, >= 0.
    """

    id: ClassVar[str] = "squared_hinge"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        self._check("threshold", minimum=0.0)


@dataclass(frozen=True)
class ModifiedHuber(Loss):
    """`max(0, 1 - m)^2` for margins `m >= -1`, else `-4 m` (Zhang 2004; `m` as in `Hinge`).

    The probability of label 1 is `(clip(p, -1, 1) + 1) / 2` (Zhang 2004), as in scikit-learn.
    """

    id: ClassVar[str] = "modified_huber"


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of several classes under the softmax of their predictors.

    `log sum_k exp(z_k) - z_y` for the predictors `z` and the class `y`; its slope by `z_k` is the
    probability of class `k`, less 1 for `k = y` (Bishop, PRML, 4.109). Of `SoftmaxRegression`.
    """

    id: ClassVar[str] = "cross_entropy"

    def value(self, p: float, y: float) -> float:
        """Raise: the loss is of several predictors at once."""
        raise UnsupportedError("CrossEntropy is of several predictors, one for each class")

    gradient = mean_one = value  # type: ignore[assignment]


_KINDS: tuple[type[Loss], ...] = (
    *(Squared, HalfSquared, Absolute, Huber, EpsilonInsensitive, Quantile, Poisson),
    *(Log, Hinge, SquaredHinge, ModifiedHuber, CrossEntropy),
)
_LOSSES = {kind.id: kind for kind in _KINDS}


def from_config(config: dict[str, Any]) -> Loss:
    """Make the loss that `get_config` described."""
    options = dict(config)
    kind = _LOSSES.get(options.pop("id", None))
    if kind is None:
        raise ConfigurationError(f"unknown loss {config!r}; known: {', '.join(_LOSSES)}")
    return kind(**options)
