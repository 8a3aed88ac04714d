"""A Kafka topic as a source: every record handed out once, in order, from a known position.

The position lives with the reader (a checkpoint), never with the broker. So partitions are
assigned rather than subscribed, nothing is committed but for dashboards, and an offset that the
broker cannot serve is an error: there is no reset, to the earliest or to the latest.
"""

from __future__ import annotations

import copy
import logging
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, get_args

from connectors.kafka.dead_letters import DeadLetterTopic
from connectors.kafka.feed import Feed
from connectors.kafka.offsets import from_position, to_position
from connectors.kafka.protocol import ClientFactory, ProducerFactory, Records
from connectors.kafka.security import Security
from streamfit.errors import (
    BadSampleError,
    ConfigurationError,
    DecodeError,
    MissingDependencyError,
    SourceError,
)
from streamfit.types import Block, Decoder, DecodesMany, Position

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
        Turns the value of a record into a sample, such as `JSONDecoder`. It raises `DecodeError`
        for a value that is none; any other exception is the decoder's own fault and ends the run.
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
    dead_letter_topic
        Topic to which `dead_letters` writes when it is told no other.
    security
        TLS, name and password; see `Security`.
    on_lost_offsets
        `"halt"`: raise `LostOffsetsError` when the position is outside the broker's log.

    Attributes
    ----------
    live
        True: empty blocks are handed out while nothing arrives.

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
        dead_letter_topic: str | None = None,
        security: Security | None = None,
        on_lost_offsets: Literal["halt"] = "halt",
    ) -> None:
        self.topic = _text("topic", topic)
        self.bootstrap_servers = _text("bootstrap_servers", bootstrap_servers)
        if "@" in bootstrap_servers:  # and this is written into checkpoints
            raise ConfigurationError(
                "bootstrap_servers must be host:port; name and password belong into security="
            )
        if security is not None and not isinstance(security, Security):
            raise ConfigurationError(
                f"security must be a Security, not a {type(security).__name__}"
            )
        self.security = security
        if not callable(decoder):
            raise ConfigurationError(f"decoder must be callable, not {decoder!r}")
        self.decoder = decoder
        self.starts_at_end = start == "latest"
        self.client = _one_of("client", client, get_args(ClientName))
        self.group_id = None if group_id is None else _text("group_id", group_id)
        self.stop_at_end = _one_of("stop_at_end", stop_at_end, (False, True))
        levels = get_args(IsolationLevel)
        self.isolation_level = _one_of("isolation_level", isolation_level, levels)
        self.dead_letter_topic = (
            None if dead_letter_topic is None else _text("dead_letter_topic", dead_letter_topic)
        )
        if self.dead_letter_topic == self.topic:
            raise ConfigurationError("dead_letter_topic must be another topic than the one read")
        self.on_lost_offsets = _one_of("on_lost_offsets", on_lost_offsets, ("halt",))
        self._after_last: dict[int, int] = {}  # by partition: the offset after the last record
        client_factory, producer_factory = _library(self.client)
        self._open_client = partial(
            client_factory,
            bootstrap_servers=self.bootstrap_servers,
            group_id=self.group_id,
            isolation_level=self.isolation_level,
            security=security,
        )
        self._open_producer = partial(
            producer_factory, bootstrap_servers=self.bootstrap_servers, security=security
        )
        self._start = _parse_start(self.topic, start)
        self._feed = self._make_feed(None)

    def _make_feed(self, only: frozenset[int] | None) -> Feed:
        return Feed(self.topic, partial(self._open_client, self.topic), self._start, only)

    @property
    def n_duplicates(self) -> int:
        """Records dropped because the broker delivered them a second time."""
        return self._feed.n_duplicates

    def __repr__(self) -> str:
        return f"KafkaSource({self.topic!r}, bootstrap_servers={self.bootstrap_servers!r})"

    def get_config(self) -> dict[str, Any] | None:
        """Return what is needed to read the topic again; None when the decoder cannot tell.

        Of `security` it tells where the password is, never what it is.
        """
        describe = getattr(self.decoder, "get_config", None)
        if describe is None:
            return None
        return {
            "id": "KafkaSource",
            "topic": self.topic,
            "bootstrap_servers": self.bootstrap_servers,
            "client": self.client,
            "isolation_level": self.isolation_level,
            "security": None if self.security is None else self.security.get_config(),
            "decoder": describe(),
        }

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks, one a partition and poll, from the present position on."""
        feed = self._feed
        feed.rest(False)
        feed.connect()
        ends: dict[int, int] | None = None
        if self.stop_at_end:
            ends = {p: end for p, (_, end) in feed.bounds(feed.connect_seconds).items()}
        try:
            while ends is None or any(feed.next[p] < end for p, end in ends.items()):
                if not feed.queue:
                    feed.poll(ends)
                if not feed.queue:
                    yield Block(x=[], y=[], source=self.topic)
                while feed.queue:
                    block = self._block(feed.queue[0], ends)
                    feed.queue.popleft()  # only now: a decoder that raises must lose nothing
                    if block is not None:
                        yield block
        finally:
            if ends is not None:  # the client has read past the ends, where others may go on
                feed.disconnect()

    def partitions(self) -> list[str]:
        """Return the keys of the topic's partitions, asking the broker for new ones."""
        self._feed.look_for_partitions()
        return list(self.position())

    def only(self, partitions: Sequence[str]) -> KafkaSource:
        """Return the same source, not connected, with only some of the partitions.

        This one fetches no records then, unless it is iterated over.

        Raises
        ------
        ConfigurationError
            When there are none.
        """
        numbers = from_position(self.topic, dict.fromkeys(partitions, 0))
        if not numbers:
            raise ConfigurationError(
                f"topic {self.topic!r} has fewer partitions than shares: take fewer workers"
            )
        self._feed.rest()
        part = copy.copy(self)
        part._after_last = {}
        part._feed = part._make_feed(frozenset(numbers))
        return part

    def position(self) -> Position:
        """Say which offset of each partition is handed out next."""
        if not self._feed.next:
            self._feed.connect()
        return to_position(self.topic, self._feed.next)

    def seek(self, position: Position) -> None:
        """Make the next iteration start at `position`; absent partitions at their earliest.

        Raises
        ------
        LostOffsetsError
            When the broker does not hold an offset of the position.
        SourceError
            When the position is not one of this topic.
        """
        self._feed.seek(from_position(self.topic, position))
        self._after_last = {}

    def state_dict(self, position: Position) -> dict[str, Any] | None:
        """Return what a position cannot tell: which topic of this name it is of."""
        return {"topic_id": self._feed.topic_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that the topic is the one that the position is of.

        Raises
        ------
        LostOffsetsError
            When it was deleted and made anew.
        """
        saved = state.get("topic_id")
        if isinstance(saved, str) and self._feed.topic_id not in (None, saved):
            found, self._feed.topic_id = self._feed.topic_id, saved
            self._feed.check_topic_id(found)

    def commit(self, position: Position) -> None:
        """Publish `position` under `group_id` for dashboards; a failure is only logged."""
        if self.group_id is None:
            return
        offsets = from_position(self.topic, position)
        feed = self._feed
        if not offsets or feed.away:
            return
        try:
            feed.connect(feed.reconnect_seconds).commit(offsets)
        except SourceError as error:
            log.warning("event=commit_failed topic=%s message=%r", self.topic, str(error))

    def lag(self, position: Position) -> int | None:
        """Count the offsets between `position` and the end of the topic, None when not known.

        Some may hold no record (compacted, transaction markers). Those at the very end count
        no more once they have been passed.
        """
        lags = self.partition_lag(position)
        return None if lags is None else sum(lags.values())

    def partition_lag(self, position: Position) -> dict[str, int] | None:
        """Count them for each partition."""
        offsets = from_position(self.topic, position)
        feed = self._feed
        if feed.away:
            return None
        try:
            held = feed.bounds(feed.request_seconds)
        except SourceError:
            return None
        left = {}
        for partition, (first, end) in held.items():
            offset = max(offsets.get(partition, first), first)
            if offset >= self._after_last.get(partition, math.inf):
                offset = max(offset, feed.next[partition])  # nothing but gaps lies between
            left[f"{self.topic}:{partition}"] = max(0, end - offset)
        return left

    def dead_letters(self, topic: str | None = None) -> DeadLetterTopic:
        """Return a topic of the same brokers to write refused records to.

        Parameters
        ----------
        topic
            Name of the topic; by default `dead_letter_topic`.

        Raises
        ------
        ConfigurationError
            When neither names a topic.
        """
        topic = self.dead_letter_topic if topic is None else _text("topic", topic)
        if topic is None:
            raise ConfigurationError("no dead letter topic: name it here or as dead_letter_topic=")
        return DeadLetterTopic(
            topic,
            partial(self._open_client, topic),
            partial(self._open_producer, topic),
        )

    def close(self) -> None:
        """Close the connection; a later iteration opens another, and goes on where this ended."""
        self._feed.disconnect()

    def _block(self, records: Records, ends: Mapping[int, int] | None) -> Block | None:
        """Decode `records`, as far as they lie before `ends`, and move the position past them."""
        topic, partition = self.topic, records.partition
        n, end = len(records.offsets), None
        if ends is not None:
            end = ends.get(partition, 0)
            n = bisect_left(records.offsets, end)
        offsets, values, keys = records.offsets[:n], records.values[:n], records.keys[:n]
        together = None
        if values and isinstance(self.decoder, DecodesMany):
            together = self.decoder.decode_many(values)
        errors: dict[int, BadSampleError] = {}
        xs, ys, ws = together or self._one_by_one(partition, offsets, values, errors)
        if end is not None and n < len(records.offsets):
            self._feed.move(partition, end)
        if not ys:
            return None
        self._after_last[partition] = offsets[-1] + 1
        self._feed.move(partition, offsets[-1] + 1)
        return Block(
            x=xs,
            y=ys,
            w=ws,
            source=topic,
            partition=partition,
            offsets=offsets,
            errors=errors,
            raw=_Raw(values, keys),
        )

    def _one_by_one(
        self,
        partition: int,
        offsets: Sequence[int],
        values: Sequence[bytes | None],
        errors: dict[int, BadSampleError],
    ) -> tuple[list[Any], list[Any], list[float] | None]:
        """Decode records; what is refused goes into `errors`, with a placeholder for it."""
        xs: list[Any] = []
        ys: list[Any] = []
        ws: list[float | None] = []
        for offset, value in zip(offsets, values, strict=True):
            try:
                if value is None:
                    raise DecodeError("tombstone: the record has no value")
                x, y, w = self.decoder(value)
            except BadSampleError as error:
                # Its traceback leads to this frame and so back to it: a cycle that keeps all
                # values of the poll until the garbage collector comes, which may be long.
                error.__context__ = error.__traceback__ = None
                errors[len(ys)] = error.at(self.topic, partition, offset)
                x, y, w = {}, 0, None
            except Exception as error:
                place = f"{self.topic!r}, partition {partition}, offset {offset}"
                error.add_note(f"while decoding {place}")
                raise
            xs.append(x)
            ys.append(y)
            ws.append(w)
        weighted = any(w is not None for w in ws)
        return xs, ys, [1.0 if w is None else w for w in ws] if weighted else None


class _Raw(Sequence[tuple[bytes | None, bytes | None]]):
    """Values and keys, paired only when somebody looks."""

    __slots__ = ("_keys", "_values")

    def __init__(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> None:
        self._values, self._keys = values, keys

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return list(zip(self._values[i], self._keys[i], strict=True))
        return self._values[i], self._keys[i]


def _library(name: str) -> tuple[ClientFactory, ProducerFactory]:
    if name == "confluent-kafka":
        try:
            from connectors.kafka.confluent import ConfluentClient, ConfluentProducer
        except ImportError as error:
            raise MissingDependencyError(
                'client="confluent-kafka" needs a package that is not installed: '
                'pip install "streamfit[confluent]"'
            ) from error
        return ConfluentClient, ConfluentProducer
    from connectors.kafka.kafka_python import KafkaPythonClient, KafkaPythonProducer

    return KafkaPythonClient, KafkaPythonProducer


def _parse_start(topic: str, start: str | Position) -> str | dict[int, int]:
    if isinstance(start, Mapping):
        try:
            return from_position(topic, start)
        except SourceError as error:
            raise ConfigurationError(f"start: {error}") from None
    if start not in ("earliest", "latest"):
        raise ConfigurationError(f"start must be 'earliest', 'latest' or a position, not {start!r}")
    return start


def _text(argument: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{argument} must be a non-empty string, not {value!r}")
    return value


def _one_of(argument: str, value: T, allowed: Iterable[T]) -> T:
    if value not in (allowed := tuple(allowed)):
        choices = ", ".join(map(repr, allowed))
        raise ConfigurationError(f"{argument} must be one of {choices}, not {value!r}")
    return value
