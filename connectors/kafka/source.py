"""A Kafka topic as a source: every record handed out once, in order, from a known position.

The position lives with the reader (a checkpoint), never with the broker. So partitions are
assigned rather than subscribed, nothing is committed but for dashboards, and an offset that the
broker cannot serve is an error: there is no reset, to the earliest or to the latest.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeVar, get_args

from connectors.kafka.offsets import check_held, from_position, to_position
from connectors.kafka.protocol import Bounds, Client, ClientFactory, Records
from streamfit.errors import (
    BadSampleError,
    BrokerUnavailableError,
    ConfigurationError,
    DecodeError,
    LostOffsetsError,
    MissingDependencyError,
    SourceError,
)
from streamfit.types import Block, Decoder, Position

__all__ = ["KafkaSource"]

ClientName = Literal["auto", "kafka-python", "confluent-kafka"]
IsolationLevel = Literal["read_committed", "read_uncommitted"]

T = TypeVar("T")

log = logging.getLogger(__name__)


class KafkaSource:
    """Samples from one Kafka topic.

    Nothing is connected before the first `position`, `seek`, `lag` or iteration. Partitions that
    are added later are read from their earliest offset. While the broker is away a running
    iteration waits and hands out empty blocks.

    Parameters
    ----------
    topic
        Name of the topic.
    bootstrap_servers
        Some of the cluster's brokers, `"host:port,host:port"`.
    decoder
        Turns the value of a record into a sample, such as `JSONDecoder`.
    client
        Library that talks to the broker: `"kafka-python"`, which is always installed and is what
        `"auto"` means, or `"confluent-kafka"`, which is several times faster and comes with
        `pip install "streamfit[confluent]"`.
    start
        Where to begin when no position is sought: `"earliest"`, `"latest"` (what is written after
        the connection is made), or a position such as `{"clicks:0": 1234}`.
    group_id
        Consumer group under which `commit` publishes how far a trainer is. For dashboards only:
        it is never read, and no group is joined.
    stop_at_end
        End an iteration where the topic ended when the iteration began.
    isolation_level
        `"read_committed"` leaves out what aborted transactions wrote.
    on_lost_offsets
        `"halt"`: raise `LostOffsetsError` when the position is outside the broker's log.

    Attributes
    ----------
    live
        True: empty blocks are handed out while nothing arrives.
    n_duplicates
        Records dropped because the broker delivered them a second time.

    Examples
    --------
    >>> from connectors import JSONDecoder, KafkaSource
    >>> source = KafkaSource(
    ...     "clicks", bootstrap_servers="localhost:9092", decoder=JSONDecoder(target="clicked")
    ... )
    >>> for block in source:  # doctest: +SKIP
    ...     print(block.partition, block.offsets, block.y)
    """

    live = True

    # How long a question to the broker may hold us: at first, when a running iteration has to
    # open a new connection, and on a connection that should be working.
    _connect_seconds = 30.0
    _reconnect_seconds = 5.0
    _request_seconds = 1.0
    _poll_seconds = 0.1
    _check_seconds = 3.0
    _stall_seconds = 30.0
    _missing_seconds = 10.0

    def __init__(
        self,
        topic: str,
        *,
        bootstrap_servers: str,
        decoder: Decoder,
        client: ClientName = "auto",
        start: Literal["earliest", "latest"] | Position = "earliest",
        group_id: str | None = None,
        stop_at_end: bool = False,
        isolation_level: IsolationLevel = "read_committed",
        on_lost_offsets: Literal["halt"] = "halt",
    ) -> None:
        self.topic = _text("topic", topic)
        self.bootstrap_servers = _text("bootstrap_servers", bootstrap_servers)
        if not callable(decoder):
            raise ConfigurationError(f"decoder must be callable, not {decoder!r}")
        self.decoder = decoder
        self.client = _one_of("client", client, get_args(ClientName))
        self.group_id = None if group_id is None else _text("group_id", group_id)
        self.stop_at_end = _one_of("stop_at_end", stop_at_end, (False, True))
        levels = get_args(IsolationLevel)
        self.isolation_level = _one_of("isolation_level", isolation_level, levels)
        self.on_lost_offsets = _one_of("on_lost_offsets", on_lost_offsets, ("halt",))
        self.n_duplicates = 0
        self._start: str | dict[int, int]
        if isinstance(start, Mapping):
            try:
                self._start = from_position(self.topic, start)
            except SourceError as error:
                raise ConfigurationError(f"start: {error}") from None
        elif start in ("earliest", "latest"):
            self._start = start
        else:
            raise ConfigurationError(
                f"start must be 'earliest', 'latest' or a position, not {start!r}"
            )

        self._open = _client_factory(self.client)
        self._client: Client | None = None
        self._queue: deque[Records] = deque()  # polled and not yet handed out
        self._next: dict[int, int] | None = None  # by partition: the offset to hand out next
        self._after_last: dict[int, int] = {}  # ... and the offset after the last handed out
        self._away = False
        self._missing_since = math.inf
        self._next_check = 0.0
        self._polled = 0.0  # seconds spent waiting for records
        self._moved_at: dict[int, float] = {}  # by partition: `_polled` when it last moved

    def __repr__(self) -> str:
        return f"KafkaSource({self.topic!r}, bootstrap_servers={self.bootstrap_servers!r})"

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks, one a partition and poll, from the present position on."""
        offsets = self._connect(self._connect_seconds)
        ends: dict[int, int] | None = None
        if self.stop_at_end:
            held = self._client_or_raise().bounds(list(offsets), self._connect_seconds)
            ends = {partition: end for partition, (_, end) in held.items()}
        try:
            while ends is None or any(self._next_of(p) < end for p, end in ends.items()):
                if not self._queue:
                    self._poll(ends)
                if not self._queue:
                    yield Block(x=[], y=[], source=self.topic)
                while self._queue:
                    block = self._block(self._queue[0], ends)
                    self._queue.popleft()  # only now: a decoder that raises must lose nothing
                    if block is not None:
                        yield block
        finally:
            if ends is not None:  # the client has read past the ends, where others may go on
                self._disconnect()

    def position(self) -> Position:
        """Say which offset of each partition is handed out next."""
        offsets = self._next if self._next is not None else self._connect(self._connect_seconds)
        return to_position(self.topic, offsets)

    def seek(self, position: Position) -> None:
        """Make the next iteration start at `position`; absent partitions at their earliest.

        Raises
        ------
        LostOffsetsError
            When the broker does not hold an offset of the position.
        SourceError
            When the position is not one of this topic.
        """
        wanted = from_position(self.topic, position)
        before, self._next = self._next, wanted
        self._disconnect()
        self._after_last = {}
        try:
            self._connect(self._connect_seconds)
        except BaseException:
            self._next = before
            raise

    def commit(self, position: Position) -> None:
        """Publish `position` under `group_id` for dashboards; a failure is only logged."""
        if self.group_id is None:
            return
        offsets = from_position(self.topic, position)
        try:
            self._connect(self._request_seconds)
            if offsets and not self._away:
                self._client_or_raise().commit(offsets)
        except SourceError as error:
            log.warning("%s", error)

    def lag(self, position: Position) -> int | None:
        """Count the records between `position` and the end of the topic, None when not known.

        Offsets that hold no record (compacted, transaction markers) count where they lie ahead.
        """
        offsets = from_position(self.topic, position)
        try:
            here = self._connect(self._request_seconds)
            held = self._client_or_raise().bounds(list(here), self._request_seconds)
        except SourceError:
            return None
        left = 0
        for partition, (first, end) in held.items():
            offset = max(offsets.get(partition, first), first)
            if offset >= self._after_last.get(partition, math.inf):
                offset = max(offset, here[partition])  # nothing but gaps lies between
            left += max(0, end - offset)
        return left

    def close(self) -> None:
        """Close the connection; the source can be iterated again, from where it stands."""
        self._disconnect()

    def _block(self, records: Records, ends: Mapping[int, int] | None) -> Block | None:
        """Decode what is new in `records` and move the position past it."""
        topic, partition, decode = self.topic, records.partition, self.decoder
        expected = self._next_of(partition)
        end: float = math.inf if ends is None else ends.get(partition, 0)
        xs: list[Any] = []
        ys: list[Any] = []
        ws: list[float | None] = []
        offsets: list[int] = []
        errors: dict[int, BadSampleError] = {}
        for offset, value in zip(records.offsets, records.values, strict=True):
            if offset < expected:
                self.n_duplicates += 1
                continue
            if offset >= end:
                expected = max(expected, int(end))
                break
            expected = offset + 1
            try:
                if value is None:
                    raise DecodeError("tombstone: the record has no value")
                x, y, w = decode(value)
            except BadSampleError as error:
                errors[len(ys)] = error.at(topic, partition, offset)
                x, y, w = {}, 0, None
            except Exception as error:
                error.add_note(f"while decoding {topic!r}, partition {partition}, offset {offset}")
                raise
            xs.append(x)
            ys.append(y)
            ws.append(w)
            offsets.append(offset)
        self._move(partition, expected)
        if not ys:
            return None
        self._after_last[partition] = offsets[-1] + 1
        weighted = any(w is not None for w in ws)
        return Block(
            x=xs,
            y=ys,
            w=[1.0 if w is None else w for w in ws] if weighted else None,
            source=topic,
            partition=partition,
            offsets=offsets,
            errors=errors,
        )

    def _poll(self, ends: Mapping[int, int] | None) -> None:
        """Fill the queue with what arrives within a moment, come what may to the broker."""
        try:
            self._connect(self._reconnect_seconds)
            if time.monotonic() >= self._next_check:
                self._check()
            client = self._client_or_raise()
            began = time.monotonic()
            try:
                self._queue.extend(client.poll(self._poll_seconds))
            except BaseException:
                self._disconnect()  # whatever it had fetched will be fetched again
                raise
            self._polled += time.monotonic() - began
            if not self._queue:
                for partition, offset in client.positions().items():
                    end = math.inf if ends is None else ends.get(partition, 0)
                    self._move(partition, int(min(offset, end)))
        except BrokerUnavailableError as error:
            if not self._away:
                log.warning("%s; waiting for it", error)
            self._away = True
            if self._client is None:
                time.sleep(self._poll_seconds)
        except LostOffsetsError:
            # The library does not say what the broker holds; coming back does, and raises.
            with suppress(BrokerUnavailableError):
                self._connect(self._reconnect_seconds)
            raise

    def _check(self) -> None:
        """Look every few seconds for new partitions, lost offsets and a stalled consumer."""
        client, offsets = self._client_or_raise(), self._next
        assert offsets is not None
        self._next_check = time.monotonic() + self._check_seconds
        present = client.partitions(self._request_seconds)
        self._tolerate_missing(set(offsets) - present)
        stale = [
            p for p in offsets if self._moved_at.get(p, 0.0) + self._poll_seconds < self._polled
        ]
        # Only of partitions that bring nothing: this is also how an absent broker is noticed.
        held = client.bounds([p for p in stale if p in present], self._request_seconds)
        check_held(self.topic, offsets, held)
        if self._away:
            self._away = False
            log.warning("topic %r: the broker is back", self.topic)
        stalled = [
            partition
            for partition, (_, end) in held.items()
            if offsets[partition] < end and self._idle_for(partition) > self._stall_seconds
        ]
        if stalled:
            log.warning("topic %r: partitions %s stalled, reconnecting", self.topic, stalled)
        if stalled or present - set(offsets):
            self._disconnect()
            self._connect(self._reconnect_seconds)

    def _tolerate_missing(self, missing: set[int]) -> None:
        # A broker that has just started may not know a topic for a moment.
        if not missing:
            self._missing_since = math.inf
            return
        now = time.monotonic()
        self._missing_since = min(self._missing_since, now)
        if now - self._missing_since >= self._missing_seconds:
            raise LostOffsetsError(
                f"topic {self.topic!r}: partitions {sorted(missing)} are gone; was it deleted?"
            )

    def _connect(self, timeout: float) -> dict[int, int]:
        """Have a client that reads from the present position, and return that position."""
        if self._client is not None and self._next is not None:
            return self._next
        client = self._open(
            self.topic,
            bootstrap_servers=self.bootstrap_servers,
            group_id=self.group_id,
            isolation_level=self.isolation_level,
            timeout=timeout,
        )
        try:
            held = client.bounds(self._existing_partitions(client, timeout), timeout)
            offsets = self._place(held)
            client.assign(offsets)
        except BaseException:
            client.close()
            raise
        self._client, self._next = client, offsets
        self._moved_at = dict.fromkeys(offsets, self._polled)
        self._next_check = time.monotonic() + self._check_seconds
        return offsets

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        self._queue.clear()
        if client is not None:
            client.close()

    def _existing_partitions(self, client: Client, timeout: float) -> Iterable[int]:
        # A topic just made may take a moment to show.
        deadline = time.monotonic() + min(timeout, 2.0)
        while not (partitions := client.partitions(timeout)):
            if time.monotonic() >= deadline:
                if self._next is not None and self._away:
                    raise BrokerUnavailableError(f"topic {self.topic!r}: not known to the broker")
                raise SourceError(
                    f"topic {self.topic!r} does not exist at {self.bootstrap_servers}"
                )
            time.sleep(0.05)
        return sorted(partitions)

    def _place(self, held: Bounds) -> dict[int, int]:
        """Find the offset to start at of every partition, and refuse one that is not held."""
        wanted: Mapping[int, int]
        if self._next is not None:
            wanted = self._next
        elif isinstance(self._start, dict):
            wanted = self._start
        elif self._start == "latest":
            wanted = {partition: end for partition, (_, end) in held.items()}
        else:
            wanted = {}
        if unknown := set(wanted) - set(held):
            raise LostOffsetsError(
                f"topic {self.topic!r} has no partitions {sorted(unknown)}, which the position "
                f"names; it has {sorted(held)}"
            )
        check_held(self.topic, wanted, held)
        return {partition: wanted.get(partition, first) for partition, (first, _) in held.items()}

    def _next_of(self, partition: int) -> int:
        assert self._next is not None
        return self._next[partition]

    def _move(self, partition: int, offset: int) -> None:
        if offset > self._next_of(partition):
            assert self._next is not None
            self._next[partition] = offset
            self._moved_at[partition] = self._polled

    def _idle_for(self, partition: int) -> float:
        """Return for how many seconds of polling a partition has brought nothing."""
        return self._polled - self._moved_at.get(partition, 0.0)

    def _client_or_raise(self) -> Client:
        if self._client is None:
            raise BrokerUnavailableError(f"topic {self.topic!r}: not connected")
        return self._client


def _client_factory(name: str) -> ClientFactory:
    if name == "confluent-kafka":
        try:
            from connectors.kafka.confluent import ConfluentClient
        except ImportError as error:
            raise MissingDependencyError(
                'client="confluent-kafka" needs a package that is not installed: '
                'pip install "streamfit[confluent]"'
            ) from error
        return ConfluentClient
    from connectors.kafka.kafka_python import KafkaPythonClient

    return KafkaPythonClient


def _text(argument: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{argument} must be a non-empty string, not {value!r}")
    return value


def _one_of(argument: str, value: T, allowed: Iterable[T]) -> T:
    if value not in (allowed := tuple(allowed)):
        choices = ", ".join(map(repr, allowed))
        raise ConfigurationError(f"{argument} must be one of {choices}, not {value!r}")
    return value
