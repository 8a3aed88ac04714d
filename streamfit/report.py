"""What a training run says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from streamfit.types import Position

__all__ = ["Progress", "TrainingReport"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands; what callbacks are given.

    Parameters
    ----------
    n_samples, n_updates
        Samples learned or pending, and updates made, those before a resume included.
    n_pending
        Samples taken in whose update has not happened yet.
    n_bad
        Samples skipped because they were bad.
    n_duplicates
        Records that a broker delivered twice in this run, and that were dropped.
    n_refused
        Updates refused because they would have made a weight non-finite.
    n_epochs
        Epochs completed.
    progressive_loss
        Mean loss of the samples, each measured before it was learned; NaN before the first.
    metrics
        The River metrics, by class name; they cover the samples since this run began.
    seconds
        Duration of this run.
    samples_per_second
        Rate of this run, the samples before a resume left out.
    resumed_at
        `n_samples` when this run resumed from a checkpoint, None when it began afresh.
    position
        The next offset of each partition: everything before it is learned, pending or skipped.
    """

    n_samples: int
    n_updates: int
    n_pending: int
    n_bad: int
    n_duplicates: int
    n_refused: int
    n_epochs: int
    progressive_loss: float
    metrics: Mapping[str, Any]
    seconds: float
    samples_per_second: float
    resumed_at: int | None
    position: Position
    _lag: Callable[[], Mapping[str, int] | None] = field(
        default=lambda: None, repr=False, compare=False
    )

    def lag(self) -> int | None:
        """Count the samples left in the source, None where it does not know; may ask a broker."""
        lags = self._lag()
        return None if lags is None else sum(lags.values())

    def partition_lag(self) -> Mapping[str, int] | None:
        """Count them for each partition; under `"all"` where the source knows only their sum."""
        return self._lag()


@dataclass(frozen=True, kw_only=True)
class TrainingReport(Progress):
    """How a run ended: the fields of `Progress`, and two more.

    Parameters
    ----------
    digest
        SHA-256 over parameters, optimizer state, counters and pending sums.
    stopped_by
        Name of the signal that ended the run early (`"SIGTERM"`, `"SIGINT"`), else None.
    """

    digest: str
    stopped_by: str | None = None

    def __str__(self) -> str:
        """Return a short table."""
        since = "" if self.resumed_at is None else "*"
        rows: list[tuple[str, str]] = [
            ("samples", f"{self.n_samples:,}"),
            ("updates", f"{self.n_updates:,}"),
            ("pending", f"{self.n_pending:,}"),
            ("bad samples", f"{self.n_bad:,}"),
            ("refused updates", f"{self.n_refused:,}"),
            ("epochs", f"{self.n_epochs:,}"),
            ("resumed at", "-" if self.resumed_at is None else f"{self.resumed_at:,}"),
            ("progressive loss", f"{self.progressive_loss:.6f}"),
            *((name + since, _told(metric)) for name, metric in self.metrics.items()),
            ("samples/s", f"{self.samples_per_second:,.0f}"),
            ("digest", self.digest[:16]),
        ]
        if since and self.metrics:
            rows.append(("* since resumed", ""))
        return "\n".join(
            f"{name}\n{value}" if "\n" in value else f"{name:<18}{value:>18}".rstrip()
            for name, value in rows
        )


def _told(metric: Any) -> str:
    """Return a metric's number; some are a table of many."""
    try:
        value = metric.get()
    except NotImplementedError:
        return str(metric)
    return f"{float(value):.6g}" if isinstance(value, Real) else str(metric)
