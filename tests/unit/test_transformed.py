"""River's transformers between source and learner: what comes out, and what is saved."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import compose, feature_extraction, preprocessing, stats

import streamfit as sf
from connectors import Windows
from streamfit._plain_state import from_plain, to_plain
from streamfit.checkpoint import transformer_of
from streamfit.cli.saved import model_of
from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    UnsupportedError,
)
from streamfit.testing.sources import PartitionedSource
from streamfit.types import KeepsState, Source

SKIES = ["clear", "rain", "fog", "snow"]
WORDS = ["late", "gate", "fog bank", "crew", "the", "storm"]


def samples(seed: int, n: int) -> list[tuple[dict[str, Any], bool]]:
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    for i in range(n):
        x: dict[str, Any] = {
            "sky": SKIES[rng.integers(4)],
            "wind": float(rng.normal(5.0, 3.0)),
            "note": " ".join(rng.choice(WORDS, size=3)),
            "time": f"2013-0{1 + i % 9}-1{i % 10}T{i % 24:02}:30:00",
        }
        if rng.random() < 0.2:
            x["wind"] = None
        if rng.random() < 0.1:
            x["wind"] = math.nan
        found.append((x, bool(rng.random() < 0.5)))
    return found


def one_hot() -> Any:
    return compose.Select("sky") | preprocessing.OneHotEncoder()


TRANSFORMERS: dict[str, Callable[[], Any]] = {
    "one-hot": one_hot,
    "ordinal": lambda: compose.Select("sky") | preprocessing.OrdinalEncoder(),
    "hashing": lambda: compose.Select("sky") | preprocessing.FeatureHasher(16, seed=1),
    "words": lambda: feature_extraction.BagOfWords(on="note"),
    "tf-idf": lambda: feature_extraction.TFIDF(on="note"),
    "ngrams": lambda: feature_extraction.BagOfWords(on="note", ngram_range=(1, 2)),
    "interactions": lambda: one_hot() * feature_extraction.BagOfWords(on="note"),
    "filled with the last": lambda: (
        compose.Select("wind") | preprocessing.PreviousImputer() | preprocessing.StandardScaler()
    ),
    "filled with the mean": lambda: (
        compose.Select("wind") | preprocessing.StatImputer(("wind", stats.Mean()))
    ),
    "dates": lambda: (
        compose.Select("time")
        | sf.DateParts(on="time", parts=["weekday", "hour"])
        | preprocessing.OneHotEncoder()
    ),
    "own function": lambda: compose.FuncTransformer(length_of_note),
    "scaled": lambda: (
        compose.Select("wind")
        | preprocessing.StatImputer(("wind", stats.Quantile(0.5)))
        | (preprocessing.MinMaxScaler() + compose.Prefixer("square_"))
        | preprocessing.AdaptiveStandardScaler()
    ),
    "all of it": lambda: (
        one_hot()
        + feature_extraction.TFIDF(on="note")
        + (
            compose.Select("wind")
            | preprocessing.PreviousImputer()
            | feature_extraction.PolynomialExtender(2)
        )
        + sf.DateParts(on="time").clone({"parts": ["hour"]})
        | compose.Discard("note", "sky", "wind")
    ),
}


def length_of_note(x: dict[str, Any]) -> dict[str, float]:
    return {"length": float(len(x["note"]))}


def handed_out(source: Source) -> list[tuple[int, Any, str]]:
    """Offsets, samples and errors, whatever blocks they come in."""
    return [
        (int(block.offsets[i]), block.x[i], str(block.errors.get(i, "")))
        for block in source
        for i in range(len(block))
    ]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_comes_out_is_what_river_makes_of_the_good_samples(name: str) -> None:
    data = samples(1, 60)
    theirs = TRANSFORMERS[name]()
    expected = []
    for x, _ in data:
        trial = copy.deepcopy(theirs)
        try:
            if any(isinstance(value, float) and math.isnan(value) for value in x.values()):
                raise ValueError
            trial.learn_one(dict(x))
            expected.append(trial.transform_one(dict(x)))
            theirs = trial
        except (TypeError, ValueError):
            expected.append(None)
    source = sf.Transformed(data, TRANSFORMERS[name]())
    assert isinstance(source, Source)
    assert isinstance(source, KeepsState)
    found = handed_out(source)
    assert [offset for offset, _, _ in found] == list(range(60))
    assert [x for _, x, _ in found] == expected
    assert all((x is None) == bool(error) for _, x, error in found)
    assert sum(x is not None for x in expected) > 25


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("block", [1, 7, 100])
def test_a_resume_at_any_position_goes_on_exactly(name: str, block: int) -> None:
    data = samples(2, 60)
    whole = handed_out(sf.Transformed(data, TRANSFORMERS[name]()))
    for at in (0, 1, 13, 29, 60):
        inner = sf.IterableSource(data)
        inner.max_block = block
        source = sf.Transformed(inner, TRANSFORMERS[name]())
        read = 0
        for found in source:
            read += len(found)
            if read >= at:
                break
        state = source.state_dict({"samples:0": at})
        saved = json.loads(json.dumps(state))
        after = sf.Transformed(data, TRANSFORMERS[name]())
        after.seek({"samples:0": at})
        after.load_state_dict(saved)
        assert handed_out(after) == whole[at:]
        again = sf.Transformed(data, TRANSFORMERS[name]())  # without a state: all from the start
        again.seek({"samples:0": at})
        assert handed_out(again) == whole[at:]


class Killed(BaseException):
    """Nothing that catches errors may catch it."""


@settings(max_examples=max(20, settings.default.max_examples // 4))
@given(
    name=st.sampled_from(sorted(TRANSFORMERS)),
    seed=st.integers(0, 9),
    n_partitions=st.sampled_from([1, 3]),
    turns=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20)), max_size=12),
    other_turns=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 20)), max_size=12),
    deaths=st.lists(st.integers(1, 6), max_size=2),
    every=st.integers(1, 9),
)
def test_a_training_ends_the_same_through_crashes_and_replays(
    name: str,
    seed: int,
    n_partitions: int,
    turns: list[tuple[int, int]],
    other_turns: list[tuple[int, int]],
    deaths: list[int],
    every: int,
) -> None:
    parts = [samples(seed + p, 25) for p in range(n_partitions)]
    turns, other_turns = (
        [(p % n_partitions, n) for p, n in those] for those in (turns, other_turns)
    )

    def train(calls: int | None, state: str | None) -> str:
        left = [calls]

        def callback(_: object) -> None:
            if left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed

        return (
            sf.Trainer(
                sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=4),
                sf.Transformed(PartitionedSource(parts, turns), TRANSFORMERS[name]()),
                on_bad_sample="skip",
                checkpoint=None if state is None else sf.Checkpointer(state, every_updates=every),
                callbacks=[callback],
            )
            .run()
            .digest
        )

    plain = train(None, None)
    with tempfile.TemporaryDirectory() as state:
        for calls in deaths:
            with contextlib.suppress(Killed):
                train(calls, state)
        # several partitions arrive in other turns after a crash; then the journal is the measure
        assert train(None, state) == plain or n_partitions > 1
        copy = PartitionedSource(parts, other_turns)
        found = sf.journal.verify(state, sf.Transformed(copy, TRANSFORMERS[name]()))
        assert found.equal, found


def test_another_process_with_another_hash_seed_gives_the_same_digest() -> None:
    """One-hot encoders go over sets of texts, whose order is drawn by lot in each process."""
    program = (
        "import streamfit as sf\n"
        "from river import preprocessing\n"
        "data = [({'a': f'value {i % 17}'}, i % 2 == 0) for i in range(90)]\n"
        "source = sf.Transformed(data, preprocessing.OneHotEncoder())\n"
        "print(sf.Trainer(sf.LogisticRegression(), source).run().digest)\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_a_refused_sample_leaves_no_trace() -> None:
    class Brittle(preprocessing.StandardScaler):
        def learn_one(self, x: dict[str, Any]) -> None:
            super().learn_one(x)
            if x["a"] > 100.0:
                raise RuntimeError("half learned")

    good = [({"a": float(i)}, True) for i in range(6)]
    bad: list[Any] = [({"a": 1e9}, True), ({"a": math.inf}, True), ({"a": "text"}, True), (3, True)]
    mixed = [*good[:3], *bad[:2], good[3], *bad[2:], *good[4:]]
    clean = handed_out(sf.Transformed(good, Brittle()))
    found = handed_out(sf.Transformed(mixed, Brittle()))
    assert [x for _, x, error in found if not error] == [x for _, x, _ in clean]
    messages = [error for *_, error in found if error]
    assert len(messages) == 4
    assert "half learned" in messages[0]
    assert (
        "feature 'a': value inf is not finite (source 'samples', partition 0, offset 4)" in found[4]
    )
    assert "is no sample" in messages[3]


def test_arrays_become_mappings_and_samples_keep_label_weight_and_bytes() -> None:
    X = np.array([[1.0, 2.0], [3.0, 4.0]])
    source = sf.Transformed(
        sf.ArraySource(X, [0.0, 1.0], [2.0, 3.0]), feature_extraction.PolynomialExtender(2)
    )
    (block,) = source
    assert block.x[1] == {"0": 3.0, "1": 4.0, "0*0": 9.0, "0*1": 12.0, "1*1": 16.0}
    assert list(block.y) == [0.0, 1.0]
    assert block.w is not None
    assert list(block.w) == [2.0, 3.0]


def test_windows_over_transformed_samples() -> None:
    source = Windows(sf.Transformed([({"sky": sky}, 1.0) for sky in SKIES], one_hot()), size=3)
    (block,) = source
    assert [sorted(x) for x in block.x[1]] == [
        ["sky_clear", "sky_rain"],
        ["sky_clear", "sky_fog", "sky_rain"],
        sorted(f"sky_{sky}" for sky in SKIES),
    ]


@pytest.mark.parametrize(
    "transformer",
    [
        preprocessing.OneHotEncoder,
        object(),
        sf.LogisticRegression(),
        feature_extraction.TargetAgg(by=["sky"], how=stats.Mean()),
        preprocessing.FeatureHasher(16),
    ],
)
def test_transformers_that_are_refused(transformer: Any) -> None:
    with pytest.raises(ConfigurationError, match="transformer"):
        sf.Transformed([], transformer)


def test_a_state_that_needs_pickle_is_refused_at_once() -> None:
    with pytest.raises(UnsupportedError, match="RandomState"):
        sf.Transformed([], preprocessing.LDA())


def test_a_state_of_another_transformer_is_refused() -> None:
    source = sf.Transformed(samples(1, 5), one_hot())
    list(source)
    state = source.state_dict({"samples:0": 5})
    assert state is not None
    other = sf.Transformed(samples(1, 5), TRANSFORMERS["words"]())
    for wrong in (state, {}, {**state, "transformer": repr(other.transformer)}, {"partitions": 3}):
        with pytest.raises(CheckpointMismatchError):
            other.load_state_dict(wrong)
    assert len(handed_out(other)) == 5


# ---- the parts of a date


@pytest.mark.parametrize(
    "date",
    [
        "2013-01-05T17:45:09",
        "2013-01-05 17:45:09+02:00",
        datetime(2013, 1, 5, 17, 45, 9, tzinfo=UTC),
        1357407909,
        1357407909.5,
    ],
)
def test_dates(date: Any) -> None:
    parts = ["year", "month", "day", "weekday", "weekend", "hour", "minute", "second"]
    found = sf.DateParts(on="t", parts=parts).transform_one({"t": date, "x": 1.0})
    assert list(found.values()) == [1.0, 2013, 1, 5, 5, 1, 17, 45, 9]


@pytest.mark.parametrize("date", [None, "yesterday", True, 1e300, math.nan, [], "2013-13-01"])
def test_what_is_no_date(date: Any) -> None:
    with pytest.raises(BadSampleError, match="no date"):
        sf.DateParts(on="t").transform_one({"t": date})


def test_arguments_of_date_parts() -> None:
    for parts in ("hour", ["century"]):
        with pytest.raises(ConfigurationError):
            sf.DateParts(on="t", parts=parts)
    clone = sf.DateParts(on="t", parts=("hour",)).clone()
    assert clone.parts == ["hour"]
    state = to_plain(clone, ["streamfit"])
    from_plain(sf.DateParts(on="t"), state, ["streamfit"])


def test_the_states_of_all_transformers_are_small_and_hold_no_code(tmp_path: Path) -> None:
    for make in TRANSFORMERS.values():
        source = sf.Transformed(samples(1, 50), make())
        list(source)
        text = json.dumps(source.state_dict({"samples:0": 50}))
        assert "pickle" not in text
        assert len(text) < 20_000


def test_a_transformer_that_draws_as_it_transforms_resumes_to_the_same_bits(tmp_path: Path) -> None:
    samples = [
        ({"a": i % 7 * 1.0, **({"b": 1.0} if i > 20 else {})}, i % 2 == 1) for i in range(60)
    ]

    def train(folder: str, most: int | None) -> str:
        source = sf.Transformed(samples, preprocessing.GaussianRandomProjector(2, seed=1))
        checkpoint = sf.Checkpointer(tmp_path / folder, every_updates=10)
        model = sf.LogisticRegression()
        return sf.Trainer(model, source, max_samples=most, checkpoint=checkpoint).run().digest

    whole = train("whole", None)
    train("cut", 30)
    assert train("cut", None) == whole
    saved = sf.Checkpointer(tmp_path / "cut").latest()
    assert saved is not None
    assert "GaussianRandomProjector" in str(transformer_of(saved))
    with pytest.raises(CheckpointMismatchError, match="GaussianRandomProjector"):
        model_of(saved)


def test_a_finished_run_that_is_started_again_saves_nothing(tmp_path: Path) -> None:
    samples = [({"a": float(i)}, float(i)) for i in range(10)]
    for _ in range(3):
        checkpoint = sf.Checkpointer(tmp_path)
        sf.Trainer(sf.LinearRegression(), samples, checkpoint=checkpoint).run()
    assert len(checkpoint.list()) == 1
