"""What a run asks of Ray, what it leaves behind, and what it says when Ray cannot serve it."""

from __future__ import annotations

import importlib
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamfit as sf
from streamfit.distributed import RayTrainer
from streamfit.errors import ConfigurationError, WorkerError

LOCAL: dict[str, Any] = {"mode": "local", "sync_every": 10}


def trainer(source: Any = None, model: Any = None, **options: Any) -> RayTrainer:
    X = np.random.default_rng(0).normal(size=(400, 3))
    source = sf.ArraySource(X, X[:, 0] > 0) if source is None else source
    model = sf.LogisticRegression(batch_size=8) if model is None else model
    return RayTrainer(model, source, **{"workers": 2, **LOCAL, **options})


def python(code: str, **environ: str) -> str:
    """Run a program with no Ray variables but these; return what it printed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    program = "import os, signal, sys\nimport numpy as np\nimport streamfit as sf\n" + code
    for _ in range(2):
        told = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=False,
            timeout=140,
            env={**kept, **environ},
        )
        if "node timed out during startup" not in told.stderr:  # Ray's, on a machine that is busy
            break
    assert told.returncode == 0, told.stderr
    return told.stdout


TRAIN = """
X = np.ones((100, 2))
def train():
    source = sf.ArraySource(X, X[:, 0])
    options = {"workers": 2, "mode": "local", "sync_every": 10}
    return sf.distributed.RayTrainer(sf.LinearRegression(), source, **options).run().n_samples
"""


def test_a_ray_of_our_own_leaves_nothing_behind() -> None:
    told = python(
        TRAIN
        + """
import ray
handlers = [signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)]
def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    loopback = ray._private.ray_constants.ENABLE_RAY_CLUSTER
    ours = ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")  # others are Ray's
    return handlers, [os.environ.get(name) for name in ours], ray.is_initialized(), loopback
before = state()
print(train(), state() == before)
"""
    )
    assert told == "100 True\n"


def test_a_ray_that_does_not_start_is_told_of_in_one_line() -> None:
    code = """
import logging
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
try:
    train()
except sf.errors.WorkerError as error:
    print(error, "|", type(error.__cause__).__name__)
"""
    told = python(TRAIN + code, RAY_TMPDIR="/proc/nowhere")
    assert re.fullmatch(
        r"event=starting_ray cpus=2\n"
        r"no local Ray could be started \(FileNotFoundError: .*nowhere'\): if the machine is busy, "
        r".* start again; look .*"
        r"\| FileNotFoundError\n",
        told,
    )
    told = python(TRAIN + code, RAY_ADDRESS="nonsense")
    assert re.match(r"the cluster of RAY_ADDRESS='nonsense' cannot be .* \| ValueError\n", told)


def test_the_cluster_of_the_environment_is_used(ray: Any) -> None:
    address = ray.get_runtime_context().gcs_address
    code = "import ray\nprint(train(), ray.is_initialized())"
    its = {key: value for key, value in os.environ.items() if key.startswith("RAY_")}
    assert python(TRAIN + code, **{**its, "RAY_ADDRESS": address}) == "100 False\n"
    assert ray.get(ray.put(1)) == 1


def test_a_ray_of_the_users_is_left_alone(ray: Any) -> None:
    def mine(number: int, frame: Any) -> None:
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        assert trainer().run().n_samples == 400
        assert signal.getsignal(signal.SIGTERM) is mine
        assert ray.is_initialized()
        with pytest.raises(ZeroDivisionError):
            trainer(callbacks=[lambda progress: 1 / 0]).run()
        assert ray.get(ray.put(1)) == 1
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- what cannot be sent


def of_a_closure() -> Callable[[], Iterator[Any]]:
    lock = threading.Lock()

    def samples() -> Iterator[Any]:
        with lock:
            yield {"x": 1.0}, True

    return samples


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda file: sf.IterableSource(({"x": float(i)}, True) for i in range(9)),
            r"_iterable is a generator \(TypeError: .*\); pass the function that makes it",
        ),
        (
            lambda file: sf.IterableSource(of_a_closure()),
            r"_iterable, whose lock is a lock \(TypeError: .*\); let whatever reads the samples",
        ),
        (
            sf.IterableSource,
            r"_iterable is a BufferedReader \(.*\); let whatever reads the samples",
        ),
    ],
    ids=["generator", "lock", "file"],
)
def test_a_source_that_cannot_be_sent_is_refused_in_one_line(
    ray: Any, make: Callable[[Any], Any], why: str
) -> None:
    began = time.monotonic()
    with Path(__file__).open("rb") as file, pytest.raises(ConfigurationError) as refused:
        trainer([make(file)], sf.LogisticRegression(), workers=1).run()
    told = str(refused.value)
    assert re.match(r"source cannot be sent to a worker: source\._parts\[0\]", told)
    assert re.search(why, told)
    assert "\n" not in told
    assert time.monotonic() - began < 10


def test_functions_are_sent(ray: Any) -> None:
    count = 50
    source = sf.IterableSource(lambda: (({"x": i / count}, i % 2 == 0) for i in range(count)))
    assert trainer([source], workers=1).run().n_samples == 50


def test_a_module_that_workers_do_not_have_is_named(ray: Any, tmp_path: Path) -> None:
    code = """
    import streamfit as sf
    class Source(sf.IterableSource):
        pass
    """
    (tmp_path / "known_to_the_driver.py").write_text(textwrap.dedent(code))
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module("known_to_the_driver")
        told = "No module named 'known_to_the_driver'.*runtime_env"
        with pytest.raises(WorkerError, match=told) as refused:
            trainer([module.Source([({"x": 1.0}, True)])], workers=1).run()
        assert "\n" not in str(refused.value)
    finally:
        sys.path.remove(str(tmp_path))


# ---- CPUs


@pytest.fixture
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="streamfit")


@pytest.mark.usefixtures("_logged")
def test_too_few_cpus_are_told_of_at_once_and_end_the_run(
    ray: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    with pytest.raises(
        WorkerError, match=r"there is no CPU for it: workers=5 .* has 4, of which 0"
    ):
        trainer(workers=5, worker_timeout=4.0).run()
    assert 4 <= time.monotonic() - began < 20  # once, not max_restarts times
    assert "event=cpus_missing cpus=4 workers=5" in caplog.text
    assert "worker_lost" not in caplog.text


@pytest.mark.usefixtures("_logged")
def test_cpus_that_come_later_are_waited_for(ray: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Busy:
        def ready(self) -> bool:
            return True

    wait_for_cpus(ray, 4)
    other = ray.remote(num_cpus=3)(Busy).remote()
    assert ray.get(other.ready.remote())
    release = threading.Timer(4.0, ray.kill, [other])
    release.start()
    began = time.monotonic()
    assert trainer(worker_timeout=1.0).run().n_samples == 400
    assert time.monotonic() - began > 3
    assert "worker_lost" not in caplog.text
    release.join()


def wait_for_cpus(ray: Any, n: int) -> None:
    """Wait until the actors of the test before are gone."""
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU", 0) < n:
        assert time.monotonic() < deadline
        time.sleep(0.1)
