"""The gradient noise scale of a learner that keeps its rows: from parts of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamfit.adapters._rows import MicroBatch
from streamfit.core.noise import (
    GradientNoise,
    NoiseMoments,
    NoiseScale,
    estimates_of_parts,
    moments_fit,
    moments_of,
)
from streamfit.curves import AtRest
from streamfit.errors import CheckpointMismatchError, UnsupportedError
from streamfit.types import FloatArray, StateDict

if TYPE_CHECKING:
    from streamfit.adapters._keras_model import KerasModel

__all__ = ["NoiseOfHalves", "at_rest", "loss_at_rest"]

Array = npt.NDArray[np.generic]

_EVERY = 16
"""How often to measure unless told otherwise: it takes the gradient twice more."""


class NoiseOfHalves:
    """Measures one micro-batch in `every`; `streamfit/core/noise.py` has the formulas.

    Parameters
    ----------
    noise_scale
        How often, and what the running means look back on; None: never.
    gradients
        Makes of each part, rows (an array for each input), labels and weights, the weighted mean
        gradient.
    """

    def __init__(
        self,
        noise_scale: NoiseScale | None,
        gradients: Callable[[Iterable[tuple[list[Array], Array, Array]]], list[FloatArray]],
    ) -> None:
        self.noise_scale = noise_scale
        self.moments = NoiseMoments()
        self._gradients = gradients

    def estimates(self, pending: MicroBatch, n_updates: int) -> tuple[float, float] | None:
        """Estimate signal and noise from a micro-batch whose update is still to come.

        None where it is not its turn, or a half of it has no weight.
        """
        middle = len(pending) // 2
        if self.noise_scale is None or n_updates % (self.noise_scale.every or _EVERY) or not middle:
            return None
        x, y, w = pending.stacked(), np.stack(pending.y), np.array(pending.w, dtype=np.float32)
        halves = (slice(middle), slice(middle, None))
        if not all(w[half].any() for half in halves):
            return None
        gradients = self._gradients(
            ([rows[half] for rows in x], y[half], w[half]) for half in halves
        )
        weights = w.astype(np.float64)
        return estimates_of_parts(gradients, [weights[half] for half in halves])

    def add(self, estimates: tuple[float, float] | None) -> None:
        """Take them in, once the update has been made."""
        if self.noise_scale is not None and estimates is not None:
            self.moments.add(*estimates, self.noise_scale.decay)

    def gradient_noise(self) -> GradientNoise | None:
        """Say what follows; None where nothing is measured."""
        return None if self.noise_scale is None else self.moments.gradient_noise()

    def state_dict(self) -> StateDict:
        """Return the running means."""
        if self.noise_scale is None:
            return {}
        return {"n_measured": self.moments.n, "noise": np.array(self.moments.as_list())}

    def loaded(self, state: StateDict) -> NoiseMoments:
        """Return the running means that `state` describes.

        Raises
        ------
        CheckpointMismatchError
            When they do not fit.
        """
        if self.noise_scale is None:
            return NoiseMoments()
        n, values = state.get("n_measured"), state.get("noise")
        if (
            type(n) is not int
            or n < 0
            or not isinstance(values, np.ndarray)
            or (values.shape, values.dtype) != ((7,), np.float64)
            or not np.isfinite(values).all()
            or not moments_fit(n, values)
        ):
            raise CheckpointMismatchError("the state's gradient noise does not fit")
        return moments_of(n, values)


def loss_at_rest(keras: KerasModel, rows: MicroBatch) -> float:
    """Return the weighted mean loss of samples.

    Raises
    ------
    UnsupportedError
        When nothing tells the loss of a single sample.
    """
    if not keras.has_loss:
        raise UnsupportedError("the model has no one loss of each sample that could be measured")
    w = np.array(rows.w)
    losses = keras.losses(np.stack(rows.y), keras.outputs(rows.stacked(), None))
    return float(losses @ w / w.sum()) if w.any() else math.nan


def at_rest(keras: KerasModel, rows: MicroBatch, parts: int) -> AtRest:
    """Measure a model on samples without changing it, as `streamfit.curves.at_rest`.

    The gradient is of the model in training: layers draw, and mix the samples of a part.
    """
    loss = loss_at_rest(keras, rows)
    x, y, w = rows.stacked(), np.stack(rows.y), np.array(rows.w)
    size = max(1, len(w) // parts)  # and a rest, for each size is compiled anew
    cuts = [slice(start, start + size) for start in range(0, len(w), size)]
    cuts = [cut for cut in cuts if w[cut].any()]
    if not cuts:
        return AtRest(loss, np.full(1, math.nan), math.nan, math.nan)
    gradients = keras.gradients(
        ([rows[cut] for rows in x], y[cut], w[cut].astype(np.float32)) for cut in cuts
    )
    weights = [w[cut] for cut in cuts]
    mean: FloatArray = np.average(gradients, axis=0, weights=[part.sum() for part in weights])
    signal, noise = estimates_of_parts(gradients, weights) or (math.nan, math.nan)
    return AtRest(loss, mean, signal, noise)
