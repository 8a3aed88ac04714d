"""Processes that are killed, and what they leave; names as in the catalogue of faults."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kafka as kafka_python
import pytest

import streamfit as sf
import streamfit._journal_file
import streamfit.checkpoint
from streamfit.testing import LocalKafka

sys.path.insert(0, str(Path(__file__).parent))
from processes import finish, kill_at, offline_digest, saved_model, start
from topics import everything, new_topic, produce
from worker import endless, growing, models

KILLS = 100 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 5


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


# --- 2, 9: what is on disk after a death


def test_kill9_partial_batch(tmp_path: Path) -> None:
    """Killed with a micro-batch half full: its gradient is in the checkpoint, bit for bit."""
    n, options = 0, ["--batch-size", "100000", "--every-seconds", "0.01"]
    for _ in range(3):
        before = sf.Checkpointer(tmp_path).list()[-1:]
        worker = start(tmp_path, *options)
        assert worker.stdout is not None
        for line in worker.stdout:
            newest = sf.Checkpointer(tmp_path).list()[-1:]
            if line.startswith("samples") and newest not in ([], before):
                break
        worker.kill()
        worker.stdout.close()
        assert worker.wait(30) == -signal.SIGKILL
        saved = sf.Checkpointer(tmp_path).latest()
        assert saved is not None
        assert saved.model["n_samples"] > n
        n = saved.model["n_samples"]
        assert saved.model["n_pending"] == n % 100_000 > 0
    model = models("logistic", 100_000)
    model.load_state_dict(saved.model)
    assert model.digest() == offline_digest(n, 100_000)


def test_oom_rlimit(tmp_path: Path) -> None:
    """A model that outgrows the memory takes its process down; the last checkpoint is whole."""
    worker = start(tmp_path, "--growing", "--every-updates", "50", "--max-mb", "150")
    assert worker.stdout is not None
    worker.stdout.read()
    assert worker.wait(60) not in (0, None)
    saved = sf.Checkpointer(tmp_path).latest()
    assert saved is not None
    model = models("logistic")
    model.load_state_dict(saved.model)
    assert model.n_samples > 500
    straight, samples = models("logistic"), growing()
    for _ in range(model.n_samples):
        straight.learn_one(*next(samples))
    assert model.digest() == straight.digest()
    assert saved.position == {"samples:0": model.n_samples}


# --- 3: each step of a save, journal and commit included


class Committing:
    """The samples of a list, as a source that is told how far they were applied."""

    live = False

    def __init__(self, samples: list[Any]) -> None:
        self._inner = sf.IterableSource(samples)
        self._inner.max_block = 10
        self.position, self.seek, self.close = (
            self._inner.position,
            self._inner.seek,
            self._inner.close,
        )

    def __iter__(self) -> Iterator[sf.types.Block]:
        return iter(self._inner)

    def commit(self, position: dict[str, int]) -> None:
        """Tell nobody."""


SAMPLES: list[Any] = [({"a": i % 7 / 7, "b": i % 5 / 5}, i % 3 == 1) for i in range(100)]
SAMPLES[33] = "garbage"


def train_in_steps(state: Path) -> sf.TrainingReport:
    return sf.Trainer(
        models("logistic"),
        Committing(SAMPLES),
        checkpoint=sf.Checkpointer(state, every_updates=2, keep=2),
        on_bad_sample=sf.DeadLetters(path=state / "letters.jsonl"),
    ).run()


CALLS = {
    "write": (streamfit.checkpoint, "write_and_fsync"),
    "fsync": (os, "fsync"),  # of the lock, letters, journal, checkpoint and directory
    "rename": (os, "replace"),
    "directory_fsync": (streamfit.checkpoint, "fsync_directory"),
    "journal": (streamfit._journal_file.Files, "append"),
    "read_back": (streamfit.checkpoint, "_read_back"),
    "prune": (Path, "unlink"),
    "commit": (Committing, "commit"),
}


@pytest.mark.parametrize("step", CALLS)
def test_kill9_each_step(step: str, tmp_path: Path) -> None:
    """A run that dies at its n-th such call, for each n: what is there resumes to the same bits."""
    owner, name = CALLS[step]
    expected = train_in_steps(tmp_path / "straight").digest
    straight = [sample for sample in SAMPLES if sample != "garbage"]
    assert expected == sf.Trainer(models("logistic"), straight).run().digest
    real = getattr(owner, name)
    for call in itertools.count(1):
        state = tmp_path / f"{step}-{call}"
        died = die_in_child(owner, name, call, state)
        if not died:
            break
        saved = sf.Checkpointer(state).latest()
        report = train_in_steps(state)
        assert report.digest == expected, f"{step}, call {call}"
        assert report.resumed_at == (None if saved is None else saved.model["n_samples"])
        assert sf.journal.verify(state, SAMPLES).equal
        ids = {json.loads(line)["id"] for line in (state / "letters.jsonl").open()}
        assert ids == {"samples:0:33"}
    assert getattr(owner, name) is real
    assert call > 3, "hardly a step was taken"


def die_in_child(owner: Any, name: str, call: int, state: Path) -> bool:
    """Train in a forked process that kills itself before the n-th call; say whether it did."""
    if (pid := os.fork()) == 0:
        real, left = getattr(owner, name), [call]

        def deadly(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(owner, name, deadly)
        try:
            train_in_steps(state)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


# --- 4, 5: between the checkpoint and the broker


def saved_position(state: Path, topic: str) -> int:
    saved = sf.Checkpointer(state).latest()
    assert saved is not None
    return int(saved.position[f"{topic}:0"])


def test_kill9_checkpoint_before_broker_commit(
    kafka: LocalKafka, client: str, tmp_path: Path
) -> None:
    """The broker knows less than the checkpoint: the checkpoint wins."""
    topic, group = new_topic(kafka), f"group-{uuid.uuid4()}"
    samples = list(itertools.islice(endless(None), 3000))
    produce(kafka, topic, [(0, json.dumps({**x, "y": y}).encode()) for x, y in samples])
    options = ["--topic", topic, "--client", client, "--group-id", group]
    options += ["--bootstrap-servers", kafka.bootstrap_servers, "--every-updates", "40"]
    worker = start(tmp_path, *options, "--die", "connectors.kafka.source:KafkaSource.commit:3")
    assert worker.stdout is not None
    worker.stdout.read()
    assert worker.wait(60) == -signal.SIGKILL
    committed = committed_offset(kafka, topic, group)
    assert 0 < committed < saved_position(tmp_path, topic) < 3000
    told = finish(start(tmp_path, *options))
    assert told["digest"] == offline_digest(3000, flush=True)
    assert committed_offset(kafka, topic, group) == 3000


def committed_offset(kafka: LocalKafka, topic: str, group: str) -> int:
    consumer = kafka_python.KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, group_id=group, enable_auto_commit=False
    )
    offset = consumer.committed(kafka_python.TopicPartition(topic, 0))
    consumer.close()
    return int(offset or 0)


def test_kill9_dead_letter_sent_before_checkpoint(
    kafka: LocalKafka, client: str, tmp_path: Path
) -> None:
    """The letter is out and the checkpoint is not: it comes again, under the same id and key."""
    topic, letters = new_topic(kafka), new_topic(kafka)
    samples = list(itertools.islice(endless(None), 1000))
    values = [json.dumps({**x, "y": y}).encode() for x, y in samples]
    values[500:500] = [b"garbage"]
    produce(kafka, topic, [(0, value) for value in values], key=b"the key")
    options = ["--topic", topic, "--client", client, "--letters", letters]
    options += ["--bootstrap-servers", kafka.bootstrap_servers]
    worker = start(tmp_path, *options, "--die", "os:replace:1")
    assert worker.stdout is not None
    worker.stdout.read()
    assert worker.wait(60) == -signal.SIGKILL
    assert sf.Checkpointer(tmp_path).latest() is None
    assert len(everything(kafka, letters)) == 1
    told = finish(start(tmp_path, *options))
    assert told["bad"] == "1"
    assert told["digest"] == offline_digest(1000, flush=True)
    found = everything(kafka, letters)
    assert [(record.value, record.key) for record in found] == [(b"garbage", b"the key")] * 2
    assert {dict(record.headers)["id"] for record in found} == {f"{topic}:0:500".encode()}
