"""Optimizers: how a gradient becomes a step.

Names and defaults of the hyper-parameters are River's, the step is the textbook's. With `g` the
gradient of a micro-batch (its mean or sum, L2 included) and `w` a parameter, each docstring
states the step. The objects here are plain configuration; the arithmetic and its state are in
the compiled kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from streamfit.core import schedules
from streamfit.core.validation import check_flag, check_real
from streamfit.errors import ConfigurationError

__all__ = [
    "SGD",
    "AMSGrad",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Auto",
    "FTRLProximal",
    "Optimizer",
    "RMSProp",
    "from_config",
]


@dataclass(frozen=True)
class Optimizer:
    """Base of the optimizers."""

    id: ClassVar[str]

    def get_config(self) -> dict[str, Any]:
        """Return a JSON-safe description that `from_config` turns back into the optimizer."""
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(options.get("lr"), schedules.Schedule):
            options["lr"] = options["lr"].get_config()
        return {"id": self.id, **options}

    @property
    def schedule(self) -> schedules.Schedule:
        """The learning rate as a schedule."""
        lr: float | schedules.Schedule = getattr(self, "lr", 1.0)
        return lr if isinstance(lr, schedules.Schedule) else schedules.Constant(lr)

    def _check(self, name: str, **bounds: Any) -> None:
        object.__setattr__(self, name, check_real(name, getattr(self, name), **bounds))

    def _check_lr(self) -> None:
        lr = getattr(self, "lr")  # noqa: B009, not on the base
        if not (isinstance(lr, schedules.Schedule) and hasattr(lr, "id")):
            self._check("lr", positive=True)


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent, optionally with momentum.

    Plain: `w -= lr g`. With momentum (Sutskever et al. 2013, in the form that Keras uses):
    `v = momentum v - lr g`, then `w += v`, or `w += momentum v - lr g` with `nesterov`.

    Parameters
    ----------
    lr
        Learning rate, > 0, or one of `sf.schedules`.
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
    lr: float | schedules.Schedule = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        self._check_lr()
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
        Learning rate, > 0, or a schedule.
    eps
        Keeps the first divisions finite, > 0; under the root, as in River, Keras and optax.
    """

    id: ClassVar[str] = "adagrad"
    lr: float | schedules.Schedule = 0.1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self._check_lr()
        self._check("eps", positive=True)


@dataclass(frozen=True)
class AdaDelta(Optimizer):
    """AdaDelta (Zeiler 2012, Algorithm 1); has no learning rate.

    `G = rho G + (1 - rho) g^2`, `d = sqrt(D + eps) / sqrt(G + eps) g`,
    `D = rho D + (1 - rho) d^2`, `w -= d`.

    Parameters
    ----------
    rho
        Decay of the averages, in [0, 1).
    eps
        Starts the steps, > 0.
    """

    id: ClassVar[str] = "adadelta"
    rho: float = 0.95
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self._check("rho", minimum=0.0, below=1.0)
        self._check("eps", positive=True)


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp (Tieleman and Hinton 2012): `G = rho G + (1 - rho) g^2`, `w -= lr g / sqrt(G + eps)`.

    Parameters
    ----------
    lr
        Learning rate, > 0, or a schedule.
    rho
        Decay of the average, in [0, 1).
    eps
        Keeps the division finite, > 0; under the root.
    """

    id: ClassVar[str] = "rmsprop"
    lr: float | schedules.Schedule = 0.1
    rho: float = 0.9
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self._check_lr()
        self._check("rho", minimum=0.0, below=1.0)
        self._check("eps", positive=True)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, Algorithm 1).

    `m = beta_1 m + (1 - beta_1) g`, `v = beta_2 v + (1 - beta_2) g^2`,
    `w -= lr m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + eps)` at update `t`.

    Parameters
    ----------
    lr
        Learning rate, > 0, or a schedule.
    beta_1, beta_2
        Decay of the moments, in [0, 1).
    eps
        Keeps the division finite, > 0; outside the root and after the bias correction.
    """

    id: ClassVar[str] = "adam"
    lr: float | schedules.Schedule = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self._check_lr()
        self._check("beta_1", minimum=0.0, below=1.0)
        self._check("beta_2", minimum=0.0, below=1.0)
        self._check("eps", positive=True)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, Algorithm 2).

    Adam's step, and `w -= lr weight_decay w` beside it; the intercept does not decay.

    Parameters
    ----------
    lr, beta_1, beta_2, eps
        As for `Adam`.
    weight_decay
        Strength of the decay, >= 0.
    """

    id: ClassVar[str] = "adamw"
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("weight_decay", minimum=0.0)


@dataclass(frozen=True)
class AMSGrad(Adam):
    """AMSGrad (Reddi et al. 2018), with Adam's bias correction.

    Adam, with the largest `v` so far in the place of `v`.
    """

    id: ClassVar[str] = "amsgrad"


@dataclass(frozen=True)
class FTRLProximal(Optimizer):
    """FTRL-Proximal (McMahan et al. 2013, Algorithm 1), with its own L1 and L2.

    `s = (sqrt(n + g^2) - sqrt(n)) / alpha`, `z += g - s w`, `n += g^2`, then `w = 0` where
    `|z| <= l1`, else `w = -(z - sign(z) l1) / ((beta + sqrt(n)) / alpha + l2)`. Trains the
    intercept by the same rule. `last_batch="scale"` scales `g`, there being no step to scale.

    Parameters
    ----------
    alpha
        Learning rate, > 0.
    beta
        Tames the first steps, >= 0 (> 0 unless `l2` is).
    l1, l2
        Strength of the regularization, >= 0; `l1` makes weights exactly 0.
    """

    id: ClassVar[str] = "ftrl_proximal"
    alpha: float = 0.05
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 1.0

    def __post_init__(self) -> None:
        self._check("alpha", positive=True)
        for name in ("beta", "l1", "l2"):
            self._check(name, minimum=0.0)
        if self.beta == 0.0 and self.l2 == 0.0:
            raise ConfigurationError(
                "beta must be > 0 when l2 is 0, or the first step divides by 0"
            )

    @property
    def schedule(self) -> schedules.Schedule:
        """`alpha`, which has the place of the learning rate."""
        return schedules.Constant(self.alpha)


@dataclass(frozen=True)
class Auto(Optimizer):
    """A second-order step that needs no tuning: a diagonal extended Kalman filter.

    A weight `j` remembers the curvature `A_j` that it has seen. A micro-batch whose samples have
    slopes `r_i` and curvatures `h_i` (first and second derivative of the loss by the predictor)
    brings `g_j = sum_i r_i x_ij` and `c_j = sum_i h_i x_ij^2`; its step is

    - `P_j = max(1 / (a + A_j), 1 / (4 sqrt(a + A_j)))`,
    - `w_j -= P_j g_j / (1 + sum_k P_k c_k)`, `A_j += c_j / (1 + sum_k P_k c_k)`.

    With `P = 1 / (a + A)` this is the Kalman filter of logistic and linear regression, its
    covariance kept diagonal (Puskorius and Feldkamp 1991, "decoupled"; the rule of AROW,
    Crammer et al. 2009): one Newton step from a Gaussian prior, bounded by what the features
    together would move. It forgets nothing, so its rate falls as 1/t and it loses what drifts; the
    second term lets the rate fall as AdaGrad's does, as 1/sqrt(t). The prior's precision `a` is 2
    where a weight has a natural size (classes, and Poisson's logarithms) and 0.001 where it has the
    label's unit. These three numbers were chosen on the five data sets of `benchmarks/quality.md`.

    Losses without curvature (absolute, quantile, epsilon-insensitive, hinge) give the squared
    slope instead, as the online Newton step does (Hazan et al. 2007); the labels of such a
    regression should be of order 1. Huber's tails give `epsilon / abs(p - y)`.

    The sum is taken whatever the `reduction`; that decides only what `l2` is compared with. L2
    goes into `g`, not into `c`. Every update costs all features. `last_batch="scale"` scales the
    step.

    Parameters
    ----------
    scale
        Give a learner that has no `scaler` a `StandardScaler(bound=1.5)`. Hashed features are
        never scaled.

    Examples
    --------
    >>> import streamfit as sf
    >>> model = sf.LinearRegression(sf.optim.Auto())
    >>> for i in range(100):
    ...     model.learn_one({"metres": i % 7 * 1000.0}, 5.0 + 0.003 * (i % 7 * 1000.0))
    >>> round(model.predict_one({"metres": 3000.0}))
    14
    """

    id: ClassVar[str] = "auto"
    scale: bool = True

    def __post_init__(self) -> None:
        check_flag("scale", self.scale)


_KINDS: tuple[type[Optimizer], ...] = (
    *(SGD, AdaGrad, AdaDelta, RMSProp, Adam, AdamW, AMSGrad, FTRLProximal, Auto),
)
_OPTIMIZERS = {kind.id: kind for kind in _KINDS}


def from_config(config: dict[str, Any]) -> Optimizer:
    """Make the optimizer that `get_config` described."""
    options = dict(config)
    kind = _OPTIMIZERS.get(options.pop("id", None))
    if kind is None:
        raise ConfigurationError(f"unknown optimizer {config!r}; known: {', '.join(_OPTIMIZERS)}")
    if "lr" in options:
        options["lr"] = schedules.from_config(options["lr"])
    return kind(**options)
