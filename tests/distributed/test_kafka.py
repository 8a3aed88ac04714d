"""Partitions of a topic dealt to shares: each record counts once, whoever reads it."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import kafka as kafka_python
import numpy as np
import pytest

import streamfit as sf
from connectors import JSONDecoder, KafkaSource
from streamfit.distributed import RayTrainer, ShareTrainer
from streamfit.testing import LocalKafka

sys.path.insert(0, str(Path(__file__).parent))
from watched import Watched, once

MODES: list[dict[str, Any]] = [{"mode": "synchronous"}, {"mode": "local", "sync_every": 4}]
EACH_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))


def topic_of(broker: LocalKafka, partitions: int = 4) -> str:
    name = f"shares-{uuid.uuid4()}"
    broker.create_topic(name, partitions=partitions)
    return name


def produce(broker: LocalKafka, topic: str, records: Iterable[tuple[int, bytes]]) -> None:
    producer = kafka_python.KafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=20)
    for partition, value in records:
        producer.send(topic, value, partition=partition)
    producer.flush()
    producer.close()


def flights(n: int, partitions: int = 4, seed: int = 0) -> list[tuple[int, bytes]]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)).round(6)
    places = rng.integers(0, partitions, size=n).tolist()
    return [
        (place, json.dumps({"a": a, "b": b, "c": c, "y": bool(a + b > c)}).encode())
        for place, (a, b, c) in zip(places, X.tolist(), strict=True)
    ]


def source_of(broker: LocalKafka, topic: str, **options: Any) -> KafkaSource:
    return KafkaSource(
        topic,
        bootstrap_servers=broker.bootstrap_servers,
        decoder=JSONDecoder(target="y"),
        **{"stop_at_end": True, "client": "confluent-kafka", **options},
    )


def model() -> sf.LogisticRegression:
    return sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=8)


def check_journal(state: Path, n: int, source: KafkaSource) -> None:
    """Check that each offset is in the journal once, and that it replays to the same model."""
    offsets = set()
    for entry in sf.journal.entries(state):
        if isinstance(entry, sf.journal.Segment):
            found = {(entry.partition, offset) for offset in range(entry.start, entry.stop)}
        elif isinstance(entry, sf.journal.Skipped):
            found = {(entry.partition, entry.offset)}
        else:
            continue
        assert not offsets & found
        offsets |= found
    assert len(offsets) == n
    verified = sf.journal.verify(state, source)
    assert verified.equal, verified


@EACH_MODE
def test_each_record_counts_once(kafka: LocalKafka, mode: dict[str, Any], tmp_path: Path) -> None:
    topic = topic_of(kafka)
    produce(kafka, topic, flights(700))
    reports = []
    for part in (300, 500, None):  # and another number of workers each time
        reports.append(
            ShareTrainer(
                *(model(), source_of(kafka, topic)),
                workers=len(reports) + 1,
                shares=2,
                checkpoint=sf.Checkpointer(tmp_path),
                max_samples=part,
                **mode,
            ).run()
        )
    assert [report.n_samples for report in reports] == [300, 500, 700]
    assert [report.resumed_at for report in reports] == [None, 300, 500]
    check_journal(tmp_path, 700, source_of(kafka, topic))


@EACH_MODE
def test_bad_records_become_dead_letters(
    kafka: LocalKafka, mode: dict[str, Any], tmp_path: Path
) -> None:
    topic = topic_of(kafka)
    records = flights(200)
    for i in (3, 50, 51, 199):
        records[i] = (records[i][0], f"{{broken {i}".encode())
    produce(kafka, topic, records)
    letters = tmp_path / "letters.jsonl"
    report = ShareTrainer(
        *(model(), source_of(kafka, topic)),
        workers=3,
        checkpoint=sf.Checkpointer(tmp_path / "state"),
        on_bad_sample=sf.DeadLetters(path=letters),
        **mode,
    ).run()
    assert (report.n_samples, report.n_bad) == (196, 4)
    told = [json.loads(line) for line in letters.read_text().splitlines()]
    assert {letter["value"] for letter in told} == {f"{{broken {i}" for i in (3, 50, 51, 199)}
    assert all(letter["error"] == "DecodeError" for letter in told)
    check_journal(tmp_path / "state", 200, source_of(kafka, topic))


@EACH_MODE
def test_an_idle_partition_stalls_nobody(
    kafka: LocalKafka, mode: dict[str, Any], tmp_path: Path
) -> None:
    topic = topic_of(kafka)
    produce(kafka, topic, [(place % 2, value) for place, value in flights(2000)])
    began = time.monotonic()
    report = ShareTrainer(
        *(model(), source_of(kafka, topic, stop_at_end=False)),
        workers=4,
        max_samples=2000,
        checkpoint=sf.Checkpointer(tmp_path),
        **mode,
    ).run()
    assert report.n_samples == 2000
    assert time.monotonic() - began < 30
    check_journal(tmp_path, 2000, source_of(kafka, topic))


@EACH_MODE
def test_a_partial_micro_batch_waits_no_longer_than_allowed(
    kafka: LocalKafka, mode: dict[str, Any], tmp_path: Path
) -> None:
    topic = topic_of(kafka)
    produce(kafka, topic, flights(5))
    told = threading.Event()

    class Enough(Exception):  # noqa: N818
        pass

    def look(progress: sf.Progress) -> None:
        if progress.n_samples == 5:
            told.set()
            raise Enough

    with pytest.raises(Enough):
        ShareTrainer(
            *(model(), source_of(kafka, topic, stop_at_end=False)),
            workers=2,
            max_wait=0.3,
            checkpoint=sf.Checkpointer(tmp_path),
            callbacks=[look],
            **mode,
        ).run()
    assert told.is_set()
    check_journal(tmp_path, 5, source_of(kafka, topic))


def test_partitions_that_are_added_are_read(kafka: LocalKafka, tmp_path: Path) -> None:
    topic = topic_of(kafka, partitions=2)
    produce(kafka, topic, flights(100, partitions=2))
    added: list[bool] = []

    def look(progress: sf.Progress) -> None:
        if progress.n_samples >= 96 and not added:
            kafka.add_partitions(topic, 4)
            produce(kafka, topic, flights(100, partitions=4, seed=1))
            added.append(True)

    report = ShareTrainer(
        *(model(), source_of(kafka, topic, stop_at_end=False)),
        workers=2,
        max_samples=200,
        callbacks=[look],
        checkpoint=sf.Checkpointer(tmp_path),
    ).run()
    assert report.n_samples == 200
    assert len(report.position) == 4
    check_journal(tmp_path, 200, source_of(kafka, topic))


def test_each_weight_tells_that_its_record_counted_once(kafka: LocalKafka, tmp_path: Path) -> None:
    # From 0 half way towards 1: applied once a weight is 1/2, twice 3/4 or, in one batch, 1.
    def counting() -> sf.LinearRegression:
        return sf.LinearRegression(
            sf.optim.SGD(0.5),
            loss=sf.losses.HalfSquared(),
            batch_size=7,
            reduction="sum",
            fit_intercept=False,
        )

    topic = topic_of(kafka)
    produce(
        kafka, topic, [(i % 4, json.dumps({f"r{i}": 1.0, "y": 1.0}).encode()) for i in range(300)]
    )
    learned = counting()
    for part in (100, 210, None):
        learned = counting()
        ShareTrainer(
            *(learned, source_of(kafka, topic)),
            workers=2,
            checkpoint=sf.Checkpointer(tmp_path),
            max_samples=part,
        ).run()
    assert learned.weights == {f"r{i}": 0.5 for i in range(300)}
    check_journal(tmp_path, 300, source_of(kafka, topic))


@EACH_MODE
def test_actors_read_their_partitions(
    ray: Any, kafka: LocalKafka, mode: dict[str, Any], tmp_path: Path
) -> None:
    topic = topic_of(kafka)
    produce(kafka, topic, flights(600))
    report = RayTrainer(
        *(model(), source_of(kafka, topic)),
        workers=2,
        checkpoint=sf.Checkpointer(tmp_path),
        **mode,
    ).run()
    assert report.n_samples == 600
    check_journal(tmp_path, 600, source_of(kafka, topic))


@EACH_MODE
def test_a_killed_worker_costs_no_record(
    ray: Any, kafka: LocalKafka, mode: dict[str, Any], tmp_path: Path
) -> None:
    topic = topic_of(kafka)
    produce(kafka, topic, flights(3000))
    trainer = Watched(
        *(model(), source_of(kafka, topic, stop_at_end=False)),
        workers=2,
        max_samples=3000,
        checkpoint=sf.Checkpointer(tmp_path, every_updates=20),
        **mode,
    )
    trainer.hook = once("answered", 50, signal.SIGKILL)
    report = trainer.run()
    assert trainer.n_started == 3
    assert report.n_samples == 3000
    check_journal(tmp_path, 3000, source_of(kafka, topic))


@EACH_MODE
@pytest.mark.parametrize("client", ["kafka-python", "confluent-kafka"])
def test_partitions_of_one_share_take_turns(
    kafka: LocalKafka, client: str, mode: dict[str, Any]
) -> None:
    topic = topic_of(kafka, partitions=3)
    value = flights(1)[0][1]
    produce(kafka, topic, [(i % 3 if i < 3000 else 0, value) for i in range(33_000)])
    short = [f"{topic}:1", f"{topic}:2"]
    waiting: list[int] = []

    def look(progress: sf.Progress) -> None:
        if any(progress.position[key] < 1000 for key in short):
            waiting.append(progress.position[f"{topic}:0"])

    options: dict[str, Any] = {**mode, "sync_every": 50} if "sync_every" in mode else mode
    report = ShareTrainer(
        *(sf.LogisticRegression(batch_size=64), source_of(kafka, topic, client=client)),
        workers=1,
        callbacks=[look],
        **options,
    ).run()
    assert report.n_samples == 33_000
    assert waiting[-1] < 16_000, waiting[-1]  # a long partition does not go first
