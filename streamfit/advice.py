"""What follows from a ladder of batch sizes: a recommendation, its reasons, its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamfit.curves import Curve
from streamfit.types import FloatArray

__all__ = ["Advice", "Rung", "advise"]

_ERRORS = 3.0
"""Standard errors that a difference must exceed: 95% for a dozen comparisons (Bonferroni)."""
_NOTABLE = 0.005
"""... and the part of the least loss that it must exceed, to be worth speaking of."""
_FASTER = 0.9
"""Two rates are alike when the lower is above this part of the higher."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What was measured of one batch size.

    Parameters
    ----------
    batch_size
        None: all samples.
    updates_per_epoch
        Updates in one pass over the training part of the sample.
    samples_per_second
        Samples learned in a second of CPU time.
    progressive_loss
        Mean loss of the samples of one pass, each before it was learned.
    loss_equal_samples
        Mean loss of the held-out samples after that pass.
    loss_equal_time
        The same after as much CPU time as all other sizes had.
    noise_scale
        Simple gradient noise scale of the training part at the weights after the pass.
    noise_per_update
        `noise_scale / batch_size`: the noise of an update's gradient over its signal.
    cosine
        Mean cosine between the gradient of a micro-batch and that of all samples, at those
        weights.
    memory
        Bytes of the arrays that the learner holds.
    curve
        Held-out loss on the way.
    """

    batch_size: int | None
    updates_per_epoch: int
    samples_per_second: float
    progressive_loss: float
    loss_equal_samples: float
    loss_equal_time: float
    noise_scale: float
    noise_per_update: float
    cosine: float
    memory: int
    curve: Curve

    @property
    def name(self) -> str:
        """The batch size as text."""
        return "full" if self.batch_size is None else f"{self.batch_size:,}"


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Measurements of a ladder of batch sizes, and what follows from them.

    Parameters
    ----------
    rungs
        What was measured of each size, the smallest first.
    recommended
        The size to take; None: full batch.
    clear
        Whether at least one size is clearly worse than the best. If not, there is no clear
        difference, and `recommended` is the size that the model has, where it is on the ladder.
    alike
        The sizes that cannot be told from the best.
    behind, behind_error
        For each rung, by how much its progressive loss is above the least, and the standard error
        of that difference: it is of the same samples, in 50 chunks.
    reasons
        Sentences.
    n_train, n_held_out
        Samples.
    """

    rungs: Sequence[Rung]
    recommended: int | None
    clear: bool
    alike: Sequence[int | None]
    behind: Sequence[float]
    behind_error: Sequence[float]
    reasons: Sequence[str]
    n_train: int
    n_held_out: int

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of `rows`."""
        return (
            "batch size", "updates/epoch", "samples/s", "progressive loss", "above the least",
            "equal samples", "equal time", "noise/signal", "cosine", "memory",
        )  # fmt: skip

    def rows(self) -> list[tuple[str, ...]]:
        """Return the measurements as text, a row for each size."""
        return [
            (
                rung.name + (" <" if rung.batch_size == self.recommended else ""),
                f"{rung.updates_per_epoch:,}",
                f"{rung.samples_per_second:,.0f}",
                f"{rung.progressive_loss:.4f}",
                f"{behind:.4f} ± {error:.4f}" if behind else "least",
                f"{rung.loss_equal_samples:.4f}",
                f"{rung.loss_equal_time:.4f}",
                f"{rung.noise_per_update:.3g}",
                f"{rung.cosine:.2f}",
                f"{rung.memory:,} B",
            )
            for rung, behind, error in zip(self.rungs, self.behind, self.behind_error, strict=True)
        ]

    def __str__(self) -> str:
        """Return the table and the reasons as text."""
        table = [self.columns, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in table
        ]
        return "\n".join([*lines, "", *self.reasons])

    def to_html(self, path: str | Path) -> None:
        """Write a report with plots as one file that needs no other.

        Raises
        ------
        MissingDependencyError
            Without matplotlib, which the extra `plot` brings.
        """
        from streamfit.advice_report import html

        Path(path).write_text(html(self), encoding="utf-8")


def advise(
    rungs: Sequence[Rung],
    *,
    own: int | None,
    losses: FloatArray,
    n_train: int,
    n_held_out: int,
) -> Advice:
    """Compare rungs and recommend one.

    Parameters
    ----------
    rungs
        The measurements.
    own
        Batch size that the model has; 0 for full batch, None for a schedule.
    losses
        Progressive loss of each rung in each chunk of the samples.
    n_train, n_held_out
        Samples.
    """
    total = np.array([rung.progressive_loss for rung in rungs])
    total = np.where(np.isfinite(total), total, np.inf)
    best = int(total.argmin())
    with np.errstate(invalid="ignore"):
        apart = losses - losses[best]
        errors = apart.std(axis=1, ddof=1) / math.sqrt(losses.shape[1])
        least = np.maximum(_ERRORS * errors, _NOTABLE * abs(total[best]))
        alike = [bool(d <= m) for d, m in zip(total - total[best], least, strict=True)]
    alike[best] = True
    clear = not all(alike)
    own_at = [
        k for k, rung in enumerate(rungs) if own is not None and (rung.batch_size or 0) == own
    ]
    if not clear and own_at:
        chosen = own_at[0]
    else:
        fastest = max(r.samples_per_second for r, a in zip(rungs, alike, strict=True) if a)
        quick = [
            k
            for k, rung in enumerate(rungs)
            if alike[k] and rung.samples_per_second >= _FASTER * fastest
        ]
        chosen = min(quick, key=lambda k: total[k])
    return Advice(
        rungs=rungs,
        recommended=rungs[chosen].batch_size,
        clear=clear,
        alike=[rung.batch_size for rung, a in zip(rungs, alike, strict=True) if a],
        behind=(total - total[best]).tolist(),
        behind_error=errors.tolist(),
        reasons=_reasons(rungs, best, chosen, alike, own_at, total, errors),
        n_train=n_train,
        n_held_out=n_held_out,
    )


def _reasons(
    rungs: Sequence[Rung],
    best: int,
    chosen: int,
    alike: Sequence[bool],
    own_at: Sequence[int],
    total: FloatArray,
    errors: FloatArray,
) -> list[str]:
    names = [rung.name for rung in rungs]
    same = [name for name, a in zip(names, alike, strict=True) if a]
    worse = [k for k, a in enumerate(alike) if not a]
    rung = rungs[chosen]
    said = []
    if not worse:
        said.append(
            "No clear difference: no size's progressive loss is above the least by more than "
            f"{_ERRORS:g} standard errors."
        )
        said.append(
            f"Keep batch size {rung.name}, which the model has."
            if own_at
            else f"Batch size {rung.name} is as good as any, and among the fastest."
        )
    else:
        said.append(f"Recommended batch size: {rung.name}.")
        if len(same) == 1:
            said.append(f"Its progressive loss, {total[best]:.4f}, is clearly the least.")
        else:
            said.append(
                f"The least progressive loss is {total[best]:.4f} at {names[best]}; "
                f"{', '.join(n for n in same if n != names[best])} cannot be told from it "
                f"(within {_ERRORS:g} standard errors of the paired difference)."
            )
            if chosen != best:
                faster = rung.samples_per_second / rungs[best].samples_per_second
                said.append(
                    f"{rung.name} learns {faster:.1f} times as many samples a second as "
                    f"{names[best]}."
                )
        nearest = min(worse, key=lambda k: total[k])
        said.append(
            f"The nearest that is clearly worse is {names[nearest]}: by "
            f"{total[nearest] - total[best]:.4f}, standard error {errors[nearest]:.4f}."
        )
    if math.isfinite(rung.noise_scale):
        said.append(
            f"At its weights the gradient noise scale is about {rung.noise_scale:,.0f} samples: "
            "batches far above it make better updates no more, and far below it mostly noise."
        )
    else:
        said.append(
            "At its weights the gradient cannot be told from 0: what is left is noise, which "
            "larger batches or a smaller learning rate would average out."
        )
    said.append(
        "All sizes took the same learning rate and the same samples in the same order; with "
        "another rate the answer may be another one."
    )
    return said
