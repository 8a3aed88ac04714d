"""Records in and out of topics, by a client of its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import kafka as kafka_python

from streamfit.testing import LocalKafka


def new_topic(broker: LocalKafka, partitions: int = 1, **config: str) -> str:
    name = f"faults-{uuid.uuid4()}"
    broker.create_topic(name, partitions=partitions, config=config)
    return name


def produce(
    broker: LocalKafka,
    topic: str,
    records: Iterable[tuple[int, bytes | None]],
    key: bytes | None = None,
) -> None:
    """Write `(partition, value)` pairs in order."""
    producer = kafka_python.KafkaProducer(
        bootstrap_servers=broker.bootstrap_servers,
        linger_ms=50,
        max_in_flight_requests_per_connection=1,
        max_request_size=1 << 23,
    )
    for partition, value in records:
        # kafka-python refuses a record that has neither key nor value
        producer.send(topic, value, partition=partition, key=b"k" if value is None else key)
    producer.flush()
    producer.close()


def records(broker: LocalKafka, topic: str, partitions: int = 1) -> Iterator[Any]:
    """Read all records of a topic: `value`, `key`, `headers`, `partition`, `offset`."""
    consumer = kafka_python.KafkaConsumer(
        bootstrap_servers=broker.bootstrap_servers,
        isolation_level="read_committed",
        fetch_max_bytes=1 << 23,
        max_partition_fetch_bytes=1 << 23,
    )
    places = [kafka_python.TopicPartition(topic, p) for p in range(partitions)]
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    ends = consumer.end_offsets(places)
    deadline = time.monotonic() + 60
    while any(consumer.position(place) < ends[place] for place in places):
        assert time.monotonic() < deadline, f"{topic} cannot be read"
        for found in consumer.poll(500).values():
            deadline = time.monotonic() + 60
            yield from found
    consumer.close()


def everything(broker: LocalKafka, topic: str, partitions: int = 1) -> list[Any]:
    """Return all records of a topic."""
    return list(records(broker, topic, partitions))
