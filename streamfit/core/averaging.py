"""The average of learners that began alike and learned apart: parallel SGD with averaging.

Every array of a state is averaged with the weights `n_s / sum n_s`, where `n_s` is how many samples
learner `s` has learned since they began (Zinkevich et al. 2010; McDonald et al. 2010). Three things
are no plain averages:

- *Statistics of the scaler* are put together exactly (Chan et al. 1979), what all began with
  counted once: the result is that of one scaler that saw all samples.
- *FTRL-Proximal* keeps its weights as a function of its slots: the slots are averaged, and the
  weights follow.
- *Counts*: samples and refused updates add up; of updates, and of what follows from them (the
  batch size, powers of Adam's betas), the learner counts that made the most, so that a schedule
  sees as many updates as each weight has had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfit.core import optim
from streamfit.core.model import LinearModel
from streamfit.errors import ConfigurationError, UnsupportedError
from streamfit.types import FloatArray, StateDict

__all__ = ["average_states"]

_AVERAGED = ("parameters", "slot_1", "slot_2", "slot_3", "slot_l1")


def average_states(model: LinearModel, start: StateDict, states: Sequence[StateDict]) -> StateDict:
    """Average what learners have become since they all were in state `start`.

    Parameters
    ----------
    model
        A learner of their configuration; it is not changed.
    start
        The state (`state_dict()`) that all of them began with.
    states
        The state of each now, with no samples pending. The order is that of every sum, so the
        result is a function of its arguments, bit for bit.

    Returns
    -------
    dict
        A state for `load_state_dict`. Features and classes come in the order of `start`, then those
        that `states[0]` has met besides, then those of `states[1]`; a learner that has not met a
        feature counts it as 0. Where only one has learned, its state as it is.

    Raises
    ------
    ConfigurationError
        When there are no states.
    UnsupportedError
        When samples are pending: a gradient at other weights has no place in the average.

    Examples
    --------
    >>> import streamfit as sf
    >>> from streamfit.core.averaging import average_states
    >>> model, other = sf.LinearRegression(), sf.LinearRegression()
    >>> start = model.state_dict()
    >>> model.learn_many([[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0])
    >>> other.learn_one({0: 1.0, 1: 1.0}, 5.0)
    >>> model.weights, other.weights
    ({0: 0.256504}, {0: 0.1, 1: 0.1})
    >>> states = [model.state_dict(), other.state_dict()]
    >>> model.load_state_dict(average_states(model, start, states))
    >>> model.weights, model.n_samples, model.n_updates
    ({0: 0.217378, 1: 0.025}, 4, 3)
    """
    if not states:
        raise ConfigurationError("states: there is nothing to average")
    if any(state["n_pending"] for state in (start, *states)):
        raise UnsupportedError("a learner with pending samples cannot be averaged; flush() it")
    learned = [state["n_samples"] - start["n_samples"] for state in states]
    if sum(learned) == max(learned):
        return dict(states[learned.index(max(learned))])
    features, classes = _united("features", start, states), _united("classes", start, states)
    shares = [n / sum(learned) for n in learned]
    leader = max(states, key=lambda state: state["n_updates"])  # the first of equals
    average = {**leader, "features": features}
    if "classes" in start:
        average["classes"] = classes
    for name in _AVERAGED:
        if name in leader:
            array = _average(name, states, shares, features, classes)
            average[name] = array.astype(leader[name].dtype)
    average["weight_scale"] = 1.0
    average["l1_total"] = sum(
        share * s["l1_total"] for share, s in zip(shares, states, strict=True)
    )
    for name in ("n_samples", "n_refused", "n_measured"):
        if name in leader:
            average[name] = start[name] + sum(state[name] - start[name] for state in states)
    if "noise" in leader:
        average["noise"] = sum(share * s["noise"] for share, s in zip(shares, states, strict=True))
    if "n_scaled" in leader:
        average.update(_scaler(start, states, features))
    if isinstance(model.optimizer, optim.FTRLProximal):
        first = 0 if model.fit_intercept and model.intercept_lr is None else 1
        weights = _ftrl_weights(model.optimizer, average["slot_1"], average["slot_2"])
        average["parameters"][..., first:] = weights[..., first:]
    return average


def _united(name: str, start: StateDict, states: Sequence[StateDict]) -> list[Any]:
    """Put names together in order of appearance."""
    if all(state.get(name) == start.get(name) for state in states):
        return list(start.get(name, ()))
    return list(dict.fromkeys(n for state in (start, *states) for n in state.get(name, ())))


def _columns(state: StateDict, features: list[Any]) -> Callable[[npt.NDArray[Any]], FloatArray]:
    """Return what writes an array of a state out over all features, the intercept first."""
    mine = state["features"]
    if mine == features:  # hashed ones have no names
        return lambda array: array.astype(np.float64)
    place = {feature: 1 + j for j, feature in enumerate(features)}
    columns = [0, *(place[feature] for feature in mine)]

    def spread(array: npt.NDArray[Any]) -> FloatArray:
        out = np.zeros((*array.shape[:-1], 1 + len(features)))
        out[..., columns] = array
        return out

    return spread


def _average(
    name: str,
    states: Sequence[StateDict],
    shares: Sequence[float],
    features: list[Any],
    classes: list[Any],
) -> FloatArray:
    total: Any = 0.0
    for state, share in zip(states, shares, strict=True):
        array = _columns(state, features)(state[name])
        if name == "parameters":
            array[..., 1:] *= state["weight_scale"]
        if "classes" in state and state["classes"] != classes:
            rows = np.zeros((len(classes), array.shape[-1]))
            rows[[classes.index(label) for label in state["classes"]]] = array
            array = rows
        total = total + share * array
    averaged: FloatArray = total
    return averaged


def _scaler(start: StateDict, states: Sequence[StateDict], features: list[Any]) -> StateDict:
    """Put statistics together (Chan et al. 1979), written so that 0 variance stays 0."""

    def read(state: StateDict) -> tuple[int, FloatArray, FloatArray]:
        spread = _columns(state, features)
        n = state["n_scaled"]
        return n, spread(state["scaler_mean"]), n * spread(state["scaler_var"])

    n_start, mean_start, squares_start = n, mean, squares = read(start)
    for state in states:
        n_now, mean_now, squares_now = read(state)
        own = n_now - n_start
        if own:
            own_mean = mean_now + (mean_now - mean_start) * (n_start / own)
            moved = own_mean - mean_start
            own_squares = squares_now - squares_start - moved**2 * (n_start * own / n_now)
            apart = own_mean - mean
            mean = mean + apart * (own / (n + own))
            squares = squares + own_squares + apart**2 * (n * own / (n + own))
            n += own
    return {
        "n_scaled": n,
        "scaler_mean": mean,
        "scaler_var": np.maximum(0.0, squares) / max(n, 1),
    }


def _ftrl_weights(
    optimizer: optim.FTRLProximal, z: npt.NDArray[Any], n: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return the weights that belong to slots, with the operations and the bits of the kernel."""
    real = z.dtype.type
    beta, alpha, l1, l2 = map(real, (optimizer.beta, optimizer.alpha, optimizer.l1, optimizer.l2))
    shrunk = np.where(np.abs(z) <= l1, real(0), z - np.where(z > 0, l1, -l1))
    weights: npt.NDArray[Any] = -shrunk / ((beta + np.sqrt(n)) / alpha + l2)
    return weights
