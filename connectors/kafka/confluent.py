"""The confluent-kafka client, several times faster than kafka-python (an extra: `confluent`)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any
from uuid import UUID

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from connectors.kafka.protocol import FETCH_BYTES, PARTITION_FETCH_BYTES, Bounds, Letter, Records
from connectors.kafka.security import Security
from streamfit.errors import (
    AuthenticationError,
    BrokerUnavailableError,
    LostOffsetsError,
    SourceError,
)

__all__ = ["ConfluentClient", "ConfluentProducer"]

MAX_RECORDS = 1000  # more at a time take longer each, being in the cache no more when decoded
MAX_LETTER_BYTES = 1 << 28  # what is too large is for the broker to say

log = logging.getLogger(__name__)

LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}

# Partitions just made, or that go to another broker, have no leader for a moment.
MOVING = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
RETRY_SECONDS = 0.05

REFUSED = {
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
}

# The library goes on by itself after anything but these.
FATAL = REFUSED | {
    KafkaError._BAD_COMPRESSION,
    KafkaError._BAD_MSG,
    KafkaError._FATAL,
    KafkaError._INVALID_ARG,
    KafkaError._NOT_IMPLEMENTED,
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.INVALID_MSG,
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
}


class ConfluentClient:
    """See `Client`."""

    def __init__(
        self,
        topic: str,
        timeout: float,
        *,
        bootstrap_servers: str,
        group_id: str | None,
        isolation_level: str,
        security: Security | None,
    ) -> None:
        self._topic = topic
        self._ends: dict[int, int] = {}
        self._failure: SourceError | None = None  # found by a callback or behind good records
        self._admin: AdminClient | None = None
        self._admin_settings = {
            "bootstrap.servers": bootstrap_servers,
            "log_level": 0,
            **_security_settings(security),
        }
        settings = {
            "bootstrap.servers": bootstrap_servers,
            # The library demands a group even of a consumer that never joins or commits.
            "group.id": group_id or "streamfit",
            "isolation.level": isolation_level,
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
            "check.crcs": True,
            "fetch.wait.max.ms": 100,
            "fetch.max.bytes": FETCH_BYTES,
            "fetch.message.max.bytes": PARTITION_FETCH_BYTES,
            "queued.max.messages.kbytes": 2 * FETCH_BYTES >> 10,
            # When enough is queued the library pauses fetching; its second of pause is long
            # enough for us to run dry.
            "fetch.queue.backoff.ms": 10,
            "reconnect.backoff.ms": 250,
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.refresh.interval.ms": 2000,
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
            # What matters is raised, or logged once by the source; the library would repeat it.
            "log_level": 0,
            **_security_settings(security),
        }
        self._consumer = Consumer(settings)
        try:
            self._connect(timeout)
        except BaseException:
            self._consumer.close()
            raise

    def _connect(self, timeout: float) -> None:
        """Wait for the first answer, in small pieces: between them a refusal becomes known."""
        deadline = time.monotonic() + timeout
        patience = 0.1
        while True:
            try:
                self.partitions(min(patience, max(0.01, deadline - time.monotonic())))
                return
            except BrokerUnavailableError:
                self._consumer.poll(0)  # which calls `_on_error`
                if self._failure is not None:
                    raise self._failure from None
                if time.monotonic() > deadline:
                    raise
            patience *= 2

    def partitions(self, timeout: float) -> set[int]:
        """See `Client`."""
        try:
            topics = self._consumer.list_topics(self._topic, timeout=timeout).topics
        except KafkaException as exception:
            raise self._translated("read the metadata", exception.args[0]) from exception
        topic = topics.get(self._topic)
        if topic is None:
            return set()
        if topic.error is not None and topic.error.code() in FATAL:
            raise self._translated("read the metadata", topic.error)
        return set(topic.partitions)

    def topic_id(self, timeout: float) -> str | None:
        """See `Client`."""
        if self._admin is None:
            self._admin = AdminClient(self._admin_settings)
        asked = TopicCollection([self._topic])
        try:
            answer = self._admin.describe_topics(asked, request_timeout=timeout)[self._topic]
            topic_id = answer.result(timeout + 1).topic_id
        except KafkaException as exception:
            if exception.args[0].code() in MOVING:
                return None
            raise self._translated("read the topic's id", exception.args[0]) from exception
        except FutureTimeoutError as error:
            raise BrokerUnavailableError(
                f"topic {self._topic!r}: cannot read the topic's id: no answer in time"
            ) from error
        high, low = topic_id.get_most_significant_bits(), topic_id.get_least_significant_bits()
        found = UUID(int=(high % 2**64) << 64 | low % 2**64)
        return str(found) if found.int else None

    def bounds(self, partitions: Iterable[int], timeout: float) -> Bounds:
        """See `Client`."""
        wanted = list(partitions)
        deadline = time.monotonic() + timeout
        first = self._offsets(wanted, OFFSET_BEGINNING, deadline)
        end = self._offsets(wanted, OFFSET_END, deadline)
        return {partition: (first[partition], end[partition]) for partition in wanted}

    def assign(self, offsets: Mapping[int, int]) -> None:
        """See `Client`."""
        # The offsets go into the assignment: seeking after it has lost messages.
        self._consumer.assign([TopicPartition(self._topic, p, n) for p, n in offsets.items()])

    def poll(self, timeout: float) -> list[Records]:
        """See `Client`."""
        # `consume` waits until its list is full or the time is over, so wait for one message
        # and then take what has come with it.
        first = self._consumer.poll(timeout)
        if self._failure is not None:
            raise self._failure
        if first is None:
            return []
        messages: list[Any] = [first, *self._consumer.consume(MAX_RECORDS, timeout=0)]
        # Column by column: a loop that looks at one message after the other takes three times as
        # long as these, and a fifth of the time of a whole run.
        failed = [message for message in messages if message.error() is not None]
        for message in failed:
            self._note(message, message.error())
        if failed:
            messages = [message for message in messages if message.error() is None]
        if self._failure is not None and not messages:
            raise self._failure
        found: dict[int, list[Any]] = dict.fromkeys([m.partition() for m in messages], messages)
        if len(found) > 1:
            found = {partition: [] for partition in found}
            for message in messages:
                found[message.partition()].append(message)
        return [
            Records(
                partition,
                [message.offset() for message in its],
                [message.value() for message in its],
                [message.key() for message in its],
            )
            for partition, its in found.items()
        ]

    def positions(self) -> dict[int, int]:
        """See `Client`."""
        # The library's own position stops short of trailing transaction markers; the offset at
        # which it reports the end of a partition does not.
        return dict(self._ends)

    def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Client`."""
        wanted = [TopicPartition(self._topic, p, n) for p, n in offsets.items()]
        try:
            self._consumer.commit(offsets=wanted, asynchronous=True)
        except KafkaException as exception:
            raise self._translated("commit", exception.args[0]) from exception

    def close(self) -> None:
        """See `Client`."""
        self._admin = None  # it has no `close`, and ends when nothing refers to it any more
        self._consumer.close()

    def _offsets(self, partitions: list[int], which: int, deadline: float) -> dict[int, int]:
        """Ask for one end of all partitions at once.

        An answer comes behind the fetch that waits on the same connection, so asking partition
        by partition (`get_watermark_offsets`) would take a fetch's wait each.
        """
        if not partitions:
            return {}
        while True:
            # To the broker the ends are times with special values, and so they are to the library.
            asked = [TopicPartition(self._topic, p, which) for p in partitions]
            left = max(0.01, deadline - time.monotonic())
            failed: tuple[Any, int | None] | None = None
            try:
                found = self._consumer.offsets_for_times(asked, timeout=left)
                failed = next(((tp.error, tp.partition) for tp in found if tp.error), None)
            except KafkaException as exception:
                failed = exception.args[0], None
            if failed is None:
                break
            if failed[0].code() not in MOVING or time.monotonic() + RETRY_SECONDS > deadline:
                raise self._translated("read the offsets", *failed)
            time.sleep(RETRY_SECONDS)
        if len(found) < len(partitions) or any(tp.offset < 0 for tp in found):
            raise BrokerUnavailableError(f"topic {self._topic!r}: no answer about its offsets")
        return {tp.partition: tp.offset for tp in found}

    def _note(self, message: Any, error: Any) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            self._ends[message.partition()] = message.offset()
        elif error.code() in LOST or error.code() in FATAL:
            self._failure = self._failure or self._translated("fetch", error, message.partition())

    def _on_error(self, error: Any) -> None:
        if error.code() in FATAL:
            self._failure = self._failure or self._translated("reach the broker", error)

    def _on_commit(self, error: Any, offsets: Any) -> None:
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            log.warning("event=commit_failed topic=%s message=%r", self._topic, error.str())

    def _translated(self, doing: str, error: Any, partition: int | None = None) -> SourceError:
        # A refused password, say, is behind a plain time-out.
        return self._failure or _translated(self._topic, doing, error, partition)


class ConfluentProducer:
    """See `Producer`."""

    def __init__(
        self, topic: str, timeout: float, *, bootstrap_servers: str, security: Security | None
    ) -> None:
        self._topic = topic
        self._failure: SourceError | None = None
        settings = {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,  # which waits for all replicas in sync
            "allow.auto.create.topics": False,
            "message.max.bytes": MAX_LETTER_BYTES,
            "delivery.timeout.ms": int(timeout * 1000),
            "linger.ms": 0,
            "reconnect.backoff.ms": 250,
            "reconnect.backoff.max.ms": 1000,
            "error_cb": self._on_error,
            "log_level": 0,
            **_security_settings(security),
        }
        self._producer = Producer(settings)

    def send(self, letters: Sequence[Letter], timeout: float) -> None:
        """See `Producer`."""
        failed: list[Any] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(error)

        deadline = time.monotonic() + timeout
        for letter in letters:
            headers: Any = letter.headers
            while True:
                try:
                    self._producer.produce(
                        self._topic, letter.value, letter.key, headers=headers, callback=delivered
                    )
                    break
                except BufferError:  # the library's queue is full
                    self._producer.poll(0.1)
                    if time.monotonic() > deadline:
                        raise _unacknowledged(self._topic) from None
                except KafkaException as exception:
                    raise _translated(self._topic, "write", exception.args[0]) from exception
        left = self._producer.flush(max(0.0, deadline - time.monotonic()))
        if failed:
            raise self._failure or _translated(self._topic, "write", failed[0])
        if left:
            raise self._failure or _unacknowledged(self._topic)

    def close(self) -> None:
        """See `Producer`."""
        self._producer.purge()
        self._producer.flush(0)

    def _on_error(self, error: Any) -> None:
        if error.code() in FATAL:
            self._failure = self._failure or _translated(self._topic, "reach the broker", error)


def _security_settings(security: Security | None) -> dict[str, Any]:
    if security is None:
        return {}
    settings: dict[str, Any] = {
        "security.protocol": security.protocol,
        "enable.ssl.certificate.verification": True,
        "ssl.endpoint.identification.algorithm": "https",
    }
    if security.ca_file is not None:
        settings["ssl.ca.location"] = os.fspath(security.ca_file)
    if security.mechanism is not None:
        settings["sasl.mechanism"] = security.mechanism
        settings["sasl.username"] = security.username
        settings["sasl.password"] = security.password()
    return settings


def _unacknowledged(topic: str) -> BrokerUnavailableError:
    return BrokerUnavailableError(f"topic {topic!r}: cannot write: no acknowledgement in time")


def _translated(topic: str, doing: str, error: Any, partition: int | None = None) -> SourceError:
    place = f"topic {topic!r}" + ("" if partition is None else f" partition {partition}")
    kind: type[SourceError] = BrokerUnavailableError
    if error.code() in LOST:
        kind = LostOffsetsError
    elif error.code() in REFUSED:
        kind = AuthenticationError
    elif error.code() in FATAL:
        kind = SourceError
    return kind(f"{place}: cannot {doing}: {error.str()}")
