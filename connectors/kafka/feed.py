"""The records of one topic, each once and in order, whatever happens to the broker."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import islice
from operator import lt

from connectors.kafka.offsets import check_held
from connectors.kafka.protocol import Bounds, Client, Records
from streamfit.errors import BrokerUnavailableError, LostOffsetsError, SourceError

__all__ = ["Feed", "wait_for_partitions"]

MAX_PATIENCE = 32.0

log = logging.getLogger(__name__)


class Feed:
    """Keeps a client reading from a position that is its own, not the client's.

    Parameters
    ----------
    topic
        Name of the topic.
    open_client
        Opens a client, given how many seconds it may take.
    start
        Offsets by partition, `"latest"`, or `"earliest"`; partitions that the offsets do not name
        are read from their earliest.
    only
        The partitions to read, if not all.

    Attributes
    ----------
    next
        Offset that is to be handed out next, by partition; `{}` until the first connection.
    queue
        Records that were polled and are still to be handed out.
    topic_id
        Id of the topic, where the broker has ids; it never changes, or the topic is another one.
    n_duplicates
        Records dropped because they had been handed out before.
    is_resting
        Whether others read the topic: then clients are asked questions, and fetch no records.
    """

    # How long a question to the broker may hold us: at first, when a running iteration has to
    # open another connection, and on a connection that should be working.
    connect_seconds = 30.0
    reconnect_seconds = 5.0
    request_seconds = 1.0

    poll_seconds = 0.1
    check_seconds = 3.0
    stall_seconds = 30.0
    missing_seconds = 10.0
    reopen_seconds = 10.0

    def __init__(
        self,
        topic: str,
        open_client: Callable[[float], Client],
        start: Mapping[int, int] | str = "earliest",
        only: frozenset[int] | None = None,
    ) -> None:
        self.topic = topic
        self._only = only
        self.next: dict[int, int] = {}
        self.queue: deque[Records] = deque()
        self._away_since = math.inf
        self.topic_id: str | None = None
        self._was_quiet = False
        self.is_resting = False
        self.n_duplicates = 0
        self._open_client = open_client
        self._start: Mapping[int, int] | str = start
        self._client: Client | None = None
        self._next_check = 0.0
        self._missing_since = math.inf
        self._polled = 0.0  # seconds spent waiting for records ...
        self._moved_at: dict[int, float] = {}  # ... and how many they were when a partition moved
        # Grows with every client given up for being slow, until one brings something: a network
        # may be so slow that a single answer takes longer than we would wait.
        self._patience = 1.0

    @property
    def away(self) -> bool:
        """Whether the broker did not answer when it was last asked."""
        return self._away_since < math.inf

    def connect(self, timeout: float | None = None) -> Client:
        """Return a client that reads from the present position, opening one if there is none."""
        if self._client is not None:
            return self._client
        timeout = self.connect_seconds if timeout is None else timeout
        client = self._open_client(timeout)
        try:
            partitions = wait_for_partitions(client, timeout)
            if not partitions:
                kind = BrokerUnavailableError if self.away else SourceError
                raise kind(f"topic {self.topic!r} does not exist")
            self.check_topic_id(client.topic_id(timeout))
            held = client.bounds(sorted(self._mine(partitions)), timeout)
            offsets = self._place(held)
            if not self.is_resting:
                client.assign(offsets)
        except BaseException:
            client.close()
            raise
        self._client = client
        self._start = self.next = offsets  # from now on the position is this and nothing else
        self._moved_at = dict.fromkeys(offsets, self._polled)
        self._next_check = time.monotonic() + self.check_seconds
        return client

    def _mine(self, partitions: set[int]) -> set[int]:
        return partitions if self._only is None else partitions & self._only

    def look_for_partitions(self) -> None:
        """Let partitions that are new begin at their earliest; for who reads none itself."""
        with suppress(BrokerUnavailableError):
            client = self.connect(self.reconnect_seconds)
            new = self._mine(client.partitions(self.request_seconds)) - set(self.next)
            if new:
                held = client.bounds(sorted(new), self.request_seconds)
                self.next.update({partition: first for partition, (first, _) in held.items()})

    def disconnect(self) -> None:
        """Close the client; what it had fetched will be fetched again."""
        client, self._client = self._client, None
        self.queue.clear()
        if client is not None:
            client.close()

    def rest(self, is_resting: bool = True) -> None:
        """Let others read the topic, or read it again."""
        if is_resting != self.is_resting:
            self.is_resting = is_resting
            self.disconnect()

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Go on at these offsets, or stay when the broker does not hold them."""
        before = self._start
        self.disconnect()
        self._start = offsets
        try:
            self.connect()
        except BaseException:
            self._start = before
            raise

    def bounds(self, timeout: float) -> Bounds:
        """Ask what the broker holds of every partition."""
        return self.connect(timeout).bounds(list(self.next), timeout)

    def move(self, partition: int, offset: int) -> None:
        """Move the position of a partition ahead to `offset`."""
        if offset > self.next[partition]:
            self.next[partition] = offset
            self._moved_at[partition] = self._polled
            self._patience = 1.0

    def poll(self, ends: Mapping[int, int] | None = None) -> None:
        """Fill the empty queue with what arrives within a moment.

        The broker may be away for any time. Where there is nothing but gaps the position moves
        over them, though never past `ends`.
        """
        try:
            client = self.connect(self.reconnect_seconds)
            if time.monotonic() >= self._next_check:
                client = self._check(client)
            began = time.monotonic()
            try:
                polled = client.poll(self.poll_seconds)
                if polled and self._was_quiet:
                    # To make a topic anew takes a moment in which nothing comes: after one, ask
                    # before any record of what may be another topic is handed out.
                    self.check_topic_id(client.topic_id(self.reconnect_seconds))
                self._was_quiet = not polled
                self.queue.extend(new for records in polled if (new := self._new(records)).offsets)
                positions = {} if self.queue else client.positions()
            except BaseException:
                self.disconnect()
                raise
            self._polled += time.monotonic() - began
            for partition, offset in positions.items():
                end = math.inf if ends is None else ends.get(partition, 0)
                self.move(partition, int(min(offset, end)))
        except BrokerUnavailableError as error:
            self._stay_away(error)
        except LostOffsetsError:
            # The library does not say what the broker holds; coming back does, and raises.
            with suppress(BrokerUnavailableError):
                self.connect(self.reconnect_seconds)
            raise

    def _stay_away(self, error: BrokerUnavailableError) -> None:
        now = time.monotonic()
        if not self.away:
            self._away_since = now
            log.warning("event=broker_away topic=%s message=%r", self.topic, str(error))
        if self._client is None:
            time.sleep(self.poll_seconds)
        elif now - self._away_since > self.reopen_seconds * self._patience:
            self._patience = min(2 * self._patience, MAX_PATIENCE)
            self.disconnect()  # libraries only try again; opening another says what is wrong

    def _new(self, records: Records) -> Records:
        """Drop what is delivered a second time."""
        offsets, last = records.offsets, self.next[records.partition] - 1
        if last < offsets[0] and all(map(lt, offsets, islice(offsets, 1, None))):
            return records
        new = Records(records.partition, [], [], [])
        for offset, value, key in zip(offsets, records.values, records.keys, strict=True):
            if offset <= last:
                self.n_duplicates += 1
                continue
            new.offsets.append(offset)
            new.values.append(value)
            new.keys.append(key)
            last = offset
        return new

    def check_topic_id(self, found: str | None) -> None:
        """Raise `LostOffsetsError` when this is another topic than before, of the same name."""
        if found is None:
            return
        if self.topic_id not in (None, found):
            raise LostOffsetsError(
                f"topic {self.topic!r} was deleted and made anew: its id was {self.topic_id}, now "
                f"it is {found}. So the offsets of the position mean other records. To learn from "
                "those, begin with a fresh source and another state directory"
            )
        self.topic_id = found

    def _check(self, client: Client) -> Client:
        """Look every few seconds for new partitions, lost offsets and a stalled client."""
        self._next_check = time.monotonic() + self.check_seconds
        present = self._mine(client.partitions(self.request_seconds))
        self._tolerate_missing(set(self.next) - present)
        if set(self.next) <= present:
            self.check_topic_id(client.topic_id(self.request_seconds))
        if present - set(self.next):
            self.disconnect()  # connecting again asks for the bounds of all
            return self.connect(self.reconnect_seconds)
        # Only of partitions that bring nothing: this is also how an absent broker is noticed.
        idle = [p for p in self.next if p in present and self._idle_for(p) > self.poll_seconds]
        held = client.bounds(idle, self.request_seconds)
        check_held(self.topic, {p: self.next[p] for p in idle}, held)
        if self.away:
            self._away_since = math.inf
            log.warning("event=broker_back topic=%s", self.topic)
        limit = self.stall_seconds * self._patience
        stalled = [
            p for p, (_, end) in held.items() if self.next[p] < end and self._idle_for(p) > limit
        ]
        if stalled:
            log.warning("event=stalled topic=%s partitions=%r", self.topic, str(stalled))
            self._patience = min(2 * self._patience, MAX_PATIENCE)
            self.disconnect()
        return self.connect(self.reconnect_seconds)

    def _idle_for(self, partition: int) -> float:
        """Return for how many seconds of polling a partition has brought nothing."""
        return self._polled - self._moved_at[partition]

    def _tolerate_missing(self, missing: set[int]) -> None:
        # A broker that has just started may not know a topic for a moment.
        if not missing:
            self._missing_since = math.inf
            return
        now = time.monotonic()
        self._missing_since = min(self._missing_since, now)
        if now - self._missing_since >= self.missing_seconds:
            raise LostOffsetsError(
                f"topic {self.topic!r}: partitions {sorted(missing)} are gone; was it deleted?"
            )

    def _place(self, held: Bounds) -> dict[int, int]:
        """Find where to start in every partition, and refuse what the broker does not hold."""
        if self._start == "latest":
            return {partition: end for partition, (_, end) in held.items()}
        wanted = {} if isinstance(self._start, str) else self._start
        if unknown := set(wanted) - set(held):
            raise LostOffsetsError(
                f"topic {self.topic!r} has no partitions {sorted(unknown)}, which the position "
                f"names; it has {sorted(held)}"
            )
        check_held(self.topic, wanted, held)
        return {partition: wanted.get(partition, first) for partition, (first, _) in held.items()}


def wait_for_partitions(client: Client, timeout: float) -> set[int]:
    """Return the partitions of the client's topic; a topic just made may take a moment to show."""
    deadline = time.monotonic() + min(timeout, 2.0)
    while not (partitions := client.partitions(timeout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return partitions
