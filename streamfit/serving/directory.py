"""`streamfit serve`: the checkpoints of a trainer that runs elsewhere, or not at all."""

from __future__ import annotations

import logging
import os
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamfit.checkpoint import Checkpoint, Checkpointer, transformer_of
from streamfit.errors import CheckpointError, StreamfitError, UnsupportedError
from streamfit.events import Repeated
from streamfit.serving.board import Board, SavedCheckpoint, Snapshot
from streamfit.serving.frozen import NO_RAW_SAMPLES, FrozenModel
from streamfit.serving.history import History, Point
from streamfit.serving.server import Server
from streamfit.verification import fresh_model

__all__ = ["StateServer"]

_log = logging.getLogger(__name__)


class StateServer:
    """Shows what is in a state directory, and predicts from its newest checkpoint.

    It takes no lock and writes nothing, so a trainer may be at work there. It is the way to answer
    many requests: they cost the trainer nothing.

    Parameters
    ----------
    state
        The checkpoint directory.
    address, token, max_body_bytes, timeout
        See `WebMonitor`.
    every_seconds
        How often to look for a newer checkpoint.

    Examples
    --------
    >>> import tempfile
    >>> import streamfit as sf
    >>> from streamfit.serving import StateServer
    >>> samples = [({"x": 1.0}, True), ({"x": 2.0}, False)]
    >>> with tempfile.TemporaryDirectory() as state:
    ...     checkpoint = sf.Checkpointer(state)
    ...     report = sf.Trainer(sf.LogisticRegression(), samples, checkpoint=checkpoint).run()
    ...     with StateServer(state, "127.0.0.1:0") as server:
    ...         print(server.board.snapshot.n_samples)
    2
    """

    def __init__(
        self,
        state: str | os.PathLike[str],
        address: str = "127.0.0.1:8765",
        *,
        token: str | None = None,
        every_seconds: float = 1.0,
        max_body_bytes: int = 1 << 20,
        timeout: float = 10.0,
    ) -> None:
        self._checkpointer = Checkpointer(Path(state))
        self.every_seconds = every_seconds
        now = time.time()
        self.board = Board(Snapshot(number=0, time=now, began=now, status="starting"))
        self._history = History()
        self._sums: tuple[float, float, float, float] | None = None
        self._seen: Path | None = None
        self._damaged = Repeated(_log, "corrupt_checkpoint")
        self._server = Server(
            self.board, address, token=token, max_body_bytes=max_body_bytes, timeout=timeout
        )

    @property
    def url(self) -> str:
        """Where the page is."""
        return self._server.url

    def __enter__(self) -> Self:
        """Load the newest checkpoint, and listen.

        Raises
        ------
        CheckpointError
            When there is none to serve.
        ServingError
            When the address cannot be listened on.
        """
        self.look()
        self._server.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        self._damaged.close()

    def run(self) -> None:
        """Look for newer checkpoints until something, such as Ctrl-C, ends it."""
        while True:
            time.sleep(self.every_seconds)
            try:
                self.look()
            except CheckpointError as error:  # the one before goes on being served
                self._damaged.happened(message=error)

    def look(self) -> None:
        """Put the newest checkpoint on the board, if there is a newer one.

        Raises
        ------
        CheckpointError
            When there is none that can be loaded.
        """
        files = self._checkpointer.list()
        if files and files[-1] == self._seen:
            return
        saved = self._checkpointer.latest()
        if saved is None:
            raise CheckpointError(f"there is no checkpoint in {self._checkpointer.path}")
        self._seen = files[-1] if files else None
        self._put_up(saved, files)

    def _put_up(self, saved: Checkpoint, files: list[Path]) -> None:
        board, run = self.board, saved.trainer
        try:
            if (transformer := transformer_of(saved)) is not None:
                raise UnsupportedError(NO_RAW_SAMPLES.format(transformer))
            model: Any = fresh_model(saved.config)
            model.load_state_dict(saved.model)
            board.model = FrozenModel(model)
        except StreamfitError as error:
            board.model, board.no_model = None, str(error)
        before = board.snapshot
        n_samples = int(saved.model.get("n_samples", 0)) - _first(run.get("before"))
        sums = float(run.get("loss_sum", 0.0)), float(run.get("loss_weight", 0.0))
        when = datetime.fromisoformat(saved.created).timestamp() if saved.created else time.time()
        checkpoints = tuple(
            SavedCheckpoint(number, at, n_samples if number == saved.number else None)
            for number, at in map(_number_and_time, reversed(files[-20:]))
        )
        old = self._sums or (*sums, n_samples, when)
        point = Point(
            begin=old[3],
            end=max(when, old[3]),
            samples=max(0, int(n_samples - old[2])),
            loss_sum=sums[0] - old[0],
            loss_weight=sums[1] - old[1],
            progressive_loss=sums[0] / sums[1] if sums[1] else None,
        )
        self._sums = (*sums, n_samples, when)
        self._history.add(point)
        board.history, board.recent = tuple(self._history.points), tuple(self._history.recent)
        board.snapshot = Snapshot(
            number=before.number + 1,
            time=when,
            began=before.began,
            status="serving",
            model=str(saved.config.get("id", "")),
            n_samples=n_samples,
            n_updates=int(saved.model.get("n_updates", 0)),
            n_pending=int(saved.model.get("n_pending", 0)),
            n_refused=int(saved.model.get("n_refused", 0)),
            n_bad=int(run.get("n_bad", 0)),
            n_epochs=int(run.get("n_epochs", 0)),
            progressive_loss=point.progressive_loss,
            recent_loss=point.loss,
            samples_per_second=point.samples_per_second,
            position=dict(saved.position),
            n_checkpoints=saved.number or 0,
            checkpoints=checkpoints,
        )


def _first(before: Any) -> int:
    return int(before[0]) if before else 0


def _number_and_time(file: Path) -> tuple[int, float]:
    try:
        at = file.stat().st_mtime
    except OSError:  # pruned since it was listed
        at = 0.0
    return int(file.stem.rpartition("-")[2]), at
