"""What was applied in which order: the record that makes a stream replayable.

The journal lies beside the checkpoints and grows by a few bytes a segment. A checkpoint keeps the
journal's end, so the two move together: what follows the end of the checkpoint that a run resumes
from is work that was lost, and is cut off before it is done again. No part of a journal is ever
pruned, because a replay begins at the beginning; rotation only bounds the single file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from streamfit._journal_file import (
    FLUSHES,
    REASONS,
    Entry,
    Epoch,
    Files,
    Flush,
    Mark,
    Segment,
    Skipped,
    encode,
    read,
)
from streamfit.errors import BadSampleError
from streamfit.types import Action, Block, Learner
from streamfit.verification import Difference, Verification, end_of, load, verify

__all__ = [
    "FLUSHES",
    "Action",
    "Difference",
    "Epoch",
    "Flush",
    "Journal",
    "Mark",
    "Segment",
    "Skipped",
    "Verification",
    "entries",
    "verify",
]

_FRAME_ENTRIES = 4096


class Journal:
    """Writes the journal of one run, in the words of the trainer.

    Consecutive samples of one partition are one segment, however they arrived; it is closed when
    another partition follows, at any other entry and at a checkpoint. Where a segment is closed
    the model's digest is marked, so that a verification can say which segment differs first. A
    digest costs O(features), so marks are at least as many samples apart as the model has
    numbers, and those at checkpoints.

    Parameters
    ----------
    directory
        The checkpoint directory, which the caller has locked. None: nothing is recorded.
    model
        The learner whose training is recorded.
    max_bytes
        When a file is followed by another.

    Examples
    --------
    >>> import tempfile
    >>> import streamfit as sf
    >>> from streamfit.journal import Journal, entries
    >>> samples = [({"x": 1.0}, True), ({"x": 2.0}, False), ({"x": None}, True)]
    >>> with tempfile.TemporaryDirectory() as state:
    ...     report = sf.Trainer(
    ...         sf.LogisticRegression(batch_size=5),
    ...         samples,
    ...         checkpoint=sf.Checkpointer(state),
    ...         on_bad_sample="skip",
    ...     ).run()
    ...     for entry in entries(state):
    ...         if not isinstance(entry, sf.journal.Mark):
    ...             print(entry)
    ...     sf.journal.verify(state, samples).equal
    source 'samples', partition 0, 0 to 2
    Skipped(source='samples', partition=0, offset=2, reason='BadSampleError', dead_letter=False)
    Flush(reason='epoch end', last_batch='apply')
    True
    """

    def __init__(self, directory: Path | None, model: Learner, max_bytes: int = 1 << 24) -> None:
        self._directory = directory
        self._model = model
        self._max_bytes = max_bytes
        self._files: Files | None = None
        self._entries: list[Entry] = []
        self._segment: Segment | None = None  # still growing
        self._next_mark = 0  # by the model's count of samples

    def begin(self) -> None:
        """Start a journal, and remove whatever an earlier run left that saved no checkpoint."""
        if self._directory is not None:
            self._files = Files(self._directory, None, self._max_bytes)
            self._mark()

    def resume(self, state: Any) -> None:
        """Go on where the journal ended at a checkpoint, after verifying all of it.

        Raises
        ------
        CheckpointCorruptError
            When the journal is not the one that the checkpoint knows.
        CheckpointMismatchError
            When `state` is not what `save` returned.
        """
        if self._directory is not None:
            end = end_of(state)
            for _ in read(self._directory, end):
                pass
            self._files = Files(self._directory, end, self._max_bytes)
            self._next_mark = self._model.n_samples + _mark_every(self._model)

    def before(self, block: Block) -> None:
        """Say that samples of `block` are learned next."""
        last = self._segment
        if last is not None and (last.source, last.partition) != (block.source, block.partition):
            self._close_segment()

    def learned(self, block: Block, start: int, stop: int) -> None:
        """Record that samples `start` to `stop` of `block` are in the model."""
        if self._directory is None or stop <= start:
            return
        first, after = int(block.offsets[start]), int(block.offsets[stop - 1]) + 1
        n = stop - start
        if self._segment is not None:
            first, n = self._segment.start, self._segment.n + n
        self._segment = Segment(block.source, block.partition, first, after, n)

    def skipped(self, block: Block, i: int, error: BadSampleError, dead_letter: bool) -> None:
        """Record that sample `i` of `block` was refused, and whether it was put aside."""
        name = type(error).__name__
        reason = name if name in REASONS else REASONS[0]
        offset = int(block.offsets[i])
        self._add(Skipped(block.source, block.partition, offset, reason, dead_letter))

    def flush(self, reason: str, last_batch: str) -> None:
        """Record that the partial micro-batch is dealt with next."""
        self._add(Flush(reason, last_batch))

    def acted(self, action: Action) -> None:
        """Record that `action` is done to the model next."""
        self._add(action)

    def round(self, entries: Iterable[Entry]) -> None:
        """Record what several shares have done together: a mark can only follow all of it.

        The model is what it is after the round.
        """
        if self._directory is None:
            return
        n_entries = len(self._entries)
        for entry in entries:
            last = self._segment
            if isinstance(entry, Segment) and last is not None and _follows(entry, last):
                self._segment = replace(last, stop=entry.stop, n=last.n + entry.n)
                continue
            self._put(last)
            self._segment = entry if isinstance(entry, Segment) else None
            self._put(None if isinstance(entry, Segment) else entry)
        if len(self._entries) > n_entries and self._model.n_samples >= self._next_mark:
            self._put(self._segment)
            self._segment = None
            self._mark()
        if len(self._entries) >= _FRAME_ENTRIES:
            self._write()

    def epoch(self) -> None:
        """Record that another pass over the source begins."""
        self._add(Epoch())

    def save(self) -> dict[str, Any] | None:
        """Make everything durable; return what a checkpoint must keep to resume from here."""
        if self._files is None:
            return None
        self._close_segment()
        if not (self._entries and isinstance(self._entries[-1], Mark)):
            self._mark()
        self._write()
        return asdict(self._files.sync())

    def close(self) -> None:
        """Close the files; what was recorded since `save` is given up."""
        if self._files is not None:
            self._files.close()

    def _add(self, entry: Entry) -> None:
        if self._directory is None:
            return
        self._close_segment()
        self._entries.append(entry)
        if len(self._entries) >= _FRAME_ENTRIES:
            self._write()

    def _put(self, entry: Entry | None) -> None:
        if entry is not None:
            self._entries.append(entry)

    def _close_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            self._add(segment)
            if self._model.n_samples >= self._next_mark:
                self._mark()

    def _mark(self) -> None:
        self._entries.append(Mark.of(self._model.digest()))
        self._next_mark = self._model.n_samples + _mark_every(self._model)

    def _write(self) -> None:
        assert self._files is not None
        self._files.append(encode(self._entries))
        self._entries = []


def _follows(segment: Segment, last: Segment) -> bool:
    """Say whether two segments are one: whatever lay between them holds no record."""
    place, before = (segment.source, segment.partition), (last.source, last.partition)
    return place == before and segment.start >= last.stop


def _mark_every(model: Learner) -> int:
    """Say how many samples pay for a digest: one a number in it, and 256 for its fixed cost."""
    state = model.state_dict().values()
    return max(256, sum(value.size for value in state if isinstance(value, np.ndarray)))


def entries(path: str | Path) -> Iterator[Entry]:
    """Read the journal in a checkpoint directory, up to the newest checkpoint.

    Raises
    ------
    CheckpointError
        When there is no checkpoint, or the journal is not the one it knows.
    """
    return load(Path(path))[1]
