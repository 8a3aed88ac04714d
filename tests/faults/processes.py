"""Training processes: started, led to a place, killed; and what they should have learned."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import streamfit as sf

sys.path.insert(0, str(Path(__file__).parent))
from worker import endless, models

WORKER = Path(__file__).with_name("worker.py")


def start(state: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(state), *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(worker: subprocess.Popen[str]) -> dict[str, str]:
    """Let the worker end by itself; return what it printed last."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.close()
    printed = worker.stdout.read()
    assert worker.wait(60) == 0
    return dict(line.split(maxsplit=1) for line in printed.splitlines())


def kill_at(worker: subprocess.Popen[str], n_samples: int, rng: random.Random) -> None:
    """Lead the worker, block by block, to `n_samples`; kill -9 a random moment after."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    for line in worker.stdout:
        worker.stdin.write("go\n")
        worker.stdin.flush()
        if int(line.split()[1]) >= n_samples:
            break
    time.sleep(rng.random() * 0.003)
    worker.kill()
    worker.stdout.close()
    assert worker.wait(30) == -signal.SIGKILL


def lead(worker: subprocess.Popen[str], n_samples: int) -> None:
    """Lead a worker to `n_samples`, where it waits for the next word."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    for line in worker.stdout:
        if int(line.split()[1]) >= n_samples:
            return
        worker.stdin.write("go\n")
        worker.stdin.flush()


def saved_model(state: Path, model: str) -> Any:
    with sf.Checkpointer(state) as checkpointer:
        saved = checkpointer.latest()
    assert saved is not None
    restored = models(model)
    restored.load_state_dict(saved.model)
    return restored


def offline_digest(n: int, batch_size: int = 7, flush: bool = False) -> str:
    model = models("logistic", batch_size)
    for x, y in itertools.islice(endless(None), n):
        model.learn_one(x, y)
    if flush:
        model.flush()
    return str(model.digest())
