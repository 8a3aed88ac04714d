"""`Trainer(monitor=...)`: what a run publishes, and when."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from numbers import Real
from types import TracebackType
from typing import Any, Self

from streamfit.core.validation import check_real
from streamfit.errors import BadSampleError
from streamfit.events import Repeated
from streamfit.report import Progress
from streamfit.serving.board import BadSample, Board, SavedCheckpoint, Snapshot
from streamfit.serving.frozen import NO_RAW_SAMPLES, FrozenModel
from streamfit.serving.history import History, Point
from streamfit.serving.pace import Pace
from streamfit.serving.server import Server
from streamfit.types import Learner

__all__ = ["WebMonitor"]

_log = logging.getLogger(__name__)

_N_BAD, _N_CHECKPOINTS = 50, 20


class WebMonitor:
    """Shows a training run on a live page, exports its metrics, and predicts, over HTTP.

    `/` is the page, `/metrics` is for Prometheus, `/healthz` for a supervisor, and `POST /predict`
    answers from a copy of the model. See docs/serving.md. It lives as long as the run.

    Parameters
    ----------
    address
        `"host:port"` to listen on; port 0 takes a free one, and `url` says which.
    token
        A secret that every request but `/healthz` must bring. Without one, only addresses of
        this machine (127.0.0.1, ::1, localhost) are accepted.
    every_seconds
        How often the run publishes where it stands. Publishing takes a hundredth of its time at
        the most: a model that is slow to copy is copied less often.
    max_body_bytes
        Longest body of a request.
    timeout
        Seconds that a request may take to arrive, and its answer to be made.

    Raises
    ------
    ConfigurationError
        When an argument is refused.
    MissingDependencyError
        Without the `serve` extra.

    Examples
    --------
    >>> import urllib.request
    >>> import streamfit as sf
    >>> monitor = sf.WebMonitor("127.0.0.1:0")
    >>> def look(progress):
    ...     with urllib.request.urlopen(monitor.url + "healthz") as answer:
    ...         print(answer.status)
    >>> samples = [({"x": 1.0}, True)]
    >>> model = sf.LogisticRegression()
    >>> report = sf.Trainer(model, samples, monitor=monitor, callbacks=[look]).run()
    200
    """

    def __init__(
        self,
        address: str = "127.0.0.1:8765",
        *,
        token: str | None = None,
        every_seconds: float = 1.0,
        max_body_bytes: int = 1 << 20,
        timeout: float = 10.0,
    ) -> None:
        self.every_seconds = check_real("every_seconds", every_seconds, positive=True)
        self.board = Board(_nothing(time.time()))
        self._server = Server(
            self.board, address, token=token, max_body_bytes=max_body_bytes, timeout=timeout
        )

    def __repr__(self) -> str:
        return f"WebMonitor({self._server.address!r})"  # a token is for nobody's log

    @property
    def url(self) -> str:
        """Where the page is."""
        return self._server.url

    def connections(self) -> int:
        """Count the clients that are connected."""
        return self._server.connections()

    # ---- called by the run

    def __enter__(self) -> Self:
        """Listen; so that a port in use is noticed before training begins.

        Raises
        ------
        ServingError
            When the address cannot be listened on.
        """
        self._history = History()
        self._bad: deque[BadSample] = deque(maxlen=_N_BAD)
        self._checkpoints: deque[SavedCheckpoint] = deque(maxlen=_N_CHECKPOINTS)
        self._n_checkpoints = 0
        self._lag: Mapping[str, int] | None = None
        self._paces = [Pace(self.every_seconds) for _ in range(3)]
        self._progress: Callable[[], Progress] | None = None
        self._transformer: object = None
        self._failed = Repeated(_log, "monitor_failed")
        self.board.clear(_nothing(time.time()))
        self._server.open()
        return self

    def begin(self, model: Learner, progress: Callable[[], Progress], source: object) -> None:
        """Publish where the run begins.

        Parameters
        ----------
        model
            What is trained.
        progress
            Says where the run stands.
        source
            Where the samples come from; what it makes of them, requests do not get.
        """
        while source is not None and not hasattr(source, "transformer"):
            source = getattr(source, "source", None)
        self._transformer = getattr(source, "transformer", None)
        self._model = model
        self._progress = progress
        self._n_begin = progress().n_samples  # metrics begin anew after it, with a 0 for nothing
        self._last = (time.time(), self._n_begin, model.loss_sum, model.loss_weight)
        self._publish("training", everything=True)

    def look(self) -> None:
        """Publish if it is time; the run calls it where the model is whole."""
        if self._paces[0].due():
            self._publish("training")

    def refused(self, error: BadSampleError) -> None:
        """Take note of a bad sample."""
        self._bad.appendleft(BadSample.of(error, time.time()))

    def saved(self, number: int, n_samples: int, seconds: float) -> None:
        """Take note of a checkpoint."""
        self._checkpoints.appendleft(SavedCheckpoint(number, time.time(), n_samples, seconds))
        self._n_checkpoints += 1

    def end(self, status: str) -> None:
        """Publish how the run ended; `__exit__` would call it a failure otherwise."""
        self._publish(status, everything=True)
        self._progress = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self.end("failed")
        self._server.close()
        self._failed.close()

    # ---- publishing

    def _publish(self, status: str, everything: bool = False) -> None:
        try:
            with self._paces[0].timed():
                self._put_up(status, everything)
        except Exception as error:  # whatever a metric or a source raises: training goes on
            self._failed.happened(error=type(error).__name__, message=error)

    def _put_up(self, status: str, everything: bool) -> None:
        assert self._progress is not None
        progress, model, board = self._progress(), self._model, self.board
        _, lag_pace, model_pace = self._paces
        if lag_pace.due() or everything:
            with lag_pace.timed():
                self._lag = progress.partition_lag()
        if model_pace.due() or everything:
            with model_pace.timed():
                self._freeze(model)
        now = time.time()
        before, n_samples, loss_sum, loss_weight = self._last
        self._last = (now, progress.n_samples, model.loss_sum, model.loss_weight)
        point = Point(
            begin=before,
            end=max(now, before),
            samples=progress.n_samples - n_samples,
            loss_sum=model.loss_sum - loss_sum,
            loss_weight=model.loss_weight - loss_weight,
            progressive_loss=_number(progress.progressive_loss),
            metrics=_numbers(progress.metrics) if progress.n_samples > self._n_begin else {},
            lag=None if self._lag is None else sum(self._lag.values()),
        )
        self._history.add(point)
        board.history, board.recent = tuple(self._history.points), tuple(self._history.recent)
        board.snapshot = replace(
            board.snapshot,
            number=board.snapshot.number + 1,
            time=now,
            status=status,
            model=type(model).__name__,
            n_samples=progress.n_samples,
            n_updates=progress.n_updates,
            n_pending=progress.n_pending,
            n_bad=progress.n_bad,
            n_duplicates=progress.n_duplicates,
            n_refused=progress.n_refused,
            n_epochs=progress.n_epochs,
            progressive_loss=point.progressive_loss,
            recent_loss=_number(point.loss),
            samples_per_second=point.samples_per_second,
            metrics=point.metrics,
            position=dict(progress.position),
            lag=self._lag,
            bad=tuple(self._bad),
            n_checkpoints=self._n_checkpoints,
            checkpoints=tuple(self._checkpoints),
        )

    def _freeze(self, model: Learner) -> None:
        if self._transformer is not None:
            self.board.no_model = NO_RAW_SAMPLES.format(repr(self._transformer))
            return
        try:
            self.board.model = FrozenModel(model)
        except Exception as error:  # a model of somebody else's, which cannot be copied
            self.board.no_model = f"{type(model).__name__} cannot be copied: {error}"
            self._failed.happened(error=type(error).__name__, message=error)


def _nothing(now: float) -> Snapshot:
    return Snapshot(number=0, time=now, began=now, status="starting")


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are one number; others are a table of many."""
    found = {}
    for name, metric in metrics.items():
        try:
            value = metric.get()
        except NotImplementedError:
            continue
        if isinstance(value, Real) and math.isfinite(value):
            found[name] = float(value)
    return found
