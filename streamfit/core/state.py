"""Checking and hashing the state of a linear learner."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from streamfit._kernels import exact_label
from streamfit.core import optim, schedules
from streamfit.core.noise import moments_fit
from streamfit.errors import BadSampleError, CheckpointMismatchError
from streamfit.types import Label, StateDict

if TYPE_CHECKING:
    from streamfit.core.model import LinearModel

__all__ = ["check_state", "digest_of", "with_fresh_optimizer"]


def digest_of(state: StateDict) -> str:
    """Return the SHA-256 of the numbers in a state; 0.0 and -0.0 are the same number."""
    sha = hashlib.sha256()
    for name, value in sorted(state.items()):
        if isinstance(value, np.ndarray):
            sha.update(f"{name} {value.shape} ".encode())
            sha.update(
                (value + value.dtype.type(0)).astype(value.dtype.newbyteorder("<")).tobytes()
            )
        else:
            sha.update(f"{name} {value!r} ".encode())
    return sha.hexdigest()


_SOMETIMES = {"lr_factor": 1.0, "schedule_start": 0}
"""Entries that a state has only where they are not as usual."""


def with_fresh_optimizer(state: StateDict, optimizer: optim.Optimizer) -> StateDict:
    """Return the state of a learner whose optimizer begins anew: the weights stay.

    The slots become 0 and the schedule of the learning rate starts over. In FTRL-Proximal the
    slots *are* the weights; there `n` becomes 0 and `z` what gives these weights.
    """
    fresh = dict(state)
    for name in ("slot_1", "slot_2", "slot_3"):
        if name in state:
            fresh[name] = np.zeros_like(state[name])
    if isinstance(optimizer, optim.FTRLProximal):
        w = state["parameters"]
        size = w.dtype.type(optimizer.beta / optimizer.alpha + optimizer.l2)
        fresh["slot_1"] = -(w * size + np.sign(w) * w.dtype.type(optimizer.l1))
    fresh["beta_1_power"] = fresh["beta_2_power"] = 1.0
    fresh["schedule_start"] = state["n_updates"]
    return fresh


def check_state(learner: LinearModel, state: StateDict) -> list[Label]:
    """Raise `CheckpointMismatchError` unless the learner can take over `state`.

    Returns
    -------
    list
        The classes, none for a learner that has no classes.
    """
    expected = _expected(learner, state)
    if set(state) != set(expected):
        raise CheckpointMismatchError(
            f"the state has {sorted(state)}, this model needs {sorted(expected)}"
        )
    columns = 1 + (len(state["features"]) if learner.hashing is None else learner.n_columns)
    classes = _classes(learner, state)
    shape = (columns,) if classes is None else (len(classes), columns)
    shapes = {"noise": (7,), "scaler_mean": (columns,), "scaler_var": (columns,)}
    for name, known in expected.items():
        if not _fits(name, state[name], known, shapes.get(name, shape)):
            raise CheckpointMismatchError(f"the state's {name} does not fit: {state[name]!r:.80}")
    if state.get("schedule_start", 0) > state["n_updates"] or state.get("lr_factor", 1.0) == 0.0:
        raise CheckpointMismatchError("the state's learning rate does not fit")
    if "noise" in state and not moments_fit(state["n_measured"], state["noise"]):
        raise CheckpointMismatchError("the state's gradient noise does not fit")
    if state["weight_scale"] == 0.0:
        raise CheckpointMismatchError("the state's weight_scale is 0")
    if "scaler_var" in state and (state["scaler_var"] < 0.0).any():
        raise CheckpointMismatchError("the state has a negative variance")
    if state["n_pending"] > state["n_samples"]:
        raise CheckpointMismatchError("the state has more pending samples than samples")
    size = state["batch_size"]
    if not isinstance(learner.batch_size, schedules.BatchSizeSchedule) and size != (
        learner.batch_size or 0
    ):
        raise CheckpointMismatchError(f"the state is of batch_size {size}")
    if (size or learner.batch_size is not None) and state["n_pending"] >= size:
        raise CheckpointMismatchError(
            f"{state['n_pending']} pending samples in micro-batches of {size}"
        )
    return classes or []


def _expected(learner: LinearModel, state: StateDict) -> StateDict:
    """Return what such a state must hold, with values of the right kinds."""
    expected = {**learner.state_dict()}
    for name in ("gradient", "curvature", *_SOMETIMES):
        expected.pop(name, None)
    if state.get("n_pending"):
        expected["gradient"] = expected["parameters"]
        if isinstance(learner.optimizer, optim.Auto):
            expected["curvature"] = expected["parameters"]
    expected.update({name: usual for name, usual in _SOMETIMES.items() if name in state})
    return expected


def _fits(name: str, value: object, known: object, shape: tuple[int, ...]) -> bool:
    """Say whether `value` could be the entry `name`, of which a fresh learner has `known`."""
    if isinstance(known, np.ndarray):
        return (
            isinstance(value, np.ndarray)
            and value.dtype == known.dtype
            and value.shape == shape
            and (name in ("gradient", "curvature") or bool(np.isfinite(value).all()))
        )
    if isinstance(known, int):
        return type(value) is int and 0 <= value < (2**63 if name == "batch_size" else 2**62)
    if isinstance(known, float):
        return isinstance(value, float) and 0.0 <= value < np.inf
    return True


def _classes(learner: LinearModel, state: StateDict) -> list[Label] | None:
    if "classes" not in state:
        return None
    classes = state["classes"]
    try:
        fits = isinstance(classes, list) and [exact_label(name) for name in classes] == classes
    except BadSampleError:
        fits = False
    given = (learner.classes or []) if learner.classes_fixed else []
    if (
        not fits
        or len(set(classes)) < len(classes)
        or classes[: len(given)] != given
        or (learner.classes_fixed and len(classes) > len(given))
    ):
        raise CheckpointMismatchError(f"the state's classes do not fit: {classes!r:.80}")
    return list(classes)
