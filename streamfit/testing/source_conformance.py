"""What a source must do, as a test suite: subclass it, say how to store samples, run pytest.

Import this module by name; it needs pytest.

Examples
--------
In a file of tests::

    import pytest
    from streamfit.testing.source_conformance import SourceConformance

    class TestMySource(SourceConformance):
        @pytest.fixture
        def store(self, tmp_path):
            def store(records):
                path = tmp_path / "samples"
                write(path, records)              # None stands for a record that is no sample
                return lambda: MySource(path)     # opens the same samples anew, each time
            return store
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import pytest

import streamfit as sf
from streamfit.errors import BadSampleError, SourceError
from streamfit.types import (
    Block,
    DescribesItself,
    Position,
    ReportsLag,
    ReportsPartitionLag,
    Source,
)

__all__ = ["Record", "SourceConformance", "Store"]


class Record(NamedTuple):
    """One sample to be stored."""

    x: dict[str, float]
    y: float
    w: float = 1.0


Store: TypeAlias = Callable[[Sequence[Record | None]], Callable[[], Source]]
"""Stores records, None among them where one shall be no sample; returns what opens them."""


def _records(n: int) -> list[Record]:
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, 3)).tolist()
    weights = rng.uniform(0.5, 2.0, size=n).tolist()
    named = [dict(zip("abc", row, strict=True)) for row in rows]
    return [Record(x, float(i % 2), w) for i, (x, w) in enumerate(zip(named, weights, strict=True))]


SAMPLES = _records(2_100)
"""More than two blocks of the sources that come with the library."""

FLAWED: list[Record | None] = [None, *SAMPLES[:5], None, None, *SAMPLES[5:1200], None]
"""Samples among records that are none: at both ends, and two together."""


class SourceConformance:
    """Properties of every source; subclass it and define the fixture `store`.

    The source that `store` opens must end where its samples end, hold them in one partition, and
    hand out weights as they were stored.
    """

    flaws: ClassVar[bool] = True
    """Whether a record of this source can be something else than a sample."""

    @pytest.fixture
    def store(self) -> Store:
        """Return a function that stores records, and returns a function that opens a source."""
        raise NotImplementedError

    def again(self, config: dict[str, Any]) -> Source:
        """Make the source whose `get_config` returned `config`, if it has one."""
        raise NotImplementedError

    @pytest.fixture
    def opened(self, store: Store) -> Iterator[Callable[..., Source]]:
        """Return a function that opens a fresh source on records, closed after the test."""
        openers: dict[int, Callable[[], Source]] = {}
        sources: list[Source] = []

        def open_on(records: Sequence[Record | None] = SAMPLES) -> Source:
            if id(records) not in openers:
                openers[id(records)] = store(records)
            sources.append(openers[id(records)]())
            return sources[-1]

        yield open_on
        for source in sources:
            source.close()

    # ---- blocks

    def test_it_is_a_source(self, opened: Callable[..., Source]) -> None:
        """Look for the methods of the protocol; `live`, if there is one, is a flag."""
        source = opened()
        assert isinstance(source, Source)
        assert isinstance(getattr(source, "live", False), bool)

    def test_it_hands_out_every_sample_once_in_order(self, opened: Callable[..., Source]) -> None:
        """The same numbers, no more and no fewer."""
        assert samples(opened()) == SAMPLES

    def test_blocks_fit_together(self, opened: Callable[..., Source]) -> None:
        """One entry of each column a sample, offsets that rise, one partition a block."""
        last: dict[str, int] = {}
        for block in opened():
            n = len(block.y)
            assert len(block) == len(block.x) == len(block.offsets) == n
            assert block.w is None or len(block.w) == n
            for offset in block.offsets:
                assert offset > last.get(block.key, -1)
                last[block.key] = offset

    def test_nothing_comes_from_no_samples(self, opened: Callable[..., Source]) -> None:
        """A source without samples ends at once, and stands where it stood."""
        source = opened([])
        before = source.position()
        assert samples(source) == []
        assert source.position() == before

    # ---- positions

    def test_the_position_moves_with_the_blocks(self, opened: Callable[..., Source]) -> None:
        """After a block it is past that block's last offset, and it survives JSON."""
        source = opened()
        assert json.loads(json.dumps(source.position())) == source.position()
        for block in source:
            position = source.position()
            assert json.loads(json.dumps(position)) == position
            if len(block):
                assert position[block.key] > block.offsets[-1]

    def test_at_the_end_there_is_no_more(self, opened: Callable[..., Source]) -> None:
        """Another iteration hands out nothing and does not move."""
        source = opened()
        samples(source)
        end = source.position()
        assert samples(source) == []
        assert source.position() == end

    def test_leaving_and_entering_again_loses_nothing(self, opened: Callable[..., Source]) -> None:
        """An iteration that is left after a block goes on after that block."""
        source, seen = opened(), []
        for _ in range(len(SAMPLES)):
            block = next(iter(source), None)
            if block is None:
                break
            seen += in_block(block)
        assert seen == SAMPLES

    @pytest.mark.parametrize("n", [0, 1, 255, 256, 1023, 1024, 1025, len(SAMPLES)])
    def test_another_source_goes_on_from_any_position(
        self, opened: Callable[..., Source], n: int
    ) -> None:
        """Also from within a block, where only a trainer knows that it stands."""
        source = opened()
        source.seek(position_after(opened(), n))
        assert samples(source) == SAMPLES[n:]

    def test_it_goes_on_where_another_stood(self, opened: Callable[..., Source]) -> None:
        """Its own positions, as it says them after each block."""
        source, seen = opened(), 0
        for block in itertools.islice(source, 3):
            seen += len(block)
            other = opened()
            other.seek(source.position())
            assert samples(other) == SAMPLES[seen:]

    def test_it_can_be_sought_back(self, opened: Callable[..., Source]) -> None:
        """The same samples again, from the start and from the middle."""
        source = opened()
        start = source.position()
        middle = position_after(opened(), 700)
        assert samples(source) == SAMPLES
        for position, n in ((start, 0), (middle, 700)):
            source.seek(position)
            assert source.position() == position
            assert samples(source) == SAMPLES[n:]

    def test_two_sources_on_the_same_samples_do_not_meet(
        self, opened: Callable[..., Source]
    ) -> None:
        """Reading one does not move the other."""
        one, other = opened(), opened()
        before = other.position()
        samples(one)
        assert other.position() == before
        assert samples(other) == SAMPLES

    def test_a_position_of_another_source_is_refused(self, opened: Callable[..., Source]) -> None:
        """So is one that is none; and nothing has moved then."""
        source = opened()
        (key,) = position_after(opened(), 1)
        bad: list[Any] = [{"no such source:0": 1}, {key: -1}, {key: "1"}, {key: True}]
        for position in bad:
            with pytest.raises(SourceError):
                source.seek(position)
        assert samples(source) == SAMPLES

    def test_a_position_past_the_end_is_refused(self, opened: Callable[..., Source]) -> None:
        """At once, or as soon as it is read."""
        ((key, end),) = position_after(opened(), len(SAMPLES)).items()
        source = opened()
        with pytest.raises(SourceError):  # noqa: PT012
            source.seek({key: end + 1})
            samples(source)

    def test_closing_twice(self, opened: Callable[..., Source]) -> None:
        """Before, within and after an iteration; never an error."""
        for n_blocks in (0, 1, None):
            source = opened()
            iterator = iter(source)
            list(itertools.islice(iterator, n_blocks))
            source.close()
            source.close()

    def test_the_lag_falls_to_nothing(self, opened: Callable[..., Source]) -> None:
        """Of a source that reports one."""
        source = opened()
        if not isinstance(source, ReportsLag):
            return
        lags = [source.lag(source.position())]
        lags += [source.lag(source.position()) for block in source if len(block)]
        assert lags[0] is not None
        assert lags[0] >= len(SAMPLES)
        assert lags[-1] == 0
        if isinstance(source, ReportsPartitionLag):
            start = opened().position()
            by_partition = source.partition_lag(start)
            assert by_partition is not None
            assert sum(by_partition.values()) == source.lag(start)
            assert set(start) <= set(by_partition)

    # ---- records that are no samples

    def test_flaws_are_errors_in_their_place(self, opened: Callable[..., Source]) -> None:
        """Each says where it is, and the samples around it are as they were stored."""
        if not self.flaws:
            return
        seen: list[Record | None] = []
        for block in opened(FLAWED):
            for i, error in block.errors.items():
                assert isinstance(error, BadSampleError)
                place = (block.source, block.partition, block.offsets[i])
                assert (error.source, error.partition, error.offset) == place
            seen += in_block(block)
        assert seen == FLAWED

    @pytest.mark.parametrize("n", [1, 6, 7, 8, 1204])
    def test_going_on_beside_a_flaw(self, opened: Callable[..., Source], n: int) -> None:
        """Just before and just after it."""
        if not self.flaws:
            return
        source = opened(FLAWED)
        source.seek(position_after(opened(FLAWED), n))
        assert samples(source) == FLAWED[n:]

    # ---- what it is for

    def test_its_description_makes_another(self, opened: Callable[..., Source]) -> None:
        """Of a source that describes itself: so `streamfit verify` reads the samples again."""
        source = opened()
        if not isinstance(source, DescribesItself) or (config := source.get_config()) is None:
            return
        assert samples(self.again(json.loads(json.dumps(config)))) == SAMPLES

    @pytest.mark.parametrize("n", [0, 100, 1024, 2_099])
    def test_training_stopped_and_resumed(self, opened: Callable[..., Source], n: int) -> None:
        """Training from it gives the bits of its samples learned one by one."""
        expected = sf.LogisticRegression(batch_size=7)
        for record in SAMPLES:
            expected.learn_one(*record)
        model, source = sf.LogisticRegression(batch_size=7), opened()
        for block in source:
            stop = min(len(block), n - model.n_samples)
            model.learn_block(block, 0, stop)
            if model.n_samples == n:
                break
        state = model.state_dict()
        resumed, rest = sf.LogisticRegression(batch_size=7), opened()
        resumed.load_state_dict(state)
        rest.seek(position_after(opened(), n))
        sf.Trainer(resumed, rest, last_batch="carry").run()
        assert resumed.digest() == expected.digest()


def in_block(block: Block) -> list[Record | None]:
    """Return the records of a block, None for those that are errors."""
    records: list[Record | None] = []
    for i, (x, y) in enumerate(zip(block.x, block.y, strict=True)):
        if i in block.errors:
            records.append(None)
            continue
        named = x if hasattr(x, "items") else dict(zip(block.features or (), x, strict=True))
        numbers = {str(name): float(value) for name, value in named.items()}
        records.append(Record(numbers, y, 1.0 if block.w is None else block.w[i]))
    return records


def samples(source: Source) -> list[Record | None]:
    """Return what is left of a source."""
    return [record for block in source for record in in_block(block)]


def position_after(source: Source, n: int) -> Position:
    """Return where a trainer stands that has taken `n` records of a fresh source."""
    position = source.position()
    for block in source:
        taken = min(n, len(block))
        n -= taken
        if taken:
            position[block.key] = block.offsets[taken - 1] + 1
        if n == 0:
            break
    return position
