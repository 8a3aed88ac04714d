"""The topic that takes what could not be learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from connectors.kafka.feed import wait_for_partitions
from connectors.kafka.protocol import Client, Letter, Producer
from streamfit.errors import SourceError

__all__ = ["DeadLetterTopic"]


class DeadLetterTopic:
    """Writes to one topic, and knows what the broker has acknowledged; see `DeadLetterQueue`.

    Nothing is connected before the first `flush`. A record whose acknowledgement was lost with
    the connection is sent again, so the topic may hold it twice.

    Parameters
    ----------
    topic
        Name of the topic, which must exist. Let it take messages a little larger than those of
        the source: the headers come on top.
    open_client, open_producer
        Open a client and a producer of the topic, given how many seconds that may take.

    Examples
    --------
    >>> from connectors import JSONDecoder, KafkaSource
    >>> source = KafkaSource(
    ...     "clicks",
    ...     bootstrap_servers="localhost:9092",
    ...     decoder=JSONDecoder(target="clicked"),
    ...     dead_letter_topic="clicks-refused",
    ... )
    >>> letters = source.dead_letters()
    >>> letters.send(b"not json", b"key", [("error", b"DecodeError")])
    >>> letters.flush(timeout=30)  # doctest: +SKIP
    >>> letters.close()
    """

    def __init__(
        self,
        topic: str,
        open_client: Callable[[float], Client],
        open_producer: Callable[[float], Producer],
    ) -> None:
        self.topic = topic
        self._open_client = open_client
        self._open_producer = open_producer
        self._producer: Producer | None = None
        self._waiting: list[Letter] = []

    def __repr__(self) -> str:
        return f"DeadLetterTopic({self.topic!r})"

    def send(
        self, value: bytes | None, key: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Take one record in; it is safe only after `flush`."""
        if value is None and key is None:
            key = b""  # kafka-python refuses a record that has neither
        self._waiting.append(Letter(value, key, list(headers)))

    def flush(self, timeout: float) -> None:
        """Wait until every record taken in is acknowledged.

        Raises
        ------
        BrokerUnavailableError
            When that took longer than `timeout` seconds; flush again to try again.
        SourceError
            When trying again cannot help, as when there is no such topic.
        """
        if not self._waiting:
            return
        deadline = time.monotonic() + timeout
        try:
            if self._producer is None:
                self._check_topic(timeout)
                self._producer = self._open_producer(timeout)
            self._producer.send(self._waiting, max(0.0, deadline - time.monotonic()))
        except BaseException:
            self.close()
            raise
        self._waiting = []

    def close(self) -> None:
        """Let go of the connection; a later `flush` opens another and sends what still waits."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()

    def _check_topic(self, timeout: float) -> None:
        # A producer cannot tell a topic that does not exist from a broker that does not answer.
        client = self._open_client(timeout)
        try:
            if not wait_for_partitions(client, timeout):
                raise SourceError(f"dead letter topic {self.topic!r} does not exist: create it")
        finally:
            client.close()
