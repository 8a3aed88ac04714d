"""Losses: what a sample's prediction costs, and the slope that learning follows.

Every loss is a function of the *linear predictor* `p = w.x + b` and the label `y`. The objects
here are plain configuration; the arithmetic is in the compiled kernels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from streamfit._kernels import loss_gradient, loss_value
from streamfit.errors import ConfigurationError

__all__ = ["HalfSquared", "Log", "Loss", "Squared", "from_config"]


@dataclass(frozen=True)
class Loss:
    """Base of the losses."""

    id: ClassVar[str]

    def value(self, p: float, y: float) -> float:
        """Loss of the linear predictor `p` against the label `y`."""
        return loss_value(self.id, p, y)

    def gradient(self, p: float, y: float) -> float:
        """Slope of the loss at `p`: its derivative by the linear predictor."""
        return loss_gradient(self.id, p, y)

    def get_config(self) -> dict[str, Any]:
        """Return a JSON-safe description that `from_config` turns back into the loss."""
        return {"id": self.id, **asdict(self)}


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
class Log(Loss):
    """Logistic loss (binary cross-entropy) for labels 0 and 1: `log(1 + exp(p)) - y p`.

    The gradient is `sigmoid(p) - y` (Bishop, Pattern Recognition and Machine Learning, 4.91).

    Examples
    --------
    >>> import streamfit as sf
    >>> loss = sf.losses.Log()
    >>> round(loss.value(0.0, 1.0), 6), loss.gradient(0.0, 1.0)
    (0.693147, -0.5)
    """

    id: ClassVar[str] = "log"


_LOSSES: dict[str, type[Loss]] = {loss.id: loss for loss in (Squared, HalfSquared, Log)}


def from_config(config: dict[str, Any]) -> Loss:
    """Make the loss that `get_config` described."""
    options = dict(config)
    kind = _LOSSES.get(options.pop("id", None))
    if kind is None:
        raise ConfigurationError(f"unknown loss {config!r}; known: {', '.join(_LOSSES)}")
    return kind(**options)
