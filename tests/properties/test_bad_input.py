"""P4: bad input never changes a weight, nor anything else: numbers, tables, labels, weights.

What softmax, sparse, hashed and float32 input adds is in test_bad_input_of_each_form.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfit as sf
from streamfit.core.learner import LinearLearner
from streamfit.errors import BadSampleError
from streamfit.offline import fit_offline
from streamfit.testing.strategies import Samples, feed, problems
from streamfit.types import Block

pytestmark = pytest.mark.filterwarnings(
    "ignore::streamfit.errors.UpdateRefusedWarning",
    "ignore:.*masked element.*:UserWarning",
    "ignore:overflow encountered in cast:RuntimeWarning",
)

NO_NUMBERS: dict[str, Any] = {
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "numpy nan": np.float64("nan"),
    "float32 inf": np.float32("inf"),
    "longdouble beyond float64": np.longdouble("1e600"),
    "huge int": 10**400,
    "int too long to print": 10**5000,
    "missing": None,
    "pandas NA": pd.NA,
    "pandas NaT": pd.NaT,
    "masked": np.ma.masked,
    "text": "abc",
    "text of a number": "1.0",
    "numpy text": np.str_("1.0"),
    "array of a text": np.array("1.0"),
    "bytes": b"1",
    "bytearray": bytearray(b"1"),
    "complex": 1j,
    "complex without imaginary part": np.complex128(1.0),
    "date": np.datetime64("2020-01-01"),
    "date in nanoseconds": np.datetime64("2020-01-01", "ns"),
    "span in nanoseconds": np.timedelta64(5, "ns"),
    "timestamp": pd.Timestamp("2020-01-01"),
    "list": [1.0],
    "dict": {},
    "object": object(),
    "NaN decimal": Decimal("nan"),
}
NESTED = (dict, list, bytearray)
"""Of these in a list NumPy does not say where they are."""
GOOD_NUMBERS = [1, True, np.bool_(True), np.int8(1), np.float32(1), Decimal(1), Fraction(1), 1.0]


def known(model: LinearLearner) -> tuple[Any, ...]:
    """Everything that bad input must leave alone."""
    return (
        model.digest(),
        model.weights,
        model.intercept,
        (model.n_samples, model.n_updates, model.n_pending, model.n_refused),
        len(model.index),
    )


@pytest.fixture(
    params=[(k, size) for k in (sf.LinearRegression, sf.LogisticRegression) for size in (1, 3)],
    ids=lambda param: f"{param[0].__name__}-{param[1]}",
)
def model(request: pytest.FixtureRequest) -> LinearLearner:
    """A learner in the middle of things, with samples pending unless its micro-batch is 1."""
    kind, batch_size = request.param
    model = kind(sf.optim.Adam(), batch_size=batch_size, l2=0.1)
    for i in range(5):
        model.learn_one({"a": i, "b": 1.0 - i, "c": 0.5}, i % 2)
    return model


def refuses(model: LinearLearner, learn: Callable[[], None]) -> BadSampleError:
    before = known(model)
    with pytest.raises(BadSampleError) as caught:
        learn()
    assert known(model) == before
    assert str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_a_value_that_is_no_number(model: LinearLearner, name: str) -> None:
    bad = NO_NUMBERS[name]
    for x in ({"a": 1.0, "b": bad, "c": 1.0}, {"c": 1.0, "new": 1.0, "b": bad}):
        error = refuses(model, lambda x=x: model.learn_one(x, 1))
        assert error.feature == "b"
    assert refuses(model, lambda: model.learn_one({"a": 1.0, "new": bad}, 1)).feature == "new"
    if not isinstance(bad, NESTED):
        refuses(model, lambda: model.learn_one([1.0, bad, 2.0], 1))
    refuses(model, lambda: model.learn_one({"a": 1.0, "new": 2.0}, bad))
    refuses(model, lambda: model.learn_one({"a": 1.0, "new": 2.0}, 1, bad))


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_a_value_that_is_no_number_in_a_table(model: LinearLearner, name: str) -> None:
    bad = NO_NUMBERS[name]
    rows: list[list[Any]] = [[1.0, 2.0, 3.0] for _ in range(5)]
    good = np.array(rows)
    rows[3][1] = bad
    cells = np.empty((5, 3), dtype=object)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            cells[i, j] = value
    labels: list[Any] = [1, 0, 1, bad, 1]
    columns = list(model.weights)
    learn_many = [
        lambda: model.learn_many(cells, [1, 0, 1, 0, 1]),
        lambda: model.learn_many(pd.DataFrame(cells, columns=columns), [1, 0, 1, 0, 1]),
        lambda: model.learn_many(good, [1, 0, 1, 0, 1], [1.0, 1.0, 1.0, bad, 1.0]),
        lambda: model.learn_many(good, labels),
    ]
    if not isinstance(bad, NESTED):
        learn_many.append(lambda: model.learn_many(rows, [1, 0, 1, 0, 1]))
    for learn in learn_many:
        error = refuses(model, learn)
        if not isinstance(bad, NESTED):
            assert (error.source, error.offset) == ("learn_many", 3)
    assert refuses(model, learn_many[0]).feature == "b"
    assert refuses(model, learn_many[1]).feature == "b"


@pytest.mark.parametrize("good", GOOD_NUMBERS, ids=lambda value: type(value).__name__)
def test_whatever_is_a_number_is_one(model: LinearLearner, good: Any) -> None:
    expected = type(model).from_config(model.get_config())
    expected.load_state_dict(model.state_dict())
    expected.learn_one({"a": 1.0, "b": 1.0, "c": 1.0}, 1.0, 1.0)
    model.learn_one({"a": good, "b": good, "c": good}, good, good)
    assert known(model) == known(expected)


@pytest.mark.parametrize(
    "x",
    [
        None,
        3,
        "abc",
        b"abc",
        {1.0, 2.0, 3.0},
        object(),
        iter([1.0, 2.0, 3.0]),
        [1.0, 2.0],
        [1.0] * 4,
        np.ones((1, 3)),
        np.float64(1.0),
        [1.0, [2.0], 3.0],
        {"a": {"nested": 1.0}},
        {None: 1.0},
        {1.5: 1.0},
        {("a", "b"): 1.0},
        {True: 1.0},
        {b"a": 1.0},
        np.ma.masked_array([1.0, 2.0, 3.0], mask=[0, 1, 0]),
        np.array(["2020-01-01"] * 3, dtype="M8[ns]"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", repr(value)),  # the same in each process
)
def test_a_sample_of_the_wrong_shape(model: LinearLearner, x: Any) -> None:
    refuses(model, lambda: model.learn_one(x, 1))


@pytest.mark.parametrize(
    ("X", "y", "w"),
    [
        (np.ones((2, 2)), [1, 0], None),
        (np.ones((2, 4)), [1, 0], None),
        (np.ones((0, 4)), [], None),
        (np.ones(3), [1], None),
        (np.ones((2, 3)), [1], None),
        (np.ones((2, 3)), [1, 0, 1], None),
        (np.ones((2, 3)), 1, None),
        (np.ones((2, 3)), [[1], [0]], None),
        (np.ones((2, 3)), [1, [0]], None),
        (np.ones((2, 3)), [1, 0], [1.0]),
        (np.ones((2, 3)), [1, 0], "ab"),
        (np.ones((2, 3)), [1, 0], -1.0),
        (np.ones((2, 3)), None, None),
        ([[1.0, 2.0, 3.0], [1.0, 2.0]], [1, 0], None),
        (None, [1, 0], None),
        ("abc", [1, 0], None),
        ([{"a": 1.0}, {"a": 2.0}], [1, 0], None),
        (np.array([["2020-01-01"] * 3] * 2, dtype="M8[ns]"), [1, 0], None),
        (np.ones((2, 3)), np.array(["2020-01-01"] * 2, dtype="M8[ns]"), None),
        (np.ma.masked_array(np.ones((2, 3)), mask=[[0] * 3, [0, 1, 0]]), [1, 0], None),
        (np.ones((2, 3)), np.ma.masked_array([1.0, 0.0], mask=[0, 1]), None),
        (pd.DataFrame(np.ones((2, 2)), columns=["a", "a"]), [1, 0], None),
        (pd.DataFrame({"a": [1.0, 2.0], "t": pd.to_datetime(["2020-01-01"] * 2)}), [1, 0], None),
        (pd.DataFrame({"t": pd.to_datetime(["2020-01-01"] * 2)}), [1, 0], None),
        (pd.DataFrame({"a": ["1", "2"]}), [1, 0], None),
        (pd.DataFrame({"a": [1.0, 2.0], "b": [1j, 0.0]}), [1, 0], None),
        (pd.DataFrame({"a": [1.0, 2.0], "new": [1.0, None]}), [1, 0], None),
        (pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}), [1, 0], None),
        (pd.DataFrame({"a": [1.0, 2.0]}), pd.Series(["1", "0"]), None),
        (pd.DataFrame({"a": [1.0, 2.0]}), pd.Series(pd.array([1, None], dtype="Int64")), None),
    ],
    ids=lambda value: repr(value).replace("\n", " ")[:40],
)
def test_a_table_that_is_refused(model: LinearLearner, X: Any, y: Any, w: Any) -> None:
    refuses(model, lambda: model.learn_many(X, y, w))


@pytest.mark.parametrize("label", [2, -1, 0.5, 1.5, 1e300, -0.5])
def test_a_label_that_is_no_class(label: float) -> None:
    model = sf.LogisticRegression()
    refuses(model, lambda: model.learn_one({"a": 1.0}, label))
    refuses(model, lambda: model.learn_many([[1.0], [1.0]], [1, label]))


@pytest.mark.parametrize("weight", [-1.0, -1e-300, float("nan"), float("inf")])
def test_a_weight_that_is_no_weight(model: LinearLearner, weight: float) -> None:
    refuses(model, lambda: model.learn_one({"a": 1.0, "new": 1.0}, 1, weight))
    error = refuses(model, lambda: model.learn_many(np.ones((3, 3)), [1, 0, 1], [1, 1, weight]))
    assert error.offset == 2


def test_a_fixed_index_refuses_other_features() -> None:
    model = sf.LinearRegression(features=sf.FeatureIndex(["a", "b"], fixed=True))
    model.learn_one({"a": 1.0}, 1.0)
    assert refuses(model, lambda: model.learn_one({"a": 1.0, "c": 0.0}, 1.0)).feature == "c"
    frame = pd.DataFrame({"a": [1.0], "c": [1.0]})
    assert refuses(model, lambda: model.learn_many(frame, [1.0])).feature == "c"
    assert model.predict_one({"a": 1.0, "c": 1.0}) == model.predict_one({"a": 1.0})


@given(st.data())
def test_bad_samples_in_a_stream_leave_what_the_good_ones_make(draw: st.DataObject) -> None:
    model, data = draw.draw(problems(known=draw.draw(st.booleans())))
    expected = type(model).from_config(model.get_config())
    feed(expected, data, [("sparse dicts", 0, len(data))])
    bad = st.sampled_from(list(NO_NUMBERS.values()))
    no_label = st.sampled_from([y for y in NO_NUMBERS.values() if not isinstance(y, str | int)])
    for x, y, w in zip(data.rows(), data.y.tolist(), data.weights.tolist(), strict=True):
        fault = draw.draw(st.sampled_from(["none", "none", "x", "y", "w"]))
        names = [*x, "only in bad samples"]
        if fault == "x":
            broken = {**x, draw.draw(st.sampled_from(names)): draw.draw(bad)}
            refuses(model, lambda x=broken, y=y, w=w: model.learn_one(x, y, w))
        elif fault == "y":  # text and whole numbers may be names of classes
            label = draw.draw(no_label)
            refuses(model, lambda x={**x, "more": 1.0}, y=label: model.learn_one(x, y))
        elif fault == "w":
            weight = draw.draw(bad)
            refuses(model, lambda x={**x, "more": 1.0}, y=y, w=weight: model.learn_one(x, y, w))
        model.learn_one(x, y, w)
    assert known(model) == known(expected)


@given(st.data())
def test_a_bad_row_in_the_middle(draw: st.DataObject) -> None:
    """`learn_many` is all or nothing; `learn_block` has learned what came before."""
    model, data = draw.draw(problems(min_size=1, max_size=20))
    feed(model, data, [("array", 0, len(data))])
    row = draw.draw(st.integers(0, len(data) - 1))
    faults = ["w", *(["x"] if data.names else []), *(["y"] if data.y.dtype.kind == "f" else [])]
    what = draw.draw(st.sampled_from(faults))
    X, y, w = data.X.copy(), data.y.copy(), data.weights.copy()
    bad = draw.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    column = draw.draw(st.integers(0, max(0, len(data.names) - 1)))
    if what == "x":
        X[row, column] = bad
    else:
        (y if what == "y" else w)[row] = bad
    names = [*data.names[::-1], "a new one"]
    frame = pd.DataFrame(np.column_stack([X[:, ::-1], np.ones(len(X))]), columns=names)
    for table in (X, frame):
        error = refuses(model, lambda table=table: model.learn_many(table, y, w))
        assert (error.source, error.partition, error.offset) == ("learn_many", 0, row)
        assert error.feature == (data.names[column] if what == "x" else None)

    expected = type(model).from_config(model.get_config())
    expected.load_state_dict(model.state_dict())
    feed(expected, Samples(data.names, X, y, w), [("rows", 0, row)])
    block = Block(X, y, w, source="topic", partition=3, offsets=range(100, 100 + len(X)))
    with pytest.raises(BadSampleError) as caught:
        model.learn_block(block, 0, len(block))
    assert (caught.value.source, caught.value.partition) == ("topic", 3)
    assert caught.value.offset == 100 + row
    assert known(model) == known(expected)


def test_a_block_without_offsets_still_names_the_sample() -> None:
    model = sf.LinearRegression()
    with pytest.raises(BadSampleError, match="offset 1"):
        model.learn_block(Block([{"a": 1.0}, {"a": None}], [1.0, 1.0]), 0, 2)
    assert model.n_samples == 1


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_predicting_never_changes_anything(model: LinearLearner, name: str) -> None:
    before = known(model)
    many = [
        getattr(model, f"predict{p}_many")
        for p in ("", "_proba")
        if hasattr(model, f"predict{p}_many")
    ]
    one = [
        getattr(model, f"predict{p}_one")
        for p in ("", "_proba")
        if hasattr(model, f"predict{p}_one")
    ]
    for predict in one:
        predict({})
        predict({"a": 1.0, "unknown": 2.0, 7: 1.0})
        predict([1.0, 2.0, 3.0])
        with pytest.raises(BadSampleError):
            predict({"unknown": 1.0, "a": NO_NUMBERS[name]})
        with pytest.raises(BadSampleError):
            predict([1.0, 2.0])
    for predict in many:
        predict(np.ones((2, 3)))
        predict(np.ones((0, 3)))
        predict(pd.DataFrame({"unknown": [1.0], "b": [2.0]}))
        with pytest.raises(BadSampleError):
            predict(np.ones((2, 4)))
        with pytest.raises(BadSampleError):
            predict(np.array([[1.0, np.nan, 1.0]]))
    assert known(model) == before


# ---- sums that overflow


@pytest.mark.parametrize("batch_size", [1, 2])
def test_an_overflow_counts_alike_whether_a_feature_is_absent_or_zero(batch_size: int) -> None:
    """Infinity times a zero is NaN, and times a feature not there yet it would be nothing."""
    learners = []
    for names in ([], ["a"]):
        features = sf.FeatureIndex(names) if names else None
        model = sf.LinearRegression(batch_size=batch_size, fit_intercept=False, features=features)
        model.learn_one({}, 1e200, 1e200)
        model.learn_one({"a": 1.0}, 1.0)
        learners.append(model)
    assert known(learners[0]) == known(learners[1])
    assert learners[0].n_refused == 1


def test_weights_beyond_the_largest_number_do_not_spoil_a_checkpoint() -> None:
    model = sf.LinearRegression(batch_size=3)
    for _ in range(2):
        model.learn_one({"a": 1.0}, 0.0, 1e308)
    again = sf.LinearRegression(batch_size=3)
    again.load_state_dict(model.state_dict())
    for m in (model, again):
        m.learn_one({"a": 1.0}, 0.0)
    assert known(again) == known(model)
    assert model.n_updates + model.n_refused == 1


# ---- offline


@pytest.mark.parametrize("kernel", ["numpy", "compiled"])
@pytest.mark.parametrize("name", NO_NUMBERS)
def test_offline_refuses_the_same(name: str, kernel: str) -> None:
    bad = NO_NUMBERS[name]
    model = sf.LinearRegression()
    good = {"X": [{"a": 1.0}] * 3, "y": [1.0] * 3, "sample_weight": [1.0] * 3}
    for what, value in (
        ("X", [{"a": 1.0}, {"a": 1.0}, {"b": bad}]),
        ("y", [1.0, 1.0, bad]),
        ("sample_weight", [1.0, 1.0, bad]),
    ):
        options = {**good, what: value}
        with pytest.raises(BadSampleError) as caught:
            fit_offline(model, options.pop("X"), options.pop("y"), kernel=kernel, **options)
        assert caught.value.feature == ("b" if what == "X" else None)
        if not isinstance(bad, NESTED):
            assert caught.value.offset == 2
    cells = np.array([[1.0], [2.0]], dtype=object)
    cells[1, 0] = bad
    with pytest.raises(BadSampleError, match="feature 0"):
        fit_offline(model, cells, [1.0, 2.0], kernel=kernel)


@pytest.mark.parametrize(
    ("X", "y", "w"),
    [
        (np.ones((2, 1)), [1, 2], None),
        (np.ones((2, 1)), [1], None),
        (np.ones(2), [1, 1], None),
        ([{"a": 1.0}, [1.0]], [1, 1], None),
        ([{"a": 1.0}, {1.5: 1.0}], [1, 1], None),
        (np.ones((2, 1)), [1, 1], [1, -1]),
        (pd.DataFrame(np.ones((2, 2)), columns=["a", "a"]), [1, 1], None),
    ],
    ids=lambda value: repr(value).replace("\n", " ")[:40],
)
def test_offline_refuses_what_does_not_fit(X: Any, y: Any, w: Any) -> None:
    with pytest.raises(BadSampleError):
        fit_offline(sf.LogisticRegression(), X, y, sample_weight=w)


def test_offline_respects_the_features_of_the_model() -> None:
    free = sf.LinearRegression(features=sf.FeatureIndex(["b", "a"]))
    fixed = sf.LinearRegression(features=sf.FeatureIndex(["b", "a"], fixed=True))
    rows = [{"a": 1.0}, {"c": 1.0}]
    for kernel in ("numpy", "compiled"):
        assert list(fit_offline(free, rows, [1, 2], kernel=kernel).weights) == ["b", "a", "c"]
        with pytest.raises(BadSampleError, match="'c'"):
            fit_offline(fixed, rows, [1, 2], kernel=kernel)
        with pytest.raises(BadSampleError, match="3 columns"):
            fit_offline(free, np.ones((2, 3)), [1, 2], kernel=kernel)
        frame = pd.DataFrame({"a": [1.0, 2.0]})
        assert list(fit_offline(fixed, frame, [1, 2], kernel=kernel).weights) == ["b", "a"]
