"""Real processes that are killed, stopped or slow: nothing is learned twice, and nobody waits."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import streamfit as sf
from streamfit.distributed import RayTrainer, ShareTrainer

sys.path.insert(0, str(Path(__file__).parent))
from driver import model, rows
from watched import Watched, once

MODES: list[dict[str, Any]] = [{"mode": "local", "sync_every": 20}, {"mode": "synchronous"}]
N = 4000

NIGHTLY = pytest.mark.skipif(
    os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="takes a while: nightly"
)


def some(*nightly: str) -> Any:
    """Each mode; those named take their turn at night."""
    return pytest.mark.parametrize(
        "mode",
        [
            pytest.param(mode, id=mode["mode"], marks=NIGHTLY if mode["mode"] in nightly else ())
            for mode in MODES
        ],
    )


def straight(mode: dict[str, Any], n: int = N) -> str:
    trained = ShareTrainer(model(), sf.ArraySource(*rows(n)), workers=2, **mode).run()
    return trained.digest


def train(mode: dict[str, Any], hook: Any, **options: Any) -> sf.TrainingReport:
    trainer = Watched(model(), sf.ArraySource(*rows(N)), workers=2, **mode, **options)
    trainer.hook = hook
    return trainer.run()


@some("local")
def test_a_worker_is_killed_while_it_accumulates(
    ray: Any, mode: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    check_killed(mode, "accumulating", caplog)


@some("synchronous")
def test_a_worker_is_killed_while_the_driver_combines(
    ray: Any, mode: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    check_killed(mode, "combining", caplog)


def check_killed(mode: dict[str, Any], moment: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = "asked train" if mode["mode"] == "local" else "asked step"
    happened = asked if moment == "accumulating" else "answered"
    report = train(mode, once(happened, 16, signal.SIGKILL))
    assert "event=worker_lost worker=1" in caplog.text
    assert report.digest == straight(mode)
    assert report.n_samples == N


@some("synchronous")
def test_a_worker_is_killed_while_a_checkpoint_is_written(
    ray: Any, mode: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    processes: dict[int, int] = {}

    class Deadly(sf.Checkpointer):
        n = 0

        def save(self, checkpoint: Any) -> Path:
            self.n += 1
            if self.n == 3:
                os.kill(processes[1], signal.SIGKILL)
            return super().save(checkpoint)

    def hook(happened: str, found: dict[int, int]) -> None:
        processes.update(found)

    report = train(mode, hook, checkpoint=Deadly(tmp_path, every_updates=20))
    assert "event=worker_lost worker=1" in caplog.text
    assert report.digest == straight(mode)
    assert sf.journal.verify(tmp_path, sf.ArraySource(*rows(N))).equal


def test_a_stopped_worker_is_replaced(ray: Any, caplog: pytest.LogCaptureFixture) -> None:
    report = train(MODES[0], once("asked train", 7, signal.SIGSTOP), worker_timeout=2.0)
    assert re.search(r"event=worker_lost worker=1 message=.*no answer in 2 seconds", caplog.text)
    assert report.digest == straight(MODES[0])


def slow(n: int, read: Path) -> Callable[[], Iterator[Any]]:
    """Samples that take 10 ms each; the file grows by a byte with each one that is read."""

    def samples() -> Iterator[Any]:
        import time

        with read.open("ab", buffering=0) as file:
            for i in range(n):
                time.sleep(0.01)
                file.write(b".")
                yield {"x": i % 7 / 7}, i % 2 == 0

    return samples


def test_a_lost_worker_costs_the_others_nothing_of_a_long_round(
    ray: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [tmp_path / "long", tmp_path / "short"]
    sources = [sf.IterableSource(slow(n, file)) for n, file in zip((800, 50), files, strict=True)]
    trainer = Watched(sf.LogisticRegression(), sources, workers=2, mode="local", sync_every=800)
    left = [1]  # kill

    def hook(happened: str, processes: dict[int, int]) -> None:
        if happened == "asked train" and left:
            left.clear()
            time.sleep(0.3)
            os.kill(processes[1], signal.SIGKILL)

    trainer.hook = hook
    began = time.monotonic()
    assert trainer.run().n_samples == 850
    print(f"{time.monotonic() - began:.1f} s with a worker lost in a round of 8 s")
    assert "event=worker_lost worker=1" in caplog.text
    assert files[0].stat().st_size == 800  # nobody read the same again


def test_a_lost_worker_ends_a_long_micro_batch(
    ray: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [tmp_path / "0", tmp_path / "1"]
    sources = [sf.IterableSource(slow(800, file)) for file in files]
    trainer = Watched(sf.LogisticRegression(batch_size=1600), sources, workers=2)
    read: list[int] = []

    def hook(happened: str, processes: dict[int, int]) -> None:
        if happened == "asked step" and not read:
            read.append(0)
            time.sleep(0.5)
            os.kill(processes[1], signal.SIGKILL)
        elif happened == "asked load" and len(read) == 1:  # so all have begun anew
            read.append(files[0].stat().st_size)

    trainer.hook = hook
    assert trainer.run().n_samples == 1600
    assert "event=worker_lost worker=1" in caplog.text
    print(f"{read[1]} samples of 800 were read for nothing")
    assert read[1] < 800


@some("local")
def test_a_killed_driver_resumes_with_other_workers(
    ray: Any, mode: dict[str, Any], tmp_path: Path
) -> None:
    address = ray.get_runtime_context().gcs_address
    for until in (700, 1800):
        driver = subprocess.Popen(
            [
                *(sys.executable, str(Path(__file__).with_name("driver.py"))),
                *(address, str(tmp_path), mode["mode"], str(mode.get("sync_every", 0))),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert driver.stdout is not None
        for line in driver.stdout:
            if int(line) >= until:
                break
        driver.kill()
        driver.wait()
        driver.stdout.close()
    resumed = RayTrainer(
        *(model(), sf.ArraySource(*rows(N))),
        workers=1,
        checkpoint=sf.Checkpointer(tmp_path),
        **mode,
    ).run()
    assert resumed.resumed_at
    assert resumed.digest == straight(mode)
    assert sf.journal.verify(tmp_path, sf.ArraySource(*rows(N))).equal
    deadline = time.monotonic() + 20
    while (free := ray.available_resources().get("CPU", 0)) < 4:  # actors die with their driver
        assert time.monotonic() < deadline, f"{free} CPUs are free"
        time.sleep(0.1)


def test_a_slow_worker_is_told_of_and_does_not_hold_up_the_others(
    ray: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fast() -> Iterator[Any]:
        for i in range(3000):
            yield {"x": i % 7 / 7}, i % 2 == 0

    def slow() -> Iterator[Any]:
        import time

        for i in range(600):
            time.sleep(0.005)
            yield {"x": i % 5 / 5}, i % 2 == 0

    began = time.monotonic()
    report = RayTrainer(
        *(model(), [sf.IterableSource(fast), sf.IterableSource(slow)]),
        workers=2,
        mode="local",
        sync_every=300,
    ).run()
    assert report.n_samples == 3600
    assert time.monotonic() - began < 60
    (told,) = [r.getMessage() for r in caplog.records if "worker_slow" in r.getMessage()][:1]
    found = re.search(r"worker=1 ratio=([\d.]+)", told)
    assert found is not None
    assert float(found[1]) >= 10


@some("synchronous")
def test_sigterm_saves_and_ends(ray: Any, mode: dict[str, Any], tmp_path: Path) -> None:
    def stop(progress: sf.Progress) -> None:
        if progress.n_samples >= 800:
            os.kill(os.getpid(), signal.SIGTERM)

    options: dict[str, Any] = {"workers": 2, **mode}
    stopped = RayTrainer(
        *(model(), sf.ArraySource(*rows(N))),
        checkpoint=sf.Checkpointer(tmp_path),
        callbacks=[stop],
        **options,
    ).run()
    assert stopped.stopped_by == "SIGTERM"
    assert 800 <= stopped.n_samples < N
    rest = ShareTrainer(
        model(), sf.ArraySource(*rows(N)), checkpoint=sf.Checkpointer(tmp_path), **options
    ).run()
    assert rest.resumed_at == stopped.n_samples
    assert rest.digest == straight(mode)


def test_without_ray_the_error_names_the_extra() -> None:
    code = """
import sys
sys.modules["ray"] = None
import streamfit as sf
try:
    sf.distributed.RayTrainer(sf.LinearRegression(), sf.ArraySource([[1.0]], [1.0]), workers=2)
except sf.errors.MissingDependencyError as error:
    print(error)
try:
    sf.distributed.RayTrainer(sf.LinearRegression(), [], workers=2)
except sf.errors.ConfigurationError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "streamfit[ray]"' in told.stdout
    assert "a list of sources needs at least one" in told.stdout  # mistakes are told of first


def test_ray_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, streamfit as sf; sf.distributed.RayTrainer; print('ray' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="streamfit")


@NIGHTLY
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_local_ray_listens_on_loopback_alone_whoever_imported_it() -> None:
    code = """
import os, pathlib, ray
import numpy as np
import streamfit as sf

def listening():
    sockets = set()
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if b"OF_THIS_TEST=1" in (path / "environ").read_bytes():
                sockets |= {os.readlink(fd) for fd in (path / "fd").iterdir()}
        except OSError:
            continue
    for name in ("tcp", "tcp6"):
        for line in pathlib.Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                yield fields[1].partition(":")[0]

found = []
X = np.ones((100, 2))
trainer = sf.distributed.RayTrainer(
    sf.LinearRegression(), sf.ArraySource(X, X[:, 0]), workers=2, mode="local", sync_every=100,
    callbacks=[lambda progress: found.extend(listening())],
)
print(trainer.run().n_samples, trainer.run().n_samples, sorted(set(found)))
"""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    told = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**environ, "OF_THIS_TEST": "1"},
    )
    mapped = "0000000000000000FFFF00000100007F"  # 127.0.0.1, as IPv6 has it
    # a second run finds its source at the end, as that of a Trainer does
    assert told.stdout.startswith("100 0 ["), told
    assert mapped in told.stdout
    assert not set(re.findall(r"'(\w+)'", told.stdout)) - {"0100007F", mapped, "0" * 31 + "1"}
