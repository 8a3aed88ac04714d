"""Trainings as people write them, and what happens to them: kills, signals, files that change."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamfit as sf
from connectors import CSVSource
from streamfit.distributed import RayTrainer, ShareTrainer
from streamfit.errors import BadSampleError, CheckpointMismatchError, SourceError

sys.path.insert(0, str(Path(__file__).parent))
import folder as pipeline
from watched import Watched

LOCAL: dict[str, Any] = {"mode": "local", "sync_every": 5}
MODES: list[dict[str, Any]] = [LOCAL, {"mode": "synchronous"}]
EACH_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))

NIGHTLY = pytest.mark.skipif(
    os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="takes a while: nightly"
)


# ---- killed


@pytest.mark.parametrize(
    ("mode", "kills"),
    [
        ("local", 2),
        pytest.param("local", 8, marks=NIGHTLY),
        pytest.param("synchronous", 8, marks=NIGHTLY),
    ],
)
def test_a_driver_killed_at_any_moment_goes_on(
    ray: Any, mode: str, kills: int, tmp_path: Path
) -> None:
    files, state = tmp_path / "files", tmp_path / "state"
    pipeline.write(files)
    state.mkdir()
    arguments = [ray.get_runtime_context().gcs_address, str(files), str(state), mode]
    seed = random.randrange(2**32)
    print(f"{seed=}")
    rng = random.Random(seed)
    n_seen = 0
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("folder.py")), *arguments],
            stdout=subprocess.PIPE,
            text=True,
        ) as driver:
            assert driver.stdout is not None
            if rng.random() < 0.2:
                time.sleep(rng.uniform(0, 4))  # before anything is learned, mostly
            else:
                until = n_seen + rng.randrange(1, 900)
                for line in driver.stdout:
                    n_seen = int(line)
                    if n_seen >= until:
                        break
                time.sleep(rng.uniform(0, 0.05))
            driver.kill()
    straight = pipeline.train(ShareTrainer, files, mode, workers=1, on_bad_sample="skip")
    resumed = pipeline.train(
        *(RayTrainer, files, mode),
        workers=1,
        checkpoint=sf.Checkpointer(state),
        on_bad_sample=sf.DeadLetters(path=state / "letters.jsonl"),
    )
    assert resumed.digest == straight.digest
    assert (resumed.n_samples, resumed.n_bad) == (straight.n_samples, straight.n_bad)
    assert resumed.position == straight.position
    n_bad = sum(len(range(i, pipeline.N_ROWS, pipeline.EVERY_BAD)) for i in range(3))
    assert resumed.n_bad == n_bad
    letters = [json.loads(line) for line in (state / "letters.jsonl").read_text().splitlines()]
    places = {(letter["partition"], letter["offset"]) for letter in letters}
    assert len(places) == n_bad  # none is missing; what was sent before a kill may be there twice
    sources = [CSVSource(path, target="late") for path in sorted(files.glob("*.csv"))]
    verified = sf.journal.verify(state, sources)
    assert verified.equal, verified


def slow(n: int, seconds: float) -> Callable[[], Iterator[Any]]:
    def samples() -> Iterator[Any]:
        for i in range(n):
            time.sleep(seconds)
            yield {"x": i % 7 / 7, "y": i % 5 / 5}, i % 3 == 0

    return samples


@EACH_MODE
def test_sigterm_does_not_wait_for_the_end_of_a_round(
    ray: Any, mode: dict[str, Any], tmp_path: Path
) -> None:
    size = 10
    if mode is LOCAL:
        mode = {**mode, "sync_every": 50}
    else:
        size = 500

    def trainer(kind: type[ShareTrainer], seconds: float) -> ShareTrainer:
        return kind(
            sf.LogisticRegression(batch_size=size),
            [sf.IterableSource(slow(2000, seconds)) for _ in range(2)],
            workers=2,
            checkpoint=sf.Checkpointer(tmp_path),
            **mode,
        )

    done: list[float] = []

    def stop() -> None:
        done.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(6.0, stop)
    timer.start()
    report = trainer(RayTrainer, 0.05).run()
    assert report.stopped_by == "SIGTERM"
    assert time.monotonic() - done[0] < 3  # a round takes 25 seconds, a micro-batch 12
    resumed = trainer(ShareTrainer, 0.0).run()
    assert resumed.n_samples == 4000


# ---- dead letters, metrics, the page


def with_some_locks() -> Iterator[Any]:
    for i in range(200):
        yield {"x": threading.Lock() if i % 50 == 7 else i % 7 / 7}, i % 3 == 0


@EACH_MODE
def test_a_bad_sample_that_cannot_be_sent_is_a_bad_sample(
    ray: Any, mode: dict[str, Any], tmp_path: Path
) -> None:
    def trainer(**options: Any) -> RayTrainer:
        source = [sf.IterableSource(with_some_locks)]
        return RayTrainer(sf.LogisticRegression(), source, workers=1, **mode, **options)

    with pytest.raises(BadSampleError, match="feature 'x'.*offset 7"):
        trainer().run()
    letters = tmp_path / "letters.jsonl"
    report = trainer(on_bad_sample=sf.DeadLetters(path=letters)).run()
    assert (report.n_samples, report.n_bad) == (196, 4)
    told = [json.loads(line) for line in letters.read_text().splitlines()]
    assert [letter["offset"] for letter in told] == [7, 57, 107, 157]
    assert all(re.match(r"\({'x': <unlocked _thread.lock.*>}, ", one["sample"]) for one in told)


@EACH_MODE
def test_dead_letters_are_those_of_one_process(mode: dict[str, Any], tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(300, 300))  # a row is longer than a letter
    X[::70, 1] = np.nan
    words = [({"x" * 2000 if i % 9 == 2 else "a": "b" if i % 9 < 3 else 1.0}, 1) for i in range(50)]

    def train(kind: type[sf.Trainer], source: Any, **options: Any) -> list[Any]:
        path = tmp_path / f"{kind.__name__}.jsonl"
        path.unlink(missing_ok=True)
        letters = sf.DeadLetters(path=path)
        kind(sf.LogisticRegression(), source, on_bad_sample=letters, **options).run()
        found = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(found) > 4
        return [{**letter, "time": None} for letter in found]

    for source in (
        lambda: sf.ArraySource(X, X[:, 0] > 0),
        lambda: sf.IterableSource(words),
    ):
        options: dict[str, Any] = {"workers": 1, **mode}
        one = source() if isinstance(source(), sf.ArraySource) else [source()]
        assert train(ShareTrainer, one, **options) == train(sf.Trainer, source())


@EACH_MODE
def test_the_page_of_actors_shows_what_they_learn(ray: Any, mode: dict[str, Any]) -> None:
    monitor = sf.WebMonitor("127.0.0.1:0", every_seconds=0.01)
    told: list[dict[str, float]] = []

    def look(progress: sf.Progress) -> None:
        if told and told[-1]["streamfit_samples_total"]:
            return
        with urllib.request.urlopen(monitor.url + "metrics") as answer:
            page = answer.read().decode()
        told.append({k: float(v) for k, v in re.findall(r"^(\w+) ([\d.]+)$", page, re.M)})
        time.sleep(0.1)  # what took long to publish is not published again at once

    X = np.random.default_rng(0).normal(size=(3000, 3))
    X[::500] = np.nan
    RayTrainer(
        *(sf.LogisticRegression(batch_size=8), sf.ArraySource(X, X[:, 0] > 0)),
        workers=2,
        monitor=monitor,
        on_bad_sample="skip",
        callbacks=[look],
        epochs=4,
        **mode,
    ).run()
    counts = [page["streamfit_samples_total"] for page in told]
    assert counts[:-1] == [0.0] * (len(counts) - 1)
    assert 0 < counts[-1] <= 4 * 2994


# ---- files that change between two runs


def csv(path: Path, first: int, n: int) -> None:
    """Write or lengthen a file."""
    is_new = not path.exists()
    with path.open("a") as file:
        if is_new:
            file.write("a,b,late\n")
        for i in range(first, first + n):
            file.write(f"{i % 7 / 7},{i % 5 / 5},{int(i % 3 == 0)}\n")


def from_files(paths: list[Path], state: Path, mode: dict[str, Any]) -> sf.TrainingReport:
    sources = [CSVSource(path, target="late") for path in paths]
    model = sf.LogisticRegression(batch_size=4)
    checkpoint = sf.Checkpointer(state)
    return ShareTrainer(model, sources, workers=2, shares=2, checkpoint=checkpoint, **mode).run()


@EACH_MODE
def test_files_that_have_grown_are_read_on(mode: dict[str, Any], tmp_path: Path) -> None:
    paths, state = [tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "state"
    for round_ in range(3):
        csv(paths[0], 50 * round_, 50)
        csv(paths[1], 20 * round_, 20)
        report = from_files(paths, state, mode)
        assert report.n_samples == 70 * (round_ + 1)
        assert report.position == {"a.csv:0": 50 * (round_ + 1), "b.csv:1": 20 * (round_ + 1)}
        verified = sf.journal.verify(state, [CSVSource(path, target="late") for path in paths])
        assert verified.equal, verified


@EACH_MODE
def test_files_that_have_shrunk_or_gone_are_told_of(mode: dict[str, Any], tmp_path: Path) -> None:
    paths, state = [tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "state"
    for path in paths:
        csv(path, 0, 50)
    before = from_files(paths, state, mode)
    paths[0].write_text("a,b,late\n0.5,0.5,1\n")
    with pytest.raises(SourceError, match=r"a\.csv"):
        from_files(paths, state, mode)
    csv(tmp_path / "c.csv", 0, 50)
    with pytest.raises((SourceError, CheckpointMismatchError), match=r"a\.csv"):
        from_files([tmp_path / "c.csv", paths[1]], state, mode)
    paths[0].unlink()
    with pytest.raises(SourceError, match=r"a\.csv"):
        from_files(paths, state, mode)
    csv(paths[0], 0, 50)
    assert from_files(paths, state, mode).digest == before.digest


# ---- schedules


@EACH_MODE
def test_schedules_go_on_with_actors_and_after_a_resume(
    ray: Any, mode: dict[str, Any], tmp_path: Path
) -> None:
    X = np.random.default_rng(0).normal(size=(3000, 3))

    def train(kind: type[ShareTrainer], **options: Any) -> sf.TrainingReport:
        model = sf.LogisticRegression(
            sf.optim.Adam(sf.schedules.CosineWarmup(0.1, warmup=20, total=200, minimum=0.001)),
            batch_size=sf.schedules.MilestoneBatchSize(3, [(15, 9), (60, 24)]),
        )
        source = sf.ArraySource(X, X[:, 0] > 0.2)
        return kind(model, source, shares=3, **mode, **options).run()

    straight = train(ShareTrainer, workers=3)
    assert train(RayTrainer, workers=2).digest == straight.digest
    for workers, n in ((1, 500), (3, None)):
        checkpoint = sf.Checkpointer(tmp_path)
        resumed = train(ShareTrainer, workers=workers, max_samples=n, checkpoint=checkpoint)
    assert resumed.n_samples == straight.n_samples
    verified = sf.journal.verify(tmp_path, sf.ArraySource(X, X[:, 0] > 0.2))
    assert verified.equal, verified


def test_batches_that_follow_the_noise_are_replayed(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(4000, 3))
    model = sf.LogisticRegression(
        batch_size=sf.schedules.NoiseScaleBatchSize(minimum=2, maximum=64, every=10)
    )
    source = sf.ArraySource(X, X[:, 0] > 0.2)
    checkpoint = sf.Checkpointer(tmp_path)
    options: dict[str, Any] = {"mode": "local", "sync_every": 8, "checkpoint": checkpoint}
    report = ShareTrainer(model, source, workers=3, **options).run()
    assert report.n_samples == 4000
    verified = sf.journal.verify(tmp_path, sf.ArraySource(X, X[:, 0] > 0.2))
    assert verified.equal, verified


# ---- memory


def resident(process: int) -> int:
    """Return the memory of a process in bytes."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


@NIGHTLY
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@EACH_MODE
def test_memory_does_not_grow_with_the_rounds(ray: Any, mode: dict[str, Any]) -> None:
    n_rows, n_features, epochs = 400, 2000, 22  # what is shared counts when it is read first
    told: list[dict[int, int]] = []
    rounds = Counter[str]()

    def look(progress: sf.Progress) -> None:
        rounds["n"] += 1
        if rounds["n"] % 200 == 0:
            told.append({w: resident(p) for w, p in {**trainer.processes, -1: os.getpid()}.items()})

    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, n_features))
    options = {**mode, "sync_every": 1} if "sync_every" in mode else mode
    trainer = Watched(
        *(sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=2), sf.ArraySource(X, X[:, 0] > 0)),
        workers=2,
        callbacks=[look],
        on_bad_sample="skip",
        epochs=epochs,
        **options,
    )
    trainer.run()
    assert rounds["n"] >= 2000
    leak = 8 * n_features * rounds["n"] / 2**20  # if only the weights of each round stayed
    for worker in told[0]:
        sizes = [sizes[worker] / 2**20 for sizes in told]
        print(worker, [f"{size:.1f}" for size in sizes])
        assert sizes[-1] - sizes[1] < leak / 4, (worker, leak, sizes)
