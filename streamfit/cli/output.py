"""What a training run prints: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
import math
from numbers import Real
from typing import Any

from streamfit.report import Progress, TrainingReport

__all__ = ["Reporter", "as_json"]

_FIELDS = (
    *("n_samples", "n_updates", "n_pending", "n_bad", "n_duplicates", "n_refused", "n_epochs"),
    *("progressive_loss", "seconds", "samples_per_second", "resumed_at", "position"),
)


class Reporter:
    """A callback of a `Trainer` that prints JSON lines; the report at the end in either form.

    Parameters
    ----------
    as_json
        One JSON object a line; the field `event` says `progress` or `finished`.
    every
        Seconds between two lines at least.
    """

    def __init__(self, *, as_json: bool, every: float) -> None:
        self._as_json = as_json
        self._every = every
        self._next = every

    def __call__(self, progress: Progress) -> None:
        """Print a line if it is time to."""
        if self._as_json and progress.seconds >= self._next:
            self._next = progress.seconds + self._every
            self._print("progress", progress, lag=progress.lag())

    def finished(self, report: TrainingReport) -> None:
        """Print how the run ended."""
        if self._as_json:
            self._print("finished", report, digest=report.digest, stopped_by=report.stopped_by)
        else:
            print(report)

    def _print(self, event: str, progress: Progress, **more: Any) -> None:
        fields = {name: getattr(progress, name) for name in _FIELDS}
        metrics = {name: _number(metric) for name, metric in progress.metrics.items()}
        print(as_json({"event": event, **fields, "metrics": metrics, **more}), flush=True)


def as_json(value: dict[str, Any]) -> str:
    """Return one line; what JSON has no number for is null.

    Examples
    --------
    >>> as_json({"loss": float("nan"), "x": 1})
    '{"loss": null, "x": 1}'
    """
    return json.dumps({name: _finite(item) for name, item in value.items()}, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(metric: Any) -> Any:
    """Return a metric's number; some are a table of many, and are told as text."""
    try:
        value = metric.get()
    except NotImplementedError:
        return str(metric)
    return float(value) if isinstance(value, Real) else str(metric)
