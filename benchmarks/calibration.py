"""What the cost model is made of, measured here: `python -m benchmarks.calibration`.

Writes `benchmarks/calibration.json`, from which `python -m benchmarks.scale_model` reasons. A
minute on an idle machine; it starts a local Ray with four actors. On a machine that others use too,
call it several times with `--add`: of each number the better one is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import orjson

import streamfit as sf
from benchmarks.data import arrays, dicts, imported, offered
from benchmarks.document import markdown, replace
from streamfit.core.averaging import average_states

__all__ = ["FILE", "Calibration", "load"]

FILE = Path(__file__).with_name("calibration.json")
SMALL, LARGE = 2**10, 2**22
ARRAY = 4_000_000
RATES = ("put", "get", "add", "average", "load", "checkpoint")
FEATURES = 100
WIDE = 1_000_000
HASHED = 40
"""Features of a sparse sample."""


@dataclass(frozen=True)
class Calibration:
    """Seconds, and bytes a second, of one machine.

    Parameters
    ----------
    learn
        Seconds a sample of `FEATURES` numbers in an array.
    learn_json
        Seconds a record of ten features as JSON: parsed, and learned as a dict.
    learn_hashed
        Seconds a sample of `HASHED` hashed features, by bits of the hash, as text.
    call
        Seconds from calling an actor to having its answer.
    call_more
        Seconds by which calls to several take longer for each further actor of this machine.
    round, round_more
        Seconds of a round of `RayTrainer(mode="local")` with one worker that has a sample to learn;
        by which it takes longer for each further worker of this machine.
    round_cpu
        Seconds of the driver's processor for each worker of a round.
    summed, summed_more
        As `round` and `round_more`, of an update of `mode="synchronous"`.
    both
        How many times as long work takes when another process does the same on this machine.
    tail
        Quantiles (0, 0.01, ..., 1) of the time of the same 5000 samples in an actor, in units of
        the median: how much slower than usual a worker is now and then.
    put, get
        Bytes a second into the object store, and out of an actor's answer.
    add
        Bytes a second of `a += b`, counted once.
    average
        Bytes of one state a second that averaging takes for each.
    load
        The same for a state taken out of a learner and put into one.
    update
        Seconds a parameter that an update of a dense model takes.
    checkpoint, checkpoint_call
        Bytes a second (and seconds, however small it is) of writing a checkpoint: encoded, written,
        synchronised, read back.
    """

    learn: float
    learn_json: float
    learn_hashed: dict[str, float]
    call: float
    call_more: float
    round: float
    round_more: float
    round_cpu: float
    summed: float
    summed_more: float
    both: float
    tail: list[float]
    put: float
    get: float
    add: float
    average: float
    load: float
    update: float
    checkpoint: float
    checkpoint_call: float


def load(path: Path = FILE) -> Calibration:
    """Read what was measured."""
    return Calibration(**json.loads(path.read_text()))


def better(a: Calibration, b: Calibration) -> Calibration:
    """Return the shorter times and the larger rates of two measurements."""
    one, other = asdict(a), asdict(b)
    chosen: dict[str, Any] = {}
    for name, value in one.items():
        if name == "learn_hashed":
            chosen[name] = {bits: min(t, other[name][bits]) for bits, t in value.items()}
        elif name == "tail":
            chosen[name] = min(value, other[name], key=sum)
        else:
            chosen[name] = (max if name in RATES else min)(value, other[name])
    return Calibration(**chosen)


def times(work: Callable[[], object], repeats: int) -> list[float]:
    """Return the seconds of calls, the first of which is not counted."""
    work()
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def seconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Return the time of the quickest call: what the machine can, when nothing else runs."""
    return min(times(work, repeats))


# ---- learning


def learning() -> dict[str, Any]:
    """Measure a worker's own work."""
    X, y = arrays(20_000, FEATURES)
    labels = y.astype(np.float64)
    model = sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=32)
    records = [orjson.dumps({**x, "label": bool(late)}) for x, late in dicts(5000, 10)]
    reader = sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=32)

    def learn_records() -> None:
        for record in records:
            x = orjson.loads(record)
            reader.learn_one(x, x.pop("label"))

    hashed = {}
    rng = np.random.default_rng(0)
    for bits in (16, 20, 24):
        rows = [
            dict.fromkeys((f"word{k}" for k in row), 1.0)
            for row in rng.integers(0, 2**bits, size=(3000, HASHED)).tolist()
        ]
        words = sf.LogisticRegression(sf.optim.SGD(0.01), features=sf.HashedFeatures(bits))

        def learn_words(rows: list[Any] = rows, words: Any = words) -> None:
            for x in rows:
                words.learn_one(x, True)

        hashed[str(bits)] = seconds(learn_words, 3) / len(rows)
    wide = sf.LogisticRegression(sf.optim.SGD(0.01))
    row = np.ones(WIDE)
    wide.learn_one(row, True)
    return {
        "learn": seconds(lambda: model.learn_many(X, labels)) / len(y),
        "learn_json": seconds(learn_records) / len(records),
        "learn_hashed": hashed,
        "update": seconds(lambda: wide.learn_one(row, True), 5) / WIDE,
    }


# ---- states


def states() -> dict[str, Any]:
    """Measure what is done with whole models."""
    small, large = _of_states(SMALL), _of_states(LARGE)
    found = {}
    for k, name in enumerate(("average", "load", "checkpoint")):
        found[name] = 8 * (LARGE - SMALL) / (large[k] - small[k])
    return {**found, "checkpoint_call": small[2]}


def _of_states(n: int) -> tuple[float, float, float]:
    """Measure a model of `n` hashed features: averaging a state, moving one, writing one."""
    model = sf.LogisticRegression(features=sf.HashedFeatures(n.bit_length() - 1))
    start = model.state_dict()
    model.learn_one({"word": 1.0}, True)
    four = [model.state_dict()] * 4
    repeats = 50 if n == SMALL else 3
    return (
        seconds(lambda: average_states(model, start, four), repeats) / 4,
        seconds(lambda: model.load_state_dict(model.state_dict()), repeats),
        _checkpoint(model, min(repeats, 10)),
    )


def _checkpoint(model: sf.LogisticRegression, repeats: int) -> float:
    with tempfile.TemporaryDirectory() as folder, sf.Checkpointer(folder) as checkpointer:

        def save() -> None:
            checkpointer.save(sf.Checkpoint(model.state_dict(), model.get_config(), {}, {}))

        return seconds(save, repeats)


# ---- Ray


class Echo:
    """An actor that does next to nothing."""

    def __init__(self) -> None:
        self.model = sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=32)
        X, y = arrays(50_000, FEATURES)  # more than a cache holds, as streams are
        self.samples = X, y.astype(np.float64)

    def nothing(self) -> None:
        """Answer."""

    def learn(self, n: int, repeats: int) -> list[float]:
        """Learn the same `n` samples again and again, and say how long each time took."""
        X, y = (part[:n] for part in self.samples)
        return times(lambda: self.model.learn_many(X, y), repeats)

    def take(self, array: Any) -> float:
        """Look at an array that comes through the object store."""
        return float(array[0] + array[-1])

    def give(self, n: int) -> Any:
        """Return an array through the object store."""
        return np.ones(n)


@contextmanager
def actors(n: int) -> Iterator[tuple[Any, list[Any]]]:
    """Start a local Ray with `n` actors."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = imported("ray")
    ray.init(
        num_cpus=n, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    try:
        kind = ray.remote(Echo)
        made = [kind.remote() for _ in range(n)]
        ray.get([actor.nothing.remote() for actor in made])
        yield ray, made
    finally:
        ray.shutdown()


def calls() -> dict[str, Any]:
    """Measure calls and arrays between processes."""
    with actors(4) as (ray, made):
        first = made[0]
        calls = times(lambda: ray.get(first.nothing.remote()), 1500)
        four = times(lambda: ray.get([actor.nothing.remote() for actor in made]), 500)
        tail = ray.get(first.learn.remote(5000, 1000))
        alone = ray.get(first.learn.remote(50_000, 100))
        at_once = ray.get([one.learn.remote(50_000, 100) for one in made[:2]])
        array = np.ones(ARRAY)
        put = seconds(lambda: ray.put(array))
        one, more, cpu = empty_rounds("local", 1)
        summed, summed_more, _ = empty_rounds("synchronous", 4)
        give = seconds(lambda: ray.get(first.give.remote(ARRAY)).sum())
        summed = seconds(array.sum) + seconds(lambda: np.ones(ARRAY))
    call = median(calls)
    return {
        "call": call,
        "call_more": max(0.0, median(four) - call) / 3,
        "round": one,
        "round_more": more,
        "round_cpu": cpu,
        "summed": summed,
        "summed_more": summed_more,
        "both": max(1.0, float(np.quantile(at_once, 0.25) / np.quantile(alone, 0.25))),
        "tail": (np.quantile(tail, np.linspace(0.0, 1.0, 101)) / median(tail)).round(4).tolist(),
        "put": 8 * ARRAY / put,
        "get": 8 * ARRAY / max(give - call - summed, 1e-9),
    }


def empty_rounds(mode: str, batch_size: int) -> tuple[float, float, float]:
    """Measure rounds of a few samples: of one worker, of each more, of the driver's processor."""
    found = {}
    for workers in (1, 4):
        took = []
        for n in (100, 500):
            X, y = arrays(n * (workers if mode == "local" else batch_size), 4)
            trainer = offered("distributed").RayTrainer(
                sf.LogisticRegression(batch_size=batch_size), sf.ArraySource(X, y),
                workers=workers, mode=mode, sync_every=1 if mode == "local" else None,
            )  # fmt: skip
            began = time.perf_counter(), time.process_time()
            trainer.run()
            took.append((time.perf_counter() - began[0], time.process_time() - began[1]))
        found[workers] = [(more - fewer) / 400 for fewer, more in zip(*took, strict=True)]
    (one, one_cpu), (four, four_cpu) = found[1], found[4]
    return one, max(0.0, four - one) / 3, max(0.0, four_cpu - one_cpu) / 3


def adding() -> dict[str, Any]:
    """Measure the sum of two gradients."""
    a, b = np.ones(ARRAY), np.ones(ARRAY)
    return {"add": 8 * ARRAY / seconds(lambda: np.add(a, b, out=a))}


def measure() -> Calibration:
    """Measure everything."""
    return Calibration(**learning(), **states(), **calls(), **adding())


# ---- the table


def table(c: Calibration) -> str:
    """Return what was measured, for reading."""
    rows = [
        (f"a sample of {FEATURES} numbers, in arrays, learned", f"{1e9 * c.learn:,.0f} ns"),
        ("a record of JSON, 10 features, parsed and learned", f"{1e9 * c.learn_json:,.0f} ns"),
        *(
            (f"a sample of {HASHED} words, hashed to 2^{bits}, learned", f"{1e6 * s:,.1f} µs")
            for bits, s in c.learn_hashed.items()
        ),
        ("an update of a dense model", f"{1e9 * c.update:.2f} ns a parameter"),
        ("an actor called and its answer had", f"{1e6 * c.call:,.0f} µs"),
        ("each further actor called, on the same two cores", f"{1e6 * c.call_more:,.0f} µs"),
        ("a round of RayTrainer with one worker and one sample", f"{1e6 * c.round:,.0f} µs"),
        ("each further worker, on the same two cores", f"{1e6 * c.round_more:,.0f} µs"),
        ("the driver's processor, for each worker of a round", f"{1e6 * c.round_cpu:,.0f} µs"),
        ("an update of mode=\"synchronous\" with one worker", f"{1e6 * c.summed:,.0f} µs"),
        ("each further worker, on the same two cores", f"{1e6 * c.summed_more:,.0f} µs"),
        ("work, when another process does the same", f"{c.both:.2f} times"),
        ("5000 samples, the slowest of 100 times beside the median", f"{c.tail[-2]:.2f} times"),
        ("an array into the object store", f"{c.put / 1e9:.2f} GB/s"),
        ("an array out of an actor's answer", f"{c.get / 1e9:.2f} GB/s"),
        ("two gradients added", f"{c.add / 1e9:.2f} GB/s"),
        ("states averaged, each", f"{c.average / 1e9:.2f} GB/s"),
        ("a state taken out and put in", f"{c.load / 1e9:.2f} GB/s"),
        (
            "a checkpoint written and read back",
            f"{1e3 * c.checkpoint_call:,.1f} ms, {c.checkpoint / 1e9:.2f} GB/s",
        ),
    ]  # fmt: skip
    return markdown(["what", "measured"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--add", action="store_true", help="keep what was better before")
    options = parser.parse_args(arguments)
    found = measure()
    if options.add:
        found = better(load(), found)
    FILE.write_text(json.dumps(asdict(found), indent=1) + "\n")
    text = table(found)
    print(text)
    replace("python -m benchmarks.calibration", "rates", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
