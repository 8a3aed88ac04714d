"""All that touches Ray: workers as actors, and a local Ray for who has none."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from streamfit.distributed._messages import Settings
from streamfit.distributed._sendable import why_not_sendable
from streamfit.distributed._workers import Worker, WorkerLost
from streamfit.errors import (
    ConfigurationError,
    MissingDependencyError,
    StreamfitError,
    WorkerError,
)
from streamfit.events import event

try:
    import ray
    from ray._private import ray_constants
except ImportError as error:
    raise MissingDependencyError(
        'RayTrainer needs a package that is not installed: pip install "streamfit[ray]"'
    ) from error

__all__ = ["RayPool", "session"]

_log = logging.getLogger(__name__)

_SMALL = 1 << 16  # bytes; the object store takes milliseconds, an argument does not


@contextmanager
def session(workers: int) -> Iterator[None]:
    """Make sure that there is a Ray, unless there is one already, and end then what was begun.

    Parameters
    ----------
    workers
        CPUs that a local one needs, by Ray's counting.

    Raises
    ------
    WorkerError
        When there is none to be had.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        _log.info(event("starting_ray", cpus=workers))  # which takes from seconds to a minute
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with _on_loopback() if address == "local" else nullcontext():
        try:
            with _signals_kept():
                if address == "local":
                    ray.init("local", num_cpus=workers, include_dashboard=False, **quiet)
                else:
                    ray.init(address, **quiet)
        except Exception as error:  # Ray has no error of its own for it
            ray.shutdown()
            raise WorkerError(_no_ray(address, error)) from error
        try:
            yield
        finally:
            with _signals_kept():
                ray.shutdown()


def _no_ray(address: str, error: Exception) -> str:
    reason = _first_line(error)
    if address == "local":
        return (
            f"no local Ray could be started ({reason}): if the machine is busy, it may have taken "
            "too long, so start again; look whether there is room on the disk, in /tmp and in "
            "/dev/shm, or call ray.init yourself before"
        )
    return (
        f"the cluster of RAY_ADDRESS={address!r} cannot be connected to ({reason}): correct it; "
        "or unset it, and a Ray is started here"
    )


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back the handlers of signals, for Ray installs one for SIGTERM and leaves it there."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where nobody can install one
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None:  # None: not installed from Python
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that is started here listen on 127.0.0.1 alone, unless the user has said more.

    Ray has only this variable for it, and has read it already when somebody imported it before us.
    Nor does it tell anybody how it is used.
    """
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(missing)
    before = ray_constants.ENABLE_RAY_CLUSTER
    if os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0":
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        for name in missing:
            os.environ.pop(name, None)


class _Actor(Worker):
    """A worker that hears while it works."""

    hurry = ray.method(concurrency_group="control")(Worker.hurry)
    halt = ray.method(concurrency_group="control")(Worker.halt)
    abandon = ray.method(concurrency_group="control")(Worker.abandon)
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

    def room(self) -> tuple[float, float]:
        """Count the cluster's CPUs: in all, and those that are free."""
        total, free = ray.cluster_resources(), ray.available_resources()
        return total.get("CPU", 0.0), free.get("CPU", 0.0)

    def put(self, value: Any, size: int | None = None) -> Any:
        """Put a value into the object store, once for all workers of a machine, if it is large.

        Raises
        ------
        ConfigurationError
            When it cannot be sent to another process.
        WorkerError
            When Ray has no room for it.
        """
        if size is not None and size <= _SMALL:
            return value
        try:
            return ray.put(value)
        except ray.exceptions.RayError as error:
            raise WorkerError(
                f"Ray cannot take in the {type(value).__name__} that workers need "
                f"({_first_line(error)}): give it a larger object store, "
                "ray.init(object_store_memory=...)"
            ) from error
        except Exception:  # whatever pickling a user's object raises
            name = "model" if isinstance(value, Settings) else "source"
            told = why_not_sendable(name, value, ray.cloudpickle.dumps)
            raise ConfigurationError(told) from None

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
                if getattr(error, "actor_init_failed", False):
                    raise WorkerError(_no_worker(error)) from None
                raise WorkerLost(workers[ref], _first_line(error)) from None
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
    if isinstance(cause, ray.exceptions.RaySystemError):  # what it was sent cannot be unpickled
        return WorkerError(_no_worker(cause))
    found: Exception = error.as_instanceof_cause()
    return found


def _no_worker(error: Exception) -> str:
    return (
        f"workers cannot begin: {str(error).strip().splitlines()[-1]:.200}. They need the packages "
        "and modules that the driver has: install them everywhere, or send them along, "
        "ray.init(runtime_env=...)"
    )


def _first_line(error: Exception) -> str:
    """Return what an error says, without the report that Ray adds."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
