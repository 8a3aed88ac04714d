"""Checkpoints, journals and lost workers: what is learned in shares is learned once."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamfit as sf
from connectors import CSVSource
from streamfit.distributed import ShareTrainer
from streamfit.distributed._workers import Here, WorkerLost
from streamfit.errors import CheckpointMismatchError, TooManyBadSamplesError, WorkerError

LOCAL: dict[str, Any] = {"mode": "local", "sync_every": 3}
MODES: list[dict[str, Any]] = [LOCAL, {"mode": "synchronous"}]


def rows(n: int, seed: int = 0) -> tuple[Any, Any]:
    X = np.random.default_rng(seed).normal(size=(n, 5))
    return X, X @ np.arange(5.0) > 0.3


def sources(n: int = 3) -> list[sf.ArraySource]:
    return [sf.ArraySource(*rows(100 + 37 * i, seed=i)) for i in range(n)]


def model(**options: Any) -> sf.LogisticRegression:
    return sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=8, l2=0.01, **options)


class Failing(Here):
    """Workers that are lost now and then, before or after they have done what was asked."""

    def __init__(self, settings: Any, every: int) -> None:
        super().__init__(settings)
        self._n = itertools.count(1)
        self._every = every

    def wait(self, calls: Any, seconds: float) -> dict[int, Any]:
        n = next(self._n)
        answers = super().wait(calls, seconds) if n % 2 else {}
        if n % self._every == 0:
            worker = next(iter(calls))
            self.stop(worker)
            raise WorkerLost(worker, "killed by the test")
        return answers or super().wait(calls, seconds)


class FailingTrainer(ShareTrainer):
    every = 17

    def open_pool(self, settings: Any) -> Any:
        return Failing(settings, self.every)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))
def test_lost_workers_change_nothing(mode: dict[str, Any]) -> None:
    straight = ShareTrainer(model(), sources(), workers=3, epochs=2, **mode).run()
    failing = FailingTrainer(
        model(), sources(), workers=3, epochs=2, max_restarts=1000, **mode
    ).run()
    assert failing.digest == straight.digest
    assert failing.progressive_loss == straight.progressive_loss
    assert failing.position == straight.position


def test_the_others_go_on_while_a_lost_worker_is_replaced() -> None:
    called: list[tuple[int, str]] = []

    class Noting(Failing):
        def call(self, worker: int, method: str, *arguments: Any) -> Any:
            called.append((worker, method))
            return super().call(worker, method, *arguments)

    class Trainer(ShareTrainer):
        def open_pool(self, settings: Any) -> Any:
            return Noting(settings, 7)

    straight = ShareTrainer(model(), sources(), workers=3, **LOCAL).run()
    report = Trainer(model(), sources(), workers=3, max_restarts=1000, **LOCAL).run()
    assert report.digest == straight.digest
    begun = [worker for worker, method in called if method == "begin"]
    assert begun[:3] == [0, 1, 2]
    assert len(begun) > 4
    for i, (worker, method) in enumerate(called):
        if method == "begin" and i > 2:  # nobody else was asked anew
            asked = [other for other, method in called[i + 1 :] if method == "train"]
            assert asked[0] == worker
            assert called[i - 1][1] == "train"


def test_too_many_lost_workers_end_the_run(tmp_path: Path) -> None:
    trainer = FailingTrainer(
        *(model(), sources()),
        workers=3,
        max_restarts=0,
        checkpoint=sf.Checkpointer(tmp_path),
        **LOCAL,
    )
    with pytest.raises(WorkerError, match="lost more than max_restarts=0.*killed by the test"):
        trainer.run()
    resumed = ShareTrainer(
        model(), sources(), workers=1, checkpoint=sf.Checkpointer(tmp_path), **LOCAL
    ).run()
    assert resumed.resumed_at
    assert resumed.digest == ShareTrainer(model(), sources(), workers=3, **LOCAL).run().digest


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))
def test_a_resumed_run_is_a_straight_one_whoever_computes_it(
    mode: dict[str, Any], tmp_path: Path
) -> None:
    straight = ShareTrainer(model(), sources(), workers=3, **mode).run()

    class Enough(Exception):  # noqa: N818
        pass

    for workers in (3, 2, 1):

        def stop(progress: sf.Progress) -> None:
            if progress.n_samples >= (progress.resumed_at or 0) + 100:
                raise Enough

        with pytest.raises(Enough):
            ShareTrainer(
                *(model(), sources()),
                workers=workers,
                checkpoint=sf.Checkpointer(tmp_path, every_updates=5),
                callbacks=[stop],
                **mode,
            ).run()
    resumed = ShareTrainer(
        model(), sources(), workers=2, checkpoint=sf.Checkpointer(tmp_path), **mode
    ).run()
    assert resumed.digest == straight.digest
    assert resumed.resumed_at is not None
    assert resumed.resumed_at > 250
    verified = sf.journal.verify(tmp_path, sources())
    assert verified.equal, verified
    assert verified.n_samples == resumed.n_samples


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))
def test_the_journal_of_shares_replays(mode: dict[str, Any], tmp_path: Path) -> None:
    X, y = rows(500)
    X[[0, 33, 34, 260, 499]] = np.nan
    report = ShareTrainer(
        *(model(), sf.ArraySource(X, y)),
        workers=3,
        epochs=2,
        last_batch="scale",
        on_bad_sample="skip",
        checkpoint=sf.Checkpointer(tmp_path),
        **mode,
    ).run()
    assert (report.n_samples, report.n_bad) == (990, 10)
    verified = sf.journal.verify(tmp_path, sf.ArraySource(X, y))
    assert verified.equal, verified
    X[100] += 1e-9
    assert not sf.journal.verify(tmp_path, sf.ArraySource(X, y)).equal


def write_files(folder: Path) -> list[CSVSource]:
    found = []
    for i, n in enumerate((70, 50, 90)):
        X, y = rows(n, seed=i)
        lines = ["a,b,c,d,e,late"]
        lines += [
            ",".join([*(f"{value:.6f}" for value in x), str(int(label))])
            for x, label in zip(X.tolist(), y.tolist(), strict=True)
        ]
        lines[20] = "spoiled," + lines[20]
        path = folder / f"part-{i}.csv"
        path.write_text("\n".join(lines) + "\n")
        found.append(CSVSource(path, target="late"))
    return found


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))
def test_files_are_shares_and_the_command_line_verifies_them(
    mode: dict[str, Any], tmp_path: Path
) -> None:
    report = ShareTrainer(
        *(model(), write_files(tmp_path)),
        workers=2,
        on_bad_sample="skip",
        checkpoint=sf.Checkpointer(tmp_path / "state"),
        **mode,
    ).run()
    assert (report.n_samples, report.n_bad) == (207, 3)
    assert report.position == {"part-0.csv:0": 70, "part-1.csv:1": 50, "part-2.csv:2": 90}
    told = subprocess.run(
        [sys.executable, "-m", "streamfit", "verify", str(tmp_path / "state")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert re.search(r"equal +yes", told.stdout)


def test_the_journal_of_shares_is_small(tmp_path: Path) -> None:
    X, y = rows(60_000)
    wholes = {"synchronous": 0.01, "local": 0.05}
    dealt = {"synchronous": 0.5, "local": 0.05}  # bytes a sample, in micro-batches of 32
    for mode, most in wholes.items():
        every = {"sync_every": 50} if mode == "local" else {}
        for name, source, limit in (
            ("array", sf.ArraySource(X, y), most),
            ("list", [sf.ArraySource(X[i::4], y[i::4]) for i in range(4)], dealt[mode]),
        ):
            state = tmp_path / f"{mode}-{name}"
            ShareTrainer(
                *(sf.LogisticRegression(batch_size=32), source),
                workers=4,
                mode=mode,
                checkpoint=sf.Checkpointer(state),
                **every,
            ).run()
            size = sum(path.stat().st_size for path in state.glob("journal-*"))
            print(mode, name, size / len(y))
            assert size / len(y) < limit, (mode, name, size / len(y))


def test_a_page_shows_a_training_in_shares(tmp_path: Path) -> None:
    monitor = sf.WebMonitor("127.0.0.1:0", every_seconds=0.001)
    told: list[float] = []

    def look(progress: sf.Progress) -> None:
        with urllib.request.urlopen(monitor.url + "metrics") as answer:
            page = answer.read().decode()
        counted = re.findall(r"^streamfit_samples_total ([\d.]+)", page, re.MULTILINE)
        told.append(float(counted[0]))
        if not told[-1]:
            time.sleep(0.1)  # what took long to publish is not published again at once

    options: dict[str, Any] = {"workers": 2, "epochs": 20, **LOCAL}
    ShareTrainer(model(), sources(), monitor=monitor, callbacks=[look], **options).run()
    assert told == sorted(told)
    assert 0 < told[-1] <= 20 * 411


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    checkpoint = sf.Checkpointer(tmp_path)
    ShareTrainer(model(), sources(), workers=3, checkpoint=checkpoint, **LOCAL).run()
    with pytest.raises(CheckpointMismatchError, match="shares=3, not 2"):
        ShareTrainer(model(), sources(), workers=2, shares=2, checkpoint=checkpoint, **LOCAL).run()
    with pytest.raises(CheckpointMismatchError, match="RayTrainer"):
        sf.Trainer(model(), sources()[0], checkpoint=checkpoint).run()
    plain = sf.Checkpointer(tmp_path / "plain")
    sf.Trainer(model(), sources()[0], checkpoint=plain).run()
    with pytest.raises(CheckpointMismatchError, match="no training in shares"):
        ShareTrainer(model(), sources(), workers=2, checkpoint=plain, **LOCAL).run()


def test_an_array_that_has_grown_is_not_cut_anew(tmp_path: Path) -> None:
    X, y = rows(300)
    for mode in MODES:
        state = tmp_path / str(mode["mode"])
        for n in (101, 202, 202, 300):
            trainer = ShareTrainer(
                *(model(), sf.ArraySource(X[:n], y[:n])),
                workers=3,
                checkpoint=sf.Checkpointer(state),
                **mode,
            )
            if mode is LOCAL and n > 101:
                with pytest.raises(CheckpointMismatchError, match="array of 101 rows, not"):
                    trainer.run()
            else:
                assert trainer.run().n_samples == n
                verified = sf.journal.verify(state, sf.ArraySource(X[:n], y[:n]))
                assert verified.equal, verified


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))
def test_a_source_that_joins_the_list_is_read(mode: dict[str, Any], tmp_path: Path) -> None:
    for n, epochs, learned in ((2, 1, 237), (3, 1, 411), (3, 2, 822)):
        report = ShareTrainer(
            *(model(), sources(n)),
            workers=2,
            epochs=epochs,
            checkpoint=sf.Checkpointer(tmp_path),
            **mode,
        ).run()
        assert report.n_samples == learned
        verified = sf.journal.verify(tmp_path, sources(n))
        assert verified.equal, verified


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))
def test_more_samples_are_wanted_later(
    mode: dict[str, Any], batch_size: int | None, tmp_path: Path
) -> None:
    X, y = rows(80)
    for max_samples, learned in ((30, 30), (61, 61), (None, 160)):
        report = ShareTrainer(
            *(sf.LogisticRegression(batch_size=batch_size), sf.ArraySource(X, y)),
            workers=3,
            max_samples=max_samples,
            epochs=2,
            checkpoint=sf.Checkpointer(tmp_path),
            **mode,
        ).run()
        assert report.n_samples == learned
        verified = sf.journal.verify(tmp_path, sf.ArraySource(X, y))
        assert verified.equal, verified


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))
def test_few_bad_samples_in_a_long_round_are_few(mode: dict[str, Any]) -> None:
    X, y = rows(6000)
    X[::50] = np.nan
    options: dict[str, Any] = {"on_bad_sample": "skip", "bad_window": 500, "workers": 2, **mode}
    if mode is LOCAL:
        options["sync_every"] = 1000
    report = ShareTrainer(model(), sf.ArraySource(X, y), max_bad_ratio=0.05, **options).run()
    assert (report.n_samples, report.n_bad) == (5880, 120)
    with pytest.raises(TooManyBadSamplesError, match="10 of the last 451"):
        ShareTrainer(model(), sf.ArraySource(X, y), max_bad_ratio=0.019, **options).run()


def test_a_generator_is_read_once() -> None:
    samples = (({"x": float(i)}, i % 2 == 0) for i in range(50))
    trainer = ShareTrainer(model(), [sf.IterableSource(samples)], workers=1, **LOCAL)
    assert trainer.run().n_samples == 50
