"""Shares of a training replayed in one process, from what the journal says of them.

The journal names no share: a partition belongs to one (the action `shares` says to which), and a
segment to that of its partition. A round is over where `average` stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from streamfit._journal_file import Segment
from streamfit.core.averaging import average_states
from streamfit.core.learner import LinearLearner
from streamfit.errors import CheckpointMismatchError
from streamfit.types import Learner, StateDict

__all__ = ["LocalReplay", "replay_of"]


class LocalReplay:
    """Copies of a model that learn apart, and are averaged.

    Parameters
    ----------
    model
        The model; it changes where copies are averaged.
    dealing
        The share that each partition belongs to.
    """

    def __init__(self, model: LinearLearner, dealing: Mapping[str, int]) -> None:
        self._model = model
        self._dealing = dealing
        self._start: StateDict = model.state_dict()
        self._copies: dict[int, LinearLearner] = {}
        self._share = 0

    def learner_of(self, segment: Segment) -> Learner:
        """Return the copy that learned a segment."""
        self._share = self._dealing[f"{segment.source}:{segment.partition}"]
        if self._share not in self._copies:
            copy = type(self._model).from_config(self._model.get_config())
            copy.load_state_dict(self._start)
            self._copies[self._share] = copy
        return cast(Learner, self._copies[self._share])

    def flush(self, last_batch: str) -> None:
        """Deal with the partial micro-batch of the share whose segment was the last one."""
        self._copies[self._share].flush(last_batch)

    def average(self) -> None:
        """End the round."""
        states = [copy.state_dict() for _, copy in sorted(self._copies.items())]
        self._model.load_state_dict(average_states(self._model, self._start, states))
        self._start, self._copies = self._model.state_dict(), {}


def replay_of(model: Learner, shares: Mapping[str, Any]) -> LocalReplay:
    """Make what replays the shares that an action `shares` describes.

    Raises
    ------
    CheckpointMismatchError
        When the model, or the way they are put together, is unknown.
    """
    match shares, model:
        case {"mode": "local", "of": dict(dealing)}, LinearLearner():
            return LocalReplay(model, dealing)
    raise CheckpointMismatchError(
        f"cannot replay shares {shares!r:.200} of a {type(model).__name__}"
    )
