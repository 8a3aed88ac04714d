"""The monitors of a run: when they are asked, and what becomes of their decisions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamfit.actions import apply
from streamfit.errors import CheckpointMismatchError, ConfigurationError
from streamfit.journal import Journal
from streamfit.types import Learner, Monitor, ObservesSamples

__all__ = ["Monitors"]


class Monitors:
    """Those of a trainer's callbacks that may act on the model.

    Parameters
    ----------
    callbacks
        All of them.
    model
        The learner.

    Raises
    ------
    ConfigurationError
        When a monitor may decide what the model cannot do.
    """

    def __init__(self, callbacks: Iterable[Any], model: Learner) -> None:
        self._model = model
        self._monitors: list[Monitor] = []
        for one in callbacks:
            if isinstance(one, type) and hasattr(one, "decide"):
                raise ConfigurationError(f"callbacks: pass a {one.__name__}(...), not the class")
            if isinstance(one, Monitor):
                one.check(model)
                self._monitors.append(one)
        self.observers = [one for one in self._monitors if isinstance(one, ObservesSamples)]

    def room(self, n_samples: int) -> int | None:
        """Say how many samples may be learned before one is asked; None: any number."""
        return min((one.every - n_samples % one.every for one in self._monitors), default=None)

    def ask(self, n_samples: int, journal: Journal) -> None:
        """Ask those whose turn it is, and do what they decide."""
        for monitor in self._monitors:
            if n_samples % monitor.every == 0:
                for action in monitor.decide(self._model, n_samples):
                    journal.acted(action)
                    apply(action, self._model)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the state of each, in their order."""
        return [monitor.state_dict() for monitor in self._monitors]

    def load_state_dict(self, states: Any) -> None:
        """Continue from what `state_dict` returned; monitors that are new begin."""
        if not isinstance(states, list):
            raise CheckpointMismatchError(f"not the state of monitors: {states!r:.80}")
        for monitor, state in zip(self._monitors, states, strict=False):
            monitor.load_state_dict(state)
