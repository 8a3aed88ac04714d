"""The workers of a training, as the driver sees them: asked together, urged on, and replaced."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from streamfit.distributed._workers import Abandoned, Pool, WorkerLost
from streamfit.errors import WorkerError
from streamfit.events import Repeated, event
from streamfit.signals import StopRequest
from streamfit.types import Position

__all__ = ["Crew"]

_log = logging.getLogger(__name__)

_SLOW = 10.0  # times the fastest
_SLOW_SECONDS = 1.0  # what takes less is nobody's concern
_LOOK_SECONDS = 0.1


class Crew:
    """Workers, and which shares each of them computes.

    Parameters
    ----------
    pool
        Where the workers are; closed with the crew.
    workers, shares
        How many there are.
    timeout
        Seconds after which a worker that answers nothing, not even a ping, is lost.
    max_restarts
        How many workers may be lost in all.
    stop
        Whether somebody wants an end.

    Attributes
    ----------
    shares
        The shares of each worker.
    """

    def __init__(
        self,
        pool: Pool,
        workers: int,
        shares: int,
        timeout: float,
        max_restarts: int,
        stop: StopRequest,
    ) -> None:
        workers = min(workers, shares)
        self.shares = {w: list(range(w, shares, workers)) for w in range(workers)}
        self.pool = pool
        self._timeout = timeout
        self._max_restarts = max_restarts
        self._stop = stop
        self._n_lost = 0
        self._n_calls = 0
        self._slow = Repeated(_log, "worker_slow")
        for worker in self.shares:
            pool.start(worker)

    def close(self) -> None:
        """End all workers."""
        self._slow.close()
        self.pool.close()

    def begin(self, sources: Sequence[Any], positions: Sequence[Position]) -> None:
        """Let every share begin at its position in its source."""
        self.ask(
            "begin",
            {
                worker: (mine, [positions[s] for s in mine], *(sources[s] for s in mine))
                for worker, mine in self.shares.items()
            },
        )

    def replace(self, lost: WorkerLost) -> None:
        """Start another worker in the place of a lost one.

        Raises
        ------
        WorkerError
            When it was one too many.
        """
        self._n_lost += 1
        _log.warning(event("worker_lost", worker=lost.worker, message=lost.reason))
        if self._n_lost > self._max_restarts:
            raise WorkerError(
                f"workers were lost more than max_restarts={self._max_restarts} times, at last "
                f"{lost}. What was learned before is saved, and starting again goes on from there. "
                "Find out what ends them (memory, mostly; or a cluster with fewer free CPUs than "
                "workers), or raise max_restarts"
            ) from lost
        self.pool.stop(lost.worker)
        self.pool.start(lost.worker)

    def ask(
        self,
        method: str,
        arguments: Mapping[int, Sequence[Any]],
        live: bool = False,
        can_end: bool = False,
    ) -> Any:
        """Ask workers for something, and wait until all have answered.

        Parameters
        ----------
        method
            Of `Worker`. A `train` is urged on when others wait for it.
        arguments
            By worker.
        live
            Whether a worker may be waiting for samples.
        can_end
            Whether a round may end sooner than it would, when a signal asks for the end; otherwise
            it is given up then, so that what is learned does not depend on the signal.

        Returns
        -------
        dict
            What all answers say, by share; None for a method that answers nothing.

        Raises
        ------
        WorkerLost
            When one has died, or answers nothing for `timeout`.
        Abandoned
            When a signal asks for the end of a round that cannot end.
        """
        self._n_calls += 1
        trains = method == "train"
        first = (self._n_calls,) if trains else ()
        calls = {w: self.pool.call(w, method, *first, *given) for w, given in arguments.items()}
        watch = _Watch(self, calls, self._n_calls if trains else None, live)
        answers: dict[int, Any] = {}
        while calls:
            for worker, answer in self.pool.wait(calls, _LOOK_SECONDS).items():
                del calls[worker]
                answers.update(answer or {})
                watch.answered(answer)
            watch.look()
            if trains and calls and self._stop.signal_name is not None and not can_end:
                raise Abandoned
        return answers


class _Watch:
    """Looks after the calls that are under way: who is late, who is dead."""

    def __init__(
        self, crew: Crew, calls: Mapping[int, Any], number: int | None, live: bool
    ) -> None:
        self._crew, self._calls, self._number, self._live = crew, calls, number, live
        self._began = self._asked = time.monotonic()
        self._fastest: float | None = None
        self._pings: dict[int, Any] = {}
        self._slow: set[int] = set()
        self._halted = False

    def answered(self, answer: Any) -> None:
        """Note that an answer has come; from then on nobody should wait for samples."""
        worked = bool(answer) and any(done.n_samples for done in answer.values())
        if worked and self._fastest is None:
            self._fastest = time.monotonic() - self._began
            if self._live and self._number is not None:
                for worker in self._calls:
                    self._crew.pool.tell(worker, "hurry", self._number)

    def look(self) -> None:
        """Halt whoever is late, and give up who does not even answer a ping."""
        crew, now = self._crew, time.monotonic()
        seconds = now - self._began
        if crew._stop.signal_name is not None and not self._halted:
            self._halted = True
            self._halt(self._calls)
        if self._fastest is not None and seconds > max(_SLOW * self._fastest, _SLOW_SECONDS):
            for worker in set(self._calls) - self._slow:
                self._slow.add(worker)
                crew._slow.happened(worker=worker, ratio=seconds / self._fastest)
                self._halt([worker])
        if now - self._asked >= crew._timeout / 2:
            self._asked = now
            self._check_pings()
            self._pings = {worker: crew.pool.tell(worker, "ping") for worker in self._calls}

    def _halt(self, workers: Sequence[int] | Mapping[int, Any]) -> None:
        if self._number is not None:
            for worker in workers:
                self._crew.pool.tell(worker, "halt", self._number)

    def _check_pings(self) -> None:
        waited_for = {w: ping for w, ping in self._pings.items() if w in self._calls}
        while waited_for:
            answered = self._crew.pool.wait(waited_for, 0.0)
            if not answered:
                worker = min(waited_for)
                raise WorkerLost(worker, f"no answer in {self._crew._timeout:g} seconds")
            for worker in answered:
                del waited_for[worker]
