"""`streamfit demo`: the command line shown at work, a `kill -9` included."""

from __future__ import annotations

import importlib.resources
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager
from pathlib import Path
from typing import Annotated, Any

from streamfit.cli.app import Exit, Option, command

__all__ = ["demo"]

_DATA = "shuttle.csv.gz"
_N = 49_097
_READINGS = "f1,f2,f3,f4,f5,f6,f7,f8,f9\n50,21,77,0,28,0,27,48,22\n53,0,82,0,52,-5,29,30,2\n"
_KILL_AT = 0.3  # of all samples


@command(epilog="Exit code 0: the model is bit for bit that of offline training; 1: it is not.")
def demo(
    samples: Annotated[
        int, Option(metavar="N", min=20_000, max=_N, help="How many to learn.")
    ] = _N,
) -> None:
    """Show what this is: train, kill -9, go on, prove, look inside, predict.

    The data are sensor readings of a space shuttle, some of them anomalies, which come with River.
    Nothing is downloaded, and all files are in a temporary directory.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="streamfit-demo-")))
        packed = importlib.resources.files("river.datasets") / _DATA
        (folder / _DATA).write_bytes(packed.read_bytes())
        (folder / "readings.csv").write_text(_READINGS)
        stack.enter_context(chdir(folder))
        train = ["train", _DATA, "--target", "anomaly", "--scaler", "standard"]
        train += ["--batch-size", "32", "--optimizer", "adam", "--lr", "0.01"]
        train += ["--checkpoint", "state", "--every-updates", "50"]
        if samples < _N:
            train += ["--max-samples", str(samples)]
        print(f"{samples:,} readings of a space shuttle: which are anomalies?\n")
        _train_until_killed(train, int(samples * _KILL_AT))
        _train_to_the_end(train)
        equal = _shown("verify", "state") == 0
        _shown("inspect", "state", "--top", "5")
        _shown("predict", "state", "readings.csv")
    raise Exit(0 if equal else 1)


def _train_until_killed(train: list[str], kill_at: int) -> None:
    with _training(train) as (worker, lines):
        for line in lines:
            if line["n_samples"] >= kill_at and line["event"] != "finished":
                worker.kill()
                print(f"\n$ kill -9 {worker.pid}\n", flush=True)
                return
    raise SystemExit("the training ended before it could be killed")


def _train_to_the_end(train: list[str]) -> None:
    with _training(train) as (worker, lines):
        told = list(lines)
        if worker.wait():
            raise SystemExit(f"the training failed with exit code {worker.returncode}")
    last = told[-1]
    print(f"resumed at {last['resumed_at']:,}, ended at {last['n_samples']:,}: each learned once\n")


@contextmanager
def _training(
    train: list[str],
) -> Iterator[tuple[subprocess.Popen[str], Iterator[dict[str, Any]]]]:
    """Run the training and hand out its JSON lines; it does not outlive the context."""
    print(f"$ streamfit {shlex.join(train)}", flush=True)
    command_line = [sys.executable, "-m", "streamfit", *train, "--json", "--every", "0.05"]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, text=True) as worker:
        try:
            yield worker, _told(worker)
        finally:
            worker.kill()


def _told(worker: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert worker.stdout is not None
    print(f"{'samples':>10}{'updates':>10}{'log loss':>12}")
    for text in worker.stdout:
        line = json.loads(text)
        counts = f"{line['n_samples']:>10,}{line['n_updates']:>10,}"
        print(f"{counts}{line['progressive_loss']:>12.4f}", flush=True)
        yield line


def _shown(*arguments: str) -> int:
    """Run a command whose output is shown as it is; return its exit code."""
    print(f"$ streamfit {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "streamfit", *arguments], check=False)
    print(flush=True)
    return done.returncode
