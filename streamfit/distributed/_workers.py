"""Workers: who computes the shares. `Worker` is what runs in an actor, or here in the process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from streamfit.distributed._messages import Done, Limits, Settings, Update, Want
from streamfit.distributed._share import Share
from streamfit.types import Position, Source, StateDict

__all__ = ["Abandoned", "Here", "Pool", "Worker", "WorkerLost"]


class Abandoned(Exception):  # noqa: N818
    """A signal asks for the end, and the round at hand is given up."""


class WorkerLost(Exception):  # noqa: N818 (no error of the user's)
    """A worker has died, or does not answer.

    Parameters
    ----------
    worker
        Its number.
    reason
        What is known.
    """

    def __init__(self, worker: int, reason: str) -> None:
        super().__init__(f"worker {worker}: {reason}")
        self.worker = worker
        self.reason = reason


class Worker:
    """Computes shares, one after the other.

    Parameters
    ----------
    settings
        How shares learn.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._shares: dict[int, Share] = {}
        self._hurried = self._halted = self._abandoned = -1  # by the number of the call

    def begin(self, shares: Sequence[int], positions: Sequence[Position], *sources: Source) -> None:
        """Begin with these shares, each at its position in its source."""
        self.close()
        for share, position, source in zip(shares, positions, sources, strict=True):
            self._shares[share] = Share(self._settings, source, position)

    def close(self) -> None:
        """Let go of all sources."""
        for share in self._shares.values():
            share.close()
        self._shares = {}

    def train(self, call: int, state: StateDict, limits: Mapping[int, Limits]) -> dict[int, Done]:
        """Let shares train by themselves; see `Share.train`."""
        return {
            share: self._shares[share].train(
                state,
                limit,
                hurried=lambda: self._hurried >= call,
                halted=lambda: self._halted >= call,
            )
            for share, limit in limits.items()
        }

    def load(self, state: StateDict) -> None:
        """Let all shares begin with this model."""
        for share in self._shares.values():
            share.load(state)

    def step(
        self,
        call: int,
        update: Update | None,
        wants: Mapping[int, Want],
        ahead: int,
        is_last: bool,
    ) -> dict[int, Done]:
        """Let shares make an update, and add samples to the next; see `Share.step`."""
        return {
            number: share.step(
                *(update, wants.get(number, Want(0)), ahead, is_last),
                abandoned=lambda: self._abandoned >= call,
            )
            for number, share in self._shares.items()
        }

    def hurry(self, call: int) -> None:
        """Let that call wait for no samples; may be called while it runs."""
        self._hurried = call
        self._wake()

    def halt(self, call: int) -> None:
        """Let that call end after the micro-batch at hand; may be called while it runs."""
        self._halted = call
        self._wake()

    def abandon(self, call: int) -> None:
        """Let that call end soon, for nobody wants its answer; may be called while it runs."""
        self._abandoned = call

    def _wake(self) -> None:
        for share in list(self._shares.values()):
            share.reader.wake()

    def ping(self) -> None:
        """Answer, also while another call runs."""


class Pool(Protocol):
    """Some workers, by number, wherever they are."""

    def start(self, worker: int) -> None:
        """Start a worker, in the place of the one that had its number."""

    def room(self) -> tuple[float, float]:
        """Count the places for workers: in all, and those that are free."""

    def put(self, value: Any, size: int | None = None) -> Any:
        """Make a value ready to be sent to several workers.

        Parameters
        ----------
        value
            Anything that can be pickled.
        size
            About how many bytes it has, if that is known: a few are sent along with each call.
        """

    def call(self, worker: int, method: str, *arguments: Any) -> Any:
        """Ask a worker to do something; return what `wait` knows the call by."""

    def wait(self, calls: Mapping[int, Any], seconds: float) -> dict[int, Any]:
        """Wait for any answer for a while; return those that have come, by worker.

        Raises
        ------
        WorkerLost
            When one will never answer.
        Exception
            What the worker raised.
        """

    def tell(self, worker: int, method: str, *arguments: Any) -> Any:
        """Tell a worker something beside what it is doing."""

    def stop(self, worker: int) -> None:
        """End a worker at once, whatever it does."""

    def close(self) -> None:
        """End all workers."""


class Here:
    """Workers in this process, which work one after the other: for tests, and to replay.

    Parameters
    ----------
    settings
        How shares learn.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._workers: dict[int, Worker] = {}

    def start(self, worker: int) -> None:
        """Make a worker."""
        self.stop(worker)
        self._workers[worker] = Worker(self._settings)

    def room(self) -> tuple[float, float]:
        """Say that there is always room."""
        return math.inf, math.inf

    def put(self, value: Any, size: int | None = None) -> Any:
        """Return the value itself."""
        return value

    def call(self, worker: int, method: str, *arguments: Any) -> Any:
        """Remember what is asked."""
        return method, arguments

    def wait(self, calls: Mapping[int, Any], seconds: float) -> dict[int, Any]:
        """Do what is asked of the first one."""
        worker, (method, arguments) = next(iter(calls.items()))
        return {worker: getattr(self._workers[worker], method)(*arguments)}

    def tell(self, worker: int, method: str, *arguments: Any) -> Any:
        """Do it."""
        getattr(self._workers[worker], method)(*arguments)

    def stop(self, worker: int) -> None:
        """Close a worker."""
        if worker in self._workers:
            self._workers.pop(worker).close()

    def close(self) -> None:
        """Close all."""
        for worker in list(self._workers):
            self.stop(worker)
