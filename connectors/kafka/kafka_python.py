"""The kafka-python client.

No deserializers are given to it, and a consumer that has raised is never polled again: after a
deserializer or a checksum failed, its `poll()` may not return (seen with 3.0.12).
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition, codec
from kafka import errors as kafka_errors
from kafka.record import default_records

from connectors.kafka.inflate import gunzip, unlz4, unzstd
from connectors.kafka.protocol import FETCH_BYTES, PARTITION_FETCH_BYTES, Bounds, Letter, Records
from connectors.kafka.security import Security
from streamfit.errors import (
    AuthenticationError,
    BrokerUnavailableError,
    LostOffsetsError,
    MissingDependencyError,
    SourceError,
)

__all__ = ["KafkaPythonClient", "KafkaPythonProducer"]

MAX_RECORDS = 5000
COMMIT_MS = 3000
MAX_LETTER_BYTES = 1 << 28  # what is too large is for the broker to say
REFRESH_MS = 2000
NETWORK: Any = KafkaConsumer.DEFAULT_CONFIG["kafka_client"]

# The library inflates compressed batches without a bound, and has no setting for one.
default_records.gzip_decode = gunzip
default_records.lz4_decode = partial(unlz4, codec.lz4)
default_records.zstd_decode = partial(unzstd, codec.zstd)

# While a broker is away the library logs several errors a second. All that matters of them is
# raised, or logged once by the source, so they are kept quiet unless the user chose a level.
_library_log = logging.getLogger("kafka")
if _library_log.level == logging.NOTSET:
    _library_log.setLevel(logging.CRITICAL)


class KafkaPythonClient:
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
        self._group_id = group_id
        self._settings = {
            "bootstrap_servers": bootstrap_servers.split(","),
            "isolation_level": isolation_level,
            "auto_offset_reset": "none",
            "enable_auto_commit": False,
            "allow_auto_create_topics": False,
            "metadata_max_age_ms": REFRESH_MS,
            "reconnect_backoff_max_ms": 1000,
            "fetch_max_wait_ms": 100,
            "fetch_max_bytes": FETCH_BYTES,
            "max_partition_fetch_bytes": PARTITION_FETCH_BYTES,
            "metrics_enabled": False,
            **_security_settings(security),
        }
        self._committer: Any = None
        self._assigned: list[TopicPartition] = []
        # The consumer has no group: with one, `poll()` returns nothing while the group's
        # coordinator is away, although the records could be fetched.
        self._consumer = self._open(timeout)
        self._cluster = self._consumer._client.cluster

    def partitions(self, timeout: float) -> set[int]:
        """See `Client`."""
        # From the library's own view of the cluster, which it refreshes in the background.
        if self._cluster.partitions_for_topic(self._topic) is None:
            self._refresh(timeout)
        return self._cluster.partitions_for_topic(self._topic) or set()

    def topic_id(self, timeout: float) -> str | None:
        """See `Client`."""
        self._refresh(timeout)  # records are fetched by name, so an id known already says nothing
        found = self._cluster.topic_id(self._topic)
        return str(found) if found else None

    def _refresh(self, timeout: float) -> None:
        # `consumer.partitions_for_topic` would ask about all topics, and wait for ever.
        unknown = kafka_errors.UnknownTopicOrPartitionError
        with self._translated("read the metadata"), suppress(unknown):
            self._cluster.add_topic(self._topic)
            updated = self._cluster.request_update()
            manager = self._consumer._manager
            self._consumer._net.run(manager.wait_for, updated, int(timeout * 1000))

    def bounds(self, partitions: Iterable[int], timeout: float) -> Bounds:
        """See `Client`."""
        wanted = [TopicPartition(self._topic, p) for p in partitions]
        if not wanted:
            return {}
        with self._translated("read the offsets"):
            first = self._consumer.beginning_offsets(wanted, timeout_ms=timeout * 1000)
            end = self._consumer.end_offsets(wanted, timeout_ms=timeout * 1000)
        return {tp.partition: (first[tp], end[tp]) for tp in wanted}

    def assign(self, offsets: Mapping[int, int]) -> None:
        """See `Client`."""
        self._assigned = [TopicPartition(self._topic, p) for p in offsets]
        self._consumer.assign(self._assigned)
        for tp in self._assigned:
            self._consumer.seek(tp, offsets[tp.partition])

    def poll(self, timeout: float) -> list[Records]:
        """See `Client`."""
        with self._translated("fetch"):
            polled = self._consumer.poll(timeout_ms=int(timeout * 1000), max_records=MAX_RECORDS)
        return [
            Records(
                tp.partition,
                [r.offset for r in records],
                [r.value for r in records],
                [r.key for r in records],
            )
            for tp, records in polled.items()
        ]

    def positions(self) -> dict[int, int]:
        """See `Client`."""
        with self._translated("read the positions"):
            found = {
                tp.partition: self._consumer.position(tp, timeout_ms=0) for tp in self._assigned
            }
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def commit(self, offsets: Mapping[int, int]) -> None:
        """See `Client`."""
        with self._translated("commit"):
            if self._committer is None:
                self._committer = self._open(COMMIT_MS / 1000, group_id=self._group_id)
            self._committer.commit(
                {
                    TopicPartition(self._topic, p): OffsetAndMetadata(offset, "", -1)
                    for p, offset in offsets.items()
                },
                timeout_ms=COMMIT_MS,
            )

    def close(self) -> None:
        """See `Client`."""
        for consumer in (self._consumer, self._committer):
            if consumer is not None:
                with suppress(kafka_errors.KafkaError):
                    consumer.close(autocommit=False, timeout_ms=1000)

    def _open(self, timeout: float, **settings: Any) -> Any:
        with self._translated("connect"), _networks(timeout) as network:
            return KafkaConsumer(
                **self._settings,
                **settings,
                bootstrap_timeout_ms=int(timeout * 1000),
                kafka_client=network,
            )

    def _translated(self, doing: str) -> AbstractContextManager[None]:
        return _translated(self._topic, doing)


class KafkaPythonProducer:
    """See `Producer`."""

    def __init__(
        self, topic: str, timeout: float, *, bootstrap_servers: str, security: Security | None
    ) -> None:
        self._topic = topic
        with _translated(topic, "connect"), _networks(timeout) as network:
            self._producer = KafkaProducer(
                bootstrap_servers=bootstrap_servers.split(","),
                bootstrap_timeout_ms=int(timeout * 1000),
                enable_idempotence=True,  # which waits for all replicas in sync
                allow_auto_create_topics=False,
                max_request_size=MAX_LETTER_BYTES,
                request_timeout_ms=int(timeout * 1000),
                delivery_timeout_ms=int(timeout * 1000),
                max_block_ms=int(timeout * 1000),
                reconnect_backoff_max_ms=1000,
                metrics_enabled=False,
                kafka_client=network,
                **_security_settings(security),
            )

    def send(self, letters: Sequence[Letter], timeout: float) -> None:
        """See `Producer`."""
        deadline = time.monotonic() + timeout
        with _translated(self._topic, "write"):
            futures = [
                self._producer.send(self._topic, letter.value, letter.key, letter.headers)
                for letter in letters
            ]
            for future in futures:
                future.get(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """See `Producer`."""
        # Without this, closing while the broker is away would time out and leave the thread.
        self._producer._sender.force_close()
        self._producer.close(timeout=1)


@contextmanager
def _translated(topic: str, doing: str) -> Iterator[None]:
    try:
        yield
    except (kafka_errors.OffsetOutOfRangeError, kafka_errors.LogTruncationError) as error:
        raise LostOffsetsError(f"topic {topic!r}: cannot {doing}: {error}") from error
    except kafka_errors.UnsupportedCodecError as error:
        raise MissingDependencyError(
            f"topic {topic!r}: {error}: "
            'pip install "streamfit[compression]", or use client="confluent-kafka"'
        ) from error
    except kafka_errors.KafkaError as error:
        kind: type[SourceError] = BrokerUnavailableError if error.retriable else SourceError
        if _is_refusal(error):
            kind = AuthenticationError
        raise kind(f"topic {topic!r}: cannot {doing}: {error}") from error
    except OSError as error:
        raise BrokerUnavailableError(f"topic {topic!r}: cannot {doing}: {error}") from error
    except Exception as error:  # such as a failed decompression, whose error is anyone's
        raise SourceError(f"topic {topic!r}: cannot {doing}: {error!r}") from error


REFUSALS = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    ssl.SSLError,
)


def _is_refusal(error: BaseException | None) -> bool:
    """Say whether broker and client do not accept one another; a failed handshake hides why."""
    return error is not None and (isinstance(error, REFUSALS) or _is_refusal(error.__context__))


@contextmanager
def _networks(timeout: float) -> Iterator[Callable[..., Any]]:
    """Hand the library its own network layer, and close it when what it is for fails to open."""
    opened: list[Any] = []

    def open_network(**config: Any) -> Any:
        _check_accepted(config, timeout)
        opened.append(NETWORK(**config))
        return opened[-1]

    try:
        yield open_network
    except BaseException:
        for network in opened:  # a constructor that fails leaves its I/O thread running
            network.close()
        raise


def _check_accepted(config: dict[str, Any], timeout: float) -> None:
    """Connect once where broker and client must accept one another, and raise if they do not.

    The library would try again and again until its time is over, and then not say why.
    """
    if config["security_protocol"] == "PLAINTEXT":
        return
    for last in (False, True):
        network = NETWORK(**config)

        async def connect(network: Any = network, last: bool = last) -> None:
            node = network.least_loaded_node(bootstrap_fallback=True)
            connection = network._manager.get_connection(node, timeout_ms=int(timeout * 1000))
            try:
                await connection
            except kafka_errors.KafkaConnectionError:
                # The broker closes behind its refusal, which the library then fails to read. A
                # broker that closes at this point twice did not just happen to stop there.
                if last and config["sasl_mechanism"] and connection.broker_version_data:
                    raise kafka_errors.SaslAuthenticationFailedError(
                        "the broker closed the connection at the login: wrong name or password?"
                    ) from None
                raise

        try:
            network._net.run(connect)
            return
        except kafka_errors.KafkaError as error:
            if _is_refusal(error):
                raise
        finally:
            network.close()


def _security_settings(security: Security | None) -> dict[str, Any]:
    if security is None:
        return {}
    settings: dict[str, Any] = {
        "security_protocol": security.protocol,
        "ssl_check_hostname": True,
    }
    if security.ca_file is not None:
        settings["ssl_cafile"] = os.fspath(security.ca_file)
    if security.mechanism is not None:
        settings["sasl_mechanism"] = security.mechanism
        settings["sasl_plain_username"] = security.username
        settings["sasl_plain_password"] = security.password()
    return settings
