"""What a real broker cannot be made to do, done by a client of our own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.codecs.json import JSONDecoder
from connectors.kafka import KafkaSource
from connectors.kafka.feed import Feed
from connectors.kafka.protocol import Bounds, Records
from streamfit.errors import BrokerUnavailableError, LostOffsetsError, SourceError


def records(partition: int, offsets: list[int]) -> Records:
    values = [b'{"y": %d}' % n for n in offsets]
    return Records(partition, offsets, values, [b"%d" % n for n in offsets])


class Script:
    """A broker with one log, and clients of it whose polls follow a script."""

    def __init__(self, polls: Iterable[object], end: int) -> None:
        self.polls = iter(polls)
        self.held: Bounds = {0: (0, end)}
        self.opened = 0
        self.id: str | None = None
        self.assigned: list[dict[int, int]] = []
        self.committed: list[dict[int, int]] = []

    def __call__(self, timeout: float) -> Script:
        self.opened += 1
        return self

    def partitions(self, timeout: float) -> set[int]:
        return set(self.held)

    def topic_id(self, timeout: float) -> str | None:
        return self.id

    def bounds(self, partitions: Iterable[int], timeout: float) -> Bounds:
        return {partition: self.held[partition] for partition in partitions}

    def assign(self, offsets: Mapping[int, int]) -> None:
        self.assigned.append(dict(offsets))

    def poll(self, timeout: float) -> list[Records]:
        step = next(self.polls, ())
        if isinstance(step, Exception):
            raise step
        offsets = list(step)
        return [records(0, offsets)] if offsets else []

    def positions(self) -> dict[int, int]:
        return {}

    def commit(self, offsets: Mapping[int, int]) -> None:
        self.committed.append(dict(offsets))

    def close(self) -> None:
        pass


def source_of(script: Script, *, stop_at_end: bool = True) -> KafkaSource:
    source = KafkaSource(
        "t",
        bootstrap_servers="127.0.0.1:19",
        decoder=JSONDecoder("y"),
        group_id="g",
        stop_at_end=stop_at_end,
    )
    source._feed = Feed("t", script)
    source._feed.poll_seconds = 0.0
    return source


def offsets_of(source: KafkaSource) -> list[int]:
    return [offset for block in source for offset in block.offsets]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 25), st.integers(0, 25)).map(lambda ends: range(*ends)),
            st.just(BrokerUnavailableError("away")),
        )
    )
)
def test_redelivery_is_dropped(polls):
    """Whatever is delivered again, and in whatever pieces, each record is handed out once."""
    handed = 0
    delivered = 0
    honest = []
    for step in polls:  # a broker may repeat but not skip: start each run no later than it must
        if handed == 25:  # nobody polls beyond the end
            break
        if not isinstance(step, range):
            honest.append(step)
            continue
        start = min(step.start, handed)
        honest.append(range(start, max(step.stop, start)))
        handed = max(handed, honest[-1].stop)
        delivered += len(honest[-1])
    script = Script([*honest, range(handed, 25)], end=25)
    source = source_of(script)
    assert offsets_of(source) == list(range(25))
    assert source.n_duplicates == delivered - handed
    assert all(assigned[0] <= 25 for assigned in script.assigned)


def test_redelivery_within_one_poll_is_dropped():
    source = source_of(Script([[0, 1, 2, 1, 2, 3], [3, 5]], end=6))
    assert offsets_of(source) == [0, 1, 2, 3, 5]
    assert source.n_duplicates == 3


def test_raw_bytes_and_keys_follow_the_samples():
    source = source_of(Script([[0, 1, 2], [1, 2, 3, 5], [6, 7]], end=7))
    script = source._feed._open_client
    script.held = {0: (0, 7)}
    found = [
        (offset, *raw)
        for block in source
        for offset, raw in zip(block.offsets, block.raw, strict=True)
    ]
    assert found == [(n, b'{"y": %d}' % n, b"%d" % n) for n in (0, 1, 2, 3, 5, 6)]


def test_a_topic_made_anew_in_a_quiet_moment_hands_out_nothing():
    script = Script([range(3), [], range(3, 6), [], range(6, 9)], end=20)
    script.id = "one"
    source = source_of(script, stop_at_end=False)
    iterator = iter(source)
    assert [len(next(iterator)) for _ in range(4)] == [3, 0, 3, 0]
    script.id = "other"
    with pytest.raises(LostOffsetsError, match="made anew"):
        next(iterator)
    assert source.position() == {"t:0": 6}


def test_a_failed_poll_reconnects_at_our_own_position(caplog):
    away = BrokerUnavailableError("away")
    script = Script([range(3), away, away, range(3, 5)], end=5)
    assert offsets_of(source_of(script)) == [0, 1, 2, 3, 4]
    assert script.assigned == [{0: 0}, {0: 3}, {0: 3}]
    assert [r.message for r in caplog.records] == ["event=broker_away topic=t message='away'"]


def test_lost_offsets_are_told_with_what_the_broker_holds():
    script = Script([range(3), LostOffsetsError("vague")], end=9)
    source = source_of(script)
    iterator = iter(source)
    next(iterator)
    script.held = {0: (7, 9)}
    with pytest.raises(LostOffsetsError, match="offset 3 is wanted and the broker holds 7 to 9"):
        list(iterator)
    assert source.position() == {"t:0": 3}


def test_lost_offsets_that_cannot_be_confirmed_still_halt():
    with pytest.raises(LostOffsetsError, match="vague"):
        offsets_of(source_of(Script([LostOffsetsError("vague")], end=9)))


def test_fatal_errors_halt():
    source = source_of(Script([range(3), SourceError("corrupt batch")], end=9))
    with pytest.raises(SourceError, match="corrupt batch"):
        list(source)
    assert source.position() == {"t:0": 3}


def test_a_stalled_client_is_replaced(caplog):
    script = Script([[], [], [], range(5)], end=5)
    source = source_of(script)
    source._feed.stall_seconds = source._feed.check_seconds = source._feed.poll_seconds = -1.0
    assert offsets_of(source) == [0, 1, 2, 3, 4]
    assert script.opened > 1
    assert "event=stalled" in caplog.text


def test_partitions_that_vanish_for_a_moment_are_awaited():
    script = Script([range(2), [], [], range(2, 4)], end=4)
    source = source_of(script, stop_at_end=False)
    source._feed.check_seconds = -1.0
    iterator = iter(source)
    assert len(next(iterator)) == 2
    held, script.held = script.held, {}
    assert len(next(iterator)) == 0
    script.held = held
    assert len(next(iterator)) == 0
    assert len(next(iterator)) == 2
    script.held = {}
    source._feed.missing_seconds = 0.0
    with pytest.raises(LostOffsetsError, match="deleted"):
        next(iterator)


def test_new_partitions_are_found_before_the_idle_are_asked_about():
    script = Script([range(2)], end=2)
    source = source_of(script, stop_at_end=False)
    source._feed.check_seconds = source._feed.poll_seconds = -1.0
    iterator = iter(source)
    next(iterator)
    script.held = {0: (0, 2), 1: (0, 0)}
    bounds = script.bounds

    def refuse_a_part(partitions, timeout):
        if set(partitions) != set(script.held):
            raise BrokerUnavailableError("away")
        return bounds(partitions, timeout)

    script.bounds = refuse_a_part
    next(iterator)
    assert script.assigned == [{0: 0}, {0: 2, 1: 0}]
    assert not source._feed.away


def test_a_block_left_in_the_queue_comes_next():
    script = Script([], end=4)
    script.held = {0: (0, 2), 1: (0, 2)}
    both = [records(0, [0, 1]), records(1, [0, 1])]
    script.poll = lambda timeout: [both.pop(0) for _ in list(both)]
    source = source_of(script, stop_at_end=False)
    assert next(iter(source)).partition == 0
    assert source.position() == {"t:0": 2, "t:1": 0}
    assert next(iter(source)).partition == 1
    assert source.position() == {"t:0": 2, "t:1": 2}


def test_commit_never_raises(caplog):
    script = Script([], end=4)
    source = source_of(script)
    source.commit({"t:0": 2})
    assert script.committed == [{0: 2}]

    def refuse(offsets):
        raise SourceError("not allowed")

    script.commit = refuse
    source.commit({"t:0": 2})
    assert "not allowed" in caplog.text
