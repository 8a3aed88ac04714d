"""`/metrics`: the snapshot in the words of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streamfit.serving.board import Board

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST

_STATUSES = ("starting", "training", "finished", "stopped", "failed", "serving")


class Metrics(Collector):
    """What a board shows, and what the server itself counts, in a registry of their own.

    Parameters
    ----------
    board
        What is shown.

    Attributes
    ----------
    predictions
        Samples predicted.
    requests
        Requests to predict, by the status of their answers.
    seconds
        What such a request took, from its last byte to the answer.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._registry = CollectorRegistry()
        self._registry.register(self)
        own = {"namespace": "streamfit", "registry": self._registry}
        self.predictions = Counter("predictions", "Samples predicted.", **own)  # type: ignore[arg-type]
        self.requests = Counter(
            "predict_requests",
            "Requests to predict, by status.",
            ["status"],
            **own,  # type: ignore[arg-type]
        )
        self.seconds = Histogram(
            "predict_seconds",
            "Time to make an answer.",
            **own,  # type: ignore[arg-type]
        )

    def text(self) -> bytes:
        """Return it all in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what the board shows."""
        shown = self._board.snapshot
        counters = {
            "samples": (shown.n_samples, "Samples learned or pending, over all runs."),
            "updates": (shown.n_updates, "Updates made, over all runs."),
            "bad_samples": (shown.n_bad, "Samples skipped or put aside because they were bad."),
            "duplicates": (shown.n_duplicates, "Records delivered twice in this run; dropped."),
            "refused_updates": (shown.n_refused, "Updates refused: a weight too large."),
            "epochs": (shown.n_epochs, "Passes over the source completed."),
            "checkpoints": (shown.n_checkpoints, "Checkpoints saved by this run."),
        }
        for name, (count, text) in counters.items():
            yield CounterMetricFamily(f"streamfit_{name}", text, value=count)
        now = time.time()
        last = shown.checkpoints[0] if shown.checkpoints else None
        gauges = {
            "pending_samples": (shown.n_pending, "Samples whose update is to come."),
            "samples_per_second": (shown.samples_per_second, "Rate since the last publication."),
            "progressive_loss": (shown.progressive_loss, "Mean loss, each before it was learned."),
            "recent_loss": (shown.recent_loss, "The same since the last publication."),
            "publication_age_seconds": (now - shown.time, "Time since the last publication."),
            "checkpoint_age_seconds": (
                now - (shown.began if last is None else last.time),
                "Time since the last checkpoint, or since the start before the first.",
            ),
            "checkpoint_duration_seconds": (
                None if last is None else last.seconds,
                "What the last checkpoint took.",
            ),
        }
        for name, (value, text) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(f"streamfit_{name}", text, value=value)
        by_partition = {
            "lag_samples": (shown.lag, "Samples left to read."),
            "position": (shown.position, "The next offset to read."),
        }
        for name, (values, text) in by_partition.items():
            if values:
                family = GaugeMetricFamily(f"streamfit_{name}", text, labels=["partition"])
                for partition, count in values.items():
                    family.add_metric([partition], count)
                yield family
        if shown.metrics:
            family = GaugeMetricFamily("streamfit_metric", "River metrics.", labels=["name"])
            for metric, number in shown.metrics.items():
                family.add_metric([metric], number)
            yield family
        family = GaugeMetricFamily("streamfit_status", "1 at where the run is.", labels=["status"])
        for status in _STATUSES:
            family.add_metric([status], float(status == shown.status))
        yield family
