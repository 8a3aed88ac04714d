"""The same from a Kafka topic: JSON records in, a model that survives `kill -9` out.

    python examples/kafka_flights.py produce --servers localhost:9092
    python examples/kafka_flights.py train   --servers localhost:9092 --state state/

`compose.yaml` shows how to get a broker. The trainer goes on for as long as it is let; the next
one continues from `state/` with the first record that is not in the model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

import orjson
from flights import (
    Flight,
    Lines,
    checkpointer,
    flights,
    hand_in,
    new_model,
    rolling_metrics,
    training_arguments,
)

import streamfit as sf
from connectors import JSONDecoder, KafkaSource

TARGET = "late"


def produce(samples: Iterable[Flight], topic: str, servers: str) -> None:
    """Write samples to a topic as JSON objects: `{"distance": 1.4, ..., "late": false}`."""
    from confluent_kafka import Producer

    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": 20, "enable.idempotence": True, "log_level": 3}
    )
    failed = []

    def delivered(error: object, message: object) -> None:
        if error is not None:
            failed.append(error)

    for x, late in samples:
        value = orjson.dumps({**x, TARGET: late})
        while True:
            try:
                producer.produce(topic, value, on_delivery=delivered)
                break
            except BufferError:  # the broker is slower than we are
                producer.poll(0.1)
        producer.poll(0)
    if producer.flush(60) or failed:
        raise SystemExit(f"not all records reached {servers}: {failed[:1]}")


def train(options: argparse.Namespace) -> sf.TrainingReport:
    """Train from the topic, resuming where the last run was saved."""
    source = KafkaSource(
        options.topic,
        bootstrap_servers=options.servers,
        decoder=JSONDecoder(target=TARGET),
        client=options.client,
        stop_at_end=options.stop_at_end,
    )
    return sf.Trainer(
        new_model(),
        source,
        metrics=rolling_metrics(),
        checkpoint=checkpointer(options),
        # when few flights come in, none waits longer than this for its micro-batch to fill up
        max_wait=None if options.stop_at_end else 1.0,
        callbacks=[Lines(options.print_every)],
    ).run()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    producer = commands.add_parser("produce", help="write the flights to a topic that exists")
    producer.add_argument("--n", type=int, default=100_000, help="flights to write")
    trainer = commands.add_parser("train", help="learn from the topic")
    trainer.add_argument("--stop-at-end", action="store_true", help="of what is there at the start")
    trainer.add_argument("--client", default="auto", help="kafka-python or confluent-kafka")
    training_arguments(trainer)
    for command in (producer, trainer):
        command.add_argument("--servers", default="localhost:9092", metavar="HOST:PORT")
        command.add_argument("--topic", default="flights")
    options = parser.parse_args(arguments)

    if options.command == "produce":
        produce(flights(options.n), options.topic, options.servers)
    else:
        hand_in(train(options), options.report)


if __name__ == "__main__":
    main()
