"""Whatever a run went through, its journal replays to the same bits; and tampering shows."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, find, given, settings
from hypothesis import strategies as st

import streamfit as sf
from streamfit import journal
from streamfit._journal_file import Segment
from streamfit._segments import SegmentReader
from streamfit.errors import CheckpointMismatchError, SourceError, UnsupportedError
from streamfit.testing.sources import PartitionedSource, SplitSource
from streamfit.testing.strategies import (
    OPTIMIZERS,
    every_optimizer,
    fresh,
    learners,
    learning_rates,
)

N_PARTITIONS = 3


@pytest.fixture(autouse=True)
def mark_every_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_mark_every", lambda _: 0)


def parts(seed: int, sizes: list[int], holes: float, bad: float) -> list[list[Any]]:
    """Samples by partition: some offsets have none, some are bad."""
    rng = np.random.default_rng(seed)

    def sample() -> Any:
        if rng.random() < holes:
            return None
        x = {"a": rng.normal(), "b": rng.normal(), f"c{rng.integers(4)}": 1.0}
        if rng.random() < bad:
            x["a"] = math.nan
        return x, bool(rng.random() < 0.5)

    return [[sample() for _ in range(n)] for n in sizes]


turns = st.lists(st.tuples(st.integers(0, N_PARTITIONS - 1), st.integers(1, 20)), max_size=30)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """All that may happen to a run, and the turns in which its data come when read again."""
    sizes = draw(st.lists(st.integers(0, 40), min_size=N_PARTITIONS, max_size=N_PARTITIONS))
    holes, bad = draw(st.sampled_from([0.0, 0.3])), draw(st.sampled_from([0.0, 0.2]))
    return {
        "model": draw(learners([sf.LogisticRegression])),
        "parts": parts(draw(st.integers(0, 2**32 - 1)), sizes, holes, bad),
        "turns": draw(turns),
        "other_turns": draw(turns),
        "epochs": draw(st.integers(1, 3)),
        "last_batch": draw(st.sampled_from(["apply", "scale", "drop", "carry"])),
        "every_updates": draw(st.integers(1, 20)),
        "max_wait": draw(st.sampled_from([None, None, 0.0])),
        "deaths": draw(st.lists(st.integers(1, 12), max_size=3)),
    }


class Killed(BaseException):
    """Nothing that catches errors may catch it."""


def kill_at(calls: int) -> Callable[[object], None]:
    left = [calls]

    def callback(_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return callback


def train(state: str, run: dict[str, Any]) -> sf.TrainingReport:
    """Train to the end, through all deaths."""

    def attempt(callbacks: list[Any]) -> sf.TrainingReport:
        return sf.Trainer(
            fresh(run["model"]),
            PartitionedSource(run["parts"], run["turns"]),
            epochs=run["epochs"],
            last_batch=run["last_batch"],
            max_wait=run["max_wait"],
            on_bad_sample="skip",
            checkpoint=sf.Checkpointer(state, every_updates=run["every_updates"]),
            callbacks=callbacks,
        ).run()

    for calls in run["deaths"]:
        with contextlib.suppress(Killed):
            attempt([kill_at(calls)])
    return attempt([])


@given(run=runs())
def test_any_run_replays_bitwise(run: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as state:
        report = train(state, run)
        source = PartitionedSource(run["parts"], run["other_turns"], name="copy")
        found = journal.verify(state, source)
        segments = [e for e in journal.entries(state) if isinstance(e, Segment)]
    assert found.equal, found
    assert found.first_difference is None
    assert found.stream_digest == found.replay_digest == report.digest
    assert found.n_samples == report.n_samples == sum(s.n for s in segments)
    assert found.n_updates == report.n_updates
    assert found.n_segments == len(segments)


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=4)
@given(draw=st.data())
def test_any_optimizer_replays_bitwise(name: str, draw: st.DataObject) -> None:
    """`runs` draws them too, each seldom."""
    run = draw.draw(runs())
    optimizer = OPTIMIZERS[name](learning_rates())
    run["model"] = draw.draw(learners([sf.LogisticRegression], optimizer=optimizer))
    run["parts"] = parts(4, [40, 9, 31], 0.2, 0.2)
    with tempfile.TemporaryDirectory() as state:
        report = train(state, run)
        source = PartitionedSource(run["parts"], run["other_turns"], name="copy")
        found = journal.verify(state, source)
    assert found.equal, found
    assert found.replay_digest == report.digest


def test_every_optimizer_is_replayed() -> None:
    drawn = {type(find(OPTIMIZERS[name](st.just(0.1)), lambda _: True)) for name in OPTIMIZERS}
    assert drawn == every_optimizer()


@given(run=runs(), place=st.floats(0, 1), how=st.sampled_from(["changed", "missing", "bad"]))
def test_the_first_segment_that_differs_is_named(
    run: dict[str, Any], place: float, how: str
) -> None:
    run["epochs"] = 1
    run["model"] = sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=7)
    with tempfile.TemporaryDirectory() as state:
        train(state, run)
        segments = [e for e in journal.entries(state) if isinstance(e, Segment)]
        learned = [
            (s, i)
            for s in segments
            for i in range(s.start, s.stop)
            if run["parts"][s.partition][i] is not None
        ]
        assume(learned)
        wanted, i = learned[int(place * (len(learned) - 1))]
        tampered = [list(part) for part in run["parts"]]
        x, y = tampered[wanted.partition][i]
        tampered[wanted.partition][i] = {
            "changed": ({**x, "a": x["a"] + 1.0}, y),
            "missing": None,
            "bad": ({**x, "b": math.nan}, y),
        }[how]
        found = journal.verify(state, PartitionedSource(tampered, run["other_turns"]))
    assert not found.equal
    assert found.first_difference is not None
    assert found.first_difference.first == found.first_difference.last == wanted
    assert str(wanted) in str(found)


def test_a_swapped_order_is_a_difference() -> None:
    samples = parts(1, [30, 30, 30], 0.0, 0.0)
    run = {
        **{"model": sf.LogisticRegression(batch_size=4), "parts": samples, "every_updates": 100},
        **{"turns": [(0, 10), (1, 10), (0, 10), (2, 30)], "epochs": 1, "last_batch": "apply"},
        **{"max_wait": None, "deaths": []},
    }
    with tempfile.TemporaryDirectory() as state:
        train(state, run)
        samples[0][12], samples[0][17] = samples[0][17], samples[0][12]
        found = journal.verify(state, PartitionedSource(samples))
        assert found.first_difference is not None
        assert found.first_difference.first == Segment("parts", 0, 10, 20, 10)
        samples[0][12], samples[0][17] = samples[0][17], samples[0][12]
        assert journal.verify(state, PartitionedSource(samples)).equal
        renamed = [[({n + "'": v for n, v in x.items()}, y) for x, y in part] for part in samples]
        found = journal.verify(state, PartitionedSource(renamed))
        assert not found.equal
        assert found.stream_digest == found.replay_digest
        assert "names of the features" in str(found)


def test_flushes_of_a_live_stream_replay() -> None:
    """`max_wait` depends on the clock; its journal does not."""
    samples = [({"x": i / 100}, i % 3 == 0) for i in range(100)]
    with tempfile.TemporaryDirectory() as state:
        model = sf.LogisticRegression(batch_size=64)
        sf.Trainer(
            model, lambda: iter(samples), max_wait=0.0, checkpoint=sf.Checkpointer(state)
        ).run()
        flushes = [e for e in journal.entries(state) if isinstance(e, journal.Flush)]
        assert ("max_wait", "apply") in [(flush.reason, flush.last_batch) for flush in flushes]
        assert journal.verify(state, samples).equal


def test_blocks_of_arrays_replay() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(3000, 4)), rng.random(3000) > 0.5
    with tempfile.TemporaryDirectory() as state:
        checkpoint = sf.Checkpointer(state, every_updates=100)
        model = sf.LogisticRegression(batch_size=8)
        source = SplitSource(X, y, cuts=[10, 1500, 1501])
        sf.Trainer(model, source, epochs=2, checkpoint=checkpoint).run()
        assert journal.verify(state, SplitSource(X, y)).equal
        with pytest.raises(SourceError, match="not a position"):  # it has no partition 7
            journal.verify(state, sf.ArraySource(X, y))


def test_a_model_that_had_learned_before_is_asked_for() -> None:
    samples = [({"x": 1.0}, True)] * 10
    model = sf.LogisticRegression()
    model.learn_one({"x": 2.0}, False)
    before = sf.LogisticRegression()
    before.learn_one({"x": 2.0}, False)
    with tempfile.TemporaryDirectory() as state:
        sf.Trainer(model, samples, checkpoint=sf.Checkpointer(state)).run()
        with pytest.raises(CheckpointMismatchError, match="fresh model"):
            journal.verify(state, samples)
        untouched = before.digest()
        assert journal.verify(state, samples, model=before).equal
        assert before.digest() == untouched


def test_a_generator_object_cannot_be_read_again_for_a_second_epoch() -> None:
    samples = [({"x": 1.0}, True)] * 10
    with tempfile.TemporaryDirectory() as state:
        sf.Trainer(
            sf.LogisticRegression(), samples, epochs=2, checkpoint=sf.Checkpointer(state)
        ).run()
        assert journal.verify(state, lambda: iter(samples)).equal
        with pytest.raises(UnsupportedError):
            journal.verify(state, iter(samples))


def test_a_failing_metric_leaves_model_position_and_journal_together() -> None:
    class Failing:
        left = 30

        def update(self, *_: object) -> None:
            self.left -= 1
            if not self.left:
                raise ZeroDivisionError

        def get(self) -> float:
            return 0.0

    samples = [({"x": i / 100}, i % 3 == 0) for i in range(100)]
    with tempfile.TemporaryDirectory() as state:
        with pytest.raises(ZeroDivisionError):
            sf.Trainer(
                sf.LogisticRegression(),
                samples,
                metrics=[Failing()],
                checkpoint=sf.Checkpointer(state),
            ).run()
        saved = sf.Checkpointer(state).latest()
        assert saved is not None
        assert saved.position == {"samples:0": saved.model["n_samples"]}
        assert journal.verify(state, samples).equal


@given(
    sizes=st.lists(st.integers(0, 300), min_size=3, max_size=3),
    turns=turns,
    order=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50)), max_size=60),
    max_waiting=st.integers(1, 60),
)
def test_samples_are_read_in_any_order(
    sizes: list[int], turns: list[tuple[int, int]], order: list[Any], max_waiting: int
) -> None:
    source = PartitionedSource([[({}, float(i)) for i in range(n)] for n in sizes], turns)
    reader = SegmentReader(source, max_waiting)
    reader.begin({("parts", p): (0, n) for p, n in enumerate(sizes) if n})
    at = [0, 0, 0]
    for p, n in [*order, (0, 300), (1, 300), (2, 300)]:
        stop = min(at[p] + n, sizes[p])
        if stop == at[p]:
            continue
        segment = Segment("parts", p, at[p], stop, stop - at[p])
        found = [y for block, i, j in reader.read(segment) for y in block.y[i:j]]
        assert found == [float(i) for i in range(at[p], stop)]
        at[p] = stop


def test_reading_against_the_grain_is_linear() -> None:
    """A journal in small turns, a source that hands out one whole partition after the other."""
    n, turn = 20_000, 50
    source = PartitionedSource(
        [[({}, 0.0)] * n] * 3, turns=[(p, 100) for p in range(3) for _ in range(n // 100)]
    )
    reader = SegmentReader(source, max_waiting=1000)
    reader.begin({("parts", p): (0, n) for p in range(3)})
    for start in range(0, n, turn):
        for p in range(3):
            segment = Segment("parts", p, start, start + turn, turn)
            assert sum(j - i for _, i, j in reader.read(segment)) == turn
    assert source.n_seeks < 3 * 2 * n // 1000
    assert source.n_read < 3 * n * 1.5
