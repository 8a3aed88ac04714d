"""What the trainer publishes and the server shows: plain data that nobody changes any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamfit.errors import BadSampleError
from streamfit.serving.frozen import FrozenModel
from streamfit.serving.history import Point
from streamfit.types import Position

__all__ = ["BadSample", "Board", "SavedCheckpoint", "Snapshot"]

_MAX_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that was refused, and why.

    Parameters
    ----------
    time
        When, in seconds since 1970.
    error
        Class of the error.
    reason, feature
        What was wrong, and with which feature, if with one.
    source, partition, offset
        Where the sample came from.
    """

    time: float
    error: str
    reason: str
    feature: str | None
    source: str | None
    partition: int | None
    offset: int | None

    @classmethod
    def of(cls, error: BadSampleError, time: float) -> BadSample:
        """Keep what an error says, without what it holds on to."""
        return cls(
            time=time,
            error=type(error).__name__,
            reason=error.reason[:_MAX_CHARACTERS],
            feature=None if error.feature is None else str(error.feature)[:_MAX_CHARACTERS],
            source=error.source,
            partition=error.partition,
            offset=error.offset,
        )


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A checkpoint on disk.

    Parameters
    ----------
    number
        Its number.
    time
        When it was saved, in seconds since 1970.
    n_samples
        What the model had learned; None when nobody looked.
    seconds
        How long saving took; None when another process did it.
    """

    number: int
    time: float
    n_samples: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Where a run stood when it was published.

    Parameters
    ----------
    number
        How many were published before, so that a reader sees whether it missed one.
    time, began
        When it was made and when the run began, in seconds since 1970.
    status
        `"starting"`, `"training"`, `"finished"`, `"stopped"` (by a signal), `"failed"`; or
        `"serving"`, when checkpoints of another process are shown.
    model
        Name of the learner's class.
    n_samples, n_updates, n_pending, n_bad, n_duplicates, n_refused, n_epochs, progressive_loss, \
    metrics, position
        See `streamfit.Progress`; a metric is its number here.
    recent_loss
        Mean loss of the samples since the snapshot before; None when there were none.
    samples_per_second
        Rate since the snapshot before.
    lag
        Samples left to read in each partition; None when not known.
    bad
        The latest bad samples, newest first.
    n_checkpoints
        Checkpoints that this run has saved.
    checkpoints
        The latest of them, newest first.
    """

    number: int
    time: float
    began: float
    status: str
    model: str = ""
    n_samples: int = 0
    n_updates: int = 0
    n_pending: int = 0
    n_bad: int = 0
    n_duplicates: int = 0
    n_refused: int = 0
    n_epochs: int = 0
    progressive_loss: float | None = None
    recent_loss: float | None = None
    samples_per_second: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    position: Position = field(default_factory=dict)
    lag: Mapping[str, int] | None = None
    bad: tuple[BadSample, ...] = ()
    n_checkpoints: int = 0
    checkpoints: tuple[SavedCheckpoint, ...] = ()


class Board:
    """Where the newest of everything hangs.

    One thread puts up new values, others read them. Each value is replaced whole and never
    changed, so nobody needs a lock, and a reader has what it took for as long as it wants.

    Attributes
    ----------
    snapshot
        Where the run stands.
    model
        What predicts; None before there is one, and then `no_model` says why.
    history
        The whole run in a bounded number of points.
    recent
        The last minutes, a point for each snapshot.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.clear(snapshot)

    def clear(self, snapshot: Snapshot) -> None:
        """Begin anew."""
        self.snapshot = snapshot
        self.model: FrozenModel | None = None
        self.no_model = "training has not begun"
        self.history: tuple[Point, ...] = ()
        self.recent: tuple[Point, ...] = ()
