"""A training process to be killed: prints `samples N` after each block, at last `digest D`."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import streamfit as sf
from connectors import JSONDecoder, KafkaSource


def models(kind: str, batch_size: int = 7) -> Any:
    """The models of the crash tests, by name."""
    if kind == "logistic":
        return sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=batch_size, l2=0.001)
    # One feature a record, learned at rate 1/2 from 0 towards 1: the weight says how often the
    # record counted (once: 1/2; twice: 3/4 in two micro-batches, 1 in one).
    return sf.LinearRegression(
        sf.optim.SGD(0.5),
        loss=sf.losses.HalfSquared(),
        batch_size=7,
        reduction="sum",
        fit_intercept=False,
    )


def endless(pause_after: int | None) -> Iterator[tuple[dict[str, float], bool]]:
    """Yield samples for ever, or fall silent after some."""
    i = 0
    while pause_after is None or i < pause_after:
        yield {"a": (i % 17) / 17, "b": (i % 5) / 5}, i % 3 == 0
        i += 1
    while True:
        time.sleep(3600)


def growing() -> Iterator[tuple[dict[str, float], bool]]:
    """Yield samples whose features nobody has seen before, until the memory ends."""
    i = 0
    while True:
        yield {f"{i}-{k}": 1.0 for k in range(100)}, i % 3 == 0
        i += 1


def die_before(module: str, name: str, call: str) -> None:
    """Make this process kill itself before the n-th call of a function."""
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, last)
    left = [int(call)]

    def deadly(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, last, deadly)


def tell(progress: sf.Progress, led: bool) -> None:
    """Say how far the training is; when led, wait for a word (or the end of the input)."""
    print("samples", progress.n_samples, flush=True)
    if led:
        sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("state")
    parser.add_argument("--model", default="logistic")
    parser.add_argument("--bootstrap-servers")
    parser.add_argument("--topic")
    parser.add_argument("--client")
    parser.add_argument("--every-updates", type=int)
    parser.add_argument("--pause-after", type=int)
    parser.add_argument("--every-seconds", type=float)
    parser.add_argument("--batch-size", type=int, default=7)
    parser.add_argument("--letters", help="dead-letter topic")
    parser.add_argument("--group-id")
    parser.add_argument("--die", help="kill -9 this process before call N: module:name:N")
    parser.add_argument("--growing", action="store_true", help="new features for ever")
    parser.add_argument("--max-mb", type=int, help="limit of the address space above the present")
    parser.add_argument("--led", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    if arguments.die:
        die_before(*arguments.die.split(":"))
    if arguments.max_mb:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + arguments.max_mb * 2**20,) * 2)
    source: Any = growing() if arguments.growing else endless(arguments.pause_after)
    if arguments.topic:
        source = KafkaSource(
            arguments.topic,
            bootstrap_servers=arguments.bootstrap_servers,
            decoder=JSONDecoder(target="y"),
            client=arguments.client,
            stop_at_end=True,
            group_id=arguments.group_id,
        )
    with sf.exit_codes():
        train(arguments, source)


def train(arguments: argparse.Namespace, source: Any) -> None:
    report = sf.Trainer(
        models(arguments.model, arguments.batch_size),
        source,
        checkpoint=sf.Checkpointer(
            arguments.state,
            every_seconds=arguments.every_seconds,
            every_updates=arguments.every_updates,
        ),
        on_bad_sample=sf.DeadLetters(arguments.letters) if arguments.letters else "skip",
        callbacks=[lambda progress: tell(progress, arguments.led)],
    ).run()
    print("bad", report.n_bad, flush=True)
    print("resumed", report.resumed_at, flush=True)
    print("stopped", report.stopped_by, flush=True)
    print("digest", report.digest, flush=True)


if __name__ == "__main__":
    main()
