"""What `KafkaSource` asks of a Kafka client library, and no more.

A client reads one topic. It is assigned once, at offsets that the source has checked; to stand
somewhere else the source closes it and opens another, because a fresh consumer is the one state
that no client library gets wrong. It translates every error of its library:

- `BrokerUnavailableError` when trying again may help,
- `AuthenticationError` when broker and client do not accept one another,
- `LostOffsetsError` when the broker does not hold the offset that was to be read next,
- `SourceError` for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from connectors.kafka.security import Security

__all__ = [
    "FETCH_BYTES",
    "PARTITION_FETCH_BYTES",
    "Bounds",
    "Client",
    "ClientFactory",
    "Letter",
    "Producer",
    "ProducerFactory",
    "Records",
]

# What is fetched at once, of all partitions and of one. A single batch may be larger.
FETCH_BYTES = 1 << 24
PARTITION_FETCH_BYTES = 1 << 20

Bounds = dict[int, tuple[int, int]]
"""By partition: the first offset the broker holds, and the next one it will write."""


@dataclass(slots=True)
class Records:
    """What one poll brought from one partition, column by column.

    Columns rather than one object a record: a record is then never touched but to be decoded.
    """

    partition: int
    offsets: list[int]
    values: list[bytes | None]
    keys: list[bytes | None]


@dataclass(frozen=True, slots=True)
class Letter:
    """A record to be written."""

    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes]]


class Client(Protocol):
    """One consumer of one topic."""

    def partitions(self, timeout: float) -> set[int]:
        """Return the partitions that the topic has now; none when it does not exist."""

    def topic_id(self, timeout: float) -> str | None:
        """Return the id that the broker gave the topic when it was made; None when not known."""

    def bounds(self, partitions: Iterable[int], timeout: float) -> Bounds:
        """Ask the broker what it holds and, of that, what the isolation level lets us see."""

    def assign(self, offsets: Mapping[int, int]) -> None:
        """Start reading these partitions at these offsets."""

    def poll(self, timeout: float) -> list[Records]:
        """Return what has arrived, waiting at most `timeout` seconds for the first record.

        After an error the client is of no more use than to be closed.
        """

    def positions(self) -> dict[int, int]:
        """Say which offset comes next, of the partitions where that is known.

        It may lie beyond the last record returned and one: compacted records and the markers of
        transactions take offsets, too.
        """

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Publish offsets for the consumer group without waiting long."""

    def close(self) -> None:
        """Let go of threads and connections."""


class ClientFactory(Protocol):
    """Opens a client."""

    def __call__(
        self,
        topic: str,
        timeout: float,
        *,
        bootstrap_servers: str,
        group_id: str | None,
        isolation_level: str,
        security: Security | None,
    ) -> Client:
        """Connect within `timeout` seconds."""


class Producer(Protocol):
    """Writes to one topic."""

    def send(self, letters: Sequence[Letter], timeout: float) -> None:
        """Write records and wait until all are acknowledged by all replicas in sync.

        After an error the producer is of no more use than to be closed; any of the letters may
        have been written.
        """

    def close(self) -> None:
        """Let go of threads and connections."""


class ProducerFactory(Protocol):
    """Opens a producer to a topic that exists."""

    def __call__(
        self, topic: str, timeout: float, *, bootstrap_servers: str, security: Security | None
    ) -> Producer:
        """Connect within `timeout` seconds."""
