"""Faults 21-27: what becomes of a topic and its offsets; on the real broker, with both clients."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import kafka as kafka_python
import pytest
from confluent_kafka import Producer

import streamfit as sf
from streamfit.errors import LostOffsetsError
from streamfit.testing import LocalKafka

sys.path.insert(0, str(Path(__file__).parent))
from broker_runs import Running, check, counting_model, record, source_of, train
from topics import new_topic, produce


def names(start: int, stop: int) -> list[str]:
    return [f"r{i}" for i in range(start, stop)]


def write(kafka: LocalKafka, topic: str, wanted: Iterable[str], partition: int = 0) -> None:
    produce(kafka, topic, [(partition, record(name)) for name in wanted])


def transactional(kafka: LocalKafka, topic: str) -> Producer:
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic, "log_level": 0}
    )
    producer.init_transactions(60)
    return producer


def write_together(producer: Producer, topic: str, wanted: Iterable[str], good: bool) -> None:
    producer.begin_transaction()
    for name in wanted:
        producer.produce(topic, record(name))
    producer.flush(30)  # else what is aborted never reaches the broker
    (producer.commit_transaction if good else producer.abort_transaction)(60)


def saved_position(state: Path) -> Mapping[str, int]:
    saved = sf.Checkpointer(state).latest()
    assert saved is not None
    return saved.position


class _Repeating:
    """A client that begins before it is told to, so that the broker delivers again."""

    def __init__(self, client: Any, n: int) -> None:
        self._client, self._n = client, n

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def assign(self, offsets: Mapping[int, int]) -> None:
        self._client.assign({p: max(0, offset - self._n) for p, offset in offsets.items()})


def test_redelivered_offset(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    topic = new_topic(kafka)
    write(kafka, topic, names(0, 300))
    train(source_of(kafka, topic, client), tmp_path, max_samples=100)
    source = source_of(kafka, topic, client)
    opened = source._feed._open_client
    source._feed._open_client = lambda timeout: _Repeating(opened(timeout), 60)
    assert train(source, tmp_path).n_samples == 300
    assert source.n_duplicates == 60
    check(kafka, topic, tmp_path, names(0, 300))


def test_offset_gaps(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    """Transaction markers between and behind the records: no loss, and the lag ends at 0."""
    topic = new_topic(kafka)
    producer = transactional(kafka, topic)
    for i in range(5):
        write_together(producer, topic, names(10 * i, 10 * i + 10), good=True)
    source = source_of(kafka, topic, client)
    report = train(source, tmp_path)
    assert source.lag(report.position) == 0
    check(kafka, topic, tmp_path, names(0, 50))


def test_offset_gaps_of_compaction(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    topic = new_topic(
        kafka,
        **{
            "cleanup.policy": "compact",
            "segment.ms": "50",
            "min.cleanable.dirty.ratio": "0.001",
            "max.compaction.lag.ms": "50",
        },
    )
    deadline = time.monotonic() + 30
    n = 0
    while kafka_offsets(kafka, topic) == n:
        produce(kafka, topic, [(0, record(f"r{n}"))], key=b"same")
        n += 1
        time.sleep(0.1)
        assert time.monotonic() < deadline, "the broker did not compact"
    source = source_of(kafka, topic, client)
    report = train(source, tmp_path)
    assert 0 < report.n_samples < n
    assert report.position == {f"{topic}:0": n}
    assert source.lag(report.position) == 0
    with sf.Checkpointer(tmp_path) as checkpointer:
        saved = checkpointer.latest()
    assert saved is not None
    model = counting_model()
    model.load_state_dict(saved.model)
    assert len(model.weights) == report.n_samples
    assert set(model.weights.values()) == {0.5}
    assert f"r{n - 1}" in model.weights


def kafka_offsets(kafka: LocalKafka, topic: str) -> int:
    """Count the records that a topic of one partition still holds."""
    return sum(len(block) for block in source_of(kafka, topic, "confluent-kafka"))


def test_aborted_transaction(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    topic = new_topic(kafka)
    producer = transactional(kafka, topic)
    write_together(producer, topic, names(0, 10), good=True)
    write_together(producer, topic, ["aborted"], good=False)
    write_together(producer, topic, names(10, 20), good=True)
    write_together(producer, topic, ["aborted"], good=False)
    source = source_of(kafka, topic, client)
    report = train(source, tmp_path)
    assert source.lag(report.position) == 0
    check(kafka, topic, tmp_path, names(0, 20))
    write(kafka, topic, names(20, 25))
    train(source_of(kafka, topic, client), tmp_path)
    check(kafka, topic, tmp_path, names(0, 25))


def test_retention_passed_position(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    topic = new_topic(kafka)
    write(kafka, topic, names(0, 10))
    train(source_of(kafka, topic, client), tmp_path)
    write(kafka, topic, names(10, 20))
    kafka.delete_records(topic, {0: 15})
    told = rf"{topic}.*partition 0.*offset 10 is wanted.*holds 15 to 20"
    for _ in range(2):
        with pytest.raises(LostOffsetsError, match=told):
            train(source_of(kafka, topic, client), tmp_path)
    assert saved_position(tmp_path) == {f"{topic}:0": 10}


def test_retention_passed_position_midrun(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    """The position falls behind while the consumer is cut off; what was learned is saved."""
    topic = new_topic(kafka)
    write(kafka, topic, names(0, 10))
    source = source_of(kafka, topic, client, stop_at_end=False)
    blocks = iter(source)
    while source.position() != {f"{topic}:0": 10}:
        next(blocks)
    source._feed.disconnect()
    write(kafka, topic, names(10, 20))
    kafka.delete_records(topic, {0: 15})
    with pytest.raises(LostOffsetsError, match="offset 10 is wanted.*holds 15 to 20"):
        sum(map(len, blocks))


@pytest.mark.parametrize("n", [3, 10, 25])
def test_topic_recreated(kafka: LocalKafka, client: str, tmp_path: Path, n: int) -> None:
    """Under the old name, with fewer records than the position, as many, and more."""
    topic = new_topic(kafka)
    write(kafka, topic, names(0, 10))
    train(source_of(kafka, topic, client), tmp_path)
    kafka.delete_topic(topic)
    time.sleep(0.3)
    kafka.create_topic(topic)
    write(kafka, topic, [f"other{i}" for i in range(n)])
    for _ in range(2):
        with pytest.raises(LostOffsetsError, match=f"{topic}.*(made anew|offset 10 is wanted)"):
            train(source_of(kafka, topic, client), tmp_path)
    assert saved_position(tmp_path) == {f"{topic}:0": 10}
    other = "kafka-python" if client == "confluent-kafka" else "confluent-kafka"
    with pytest.raises(LostOffsetsError):  # and the clients name the topic alike
        train(source_of(kafka, topic, other), tmp_path)


def test_topic_recreated_midrun(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    topic = new_topic(kafka)
    write(kafka, topic, names(0, 10))
    source = source_of(kafka, topic, client, stop_at_end=False)
    source._feed.check_seconds = 0.3
    run = Running(source, tmp_path)
    run.until(10)
    kafka.delete_topic(topic)
    time.sleep(0.3)
    kafka.create_topic(topic)
    write(kafka, topic, [f"other{i}" for i in range(25)])
    assert isinstance(failure := run.failure(), LostOffsetsError), repr(failure)
    assert saved_position(tmp_path) == {f"{topic}:0": 10}
    saved = sf.Checkpointer(tmp_path).latest()
    assert saved is not None
    assert "other0" not in str(saved.model["features"])


def test_topic_deleted(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    topic = new_topic(kafka)
    write(kafka, topic, names(0, 10))
    source = source_of(kafka, topic, client, stop_at_end=False)
    source._feed.check_seconds, source._feed.missing_seconds = 0.3, 1.0
    run = Running(source, tmp_path)
    run.until(10)
    kafka.delete_topic(topic)
    failure = run.failure()
    assert isinstance(failure, LostOffsetsError), repr(failure)
    assert "deleted" in str(failure)


def test_truncation(kafka: LocalKafka, tmp_path: Path) -> None:
    """The broker loses the end of its log, as in a power cut; then it goes on from there."""
    if kafka.external:
        pytest.skip("STREAMFIT_KAFKA names a broker that cannot be stopped from here")
    topic = new_topic(kafka)
    clients = ["kafka-python", "confluent-kafka"]
    write(kafka, topic, names(0, 10))
    assert kafka._folder is not None
    (log,) = (kafka._folder / "data" / f"{topic}-0").glob("*.log")
    size = log.stat().st_size
    write(kafka, topic, names(10, 20))
    for client in clients:
        train(source_of(kafka, topic, client), tmp_path / client)
    kafka.kill()
    with log.open("r+b") as file:
        file.truncate(size)
    kafka.start()
    for n in (0, 5):
        write(kafka, topic, [f"new{i}" for i in range(n)])
        for client in clients:
            with pytest.raises(LostOffsetsError, match=r"offset 20 is wanted.*truncated"):
                train(source_of(kafka, topic, client), tmp_path / client)
            assert saved_position(tmp_path / client) == {f"{topic}:0": 20}


def test_committed_offsets_expired(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    """What the broker remembers of the group may vanish, or lie: the checkpoint is the truth."""
    topic = new_topic(kafka)
    group = f"group-{topic}"
    place = kafka_python.TopicPartition(topic, 0)
    for i, offset in enumerate([None, 0, 3, None]):
        write(kafka, topic, names(10 * i, 10 * i + 10))
        train(source_of(kafka, topic, client, group_id=group), tmp_path)
        with kafka._admin() as admin:
            told = admin.list_group_offsets(group)[group]
            assert told[place].offset == 10 * i + 10
            admin.delete_group_offsets(group, [place])
            if offset is not None:
                wrong = kafka_python.OffsetAndMetadata(offset, "", -1)
                admin.alter_group_offsets(group, {place: wrong})
    check(kafka, topic, tmp_path, names(0, 40))


def test_partitions_added_midrun(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    """New partitions are read from their earliest offset, though the start was `latest`."""
    topic = new_topic(kafka)
    source = source_of(kafka, topic, client, stop_at_end=False, start="latest")
    source._feed.check_seconds = 0.5
    run = Running(source, tmp_path, 60)
    while not source._feed.next:
        time.sleep(0.02)
    write(kafka, topic, names(0, 20))
    run.until(20)
    kafka.add_partitions(topic, 3)
    write(kafka, topic, names(20, 40), partition=2)  # before anybody here knows of it
    write(kafka, topic, names(40, 60), partition=1)
    report = run.end()
    assert report.position == {f"{topic}:0": 20, f"{topic}:1": 20, f"{topic}:2": 20}
    check(kafka, topic, tmp_path, names(0, 60))
