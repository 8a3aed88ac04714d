"""The gradient noise scale of a learner that keeps its rows: from the halves of micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt

from streamfit.adapters._rows import MicroBatch
from streamfit.core.noise import (
    GradientNoise,
    NoiseMoments,
    NoiseScale,
    estimates_of_halves,
    moments_fit,
    moments_of,
)
from streamfit.errors import CheckpointMismatchError
from streamfit.types import FloatArray, StateDict

__all__ = ["NoiseOfHalves"]

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
        first, second = self._gradients(
            ([rows[half] for rows in x], y[half], w[half]) for half in halves
        )
        weights = w.astype(np.float64)
        return estimates_of_halves((first, second), (weights[halves[0]], weights[halves[1]]))

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
