"""Processes that are killed, and what they leave; names as in the catalogue of faults."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kafka as kafka_python
import pytest

import streamfit as sf
from streamfit.testing import LocalKafka

sys.path.insert(0, str(Path(__file__).parent))
from worker import endless, models

WORKER = Path(__file__).with_name("worker.py")
KILLS = 5


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


def produce(broker: LocalKafka, topic: str, records: Sequence[tuple[int, bytes]]) -> None:
    producer = kafka_python.KafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=50)
    for partition, value in records:
        producer.send(topic, value, partition=partition)
    producer.flush()
    producer.close()


def train_and_kill(
    kafka: LocalKafka, topic: str, client: str, model: str, state: Path, n: int, seed: int
) -> dict[str, str]:
    options = ["--topic", topic, "--client", client, "--model", model]
    options += ["--bootstrap-servers", kafka.bootstrap_servers, "--every-updates", "40", "--led"]
    rng = random.Random(seed)
    for n_samples in sorted(rng.randrange(n * 9 // 10) for _ in range(KILLS)):
        kill_at(start(state, *options), n_samples, rng)
    told = finish(start(state, *options))
    assert 0 < int(told["resumed"]) < n  # it was killed on the way, not before or after
    return told


def saved_model(state: Path, model: str) -> Any:
    with sf.Checkpointer(state) as checkpointer:
        saved = checkpointer.latest()
    assert saved is not None
    restored = models(model)
    restored.load_state_dict(saved.model)
    return restored


@pytest.mark.parametrize("seed", [1])
def test_kill9_random_on_one_partition(
    kafka: LocalKafka, client: str, tmp_path: Path, seed: int
) -> None:
    """P2 and P3: killed at random points, the digest is bitwise that of offline training."""
    topic = f"kill-{uuid.uuid4()}"
    kafka.create_topic(topic, partitions=1)
    n, rng = 30_000, random.Random(seed)
    X = [[rng.gauss(0, 1) for _ in range(4)] for _ in range(n)]
    y = [row[0] + row[1] > 0 for row in X]
    records = [
        (0, json.dumps({**dict(zip("abcd", row, strict=True)), "y": late}).encode())
        for row, late in zip(X, y, strict=True)
    ]
    for place in (n - 100, n // 2, 3):
        records.insert(place, (0, b'{"a": 1.0, "y": '))
    produce(kafka, topic, records)

    told = train_and_kill(kafka, topic, client, "logistic", tmp_path, n, seed)

    offline = sf.offline.fit_offline(models("logistic"), X, y, kernel="compiled")
    assert told["digest"] == offline.digest
    assert told["bad"] == "3"


@pytest.mark.parametrize("seed", [2])
def test_kill9_random_on_three_partitions(
    kafka: LocalKafka, client: str, tmp_path: Path, seed: int
) -> None:
    """P3: killed at random points, each good offset of each partition was applied once."""
    topic = f"kill-{uuid.uuid4()}"
    kafka.create_topic(topic, partitions=3)
    n = 9000
    records = [(i % 3, json.dumps({f"r{i}": 1.0, "y": 1.0}).encode()) for i in range(n)]
    records.insert(n // 2, (1, b"not json"))
    produce(kafka, topic, records)

    told = train_and_kill(kafka, topic, client, "counting", tmp_path, n, seed)

    weights = saved_model(tmp_path, "counting").weights
    assert set(weights) == {f"r{i}" for i in range(n)}
    assert set(weights.values()) == {0.5}
    assert told["bad"] == "1"


def offline_digest(n: int) -> str:
    stream = endless(None)
    model = models("logistic")
    for _ in range(n):
        model.learn_one(*next(stream))
    return str(model.digest())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_mid_update(number: signal.Signals, tmp_path: Path) -> None:
    """Finish the update, checkpoint, exit 0, no forced partial update; then go on from there."""
    resumed_at = "None"
    for _ in range(2):
        worker = start(tmp_path)
        assert worker.stdout is not None
        for _ in range(5):
            worker.stdout.readline()
        worker.send_signal(number)
        told = finish(worker)
        assert told["stopped"] == number.name
        assert told["resumed"] == resumed_at
        model = saved_model(tmp_path, "logistic")
        resumed_at = str(model.n_samples)
        assert told["digest"] == model.digest() == offline_digest(model.n_samples)


def test_sigterm_while_the_iterator_is_silent(tmp_path: Path) -> None:
    """A run that waits for a sample which never comes still ends at once."""
    worker = start(tmp_path, "--pause-after", "100")
    # the 100 samples sit in a block that the silent iterator does not let end
    time.sleep(3)
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    told = finish(worker)
    assert time.monotonic() - began < 5
    assert told["stopped"] == "SIGTERM"
    assert saved_model(tmp_path, "logistic").digest() == told["digest"]


def test_sigterm_twice(tmp_path: Path) -> None:
    """Two signals end the process in bounded time, and what is on disk can be resumed."""
    worker = start(tmp_path, "--every-updates", "1")
    assert worker.stdout is not None
    worker.stdout.readline()
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGTERM)
    worker.stdout.read()
    assert worker.wait(10) in (0, 1, -signal.SIGINT, 130)
    model = saved_model(tmp_path, "logistic")
    assert model.digest() == offline_digest(model.n_samples)


def test_duplicate_trainer(tmp_path: Path) -> None:
    """A second trainer of the same directory is refused by the lock, and harms nothing."""
    worker = start(tmp_path)
    assert worker.stdout is not None
    worker.stdout.readline()
    second = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert second.returncode != 0
    assert "CheckpointLockedError" in second.stderr
    worker.terminate()
    told = finish(worker)
    assert saved_model(tmp_path, "logistic").digest() == told["digest"]
