"""Train, `kill -9`, start again, and end with the same bits as offline: what `make demo` runs.

    python examples/demo.py              # through Apache Kafka
    python examples/demo.py --no-kafka   # through a Python iterator

Exit code 0: the stream's model is bitwise the offline one. 1: it is not, or something failed.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from flights import Flight, flights, new_model
from kafka.errors import KafkaError
from kafka_flights import produce
from rich.console import Console
from rich.markup import escape

import streamfit as sf
from streamfit.offline import fit_offline
from streamfit.testing import LocalKafka

ROOT = Path(__file__).parents[1]
SAVE_EVERY = 200  # updates, 6,400 flights

console = Console(highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=100_000, help="flights to learn")
    parser.add_argument("--no-kafka", action="store_true", help="read a Python iterator instead")
    options = parser.parse_args(arguments)

    console.print(
        "[bold]streamfit[/]: which flights out of New York will be late? Logistic regression,\n"
        f"learned from {options.n:,} of them one after the other, in micro-batches of 32."
    )
    samples = list(flights(options.n))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamfit-demo-")))
        command = ["examples/flights.py", "--n", str(options.n)]
        if not options.no_kafka:
            try:
                command = stack.enter_context(filled_topic(samples))
            except (sf.errors.StreamfitError, KafkaError) as error:
                reason = (str(error) or repr(error)).partition("\n")[0]
                console.print(f"\nno broker, so from an iterator: {escape(reason)}")
        stream = train_through_a_kill(command, folder, options.n)
    return conclude(stream, list(flights(options.n)))


@contextmanager
def filled_topic(samples: Sequence[Flight]) -> Iterator[list[str]]:
    """Have a broker with the flights in a topic; hand out the command that trains from it."""
    if missing := LocalKafka.unavailable():
        raise sf.errors.MissingDependencyError(missing)
    with ExitStack() as stack:
        console.print()
        kafka = LocalKafka()
        if not kafka.external:
            with timed("starting Apache Kafka"):
                stack.enter_context(kafka)
        topic = f"flights-{secrets.token_hex(3)}"
        with timed(f"producing {len(samples):,} flights to topic {topic}"):
            kafka.create_topic(topic)
            produce(samples, topic, kafka.bootstrap_servers)
        command = ["examples/kafka_flights.py", "train", "--topic", topic]
        command += ["--client", "confluent-kafka"]
        try:
            yield [*command, "--servers", kafka.bootstrap_servers, "--stop-at-end"]
        finally:
            if kafka.external:
                kafka.delete_topic(topic)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print what is being done and how long it took."""
    console.print(f"{what} ... ", end="")
    began = time.monotonic()
    try:
        yield
    except BaseException:
        console.print("failed")
        raise
    console.print(f"{time.monotonic() - began:.1f} s")


def train_through_a_kill(command: list[str], folder: Path, n: int) -> dict[str, Any]:
    """Run a training command, kill it half way, run it again to its end; return its report."""
    state, report = folder / "state", folder / "report.json"
    shown = on_a_terminal(f"python {shlex.join(command)} --state {state}")
    console.print(f"\n{shown}")
    command = [sys.executable, *command, "--state", str(state), "--report", str(report)]
    command += ["--save-every", str(SAVE_EVERY), "--print-every", str(n // 25)]

    reached = 0
    with running(command) as worker:
        for reached in counts(worker):
            # Half way, and if it can be while the checkpoint lags behind: then work is redone.
            if (reached >= n / 2 and 0 < checkpointed(state) < reached) or reached >= n * 3 / 4:
                worker.kill()
                break
        if worker.wait() != -signal.SIGKILL:
            raise SystemExit(f"the training ended too early, with exit code {worker.returncode}")
    kept = checkpointed(state)
    console.print(
        f"\n[bold red]$ kill -9 {worker.pid}[/]\n"
        f"killed at {max(reached, kept):,} samples; the last checkpoint holds {kept:,}\n\n"
        f"{shown}"
    )
    with running(command) as worker:
        for _ in counts(worker):
            pass
        if worker.wait():
            raise SystemExit(f"the training failed with exit code {worker.returncode}")
    return {"killed_at": max(reached, kept), **json.loads(report.read_text())}


def on_a_terminal(command: str) -> str:
    """Break a command over several lines, each option kept together with its value."""
    glued = re.sub(r"(--\S+) (?!-)", "\\1\0", command)
    parts = wrap(f"$ {glued}", 80, subsequent_indent="      ", break_on_hyphens=False)
    return "[bold]" + escape(" \\\n".join(parts).replace("\0", " ")) + "[/]"


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command that does not outlive the context."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def counts(worker: subprocess.Popen[str]) -> Iterator[int]:
    """Show what a worker prints, and hand out the counts of samples at the start of its lines."""
    assert worker.stdout is not None
    for line in worker.stdout:
        console.print(escape(line), end="")
        count = line.split()[0].replace(",", "") if line.strip() else ""
        if count.isdecimal():
            yield int(count)


def checkpointed(state: Path) -> int:
    """Count the samples in the newest checkpoint; reading it disturbs nobody."""
    saved = sf.Checkpointer(state).latest()
    return 0 if saved is None else int(saved.model["n_samples"])


def conclude(stream: dict[str, Any], samples: Sequence[Flight]) -> int:
    """Compare a stream's report with the offline fit of the samples, and print the table."""
    X, y = [x for x, _ in samples], [late for _, late in samples]
    offline = fit_offline(new_model(), X, y, kernel="compiled")
    textbook = fit_offline(new_model(), X, y, kernel="numpy")
    equal = stream["digest"] == offline.digest
    difference = np.abs(offline.parameters - textbook.parameters).max()

    console.print()
    for name, value in (
        ("samples", f"{stream['n_samples']:,}"),
        ("updates", f"{stream['n_updates']:,}"),
        ("resumed at", f"{stream['resumed_at'] or 0:,} (killed at {stream['killed_at']:,})"),
        ("progressive log loss", f"{stream['progressive_loss']:.6f}"),
        ("throughput", f"{stream['samples_per_second']:,.0f} samples/s"),
        ("stream digest", stream["digest"]),
        ("offline digest", offline.digest),
        ("textbook NumPy loop", f"largest difference of a weight {difference:.1e}"),
    ):
        console.print(f"{name:<22}{value}")
    console.print(f"[bold {'green' if equal else 'red'}]equal: {'yes' if equal else 'no'}[/]")
    return 0 if equal else 1


def stop(*_: object) -> None:
    """End as after Ctrl-C, so that the worker and the broker are stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nstopped")
