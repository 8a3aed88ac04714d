"""Proof after the fact: train again from the journal and the source's data, and compare.

The replay is offline training. It takes the samples of each journalled segment, in the journal's
order, in blocks of any size, with every flush where it was; no clock and no arrival is left in it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamfit._journal_file import (
    End,
    Entry,
    Epoch,
    Flush,
    Mark,
    Segment,
    decode,
    read,
)
from streamfit._segments import Key, SegmentReader
from streamfit._share_replay import ShareReplay, replay_of
from streamfit.actions import apply
from streamfit.checkpoint import Checkpoint, Checkpointer
from streamfit.core.learner import LinearLearner
from streamfit.errors import (
    BadSampleError,
    CheckpointError,
    CheckpointMismatchError,
    StreamfitError,
    UpdateRefusedWarning,
)
from streamfit.shards import split
from streamfit.sources import IterableSource
from streamfit.types import Action, Learner, Source

__all__ = ["Difference", "Verification", "end_of", "fresh_model", "load", "verify"]


@dataclass(frozen=True)
class Difference:
    """The first place where the replay is not what was recorded.

    Parameters
    ----------
    first, last
        The segments in which it lies: one and the same wherever the journal has a mark after
        every segment. None when the difference is in no segment.
    reason
        What differs.
    """

    first: Segment | None
    last: Segment | None
    reason: str

    def __str__(self) -> str:
        if self.first is None:
            return self.reason
        return (
            f"{self.first}{'' if self.first == self.last else f' ... {self.last}'}: {self.reason}"
        )


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Parameters
    ----------
    equal
        Whether the replay gave the same digest at every mark and at the end.
    n_segments, n_samples, n_updates
        What was replayed: segments, samples, updates.
    stream_digest, replay_digest
        `digest()` of the newest checkpoint's model, and of the replayed one.
    first_difference
        None when `equal`.
    """

    equal: bool
    n_segments: int
    n_samples: int
    n_updates: int
    stream_digest: str
    replay_digest: str
    first_difference: Difference | None

    def __str__(self) -> str:
        rows = {
            "samples": f"{self.n_samples:,}",
            "segments": f"{self.n_segments:,}",
            "updates": f"{self.n_updates:,}",
            "stream digest": self.stream_digest,
            "replay digest": self.replay_digest,
            "equal": "yes" if self.equal else "no",
        }
        if self.first_difference is not None:
            rows["first difference"] = str(self.first_difference)
        return "\n".join(f"{name:<16}  {value}" for name, value in rows.items())


def verify(
    path: str | os.PathLike[str],
    source: Source | Iterable[Any] | Callable[[], Any],
    *,
    model: Learner | None = None,
) -> Verification:
    """Train again what the journal in a checkpoint directory records, and compare digests.

    Parameters
    ----------
    path
        The checkpoint directory. A trainer may be at work in it.
    source
        Where the samples are, as for a `Trainer`. It must be able to seek to its start, and a
        live one should stop at its end (`KafkaSource(..., stop_at_end=True)`).
    model
        The learner as it was when training began. Needed only when it had learned before, or is
        of a class that is not streamfit's own; it is not changed.

    Returns
    -------
    Verification
        Equal or not; and if not, the first differing segment.

    Raises
    ------
    CheckpointError
        When there is nothing to verify, or checkpoint or journal are damaged.
    SourceError
        When the source cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> import streamfit as sf
    >>> samples = [({"x": i / 9}, i % 2 == 0) for i in range(9)]
    >>> with tempfile.TemporaryDirectory() as state:
    ...     report = sf.Trainer(
    ...         sf.LogisticRegression(), samples, checkpoint=sf.Checkpointer(state)
    ...     ).run()
    ...     same = sf.journal.verify(state, samples)
    ...     samples[4] = ({"x": 0.5}, True)
    ...     other = sf.journal.verify(state, samples)
    >>> same.equal, same.replay_digest == report.digest
    (True, True)
    >>> other.equal, str(other.first_difference)
    (False, "source 'samples', partition 0, 0 to 9: the model differs after it")
    """
    saved, entries = load(Path(path))
    recorded = list(entries)
    replayed = fresh_model(saved.config) if model is None else deepcopy(model)
    stream = deepcopy(replayed)
    stream.load_state_dict(saved.model)
    opened = _opened(source, recorded)
    try:
        replay = _Replay(replayed, SegmentReader(opened))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UpdateRefusedWarning)
            replay.run(recorded)
    finally:
        opened.close()
    found, wanted = replayed.digest(), stream.digest()
    if found != wanted:
        replay.differs("the model differs after it")
    elif replayed.state_dict().get("features") != stream.state_dict().get("features"):
        replay.difference = replay.difference or Difference(
            None, None, "the weights are equal, the names of the features are not"
        )
    return Verification(
        equal=replay.difference is None,
        n_segments=replay.n_segments,
        n_samples=replay.n_samples,
        n_updates=replayed.n_updates,
        stream_digest=wanted,
        replay_digest=found,
        first_difference=replay.difference,
    )


def _opened(source: Any, entries: list[Entry]) -> Source:
    """Make a source of what `verify` takes, split as the training had it."""
    for entry in entries:
        match entry:
            case Action(name="shares", parameters={"n": int(n), "mode": str(mode)}):
                return split(source, n, mode).source
    return source if isinstance(source, Source) else IterableSource(source)


def load(path: Path) -> tuple[Checkpoint, Iterator[Entry]]:
    """Return the newest checkpoint in a directory, and the entries of the journal up to it."""
    saved = Checkpointer(path).latest()
    if saved is None:
        raise CheckpointError(f"there is no checkpoint in {path}, so there is nothing to verify")
    end = end_of(saved.trainer.get("journal"))
    return saved, (entry for payload in read(path, end) for entry in decode(payload))


def end_of(state: Any) -> End:
    """Read the end of the journal out of a checkpoint, or say that it has none."""
    try:
        return End.from_state(state)
    except ValueError as error:
        raise CheckpointMismatchError(f"the checkpoint has no journal: {error}") from None


class _Replay:
    """Trains a model from a journal; remembers the first difference and goes on to the end."""

    def __init__(self, model: Learner, reader: SegmentReader) -> None:
        self.difference: Difference | None = None
        self.n_segments = 0
        self.n_samples = 0
        self._model = model
        self._reader = reader
        self._first: Segment | None = None  # since the last mark that agreed
        self._last: Segment | None = None
        self._shares: ShareReplay | None = None

    def run(self, entries: list[Entry]) -> None:
        """Go through the journal."""
        if entries[:1] != [Mark.of(self._model.digest())]:
            raise CheckpointMismatchError(
                "the training did not begin with a fresh model; verify it from Python, with "
                "streamfit.journal.verify(path, source, model=<the model as it was>)"
            )
        passes = _bounds(entries)
        self._reader.begin(next(passes))
        for entry in entries:
            match entry:
                case Segment():
                    self._learn(entry)
                case Flush(last_batch=last_batch):
                    (self._shares or self._model).flush(last_batch)
                case Action(name="shares", parameters=shares):
                    self._shares = replay_of(self._model, shares)
                case Action(name="average") if self._shares is not None:
                    self._shares.average()
                case Action():
                    apply(entry, self._model)
                case Epoch():
                    self._reader.begin(next(passes))
                    if self._shares is not None:
                        self._shares.epoch()
                case Mark():
                    self._compare(entry)

    def differs(self, reason: str) -> None:
        """Remember the first difference, in the segments since the last mark that agreed."""
        if self.difference is None:
            self.difference = Difference(self._first, self._last, reason)

    def _learn(self, segment: Segment) -> None:
        self._first, self._last = self._first or segment, segment
        found = 0
        for block, start, stop in self._reader.read(segment):
            found += stop - start
            try:
                bad = min((i for i in block.errors if start <= i < stop), default=None)
                if bad is not None:
                    raise block.errors[bad]
                if self._shares is None:
                    self._model.learn_block(block, start, stop)
                else:
                    self._shares.learn(segment, block, start, stop)
            except BadSampleError as error:
                self._refuse(segment, str(error))
                return
        self.n_segments += 1
        self.n_samples += found
        if found != segment.n:
            self._refuse(segment, f"{segment.n} samples were learned, the source has {found}")

    def _refuse(self, segment: Segment, reason: str) -> None:
        if self.difference is None:
            self.difference = Difference(segment, segment, reason)

    def _compare(self, mark: Mark) -> None:
        if mark == Mark.of(self._model.digest()):
            self._first = self._last = None
        else:
            self.differs("the model differs after it")


def _bounds(entries: list[Entry]) -> Iterator[dict[Key, tuple[int, int]]]:
    """Say for each pass over the source where its partitions begin and end."""
    bounds: dict[Key, tuple[int, int]] = {}
    for entry in entries:
        if isinstance(entry, Epoch):
            yield bounds
            bounds = {}
        elif isinstance(entry, Segment):
            key = (entry.source, entry.partition)
            bounds[key] = (bounds.get(key, (entry.start, 0))[0], entry.stop)
    yield bounds


def fresh_model(config: dict[str, Any]) -> Learner:
    """Make a learner that has learned nothing from the configuration in a checkpoint."""
    import streamfit  # here, because it imports this module

    getattr(streamfit, str(config.get("id")), None)  # loads the learner, if it is a public one
    kinds: list[type[Any]] = [LinearLearner]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        if kind.__name__ == config.get("id"):
            try:
                learner: Learner = kind.from_config(config)
            except StreamfitError:
                raise
            except (TypeError, ValueError, LookupError, ArithmeticError, MemoryError) as error:
                raise CheckpointMismatchError(
                    f"no {config['id']} can be made from the configuration in the checkpoint: "
                    f"{error!r:.200}"
                ) from error
            return learner
    raise CheckpointMismatchError(
        f"the model is a {config.get('id')}, which is not one of streamfit's; verify it from "
        "Python, with streamfit.journal.verify(path, source, model=<a fresh one>)"
    )
