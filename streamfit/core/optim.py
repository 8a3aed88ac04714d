"""Optimizers: how a gradient becomes a step.

Names and defaults of the hyper-parameters are River's, the step is the textbook's. With `g` the
gradient of a micro-batch (its mean or sum, L2 included) and `w` a parameter, each docstring
states the step. The objects here are plain configuration; the arithmetic and its state are in
the compiled kernels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from streamfit.core.validation import check_flag, check_real
from streamfit.errors import ConfigurationError

__all__ = ["SGD", "AdaGrad", "Adam", "Optimizer", "from_config"]


@dataclass(frozen=True)
class Optimizer:
    """Base of the optimizers."""

    id: ClassVar[str]

    def get_config(self) -> dict[str, Any]:
        """Return a JSON-safe description that `from_config` turns back into the optimizer."""
        return {"id": self.id, **asdict(self)}

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyper-parameters by name."""
        return asdict(self)

    def _check(self, name: str, **bounds: Any) -> None:
        object.__setattr__(self, name, check_real(name, getattr(self, name), **bounds))


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, optionally with momentum.

    Plain: `w -= lr g`. With momentum (Sutskever et al. 2013, in the form that Keras uses):
    `v = momentum v - lr g`, then `w += v`, or `w += momentum v - lr g` with `nesterov`.

    Parameters
    ----------
    lr
        Learning rate, > 0.
    momentum
        In [0, 1).
    nesterov
        Look ahead along the velocity; needs a momentum.

    Examples
    --------
    >>> import streamfit as sf
    >>> sf.optim.SGD(0.1, momentum=0.9)
    SGD(lr=0.1, momentum=0.9, nesterov=False)
    """

    id: ClassVar[str] = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        self._check("lr", positive=True)
        self._check("momentum", minimum=0.0, below=1.0)
        check_flag("nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0.0:
            raise ConfigurationError("nesterov needs a momentum > 0")


@dataclass(frozen=True)
class AdaGrad(Optimizer):
    """AdaGrad (Duchi et al. 2011): `G += g^2`, `w -= lr g / sqrt(G + eps)`.

    Parameters
    ----------
    lr
        Learning rate, > 0.
    eps
        Keeps the first divisions finite, > 0; under the root, as in River, Keras and optax.
    """

    id: ClassVar[str] = "adagrad"
    lr: float = 0.1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self._check("lr", positive=True)
        self._check("eps", positive=True)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, Algorithm 1).

    `m = beta_1 m + (1 - beta_1) g`, `v = beta_2 v + (1 - beta_2) g^2`,
    `w -= lr m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + eps)` at update `t`.

    Parameters
    ----------
    lr
        Learning rate, > 0.
    beta_1, beta_2
        Decay of the moments, in [0, 1).
    eps
        Keeps the division finite, > 0; outside the root and after the bias correction.
    """

    id: ClassVar[str] = "adam"
    lr: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self._check("lr", positive=True)
        self._check("beta_1", minimum=0.0, below=1.0)
        self._check("beta_2", minimum=0.0, below=1.0)
        self._check("eps", positive=True)


_OPTIMIZERS: dict[str, type[Optimizer]] = {kind.id: kind for kind in (SGD, AdaGrad, Adam)}


def from_config(config: dict[str, Any]) -> Optimizer:
    """Make the optimizer that `get_config` described."""
    options = dict(config)
    kind = _OPTIMIZERS.get(options.pop("id", None))
    if kind is None:
        raise ConfigurationError(f"unknown optimizer {config!r}; known: {', '.join(_OPTIMIZERS)}")
    return kind(**options)
