"""One suite for both clients, on a real broker."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import Producer

import streamfit as sf
from connectors.codecs.json import JSONDecoder
from connectors.kafka import KafkaSource
from streamfit.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    LostOffsetsError,
    MissingDependencyError,
    SourceError,
)
from streamfit.testing import LocalKafka
from streamfit.types import Block, CommitsOffsets, ReportsLag, Source

numbers = itertools.count()


@pytest.fixture
def topic(kafka: LocalKafka) -> str:
    name = f"topic-{next(numbers)}-{time.time_ns()}"
    kafka.create_topic(name)
    return name


@pytest.fixture
def make(kafka: LocalKafka, client: str) -> Iterable[Callable[..., KafkaSource]]:
    made: list[KafkaSource] = []

    def make(topic: str, **options: Any) -> KafkaSource:
        options = {
            "bootstrap_servers": kafka.bootstrap_servers,
            "decoder": JSONDecoder(target="y"),
            "client": client,
            "stop_at_end": True,
            **options,
        }
        made.append(KafkaSource(topic, **options))
        return made[-1]

    yield make
    for source in made:
        source.close()


def produce(kafka: LocalKafka, topic: str, values: Iterable[Any], partition: int = 0) -> None:
    # Idempotent: else a retry, as to a broker that has just started, may change the order.
    settings = {"bootstrap.servers": kafka.bootstrap_servers, "enable.idempotence": True}
    producer = Producer({**settings, "log_level": 0})
    for value in values:
        record = value if isinstance(value, bytes | None) else json.dumps({"y": value}).encode()
        producer.produce(topic, record, partition=partition)
    assert producer.flush(30) == 0


def wait_until(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def labels(blocks: Iterable[Block], partition: int = 0) -> list[Any]:
    return [y for block in blocks if block.partition == partition for y in block.y]


def read_until(source: Iterable[Block], n: int, seconds: float = 60) -> list[Block]:
    """Read a live source until `n` samples have come."""
    deadline = time.monotonic() + seconds
    blocks = []
    for block in source:
        blocks.append(block)
        if sum(map(len, blocks)) >= n:
            return blocks
        assert time.monotonic() < deadline
    raise AssertionError("a live source ended")


def test_it_is_a_source(make, topic):
    source = make(topic)
    assert isinstance(source, Source)
    assert isinstance(source, CommitsOffsets)
    assert isinstance(source, ReportsLag)


def test_order_and_positions(kafka, make, topic):
    produce(kafka, topic, range(12_345))
    source = make(topic)
    assert source.position() == {f"{topic}:0": 0}
    seen = []
    for block in source:
        assert block.key == f"{topic}:0"
        assert len(block) == len(block.x) == len(block.offsets)
        assert not block.errors
        assert block.w is None
        seen += zip(block.offsets, block.y, strict=True)
        assert source.position() == {block.key: len(seen)}
    assert seen == [(i, i) for i in range(12_345)]
    assert source.lag(source.position()) == 0
    assert source.lag({}) == 12_345
    assert list(source) == []
    produce(kafka, topic, [1, 2])
    assert labels(source) == [1, 2]


def test_resume_at_every_cut(kafka, make, topic):
    produce(kafka, topic, range(3_000))
    seen: list[int] = []
    position = None
    for _ in range(4):
        source = make(topic)
        if position is not None:
            source.seek(position)
        for block in source:  # what the client has fetched beyond this block must come again
            seen += block.y[:700]
            position = {block.key: block.offsets[: len(block.y[:700])][-1] + 1}
            break
        source.close()
    source.seek(position)
    assert seen + labels(source) == list(range(3_000))


def test_leaving_and_entering_again_loses_nothing(kafka, make, topic):
    produce(kafka, topic, range(20_000))
    source = make(topic, stop_at_end=False)
    seen: list[int] = []
    while len(seen) < 20_000:
        seen += next(iter(source)).y
    assert seen == list(range(20_000))


def test_three_partitions(kafka, make):
    name = f"three-{time.time_ns()}"
    kafka.create_topic(name, partitions=3)
    for partition in range(3):
        produce(kafka, name, range(partition * 1000), partition)
    source = make(name)
    blocks = list(source)
    for partition in range(3):
        assert labels(blocks, partition) == list(range(partition * 1000))
    assert source.position() == {f"{name}:0": 0, f"{name}:1": 1000, f"{name}:2": 2000}
    source.seek({f"{name}:2": 1990})  # what a position lacks is read from its earliest
    assert source.position() == {f"{name}:0": 0, f"{name}:1": 0, f"{name}:2": 1990}
    blocks = list(source)
    assert [len(labels(blocks, p)) for p in range(3)] == [0, 1000, 10]


def test_empty_topic_ends_at_once(make, topic):
    source = make(topic)
    assert sum(map(len, source)) == 0
    assert source.position() == {f"{topic}:0": 0}
    assert source.lag({}) == 0


def test_live_source_hands_out_empty_blocks(kafka, make, topic):
    source = make(topic, stop_at_end=False)
    assert source.live
    assert len(next(iter(source))) == 0
    produce(kafka, topic, [5])
    assert labels(read_until(source, 1)) == [5]


def test_start(kafka, make, topic):
    produce(kafka, topic, range(10))
    assert labels(make(topic, start={f"{topic}:0": 7})) == [7, 8, 9]
    source = make(topic, start="latest")
    assert source.position() == {f"{topic}:0": 10}
    produce(kafka, topic, [10])
    assert labels(source) == [10]


def test_where_latest_was_is_saved_before_the_first_record(kafka, make, topic, tmp_path):
    produce(kafka, topic, [0] * 3)
    checkpoint = sf.Checkpointer(tmp_path)
    source = make(topic, start="latest", stop_at_end=False)
    trainer = sf.Trainer(sf.LinearRegression(), source, checkpoint=checkpoint, max_samples=2)
    with ThreadPoolExecutor() as pool:
        report = pool.submit(trainer.run)
        wait_until(checkpoint.list)
        assert checkpoint.latest().position == {f"{topic}:0": 3}
        produce(kafka, topic, [1] * 2)
        assert report.result(60).position == {f"{topic}:0": 5}


def test_stop_at_end_leaves_later_records_for_the_next_iteration(kafka, make, topic):
    produce(kafka, topic, range(10))
    source = make(topic)
    iterator = iter(source)
    first = next(iterator)
    produce(kafka, topic, range(10, 20))
    assert labels([first, *iterator]) == list(range(10))
    assert source.position() == {f"{topic}:0": 10}
    assert labels(source) == list(range(10, 20))


def test_new_partitions_are_read_from_their_earliest(kafka, make, topic):
    source = make(topic, stop_at_end=False, start="latest")
    source._feed.check_seconds = 0.5
    iterator = iter(source)
    assert len(next(iterator)) == 0
    kafka.add_partitions(topic, 2)
    produce(kafka, topic, [100, 101], partition=1)
    produce(kafka, topic, [1, 2])
    blocks = read_until(iterator, 4)
    assert labels(blocks, 0) == [1, 2]
    assert labels(blocks, 1) == [100, 101]
    resumed = make(topic, stop_at_end=False)
    resumed.seek({f"{topic}:0": 1})  # as a checkpoint made before the partition appeared
    blocks = read_until(resumed, 3)
    assert labels(blocks, 0) == [2]
    assert labels(blocks, 1) == [100, 101]


def test_new_partitions_beside_many_idle_ones(kafka, make):
    name = f"many-{time.time_ns()}"
    kafka.create_topic(name, partitions=40)
    source = make(name, stop_at_end=False)
    source._feed.check_seconds = 0.5
    iterator = iter(source)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:  # long enough for a fetch to wait and for checks
        assert len(next(iterator)) == 0
    assert not source._feed.away
    began = time.monotonic()
    assert source.lag({}) == 0
    assert time.monotonic() - began < 1
    kafka.add_partitions(name, 41)
    produce(kafka, name, range(5), partition=40)
    assert labels(read_until(iterator, 5, seconds=15), 40) == list(range(5))
    assert not source._feed.away


def test_bounds_end_where_the_isolation_level_ends(kafka, make, topic):
    settings = {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic}
    producer = Producer({**settings, "log_level": 0})
    producer.init_transactions(60)
    produce(kafka, topic, range(3))
    kafka.delete_records(topic, {0: 1})
    producer.begin_transaction()
    producer.produce(topic, b"{}")
    producer.flush(30)
    for level, end in [("read_committed", 3), ("read_uncommitted", 4)]:
        source = make(topic, isolation_level=level)
        source.position()
        assert source._feed.bounds(10) == {0: (1, end)}
        assert source._feed.connect().bounds([], 10) == {}
        with pytest.raises(SourceError, match=topic):
            source._feed.connect().bounds([0, 7], 1)
    producer.abort_transaction(60)


def test_retention_passed_the_position(kafka, make, topic):
    produce(kafka, topic, range(10))
    source = make(topic)
    kafka.delete_records(topic, {0: 6})
    with pytest.raises(LostOffsetsError, match=rf"{topic}.*partition 0.*offset 3.*holds 6 to 10"):
        source.seek({f"{topic}:0": 3})
    assert labels(source) == [6, 7, 8, 9]
    source.seek({f"{topic}:0": 6})
    assert labels(source) == [6, 7, 8, 9]


def test_the_client_reports_lost_offsets_itself(kafka, make, topic):
    produce(kafka, topic, range(10))
    kafka.delete_records(topic, {0: 6})
    source = make(topic)
    for lost in (3, 99):
        opened = source._feed._open_client(10)
        try:
            opened.assign({0: lost})
            with pytest.raises(LostOffsetsError):
                _poll_often(opened)
        finally:
            opened.close()


def _poll_often(client):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert client.poll(0.1) == []


def test_position_beyond_the_end(kafka, make, topic):
    produce(kafka, topic, range(10))
    with pytest.raises(LostOffsetsError, match=r"offset 11.*holds 0 to 10.*truncated"):
        make(topic).seek({f"{topic}:0": 11})
    with pytest.raises(LostOffsetsError, match=r"no partitions \[4\]"):
        make(topic).seek({f"{topic}:4": 0})


def test_aborted_transactions_and_markers(kafka, make, topic):
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "transactional.id": topic,
            "log_level": 0,
        }
    )
    producer.init_transactions(60)
    for values, good in [(range(3), True), (range(100, 103), False), (range(3, 6), True)]:
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, json.dumps({"y": value}).encode())
        producer.flush(30)  # else what is aborted never reaches the broker
        (producer.commit_transaction if good else producer.abort_transaction)(60)
    source = make(topic)
    blocks = list(source)
    assert labels(blocks) == [0, 1, 2, 3, 4, 5]
    assert [n for b in blocks for n in b.offsets] == [0, 1, 2, 8, 9, 10]
    assert source.position() == {f"{topic}:0": 12}
    assert source.lag(source.position()) == 0
    assert source.lag({f"{topic}:0": 11}) == 0  # where a reader of blocks thinks it stands
    assert labels(make(topic, isolation_level="read_uncommitted")) == [
        0,
        1,
        2,
        100,
        101,
        102,
        3,
        4,
        5,
    ]

    producer.begin_transaction()  # ends with nothing but an aborted transaction
    producer.produce(topic, b"{}")
    producer.flush(30)
    assert labels(source) == []
    producer.abort_transaction(60)
    assert labels(source) == []
    assert source.lag({f"{topic}:0": 11}) == 0


def test_compacted_topic(kafka, make):
    name = f"compacted-{time.time_ns()}"
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "50",
        "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "50",
    }
    kafka.create_topic(name, config=config)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
    deadline = time.monotonic() + 30
    for n in itertools.count(1):
        producer.produce(name, json.dumps({"y": n - 1}).encode(), key=b"same")
        assert producer.flush(30) == 0
        source = make(name)
        blocks = list(source)
        offsets = [offset for b in blocks for offset in b.offsets]
        assert labels(blocks) == offsets
        assert offsets[-1] == n - 1
        assert source.position() == {f"{name}:0": n}
        if len(offsets) < n:
            break
        assert time.monotonic() < deadline, "the broker did not compact"
        time.sleep(0.1)


def test_decode_errors_are_located(kafka, make, topic):
    produce(kafka, topic, [0, b"{", 2, None, b'{"x": 1}', 5])
    (block,) = (b for b in make(topic) if len(b))
    assert sorted(block.errors) == [1, 3, 4]
    assert [block.y[i] for i in (0, 2, 5)] == [0, 2, 5]
    assert f"(source '{topic}', partition 0, offset 3)" in str(block.errors[3])
    assert "tombstone" in str(block.errors[3])
    assert "target 'y' is missing" in str(block.errors[4])


def test_weights(kafka, make, topic):
    produce(kafka, topic, [b'{"y": 1, "w": 2}', b'{"y": 1, "w": 0.5}', b"{"])
    (block,) = (b for b in make(topic, decoder=JSONDecoder("y", weight="w")) if len(b))
    assert block.w == [2, 0.5, 1.0]


def test_decoder_that_breaks_says_where_and_loses_nothing(kafka, make, topic):
    produce(kafka, topic, range(3))
    source = make(topic)
    source.decoder = lambda value: 1 / 0
    with pytest.raises(ZeroDivisionError) as caught:
        list(source)
    assert "offset 0" in caught.value.__notes__[0]
    source.decoder = JSONDecoder("y")
    assert labels(source) == [0, 1, 2]


def test_commit_is_visible_and_has_no_effect(kafka, make, topic):
    from kafka import TopicPartition

    produce(kafka, topic, range(10))
    source = make(topic, group_id=f"group-{topic}")
    source.commit({f"{topic}:0": 4})
    assert labels(source) == list(range(10))
    source.commit({f"{topic}:0": 7})
    source.close()
    with kafka._admin() as admin:
        found = admin.list_group_offsets(f"group-{topic}")[f"group-{topic}"]
    assert found[TopicPartition(topic, 0)].offset == 7
    assert labels(make(topic, group_id=f"group-{topic}")) == list(range(10))
    make(topic).commit({f"{topic}:0": 4})  # no group: nothing to do


def test_unknown_topic(make):
    with pytest.raises(SourceError, match="topic 'nobody' does not exist"):
        make("nobody").position()


def test_foreign_position(make, topic):
    for position in ({"other:0": 1}, {topic: 1}, {f"{topic}:x": 1}):
        with pytest.raises(SourceError, match=rf"not of topic '{topic}'"):
            make(topic).seek(position)
    with pytest.raises(SourceError, match="not an offset"):
        make(topic).seek({f"{topic}:0": -1})


def test_broker_unavailable(make):
    source = make("any", bootstrap_servers="127.0.0.1:19", group_id="any")
    source._feed.connect_seconds = 1.0
    source._feed.reconnect_seconds = source._feed.request_seconds = 0.5
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        next(iter(source))
    assert source.lag({}) is None
    source.commit({"any:0": 3})
    source.close()
    source.close()
    assert time.monotonic() - began < 10


def test_arguments_are_checked_without_a_broker():
    good = {"bootstrap_servers": "127.0.0.1:19", "decoder": JSONDecoder("y")}
    for bad in (
        {"bootstrap_servers": ""},
        {"decoder": None},
        {"client": "pykafka"},
        {"start": "middle"},
        {"start": {"other:0": 1}},
        {"group_id": ""},
        {"stop_at_end": "yes"},
        {"isolation_level": "committed"},
        {"on_lost_offsets": "reset"},
    ):
        with pytest.raises(ConfigurationError, match=next(iter(bad))):
            KafkaSource("t", **{**good, **bad})
    with pytest.raises(ConfigurationError, match="topic"):
        KafkaSource(["t"], **good)


def test_missing_client_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "connectors.kafka.confluent", raising=False)
    with pytest.raises(MissingDependencyError, match=r"streamfit\[confluent\]"):
        KafkaSource(
            "t",
            bootstrap_servers="127.0.0.1:19",
            decoder=JSONDecoder("y"),
            client="confluent-kafka",
        )
