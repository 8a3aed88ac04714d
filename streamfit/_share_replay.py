"""Shares of a training replayed in one process, from what the journal says of them.

The journal names no share: the action `shares` says which partition belongs to which of them, or
that every micro-batch is cut into them. In synchronous mode a micro-batch is over when it is full,
or where a flush stands; in local mode a round is over where `average` stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from streamfit._journal_file import Segment
from streamfit.core.averaging import average_states
from streamfit.core.learner import LinearLearner
from streamfit.core.sums import Cuts, MicroBatches
from streamfit.errors import CheckpointMismatchError
from streamfit.types import Block, Learner, StateDict

__all__ = ["ShareReplay", "replay_of"]


class ShareReplay(Protocol):
    """Does again what shares have done to a model."""

    def learn(self, segment: Segment, block: Block, start: int, stop: int) -> None:
        """Learn samples of a segment."""

    def flush(self, last_batch: str) -> None:
        """Deal with the partial micro-batch at hand: of the share whose segment was the last."""

    def average(self) -> None:
        """End a round of local mode."""

    def epoch(self) -> None:
        """Begin another pass."""


class _Local:
    """Copies of a model that learn apart, and are averaged."""

    def __init__(self, model: LinearLearner, dealing: Mapping[str, int]) -> None:
        self._model = model
        self._dealing = dealing
        self._start: StateDict = model.state_dict()
        self._copies: dict[int, LinearLearner] = {}
        self._share = 0

    def learn(self, segment: Segment, block: Block, start: int, stop: int) -> None:
        self._share = self._dealing[f"{segment.source}:{segment.partition}"]
        if self._share not in self._copies:
            copy = type(self._model).from_config(self._model.get_config())
            copy.load_state_dict(self._start)
            self._copies[self._share] = copy
        self._copies[self._share].learn_block(block, start, stop)

    def flush(self, last_batch: str) -> None:
        self._copies[self._share].flush(last_batch)

    def average(self) -> None:
        states = [copy.state_dict() for _, copy in sorted(self._copies.items())]
        if states:  # or there were only bad samples
            self._model.load_state_dict(average_states(self._model, self._start, states))
        self._start, self._copies = self._model.state_dict(), {}

    def epoch(self) -> None:
        pass


class _Dealt:
    """Micro-batches whose shares have partitions of their own."""

    def __init__(self, model: LinearLearner, dealing: Mapping[str, int]) -> None:
        self._batches = MicroBatches(model)
        self._dealing = dealing
        self.flush = self._batches.flush

    def learn(self, segment: Segment, block: Block, start: int, stop: int) -> None:
        share = self._dealing[f"{segment.source}:{segment.partition}"]
        self._batches.learn(share, block, start, stop)

    def average(self) -> None:
        raise CheckpointMismatchError("the journal averages in synchronous mode")

    def epoch(self) -> None:
        pass


class _Cut(_Dealt):
    """Micro-batches that are cut into shares."""

    def __init__(self, model: LinearLearner, shares: int, start: int, rows: int, at: int) -> None:
        self._cuts = Cuts(model, shares, start, rows, at)
        self.flush = self._cuts.flush

    def learn(self, segment: Segment, block: Block, start: int, stop: int) -> None:
        self._cuts.learn(block, start, stop)

    def epoch(self) -> None:
        self._cuts.begin()


def replay_of(model: Learner, shares: Mapping[str, Any]) -> ShareReplay:
    """Make what replays the shares that an action `shares` describes.

    Raises
    ------
    CheckpointMismatchError
        When the model, or the way they are put together, is unknown.
    """
    match shares, model:
        case {"mode": "local", "of": dict(dealing)}, LinearLearner():
            return _Local(model, dealing)
        case {"mode": "synchronous", "of": dict(dealing)}, LinearLearner():
            return _Dealt(model, dealing)
        case {"n": int(n), "start": dict(start), "rows": int(rows), "at": int(at)}, LinearLearner():
            (first,) = start.values()
            return _Cut(model, n, first, rows, at)
    raise CheckpointMismatchError(
        f"cannot replay shares {shares!r:.200} of a {type(model).__name__}"
    )
