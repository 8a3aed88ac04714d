"""The formulas of `streamfit.offline`, one a line where they fit: losses, rates, sizes, steps.

Written from the textbooks and in NumPy only: nothing here comes from the compiled kernels, which
it is there to check. `p` is the linear predictor `w . x + b`, `y` the label, `t` the number of
updates made before this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from streamfit.types import FloatArray

__all__ = [
    "CURVATURES",
    "N_SLOTS",
    "RATES",
    "SIZES",
    "SLOPES",
    "STEPS",
    "Scaler",
    "Slots",
    "auto",
    "l1_penalty",
    "prior",
    "rate",
    "size",
]

Slots: TypeAlias = tuple[FloatArray, ...]
_Step: TypeAlias = Callable[..., tuple[FloatArray, Slots]]


# ---- losses: the derivative of each by p


def _sigmoid(p: FloatArray) -> FloatArray:
    return np.exp(-np.logaddexp(0.0, -p))  # 1 / (1 + exp(-p)), without overflow


def _softmax(p: FloatArray) -> FloatArray:
    e = np.exp(p - p.max(axis=1, keepdims=True, initial=-np.inf))
    shares: FloatArray = e / e.sum(axis=1, keepdims=True)
    return shares


def _sign(y: FloatArray) -> FloatArray:
    return 2.0 * y - 1.0  # classes 0 and 1 as -1 and +1; the margin is sign * p


SLOPES: dict[str, Callable[..., FloatArray]] = {
    # (p - y)^2
    "squared": lambda p, y: 2.0 * (p - y),
    # (p - y)^2 / 2
    "half_squared": lambda p, y: p - y,
    # |p - y|
    "absolute": lambda p, y: np.sign(p - y),
    # (p - y)^2 / 2, but straight lines from |p - y| = epsilon on
    "huber": lambda p, y, epsilon: np.clip(p - y, -epsilon, epsilon),
    # max(0, |p - y| - epsilon)
    "epsilon_insensitive": lambda p, y, epsilon: np.sign(p - y) * (np.abs(p - y) > epsilon),
    # alpha (y - p) where p < y, (1 - alpha) (p - y) where p > y
    "quantile": lambda p, y, alpha: (1.0 - alpha) * (p > y) - alpha * (p < y),
    # exp(p) - y p
    "poisson": lambda p, y: np.exp(p) - y,
    # -y log(sigmoid(p)) - (1 - y) log(1 - sigmoid(p))
    "log": lambda p, y: _sigmoid(p) - y,
    # max(0, threshold - margin)
    "hinge": lambda p, y, threshold: -_sign(y) * (_sign(y) * p <= threshold),
    # max(0, threshold - margin)^2
    "squared_hinge": lambda p, y, threshold: (
        -2.0 * _sign(y) * np.maximum(0.0, threshold - _sign(y) * p)
    ),
    # max(0, 1 - margin)^2, but a straight line from margin = -1 down
    "modified_huber": lambda p, y: -_sign(y) * np.clip(2.0 * (1.0 - _sign(y) * p), 0.0, 4.0),
    # log(sum_k exp(p_k)) - p_y, a column for each class k
    "cross_entropy": lambda p, y: _softmax(p) - (np.arange(p.shape[1]) == y[:, None]),
}


# ---- schedules


def _cosine_warmup(t: int, lr: float, total: int, warmup: int, minimum: float) -> float:
    if t < warmup:
        return lr * (t + 1) / warmup
    done = min(1.0, (t - warmup) / (total - warmup))
    return minimum + (lr - minimum) * (1.0 + math.cos(math.pi * done)) / 2.0


RATES: dict[str, Callable[..., float]] = {
    "constant": lambda t, lr: lr,
    "inverse_scaling": lambda t, lr, power: lr / (t + 1) ** power,
    "optimal": lambda t, alpha, t0: 1.0 / (alpha * (t0 + t)),
    "exponential": lambda t, lr, decay, every: lr * decay ** (t / every),
    "step": lambda t, lr, decay, every: lr * decay ** (t // every),
    "cosine_warmup": _cosine_warmup,
}
"""The learning rate of the update after `t` updates."""


def _geometric(t: int, initial: int, factor: float, every: int, maximum: int) -> int:
    size = initial
    for _ in range(t // every):
        if size == maximum:
            break
        size = min(math.ceil(size * factor), maximum)
    return size


def _milestones(t: int, initial: int, milestones: list[list[int]]) -> int:
    return [initial, *(size for at, size in milestones if at <= t)][-1]


SIZES: dict[str, Callable[..., int]] = {"geometric": _geometric, "milestones": _milestones}
"""The size of the micro-batch after `t` updates."""


# ---- optimizers: theta is the intercept, then the weights; g its gradient


def _sgd(
    theta: FloatArray,
    g: FloatArray,
    slots: Slots,
    t: int,
    lr: float,
    momentum: float,
    nesterov: bool,
) -> tuple[FloatArray, Slots]:
    (v,) = slots
    v = momentum * v - lr * g
    return theta + (momentum * v - lr * g if nesterov else v), (v,)


def _adagrad(
    theta: FloatArray, g: FloatArray, slots: Slots, t: int, lr: float, eps: float
) -> tuple[FloatArray, Slots]:
    (G,) = slots
    G = G + g**2
    return theta - lr * g / np.sqrt(G + eps), (G,)


def _rmsprop(
    theta: FloatArray, g: FloatArray, slots: Slots, t: int, lr: float, rho: float, eps: float
) -> tuple[FloatArray, Slots]:
    (G,) = slots
    G = rho * G + (1 - rho) * g**2
    return theta - lr * g / np.sqrt(G + eps), (G,)


def _adadelta(
    theta: FloatArray, g: FloatArray, slots: Slots, t: int, lr: float, rho: float, eps: float
) -> tuple[FloatArray, Slots]:
    G, D = slots
    G = rho * G + (1 - rho) * g**2
    d = np.sqrt(D + eps) / np.sqrt(G + eps) * g
    return theta - lr * d, (G, rho * D + (1 - rho) * d**2)


def _adam(
    theta: FloatArray,
    g: FloatArray,
    slots: Slots,
    t: int,
    lr: float,
    beta_1: float,
    beta_2: float,
    eps: float,
) -> tuple[FloatArray, Slots]:
    m, v = slots
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    m_hat, v_hat = m / (1 - beta_1 ** (t + 1)), v / (1 - beta_2 ** (t + 1))
    return theta - lr * m_hat / (np.sqrt(v_hat) + eps), (m, v)


def _adamw(
    theta: FloatArray,
    g: FloatArray,
    slots: Slots,
    t: int,
    lr: float,
    weight_decay: float,
    **options: float,
) -> tuple[FloatArray, Slots]:
    stepped, slots = _adam(theta, g, slots, t, lr, **options)
    stepped[..., 1:] -= lr * weight_decay * theta[..., 1:]  # the intercept does not decay
    return stepped, slots


def _amsgrad(
    theta: FloatArray,
    g: FloatArray,
    slots: Slots,
    t: int,
    lr: float,
    beta_1: float,
    beta_2: float,
    eps: float,
) -> tuple[FloatArray, Slots]:
    m, v, v_max = slots
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    v_max = np.maximum(v_max, v)
    m_hat, v_hat = m / (1 - beta_1 ** (t + 1)), v_max / (1 - beta_2 ** (t + 1))
    return theta - lr * m_hat / (np.sqrt(v_hat) + eps), (m, v, v_max)


def _ftrl_proximal(
    theta: FloatArray,
    g: FloatArray,
    slots: Slots,
    t: int,
    lr: float,
    alpha: float,
    beta: float,
    l1: float,
    l2: float,
) -> tuple[FloatArray, Slots]:
    z, n = slots
    g = g * (lr / alpha)  # a share of a micro-batch counts as that share of its loss
    sigma = (np.sqrt(n + g**2) - np.sqrt(n)) / alpha
    z, n = z + g - sigma * theta, n + g**2
    return ftrl_weights(z, n, alpha, beta, l1, l2), (z, n)


def ftrl_weights(
    z: FloatArray, n: FloatArray, alpha: float, beta: float, l1: float, l2: float
) -> FloatArray:
    """Return the weights that FTRL-Proximal's slots stand for."""
    shrunk = np.sign(z) * np.maximum(0.0, np.abs(z) - l1)
    weights: FloatArray = -shrunk / ((beta + np.sqrt(n)) / alpha + l2)
    return weights


STEPS: dict[str, _Step] = {
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adadelta": _adadelta,
    "adam": _adam,
    "adamw": _adamw,
    "amsgrad": _amsgrad,
    "ftrl_proximal": _ftrl_proximal,
}
CURVATURES: dict[str, Callable[..., FloatArray]] = {
    "squared": lambda p, y: 2.0 + 0.0 * p,
    "half_squared": lambda p, y: 1.0 + 0.0 * p,
    "huber": lambda p, y, epsilon: epsilon / np.maximum(np.abs(p - y), epsilon),
    "poisson": lambda p, y: np.exp(p),
    "log": lambda p, y: _sigmoid(p) * _sigmoid(-p),
    "squared_hinge": lambda p, y, threshold: 2.0 * (_sign(y) * p < threshold),
    "modified_huber": lambda p, y: 2.0 * (_sign(y) * p < 1.0),
    "cross_entropy": lambda p, y: _softmax(p) * (1.0 - _softmax(p)),
}
"""The second derivative of a loss by p, for `auto`; the squared slope where there is none here."""


def prior(loss: str) -> float:
    """Return the curvature that a weight of `auto` begins with."""
    logarithmic = ("poisson", "log", "cross_entropy")
    margins = ("hinge", "squared_hinge", "modified_huber")
    return 2.0 if loss in logarithmic + margins else 1e-3


def auto(
    theta: FloatArray, g: FloatArray, slots: Slots, c: FloatArray, prior: float, share: float
) -> tuple[FloatArray, Slots]:
    """Step of the diagonal Kalman filter; `c` is the curvature that belongs to the gradient `g`."""
    (A,) = slots
    P = np.maximum(1.0 / (prior + A), 0.25 / np.sqrt(prior + A))
    damping = 1.0 + (P * c).sum(axis=-1, keepdims=True)
    return theta - share * P * g / damping, (A + c / damping,)


N_SLOTS = {"adadelta": 2, "adam": 2, "adamw": 2, "amsgrad": 3, "ftrl_proximal": 2}
"""How many arrays an optimizer remembers, where it is not one."""


def l1_penalty(w: FloatArray, had: FloatArray, total: float) -> tuple[FloatArray, FloatArray]:
    """Cumulative L1 penalty (Tsuruoka et al. 2009, Figure 2).

    `total` is what every weight could have had by now, `had` what each has had (with its sign).
    """
    pulled = np.where(w > 0, np.maximum(0.0, w - (total + had)), np.minimum(0.0, w + (total - had)))
    pulled = np.where(w == 0, 0.0, pulled)
    return pulled, had + (pulled - w)


def rate(optimizer: dict[str, Any], t: int) -> float:
    """Learning rate of an optimizer's configuration after `t` updates."""
    lr = optimizer.get("lr", optimizer.get("alpha", 1.0))
    if not isinstance(lr, dict):
        return float(lr)
    options = dict(lr)
    return RATES[options.pop("id")](t, **options)


def size(batch_size: int | dict[str, Any], t: int) -> int:
    """Size of the micro-batch after `t` updates."""
    if not isinstance(batch_size, dict):
        return batch_size
    options = dict(batch_size)
    return SIZES[options.pop("id")](t, **options)


# ---- scaling


class Scaler:
    """Mean and variance of each feature over the samples so far (Welford 1962)."""

    def __init__(self, n_features: int, bound: float | None = None) -> None:
        self.bound = np.inf if bound is None else bound
        self.n = 0
        self.mean, self.var = np.zeros(n_features), np.zeros(n_features)

    def learn(self, x: FloatArray) -> None:
        """Take one sample into the statistics."""
        self.n += 1
        d = x - self.mean
        self.mean = self.mean + d / self.n
        self.var = self.var + (d * (x - self.mean) - self.var) / self.n

    def scale(self, x: FloatArray) -> FloatArray:
        """`(x - mean) / sqrt(var)`, and 0 for a feature that has always been the same; bounded."""
        moving = self.var != 0
        z = np.where(moving, (x - self.mean) / np.sqrt(np.where(moving, self.var, 1.0)), 0.0)
        return z / np.sqrt(1.0 + (z / self.bound) ** 2)
