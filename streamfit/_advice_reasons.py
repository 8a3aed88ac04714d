"""Why a batch size is recommended, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy.typing as npt

from streamfit.types import FloatArray

if TYPE_CHECKING:
    import numpy as np

    from streamfit.advice import Rung

__all__ = ["ERRORS", "reasons"]

ERRORS = 3.0
"""Standard errors that a difference must exceed: 95% for a dozen comparisons (Bonferroni)."""


def reasons(
    rungs: Sequence[Rung],
    *,
    best: int,
    chosen: int,
    alike: npt.NDArray[np.bool_],
    slower: npt.NDArray[np.bool_],
    own: bool,
    total: FloatArray,
    errors: FloatArray,
) -> list[str]:
    """Say what the comparison came to.

    Parameters
    ----------
    rungs
        The measurements, the smallest size first.
    best, chosen
        Places of the least loss, and of what is recommended.
    alike, slower
        Which cannot be told from the best by their loss; which of these are clearly slower.
    own
        Whether the model's own size is among them and was kept, if all are alike.
    total, errors
        Progressive losses, and the standard errors of their differences from the least.
    """
    rung = rungs[chosen]
    worse = [k for k in range(len(rungs)) if not alike[k] and not rungs[k].diverges]
    said = []
    if alike.all():
        said.append(
            "No clear difference: no size's progressive loss is above the least by more than "
            f"{ERRORS:g} standard errors."
        )
        said.append(
            f"Keep batch size {rung.name}, which the model has."
            if own
            else f"Batch size {rung.name} is as good as any, and none is clearly faster."
        )
    else:
        said.append(f"Recommended batch size: {rung.name}.")
        said += _of_the_loss(rungs, best, chosen, alike, slower, total)
    diverging = [r.name for r in rungs if r.diverges]
    if diverging:
        said.append(
            f"The model diverges at {_listed(diverging)}: at this learning rate that is no choice."
        )
    if worse:
        nearest = min(worse, key=lambda k: total[k])
        said.append(
            f"The nearest that is clearly worse is {rungs[nearest].name}: by "
            f"{total[nearest] - total[best]:.4g}, standard error {errors[nearest]:.2g}."
        )
    said += _of_the_noise(rung)
    said.append(
        "All sizes took the same learning rate and the same samples in the same order; with "
        "another rate the answer may be another one."
    )
    return said


def _of_the_loss(
    rungs: Sequence[Rung],
    best: int,
    chosen: int,
    alike: npt.NDArray[np.bool_],
    slower: npt.NDArray[np.bool_],
    total: FloatArray,
) -> list[str]:
    others = [r.name for k, r in enumerate(rungs) if alike[k] and k != best]
    if not others:
        return [f"Its progressive loss, {total[best]:.4g}, is clearly the least."]
    said = [
        f"The least progressive loss is {total[best]:.4g} at {rungs[best].name}; "
        f"{_listed(others)} cannot be told from it (within {ERRORS:g} standard errors of the "
        "paired difference)."
    ]
    left_behind = [r.name for k, r in enumerate(rungs) if slower[k]]
    if left_behind:
        faster = rungs[chosen].samples_per_second / rungs[best].samples_per_second
        said.append(
            f"{rungs[chosen].name} learns {faster:.1f} times as many samples a second as "
            f"{rungs[best].name}."
            if chosen != best
            else f"{_listed(left_behind)} would be clearly slower."
        )
    else:
        said.append("No clear difference in speed between these.")
    return said


def _of_the_noise(rung: Rung) -> list[str]:
    if math.isnan(rung.noise_scale):
        return ["The gradient noise was not measured."]
    if math.isinf(rung.noise_scale):
        return [
            "At its weights the gradient cannot be told from 0: what is left is noise, which "
            "larger batches or a smaller learning rate would average out."
        ]
    return [
        f"At its weights the gradient noise scale is about {rung.noise_scale:,.0f} samples: "
        "batches far above it make better updates no more, and far below it mostly noise."
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
