"""A training process to be killed: prints `samples N` after each block, at last `digest D`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from typing import Any

import streamfit as sf
from connectors import JSONDecoder, KafkaSource


def models(kind: str) -> Any:
    """The models of the crash tests, by name."""
    if kind == "logistic":
        return sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=7, l2=0.001)
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
    parser.add_argument("--led", action="store_true")
    arguments = parser.parse_args()
    source: Any = endless(arguments.pause_after)
    if arguments.topic:
        source = KafkaSource(
            arguments.topic,
            bootstrap_servers=arguments.bootstrap_servers,
            decoder=JSONDecoder(target="y"),
            client=arguments.client,
            stop_at_end=True,
        )
    report = sf.Trainer(
        models(arguments.model),
        source,
        checkpoint=sf.Checkpointer(arguments.state, every_updates=arguments.every_updates),
        on_bad_sample="skip",
        callbacks=[lambda progress: tell(progress, arguments.led)],
    ).run()
    print("bad", report.n_bad, flush=True)
    print("resumed", report.resumed_at, flush=True)
    print("stopped", report.stopped_by, flush=True)
    print("digest", report.digest, flush=True)


if __name__ == "__main__":
    main()
