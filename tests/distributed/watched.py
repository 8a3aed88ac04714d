"""A `RayTrainer` that tells what its workers do, and which processes they are: to kill them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from streamfit.distributed import RayTrainer


class Watched(RayTrainer):
    """Tells a function of each call of workers and of each answer, and whose process is whose."""

    n_started = 0
    hook: Callable[[str, dict[int, int]], None] = staticmethod(lambda happened, processes: None)

    def open_pool(self, settings: Any) -> Any:
        import ray

        pool = super().open_pool(settings)
        call, wait, start, hook = pool.call, pool.wait, pool.start, self.hook
        processes: dict[int, int] = {}

        def watched_start(worker: int) -> None:
            start(worker)
            self.n_started += 1
            processes[worker] = ray.get(pool.actors[worker].process.remote())

        def watched_call(worker: int, method: str, *arguments: Any) -> Any:
            reference = call(worker, method, *arguments)
            hook(f"asked {method}", processes)
            return reference

        def watched_wait(calls: Any, seconds: float) -> Any:
            answers = wait(calls, seconds)
            if answers:
                hook("answered", processes)
            return answers

        pool.start, pool.call, pool.wait = watched_start, watched_call, watched_wait
        self.processes = processes
        return pool


def once(name: str, number: int, what: int) -> Callable[[str, dict[int, int]], None]:
    """Send worker 1 a signal when something happens for the `number`-th time."""
    left = [number]

    def hook(happened: str, processes: dict[int, int]) -> None:
        left[0] -= happened == name
        if left[0] == 0:
            left[0] = -1
            os.kill(processes[1], what)

    return hook
