"""All that touches Ray: workers as actors, and a local Ray for who has none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from streamfit.distributed._messages import Settings
from streamfit.distributed._workers import Worker, WorkerLost
from streamfit.errors import ConfigurationError, MissingDependencyError, StreamfitError

try:
    import ray
    from ray._private import ray_constants
except ImportError as error:
    raise MissingDependencyError(
        'RayTrainer needs a package that is not installed: pip install "streamfit[ray]"'
    ) from error

__all__ = ["RayPool", "session"]

_SMALL = 1 << 16  # bytes; the object store takes milliseconds, an argument does not


@contextmanager
def session(workers: int) -> Iterator[None]:
    """Make sure that there is a Ray: start a local one, and end it, unless there is one already.

    Parameters
    ----------
    workers
        CPUs that a local one needs, by Ray's counting.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with _on_loopback():
        ray.init(
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that is started here listen on 127.0.0.1 alone, unless the user has said more.

    Ray has only this variable for it, and has read it already when somebody imported it before us.
    """
    if os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0") != "0":
        yield
        return
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


class _Actor(Worker):
    """A worker that hears while it works."""

    hurry = ray.method(concurrency_group="control")(Worker.hurry)
    halt = ray.method(concurrency_group="control")(Worker.halt)
    ping = ray.method(concurrency_group="control")(Worker.ping)

    def process(self) -> int:
        """Return the number of the process."""
        return os.getpid()


class RayPool:
    """Workers that are actors, each of which takes one of the cluster's CPUs.

    Parameters
    ----------
    settings
        How shares learn.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = self.put(settings)
        self._actor = ray.remote(num_cpus=1, max_restarts=0, concurrency_groups={"control": 1})(
            _Actor
        )
        self.actors: dict[int, Any] = {}

    def start(self, worker: int) -> None:
        """Ask Ray for an actor; it is made when a CPU is free."""
        self.actors[worker] = self._actor.remote(self._settings)

    def put(self, value: Any, size: int | None = None) -> Any:
        """Put a value into the object store, once for all workers of a machine, if it is large.

        Raises
        ------
        ConfigurationError
            When it cannot be sent to another process.
        """
        if size is not None and size <= _SMALL:
            return value
        try:
            return ray.put(value)
        except TypeError as error:
            raise ConfigurationError(
                f"{value!r:.80} cannot be sent to a worker: {error}; of an iterable, pass the "
                "function that makes it"
            ) from error

    def call(self, worker: int, method: str, *arguments: Any) -> Any:
        """Call a method of an actor."""
        return getattr(self.actors[worker], method).remote(*arguments)

    tell = call

    def wait(self, calls: Mapping[int, Any], seconds: float) -> dict[int, Any]:
        """Wait for an answer."""
        workers = {ref: worker for worker, ref in calls.items()}
        ready, _ = ray.wait(list(workers), num_returns=1, timeout=seconds)
        answers = {}
        for ref in ready:
            try:
                answers[workers[ref]] = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from None
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                reason = str(error).partition("\n")[0]
                raise WorkerLost(workers[ref], reason) from None
        return answers

    def stop(self, worker: int) -> None:
        """Kill an actor."""
        if worker in self.actors:
            with suppress(ray.exceptions.RayError):
                ray.kill(self.actors.pop(worker))

    def close(self) -> None:
        """Kill all actors."""
        for worker in list(self.actors):
            self.stop(worker)


def _cause(error: Any) -> Exception:
    """Return what was raised in the worker, as it was raised there if it is one of ours."""
    cause = error.cause
    if isinstance(cause, StreamfitError):
        return cause
    found: Exception = error.as_instanceof_cause()
    return found
