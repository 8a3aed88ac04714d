"""S10, S11: a topic of JSON records on the local broker, against River and a bare loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import orjson

import streamfit as sf
from benchmarks.data import dicts, imported, offered
from benchmarks.measure import Case, Measurement, NotAvailableError, Side, compare
from connectors import JSONDecoder, KafkaSource
from streamfit.errors import StreamfitError
from streamfit.testing import LocalKafka

__all__ = ["cases"]

TOPIC = "benchmark"
N_RECORDS = 500_000
N_RIVER = 25_000  # of the same topic: River would take a minute for all
POLL = 1000


@cache
def broker() -> LocalKafka:
    """Start the broker, once, and fill the topic."""
    confluent = imported("confluent_kafka")
    kafka = LocalKafka()
    try:
        kafka.start()
    except StreamfitError as error:
        raise NotAvailableError(str(error)) from None
    kafka.create_topic(TOPIC, partitions=1)
    values = [orjson.dumps({**x, "label": y}) for x, y in dicts(20_000, 10)]
    producer = confluent.Producer(
        {"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 50, "log_level": 0}
    )
    for i in range(N_RECORDS):
        if i % POLL == 0:
            producer.flush()
        producer.produce(TOPIC, values[i % len(values)], partition=0)
    producer.flush()
    return kafka


def trained(scaled: bool) -> Callable[[], None]:
    """Return a run of a Trainer over the whole topic, predicting each record before learning it."""
    servers = broker().bootstrap_servers
    options = {"scaler": offered("StandardScaler")()} if scaled else {}

    def run() -> None:
        source = KafkaSource(
            TOPIC,
            bootstrap_servers=servers,
            decoder=JSONDecoder(target="label"),
            client="confluent-kafka",
            stop_at_end=True,
        )
        learner = sf.LogisticRegression(sf.optim.SGD(0.01), **options)
        report = sf.Trainer(learner, source).run()
        assert report.n_samples == N_RECORDS
        assert report.progressive_loss > 0.0

    return run


def rivers() -> Callable[[], None]:
    """Return River's way: kafka-python, a scaler and a model in a pipeline, test-then-train."""
    kafka, servers = imported("kafka"), broker().bootstrap_servers
    preprocessing, linear_model, optim = (
        imported(f"river.{name}") for name in ("preprocessing", "linear_model", "optim")
    )

    def run() -> None:
        pipeline = preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(0.01))
        consumer = kafka.KafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
        partition = kafka.TopicPartition(TOPIC, 0)
        consumer.assign([partition])
        consumer.seek(partition, 0)
        n = 0
        while n < N_RIVER:
            # `poll` rather than iterating over the consumer, which is slower; orjson rather than
            # json, so that what differs is not the parser
            for records in consumer.poll(timeout_ms=1000, max_records=POLL).values():
                for record in records:
                    x = orjson.loads(record.value)
                    y = x.pop("label")
                    pipeline.predict_proba_one(x)
                    pipeline.learn_one(x, y)
                n += len(records)
        consumer.close()

    return run


def only_parsed() -> Callable[[], None]:
    """Return the loop that S11 names: confluent-kafka, JSON, nothing else."""
    confluent, servers = imported("confluent_kafka"), broker().bootstrap_servers
    settings = {
        "bootstrap.servers": servers,
        "group.id": "benchmark",
        "enable.auto.commit": False,
        "log_level": 0,
        # without it the library pauses for a second when its queue is full
        "fetch.queue.backoff.ms": 10,
    }

    def run() -> None:
        consumer = confluent.Consumer(settings)
        consumer.assign([confluent.TopicPartition(TOPIC, 0, 0)])
        n = 0
        while n < N_RECORDS:
            for message in consumer.consume(POLL, timeout=0.1):
                if message.error() is None:
                    orjson.loads(message.value())
                    n += 1
        consumer.close()

    return run


def s10(scaled: bool = True) -> Measurement:
    run, peer = trained(scaled), rivers()
    return compare(
        Side("streamfit", lambda: run, N_RECORDS),
        Side("River on kafka-python", lambda: peer, N_RIVER),
        repeats=5,
        seconds=0.0,
        unit="records/s",
    )


def s11(scaled: bool = True) -> Measurement:
    run, peer = trained(scaled), only_parsed()
    return compare(
        Side("streamfit", lambda: run, N_RECORDS),
        Side("consume and parse", lambda: peer, N_RECORDS),
        repeats=7,
        seconds=0.0,
        unit="records/s",
    )


def cases() -> Iterator[Case]:
    """Yield the lines of the table."""
    yield Case("S10", "JSON topic, scaled, predicted, learned", 12.0, s10)
    yield Case("S11", "the same", 0.75, s11)
    yield Case("S11", "the same without the scaler", None, lambda: s11(scaled=False))
