"""`mode="local"`: every share trains a model of its own, and these are averaged now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamfit.core.averaging import average_states
from streamfit.core.sums import cut
from streamfit.distributed._messages import Done, Limits
from streamfit.types import Action, StateDict

if TYPE_CHECKING:
    from streamfit.distributed._run import ShareRun

__all__ = ["LocalRounds"]

AVERAGE = Action("average")


class LocalRounds:
    """Rounds of parallel SGD with averaging.

    Parameters
    ----------
    run
        The run whose model is trained.
    """

    def __init__(self, run: ShareRun) -> None:
        self._run = run
        self._n_empty = 0  # rounds

    def begin(self) -> None:
        """Do nothing: every round begins with the driver's model."""

    def round(self, ended: set[int]) -> bool:
        """Do a round; return whether anything came of it.

        Parameters
        ----------
        ended
            The shares that have nothing more to learn; receives those that end now.
        """
        run = self._run
        start = run.model.state_dict()
        active = [s for mine in run.crew.shares.values() for s in mine if s not in ended]
        limits = self._limits(sorted(active))
        state = run.crew.pool.put(start, _size(start))
        arguments = {
            worker: (state, {s: limits[s] for s in mine if s in limits})
            for worker, mine in run.crew.shares.items()
            if limits.keys() & set(mine)
        }
        answers: dict[int, Done] = run.crew.ask(
            "train",
            arguments,
            run.is_live,
            can_end=run.is_live or run.plan.sync_batches is None,
            again=run.beginning,
        )
        ended.update(share for share, done in answers.items() if done.ended)
        if not any(done.entries for done in answers.values()):
            self._n_empty += 1
            return False
        states = [answers[s].state for s in sorted(answers)]
        average = average_states(
            run.learner, start, [state for state in states if state is not None]
        )
        run.take(answers, lambda: run.model.load_state_dict(average), [AVERAGE])
        return True

    def _limits(self, active: list[int]) -> dict[int, Limits]:
        n_batches, seconds = self._run.plan.sync_batches, self._run.plan.sync_seconds
        remaining = self._run.remaining
        parts = [None] * len(active) if remaining is None else cut(remaining, len(active))
        if active:  # the last few samples are wanted of each in turn, for some may have none
            first = self._n_empty % len(active)
            active = active[first:] + active[:first]
        return {
            share: Limits(n_batches, seconds, n)
            for share, n in zip(active, parts, strict=True)
            if n != 0
        }


def _size(state: StateDict) -> int:
    """Say about how many bytes a state has."""
    arrays = sum(value.nbytes for value in state.values() if isinstance(value, np.ndarray))
    return arrays + 16 * len(state["features"])
