"""What follows from a ladder of batch sizes: a recommendation, its reasons, its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamfit._advice_reasons import ERRORS, reasons
from streamfit.curves import Curve
from streamfit.errors import ConfigurationError
from streamfit.types import FloatArray

__all__ = ["Advice", "Rung", "advise"]

_NOTABLE = 0.005
"""... and the part of the least loss that it must exceed, to be worth speaking of."""
_FASTER = 1.1
"""What the ratio of two times must exceed, beside standard errors, to be worth speaking of."""


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
        Samples learned in a second of CPU time, in the first pass.
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
    diverges
        Whether an update was refused, or the loss has become more than twice what it was before
        anything was learned: the progressive one, or, after the pass, those of the training and of
        the held-out samples both. One of these alone may mean that the two differ.
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
    diverges: bool
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
    diverging
        The sizes at which the model diverges; none of them is recommended.
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
    diverging: Sequence[int | None]
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
                "diverges" if rung.diverges else _loss(rung.progressive_loss),
                "-"
                if rung.diverges
                else f"{_loss(behind)} ± {_loss(error)}"
                if behind
                else "least",
                _loss(rung.loss_equal_samples),
                _loss(rung.loss_equal_time),
                _measured(rung.noise_per_update, ".3g"),
                _measured(rung.cosine, ".2f"),
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


def _loss(value: float) -> str:
    """Write a loss, of whatever size."""
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.2e}"


def _measured(value: float, how: str) -> str:
    return "not measured" if math.isnan(value) else format(value, how)


def advise(
    rungs: Sequence[Rung],
    *,
    own: int | None,
    losses: FloatArray,
    seconds: FloatArray,
    n_train: int,
    n_held_out: int,
) -> Advice:
    """Compare rungs and recommend one, whatever their order.

    Parameters
    ----------
    rungs
        The measurements.
    own
        Batch size that the model has; 0 for full batch, None for a schedule.
    losses, seconds
        Progressive loss, and CPU time, of each rung in each chunk of the samples.
    n_train, n_held_out
        Samples.

    Raises
    ------
    ConfigurationError
        When all of them diverge.
    """
    order = sorted(range(len(rungs)), key=lambda k: rungs[k].batch_size or math.inf)
    rungs, losses, seconds = [rungs[k] for k in order], losses[order], seconds[order]
    fine = np.array([not rung.diverges for rung in rungs])
    if not fine.any():
        raise ConfigurationError(
            "the model diverges at every batch size that was tried, "
            f"{', '.join(rung.name for rung in rungs)}: take a smaller learning rate, or scale the "
            "features"
        )
    total = np.where(fine, [rung.progressive_loss for rung in rungs], np.inf)
    best = int(total.argmin())
    with np.errstate(invalid="ignore", over="ignore"):
        errors = _error(losses - losses[best])
        least = np.maximum(ERRORS * errors, _NOTABLE * abs(total[best]))
        alike = fine & ~(total - total[best] > least)
    own_at = [
        k
        for k, rung in enumerate(rungs)
        if own is not None and (rung.batch_size or 0) == own and fine[k]
    ]
    if alike.all() and own_at:
        chosen, slower = own_at[0], np.zeros(len(rungs), bool)
    else:
        slower = alike & _slower(seconds, np.flatnonzero(alike))
        chosen = int(np.where(alike & ~slower, total, np.inf).argmin())
    return Advice(
        rungs=rungs,
        recommended=rungs[chosen].batch_size,
        clear=not alike.all(),
        alike=[rung.batch_size for rung, a in zip(rungs, alike, strict=True) if a],
        diverging=[rung.batch_size for rung in rungs if rung.diverges],
        behind=(total - total[best]).tolist(),
        behind_error=errors.tolist(),
        reasons=reasons(
            rungs, best=best, chosen=chosen, alike=alike, slower=slower, own=bool(own_at),
            total=total, errors=errors,
        ),
        n_train=n_train,
        n_held_out=n_held_out,
    )  # fmt: skip


def _error(differences: FloatArray) -> FloatArray:
    """Return the standard error of the mean of each row."""
    found: FloatArray = differences.std(axis=-1, ddof=1) / math.sqrt(differences.shape[-1])
    return found


def _slower(seconds: FloatArray, among: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Say which rows take clearly longer than the fastest of some: by chunks, pair by pair."""
    total = seconds.sum(axis=1)
    fastest = among[total[among].argmin()]
    apart = seconds - seconds[fastest]
    slower: npt.NDArray[np.bool_] = (apart.mean(axis=1) > ERRORS * _error(apart)) & (
        total > _FASTER * total[fastest]
    )
    return slower
