"""The workers of a training, as the driver sees them: asked together, urged on, and replaced."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
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
_START_SECONDS = 30.0  # a process that starts answers nothing; where many start, for long


class Crew:
    """Workers, and which shares each of them computes.

    Parameters
    ----------
    pool
        Where the workers are; closed with the crew.
    workers, shares
        How many there are.
    timeout
        Seconds after which a worker that answers nothing, not even a ping, is lost; and how long to
        wait for CPUs that the cluster has not got.
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
        self._started: dict[int, float] = {}  # those that have not answered yet, and when
        total, _ = pool.room()
        if total < workers:
            _log.warning(event("cpus_missing", cpus=total, workers=workers))
        for worker in self.shares:
            self._start(worker)

    def _start(self, worker: int) -> None:
        self._started[worker] = time.monotonic()
        self.pool.start(worker)

    def close(self) -> None:
        """End all workers."""
        self._slow.close()
        self.pool.close()

    def begin(self, sources: Sequence[Any], positions: Sequence[Position]) -> None:
        """Let every share begin at its position in its source."""
        self.ask("begin", {w: self.beginning(w, sources, positions) for w in self.shares})

    def beginning(
        self, worker: int, sources: Sequence[Any], positions: Sequence[Position]
    ) -> tuple[Any, ...]:
        """Return what a worker has to be told to begin."""
        mine = self.shares[worker]
        return (mine, [positions[s] for s in mine], *(sources[s] for s in mine))

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
        self._start(lost.worker)

    def ask(
        self,
        method: str,
        arguments: Mapping[int, Sequence[Any]],
        live: bool = False,
        can_end: bool = False,
        again: Callable[[int], Sequence[Any]] | None = None,
    ) -> Any:
        """Ask workers for something, and wait until all have answered.

        Parameters
        ----------
        method
            Of `Worker`. A `train` is urged on when others wait for it; that and `step` are told
            the number of the call.
        arguments
            By worker.
        live
            Whether a worker may be waiting for samples.
        can_end
            Whether a round may end sooner than it would, when a signal asks for the end; otherwise
            it is given up then, so that what is learned does not depend on the signal.
        again
            What one that takes the place of a lost worker has to be told to begin, before it is
            asked the same; what the others do is not lost then.

        Returns
        -------
        dict
            What all answers say, by share; None for a method that answers nothing.

        Raises
        ------
        WorkerLost
            When one has died, or answers nothing for `timeout`; not with `again`.
        WorkerError
            When one has never answered, for it has no CPU; or too many were lost.
        Abandoned
            When a signal asks for the end of a round that cannot end.
        """
        self._n_calls += 1
        number = self._n_calls
        first = (number,) if method in ("train", "step") else ()

        def call(worker: int) -> Any:
            return self.pool.call(worker, method, *first, *arguments[worker])

        calls = {worker: call(worker) for worker in arguments}
        watch = _Watch(self, calls, number if method == "train" else None, live)
        answers: dict[int, Any] = {}
        while calls:
            try:
                for worker, answer in self.pool.wait(calls, _LOOK_SECONDS).items():
                    del calls[worker]
                    self._started.pop(worker, None)
                    if worker in watch.beginning:
                        calls[worker] = call(worker)
                        watch.begun(worker)
                    else:
                        answers.update(answer or {})
                        watch.answered(worker, answer)
                watch.look()
            except WorkerLost as lost:
                if again is None:
                    for worker in calls.keys() - {lost.worker} if first else ():
                        self.pool.tell(worker, "abandon", number)
                    raise
                self.replace(lost)
                calls[lost.worker] = self.pool.call(lost.worker, "begin", *again(lost.worker))
                watch.replaced(lost.worker)
            if calls and self._stop.signal_name is not None and not can_end:
                raise Abandoned
        return answers

    def is_starting(self, worker: int) -> bool:
        """Say whether a worker may still be starting.

        Raises
        ------
        WorkerError
            When it cannot, for there is no CPU for it.
        """
        if worker not in self._started:
            return False
        seconds, (total, free) = time.monotonic() - self._started[worker], self.pool.room()
        has_room = total >= len(self.shares)
        if seconds < (max(self._timeout, _START_SECONDS) if has_room else self._timeout):
            return True
        if free < 1:
            raise WorkerError(
                f"worker {worker} has not begun in {seconds:.0f} seconds, for there is no CPU for "
                f"it: workers={len(self.shares)} take one each, and the cluster has {total:g}, of "
                f"which {free:g} are free. Take fewer workers (shares= may stay), end what else "
                "runs there, or raise worker_timeout if the cluster is going to grow"
            )
        return False


class _Watch:
    """Looks after the calls that are under way: who is late, who is dead."""

    def __init__(
        self, crew: Crew, calls: Mapping[int, Any], number: int | None, live: bool
    ) -> None:
        self._crew, self._calls, self._number, self._live = crew, calls, number, live
        self._asked = time.monotonic()
        self._began = dict.fromkeys(calls, self._asked)
        self.beginning: set[int] = set()
        self._fastest: float | None = None
        self._pings: dict[int, Any] = {}
        self._slow: set[int] = set()
        self._halted = False

    def answered(self, worker: int, answer: Any) -> None:
        """Note that an answer has come; from then on nobody should wait for samples."""
        worked = bool(answer) and any(done.n_samples for done in answer.values())
        if worked and self._fastest is None:
            self._fastest = time.monotonic() - self._began[worker]
            for other in self._calls:
                self._hurry(other)

    def replaced(self, worker: int) -> None:
        """Note that another worker begins in the place of this one."""
        self.beginning.add(worker)
        self._pings.pop(worker, None)
        self._slow.discard(worker)

    def begun(self, worker: int) -> None:
        """Note that it has begun, and was asked again."""
        self.beginning.remove(worker)
        self._began[worker] = time.monotonic()
        if self._fastest is not None:
            self._hurry(worker)
        if self._halted:
            self._halt([worker])

    def look(self) -> None:
        """Halt whoever is late, and give up who does not even answer a ping."""
        crew, now = self._crew, time.monotonic()
        if crew._stop.signal_name is not None and not self._halted:
            self._halted = True
            self._halt(self._calls)
        if self._fastest is not None:
            for worker in set(self._calls) - self._slow - self.beginning:
                seconds = now - self._began[worker]
                if seconds > max(_SLOW * self._fastest, _SLOW_SECONDS):
                    self._slow.add(worker)
                    crew._slow.happened(worker=worker, ratio=seconds / self._fastest)
                    self._halt([worker])
        if now - self._asked >= crew._timeout / 2:
            self._asked = now
            self._check_pings()
            self._pings = {worker: crew.pool.tell(worker, "ping") for worker in self._calls}

    def _hurry(self, worker: int) -> None:
        if self._live and self._number is not None:
            self._crew.pool.tell(worker, "hurry", self._number)

    def _halt(self, workers: Sequence[int] | Mapping[int, Any]) -> None:
        if self._number is not None:
            for worker in workers:
                self._crew.pool.tell(worker, "halt", self._number)

    def _check_pings(self) -> None:
        crew = self._crew
        waited_for = {w: ping for w, ping in self._pings.items() if w in self._calls}
        while waited_for:
            answered = crew.pool.wait(waited_for, 0.0)
            for worker in answered:
                crew._started.pop(worker, None)
            late = min(waited_for)
            if not answered and not crew.is_starting(late):
                raise WorkerLost(late, f"no answer in {crew._timeout:g} seconds")
            for worker in answered or [late]:
                del waited_for[worker]
