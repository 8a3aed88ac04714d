"""Records written back to the real broker, by both clients."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from kafka import KafkaConsumer, TopicPartition

from connectors import JSONDecoder, KafkaSource
from connectors.kafka.dead_letters import DeadLetterTopic
from streamfit.errors import BrokerUnavailableError, ConfigurationError, SourceError
from streamfit.testing import LocalKafka
from streamfit.types import SendsDeadLetters


@pytest.fixture
def topic(kafka: LocalKafka) -> str:
    name = f"letters-{time.time_ns()}"
    kafka.create_topic(name)
    return name


@pytest.fixture
def letters(kafka: LocalKafka, client: str, topic: str) -> Iterator[DeadLetterTopic]:
    source = source_of(kafka.bootstrap_servers, client, dead_letter_topic=topic)
    assert isinstance(source, SendsDeadLetters)
    found = source.dead_letters()
    yield found
    found.close()


def source_of(servers: str, client: str, **options) -> KafkaSource:
    decoder = JSONDecoder(target="y")
    return KafkaSource("any", bootstrap_servers=servers, decoder=decoder, client=client, **options)


def written(kafka: LocalKafka, topic: str) -> list[tuple]:
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    tp = TopicPartition(topic, 0)
    consumer.assign([tp])
    consumer.seek(tp, 0)
    end = consumer.end_offsets([tp])[tp]
    found = []
    while len(found) < end:
        found += [(r.value, r.key, r.headers) for r in consumer.poll(1000).get(tp, [])]
    consumer.close()
    return found


def test_bytes_key_and_headers_arrive_in_order(kafka, topic, letters):
    letters.flush(10)  # nothing to do, nothing connected
    sent = [
        (b"\x00\xff not json", b"key", [("error", b"DecodeError"), ("offset", b"7")]),
        (None, b"key", []),
        (b"", None, [("error", "ärger".encode())]),
        (b"x" * 500_000, b"", []),
    ]
    for letter in sent:
        letters.send(*letter)
    letters.flush(10)
    assert [(v, k, list(h)) for v, k, h in written(kafka, topic)] == sent
    letters.send(None, None, [])  # which kafka-python refuses to send
    letters.flush(10)
    letters.flush(10)
    assert [(v, k) for v, k, _ in written(kafka, topic)][4:] == [(None, b"")]


def test_nothing_is_given_up_while_the_broker_is_away(kafka, topic, letters):
    if kafka.external:
        pytest.skip("STREAMFIT_KAFKA names a broker that cannot be stopped from here")
    letters.send(b"1", b"k", [])
    letters.flush(10)
    kafka.kill()
    try:
        letters.send(b"2", b"k", [])
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailableError, match=topic):
                letters.flush(0.5)
            assert time.monotonic() - began < 5
    finally:
        kafka.start()
    letters.send(b"3", b"k", [])
    letters.flush(30)
    values = [v for v, _, _ in written(kafka, topic)]
    assert sorted(set(values)) == [b"1", b"2", b"3"]  # one sent twice is allowed


def test_what_cannot_be_helped_is_said(kafka, client, topic):
    letters = source_of(kafka.bootstrap_servers, client).dead_letters("nobody")
    letters.send(b"1", None, [])
    with pytest.raises(SourceError, match="dead letter topic 'nobody' does not exist") as caught:
        letters.flush(10)
    assert not isinstance(caught.value, BrokerUnavailableError)
    letters = source_of(kafka.bootstrap_servers, client).dead_letters(topic)
    letters.send(b"x" * 2_000_000, None, [])
    with pytest.raises(SourceError, match=topic) as caught:
        letters.flush(10)
    assert not isinstance(caught.value, BrokerUnavailableError)
    letters.close()


def test_arguments():
    with pytest.raises(ConfigurationError, match="dead_letter_topic"):
        source_of("127.0.0.1:19", "auto", dead_letter_topic="any")
    with pytest.raises(ConfigurationError, match="dead_letter_topic"):
        source_of("127.0.0.1:19", "auto").dead_letters()
