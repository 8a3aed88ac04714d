"""What a stream equals: the same samples learned offline, by a plain NumPy loop.

The loop is the textbook's and shares no code with the compiled kernels, so that the two can
check each other. It is written to be read, not to be fast.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from streamfit.core import frames
from streamfit.core.learner import LAST_BATCH, LinearLearner
from streamfit.core.validation import check_choice, check_integer
from streamfit.errors import BadSampleError, UpdateRefusedWarning
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
    data = _read(config, X, y, sample_weight)
    if kernel == "compiled":
        return _fit_compiled(type(model), config, data, epochs, last_batch)
    return _fit_numpy(config, data, epochs, last_batch)


class _Data(NamedTuple):
    """Checked samples: finite numbers, one column a feature."""

    names: list[FeatureName]
    X: FloatArray
    y: FloatArray
    w: FloatArray


# ---- the textbook


def _fit_numpy(config: dict[str, Any], data: _Data, epochs: int, last_batch: str) -> OfflineFit:
    batch_size = config["batch_size"]
    descent = _Descent(config, data)
    batch: list[int] = []
    with np.errstate(all="ignore"):  # overflow is dealt with by refusing the update
        for _ in range(epochs):
            for i in range(len(data.y)):
                batch.append(i)
                if len(batch) == batch_size:
                    descent.update(batch)
                    batch = []
            if batch and (batch_size is None or last_batch == "apply"):
                descent.update(batch)
            elif batch and last_batch == "scale":
                descent.update(batch, share=len(batch) / batch_size)
            if batch_size is None or last_batch != "carry":
                batch = []
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
        n_pending=len(batch),
    )


class _Descent:
    """Gradient descent on `theta`: the intercept, then the weights."""

    def __init__(self, config: dict[str, Any], data: _Data) -> None:
        self.config = config
        self.X = np.column_stack([np.ones(len(data.y)), data.X])  # a 1 for the intercept
        self.y, self.w = data.y, data.w
        self.theta = np.zeros(self.X.shape[1])
        self.slots = (np.zeros_like(self.theta), np.zeros_like(self.theta))
        self.n_updates = self.n_refused = 0

    def update(self, batch: list[int], share: float = 1.0) -> None:
        """Step once from the samples in `batch`, the learning rate multiplied by `share`."""
        g = self._gradient(batch)
        intercept_lr = self.config["intercept_lr"]
        g_optimizer = g.copy()
        if intercept_lr is not None or not self.config["fit_intercept"]:
            g_optimizer[0] = 0.0
        options = dict(self.config["optimizer"])
        step = _STEPS[options.pop("id")]
        options["lr"] *= share
        theta, slots = step(self.theta, g_optimizer, self.slots, self.n_updates + 1, **options)
        if intercept_lr is not None and self.config["fit_intercept"]:
            theta[0] -= intercept_lr * share * g[0]
        if all(np.isfinite(array).all() for array in (g, theta, *slots)):
            self.theta, self.slots = theta, slots
            self.n_updates += 1
        else:
            self.n_refused += 1

    def _gradient(self, batch: list[int]) -> FloatArray:
        X, y, w = self.X[batch], self.y[batch], self.w[batch]
        slope = w * _SLOPES[self.config["loss"]["id"]](X @ self.theta, y)
        if self.config["clip_gradient"] is not None:
            slope = np.clip(slope, -self.config["clip_gradient"], self.config["clip_gradient"])
        g: FloatArray = slope @ X
        if self.config["reduction"] == "mean":
            g = g / w.sum() if w.sum() > 0 else 0.0 * g
        g[1:] += self.config["l2"] * self.theta[1:]
        return g


def _sigmoid(p: FloatArray) -> FloatArray:
    return np.exp(-np.logaddexp(0.0, -p))  # 1 / (1 + exp(-p)), without overflow


_SLOPES = {  # the derivative of each loss by the linear predictor p
    "squared": lambda p, y: 2.0 * (p - y),
    "half_squared": lambda p, y: p - y,
    "log": lambda p, y: _sigmoid(p) - y,
}

_Slots: TypeAlias = tuple[FloatArray, FloatArray]
_Step: TypeAlias = Callable[..., tuple[FloatArray, _Slots]]


def _sgd(
    theta: FloatArray,
    g: FloatArray,
    slots: _Slots,
    t: int,
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
) -> tuple[FloatArray, _Slots]:
    v = momentum * slots[0] - lr * g
    return theta + (momentum * v - lr * g if nesterov else v), (v, slots[1])


def _adagrad(
    theta: FloatArray, g: FloatArray, slots: _Slots, t: int, *, lr: float, eps: float
) -> tuple[FloatArray, _Slots]:
    G = slots[0] + g**2
    return theta - lr * g / np.sqrt(G + eps), (G, slots[1])


def _adam(
    theta: FloatArray,
    g: FloatArray,
    slots: _Slots,
    t: int,
    *,
    lr: float,
    beta_1: float,
    beta_2: float,
    eps: float,
) -> tuple[FloatArray, _Slots]:
    m = beta_1 * slots[0] + (1 - beta_1) * g
    v = beta_2 * slots[1] + (1 - beta_2) * g**2
    m_hat, v_hat = m / (1 - beta_1**t), v / (1 - beta_2**t)
    return theta - lr * m_hat / (np.sqrt(v_hat) + eps), (m, v)


_STEPS: dict[str, _Step] = {"sgd": _sgd, "adagrad": _adagrad, "adam": _adam}


# ---- the kernels


def _fit_compiled(
    kind: type[LinearLearner], config: dict[str, Any], data: _Data, epochs: int, last_batch: str
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


# ---- reading the data


def _read(config: dict[str, Any], X: Any, y: Any, w: Any) -> _Data:
    known: list[FeatureName] = [] if config["features"] is None else config["features"]["names"]
    fixed = config["features"] is not None and config["features"]["fixed"]
    if isinstance(X, list | tuple) and (not X or isinstance(X[0], Mapping)):
        names, matrix = _from_mappings(X, known)
    else:
        names, matrix = _from_table(X, known)
    if fixed and len(names) > len(known):
        raise BadSampleError(
            "unknown feature; the feature index is fixed", feature=names[len(known)]
        )
    n = len(matrix)
    labels = _numbers(y, "label", n)
    weights = np.full(n, 1.0 if w is None else w) if frames.is_scalar(w) else w
    weights = _numbers(weights, "sample weight", n)
    for row, column in np.argwhere(~np.isfinite(matrix)).tolist():
        raise _at(row, f"value {matrix[row, column]} is not finite", names[column])
    for row in np.flatnonzero(~np.isfinite(labels)).tolist():
        raise _at(row, f"label {labels[row]} is not finite")
    if config["loss"]["id"] == "log":
        for row in np.flatnonzero((labels != 0) & (labels != 1)).tolist():
            raise _at(row, f"label {labels[row]} is not False or True (0 or 1)")
    for row in np.flatnonzero(~(np.isfinite(weights) & (weights >= 0))).tolist():
        raise _at(row, f"sample weight {weights[row]} is not a finite number >= 0")
    return _Data(names, matrix, labels, weights)


def _from_mappings(
    rows: list[Any] | tuple[Any, ...], known: list[FeatureName]
) -> tuple[list[FeatureName], FloatArray]:
    """Give each feature a column: the known ones first, the others as they appear."""
    columns = {name: column for column, name in enumerate(known)}
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise _at(i, f"a sample must be a mapping like the first, not {type(row).__name__}")
        for name in row:
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise _at(
                    i, f"a feature's name must be str or int, not {type(name).__name__}", name
                )
            columns.setdefault(name, len(columns))
    matrix = np.zeros((len(rows), len(columns)))
    for i, row in enumerate(rows):
        for name, value in row.items():
            matrix[i, columns[name]] = _number(value, "value", i, name)
    return list(columns), matrix


def _from_table(X: Any, known: list[FeatureName]) -> tuple[list[FeatureName], FloatArray]:
    """Put the columns of a table in the order of the known features, new ones at the end."""
    table, found = frames.as_table(X)
    width = table.shape[1]
    if found is None:
        if known and width != len(known):
            raise BadSampleError(f"{width} columns where the model has {len(known)} features")
        found = known or list(range(width))
    if table.dtype.kind in "fiub":
        values = table.astype(np.float64)
    else:
        values = np.zeros(table.shape)
        for i, row in enumerate(table):
            values[i] = [_number(v, "value", i, f) for v, f in zip(row, found, strict=True)]
    names = list(dict.fromkeys([*known, *found]))
    if len(set(found)) < len(found):
        raise BadSampleError("two columns have the same name")
    matrix = np.zeros((len(values), len(names)))
    matrix[:, [names.index(name) for name in found]] = values
    return names, matrix


def _numbers(values: Any, what: str, n: int) -> FloatArray:
    """Read `n` labels or weights."""
    array = frames.as_vector(values, what, n)
    if array.dtype.kind in "fiub":
        return array.astype(np.float64)
    return np.array([_number(value, what, i) for i, value in enumerate(array)], dtype=np.float64)


# float() would take each of these, and a date as its nanoseconds
_NO_NUMBERS = (
    *(str, bytes, bytearray, memoryview, complex),
    *(np.complexfloating, np.datetime64, np.timedelta64, np.ndarray),
)


def _number(value: Any, what: str, row: int, feature: object = None) -> float:
    """Convert as Python's `float` would, but refuse text, complex numbers and times."""
    try:
        if isinstance(value, _NO_NUMBERS):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _at(row, f"{what} is not a number ({type(value).__name__})", feature) from None


def _at(row: int, reason: str, feature: object = None) -> BadSampleError:
    return BadSampleError(reason, feature=feature).at("fit_offline", 0, row)
