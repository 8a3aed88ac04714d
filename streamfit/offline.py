"""What a stream equals: the same samples learned offline, by a plain NumPy loop.

The three loops are the textbook's and share no code with the compiled kernels, so that the two
can check each other. They are written to be read, not to be fast: `_full_batch`, `_mini_batch`
and `_stochastic` say which samples make an update, `Descent.update` (in `_offline_descent`) is
that update, and `_offline_formulas` has one formula for each loss, schedule and optimizer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from streamfit._offline_data import Data, Label, read, read_shards
from streamfit._offline_descent import Arrival, Descent
from streamfit._offline_local import CompiledCopies, TextbookCopies, run_rounds
from streamfit.core import frames
from streamfit.core.learner import LAST_BATCH, LinearLearner
from streamfit.core.noise import GradientNoise
from streamfit.core.sums import Cuts, check_separable
from streamfit.core.validation import check_choice, check_integer
from streamfit.errors import ConfigurationError, UpdateRefusedWarning
from streamfit.types import Block, FeatureName, FloatArray

__all__ = ["LocalFit", "OfflineFit", "fit_local_sgd", "fit_offline"]

Weights: TypeAlias = dict[FeatureName, float]


@dataclass(frozen=True)
class OfflineFit:
    """What `fit_offline` learned.

    Parameters
    ----------
    weights, intercept
        The weight of each feature, and the intercept; of each class, where there are several.
        Of hashed features only those that are not 0.
    parameters
        The same numbers as one array, the intercept first; a row for each class, where there are
        several.
    n_updates, n_refused, n_pending
        Updates; updates refused for a number that was not finite, or a weight beyond
        `max_weight`; samples left waiting, which only `last_batch="carry"` leaves.
    digest
        `model.digest()` of the compiled replay; None from the NumPy loop.
    gradient_noise
        What `noise_scale` measured, None where it is off.
    """

    weights: Weights | dict[Label, Weights]
    intercept: float | dict[Label, float]
    parameters: FloatArray
    n_updates: int
    n_refused: int
    n_pending: int
    digest: str | None = None
    gradient_noise: GradientNoise | None = None


@dataclass(frozen=True)
class LocalFit(OfflineFit):
    """What `fit_local_sgd` learned.

    Parameters
    ----------
    n_rounds
        How often the copies were averaged.
    progressive_loss
        Mean loss of the samples, each before its copy learned it, NaN where none had a weight; None
        from the NumPy loop, which knows the losses' slopes only.
    """

    n_rounds: int = 0
    progressive_loss: float | None = None


def fit_offline(
    model: LinearLearner,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    epochs: int = 1,
    last_batch: str = "apply",
    kernel: str = "numpy",
    shares: int = 1,
) -> OfflineFit:
    r"""Fit a fresh model of the same configuration to data at rest.

    The loss of sample `i` is `L(p_i, y_i)` at `p_i = w . x_i + b`, its weight is `s_i`. One
    update steps against the gradient over a set `B` of samples (`reduction="mean"`; `"sum"`
    does not divide)::

        g = sum_{i in B} s_i L'(p_i, y_i) x_i / sum_{i in B} s_i  +  l2 w
        w = w - lr g                                (SGD; see `sf.optim` for the others)

    With several classes there are a `w_k` and a `b_k` for each, `p_ik = w_k . x_i + b_k`, and
    `L'` by `p_ik` is `exp(p_ik) / sum_j exp(p_ij) - [y_i = k]`; the sum is over the classes
    that sample `i` and those before it have brought.

    Which samples are in `B` is the whole difference between

    - full-batch gradient descent, `batch_size=None`: all of them, one update an epoch;
    - mini-batch gradient descent: `batch_size` consecutive ones, in order;
    - stochastic gradient descent, `batch_size=1`: one sample, so `g = L'(p_i, y_i) x_i`.

    Parameters
    ----------
    model
        Says what to fit. It is not changed, and what it has learned is ignored.
    X
        Array of shape (n, n_features), data frame, sparse matrix, or list of mappings (an absent
        feature is 0). `dtype="float32"` rounds the numbers, and computes in float64 all the same.
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
    shares
        With `kernel="compiled"`: how many contiguous shares each micro-batch is cut into, which
        are summed apart, as `RayTrainer` does in synchronous mode; see `streamfit.core.sums`.

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
    check_integer("shares", shares, minimum=1)
    config = model.get_config()
    data = read(config, X, y, sample_weight)
    if kernel == "compiled":
        return _fit_compiled(type(model), config, X, y, data, epochs, last_batch, shares)
    return _fit_numpy(config, data, epochs, last_batch)


def fit_local_sgd(
    model: LinearLearner,
    shards: Sequence[Any],
    *,
    sync_every: int,
    epochs: int = 1,
    last_batch: str = "apply",
    kernel: str = "numpy",
) -> LocalFit:
    r"""Fit copies of a fresh model to a shard each, and average them now and then.

    This is what `sf.distributed.RayTrainer(mode="local")` computes, in one process. A copy of the
    model for each shard makes `sync_every` updates; then all go on from the average, in which a
    copy counts as many times as it has taken in samples since the last one::

        w = sum_s n_s w_s / sum_s n_s

    Averaged is everything that an optimizer remembers, besides the weights; how the counts, the
    scaler and FTRL-Proximal are treated says `streamfit.core.averaging`. With one update a round
    (plain SGD, no scaler) it is mini-batch gradient descent: the mean of the gradients of the `N`
    micro-batches at the same weights is that of one micro-batch `N` times as large. With more, the
    copies drift apart in between (Stich 2019, "Local SGD converges fast and communicates little").

    Parameters
    ----------
    model
        Says what to fit, as in `fit_offline`.
    shards
        `(X, y)` or `(X, y, sample_weight)` each, of what `fit_offline` takes; one of them may be
        empty, or shorter than others: its copy then waits, with no part in the average.
    sync_every
        Micro-batches between two averages. One that is refused counts.
    epochs
        Passes over all shards. An epoch ends when the longest shard does, and with an average.
    last_batch
        What becomes of a partial micro-batch at the end of a shard, as in `fit_offline`;
        `"carry"` leaves its samples to the next epoch.
    kernel
        `"numpy"`: the textbook's formulas. `"compiled"`: real learners.

    Returns
    -------
    LocalFit
        Parameters and counts. `n_updates` counts, in each round, the updates of the copy that made
        the most. `n_pending` are samples not taken in, which only `last_batch="carry"` leaves.

    Raises
    ------
    BadSampleError
        When data are refused, before anything is computed; its partition is the shard's number.
    ConfigurationError
        When there are no shards, or one is no tuple.

    Examples
    --------
    >>> import streamfit as sf
    >>> from streamfit.offline import fit_local_sgd, fit_offline
    >>> model = sf.LinearRegression(sf.optim.SGD(0.1), batch_size=1)
    >>> shards = [([[1.0], [3.0]], [2.0, 6.0]), ([[2.0], [4.0]], [4.0, 8.0])]
    >>> fit = fit_local_sgd(model, shards, sync_every=1)
    >>> fit.n_rounds, fit.n_updates, round(fit.weights[0], 6), round(fit.intercept, 6)
    (2, 2, 3.08, 1.18)
    >>> pairs = sf.LinearRegression(sf.optim.SGD(0.1), batch_size=2)
    >>> fit = fit_offline(pairs, [[1.0], [2.0], [3.0], [4.0]], [2.0, 4.0, 6.0, 8.0])
    >>> round(fit.weights[0], 6), round(fit.intercept, 6)
    (3.08, 1.18)
    """
    check_choice("kernel", kernel, ("numpy", "compiled"))
    check_choice("last_batch", last_batch, LAST_BATCH)
    check_integer("epochs", epochs, minimum=1)
    check_integer("sync_every", sync_every, minimum=1)
    if not isinstance(shards, list | tuple) or not shards:
        raise ConfigurationError(f"shards must be a list of at least one, not {shards!r:.60}")
    config, read = read_shards(model.get_config(), shards)
    lengths = [len(data.y) for data in read]
    rounds = (lengths, sync_every, epochs, last_batch)
    if kernel == "compiled":
        real = CompiledCopies(type(model), config, shards)
        n_rounds, n_left = run_rounds(real, *rounds)
        learned = _state_of(real.copies[0], read[0])
        learned["progressive_loss"] = real.progressive_loss
        return LocalFit(**learned, n_pending=n_left, n_rounds=n_rounds)
    textbook = TextbookCopies(config, read)
    with np.errstate(all="ignore"):
        n_rounds, n_left = run_rounds(textbook, *rounds)
    learned = _learned(config, read[0], textbook.average_of_all)
    return LocalFit(**learned, n_pending=n_left, n_rounds=n_rounds)


# ---- the textbook: three formulas for which samples make an update


def _full_batch(descent: Descent, data: Data, epochs: int) -> None:
    """Full-batch gradient descent: all samples make one update, once an epoch."""
    for _ in range(epochs):
        batch = [descent.arrival(*sample) for sample in _samples(data)]
        if batch:
            descent.update(batch)


def _mini_batch(descent: Descent, data: Data, epochs: int, last_batch: str) -> int:
    """Mini-batch gradient descent: consecutive samples make an update; returns how many wait."""
    batch: list[Arrival] = []
    for _ in range(epochs):
        for sample in _samples(data):
            batch.append(descent.arrival(*sample))
            if len(batch) == descent.batch_size:
                descent.update(batch)
                batch = []
        if batch and last_batch == "apply":
            descent.update(batch)
        if batch and last_batch == "scale":
            descent.update(batch, share=len(batch) / descent.batch_size)
        if last_batch != "carry":
            batch = []
    return len(batch)


def _stochastic(descent: Descent, data: Data, epochs: int) -> None:
    """Stochastic gradient descent: each sample makes an update."""
    for _ in range(epochs):
        for sample in _samples(data):
            descent.update([descent.arrival(*sample)])


def _samples(data: Data) -> Iterator[tuple[FloatArray, float, float]]:
    """Row, label and weight of each sample."""
    return zip(data.table.X, data.y.tolist(), data.w.tolist(), strict=True)


def _fit_numpy(config: dict[str, Any], data: Data, epochs: int, last_batch: str) -> OfflineFit:
    descent, n_pending = Descent(config, data.table.X.shape[1]), 0
    with np.errstate(all="ignore"):  # overflow is dealt with by refusing the update
        if config["batch_size"] is None:
            _full_batch(descent, data, epochs)
        elif config["batch_size"] == 1:
            _stochastic(descent, data, epochs)
        else:
            n_pending = _mini_batch(descent, data, epochs, last_batch)
    return OfflineFit(**_learned(config, data, descent), n_pending=n_pending)


def _learned(config: dict[str, Any], data: Data, descent: Descent) -> dict[str, Any]:
    """Return what a descent has come to, with the names of features and classes."""
    names, columns, _ = data.table
    if descent.n_refused:
        warnings.warn(
            f"{descent.n_refused} updates were refused: a number was not finite, or beyond "
            "max_weight",
            UpdateRefusedWarning,
            stacklevel=4,
        )
    theta = np.zeros((*descent.theta.shape[:-1], 1 + len(names)))
    theta[..., [0, *(1 + column for column in columns)]] = descent.theta
    sparse = "bits" in (config["features"] or ())
    named = [_by_name(row, names, sparse) for row in np.atleast_2d(theta)]
    classes, intercepts = data.classes, theta[..., 0].tolist()
    return {
        "weights": named[0] if classes is None else dict(zip(classes, named, strict=True)),
        "intercept": intercepts if classes is None else dict(zip(classes, intercepts, strict=True)),
        "parameters": theta,
        "n_updates": descent.n_updates,
        "n_refused": descent.n_refused,
        "gradient_noise": None
        if descent.noise is None
        else descent.noise.moments().gradient_noise(),
    }


def _by_name(theta: FloatArray, names: Sequence[FeatureName], sparse: bool) -> Weights:
    weights = zip(names, theta[1:].tolist(), strict=True)
    return {name: w for name, w in weights if w != 0.0 or not sparse}


# ---- the kernels


def _fit_compiled(
    kind: type[LinearLearner],
    config: dict[str, Any],
    X: Any,
    y: Any,
    data: Data,
    epochs: int,
    last_batch: str,
    shares: int,
) -> OfflineFit:
    clone, n = kind.from_config(config), len(data.y)
    if shares > 1:
        check_separable(clone)
        _learn_in_shares(clone, X, y, data, epochs, last_batch, shares)
        return OfflineFit(**_state_of(clone, data), n_pending=0)
    for _ in range(epochs):
        if _is_mappings(X):
            clone.learn_block(Block(X, frames.as_vector(y, "y", n), data.w), 0, n)
        else:
            clone.learn_many(X, y, data.w)
        clone.flush(last_batch)
    return OfflineFit(**_state_of(clone, data), n_pending=clone.n_pending)


def _learn_in_shares(
    model: LinearLearner,
    X: Any,
    y: Any,
    data: Data,
    epochs: int,
    last_batch: str,
    shares: int,
) -> None:
    n = len(data.y)
    if _is_mappings(X):
        block = Block(X, frames.as_vector(y, "y", n), data.w, offsets=range(n))
    else:
        block = model._as_block(X, y, data.w)
    cuts = Cuts(model, shares, 0, n)
    for _ in range(epochs):
        cuts.begin()
        cuts.learn(block, 0, n)
        cuts.flush(last_batch)


def _is_mappings(X: Any) -> bool:
    return isinstance(X, list | tuple) and (not X or isinstance(X[0], Mapping))


def _state_of(learner: LinearLearner, data: Data) -> dict[str, Any]:
    """Return what a learner has come to, its parameters in the order of the data's names."""
    weights: Any = learner.weights
    intercept: Any = learner.intercept
    names = data.table.names

    def parameters(intercept: float, weights: Weights) -> list[float]:
        return [intercept, *(weights.get(name, 0.0) for name in names)]

    return {
        "weights": weights,
        "intercept": intercept,
        "parameters": np.array(
            parameters(intercept, weights)
            if data.classes is None
            else [
                parameters(intercept.get(label, 0.0), weights.get(label, {}))
                for label in data.classes
            ]
        ),
        "n_updates": learner.n_updates,
        "n_refused": learner.n_refused,
        "digest": learner.digest(),
        "gradient_noise": learner.gradient_noise,
    }
