"""P1: arrival does not matter. Weights depend on the samples, their order and `batch_size`.

`test_learners.py` and `test_table.py` say so of every learner; here are the forms one by one,
and what those do not draw.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import streamfit as sf
from streamfit.core.features import features_config
from streamfit.core.learner import LinearLearner
from streamfit.errors import BadSampleError
from streamfit.testing.conformance import parameters
from streamfit.testing.forms import FORMS, NAMED
from streamfit.testing.strategies import (
    Samples,
    arrivals,
    batch_sizes,
    cuts,
    feed,
    fresh,
    labels_of,
    last_batches,
    learning_rates,
    losses_of,
    optimizers,
    problems,
    samples,
)
from streamfit.types import Block

pytestmark = pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")


def as_features(names: list[Any]) -> dict[str, Any] | None:
    return features_config(sf.FeatureIndex(names)) if names else None


def one_by_one(model: LinearLearner, data: Samples) -> LinearLearner:
    """The yardstick: dense rows, one after the other."""
    feed(model, data, [("rows", 0, len(data))])
    return model


@given(st.data())
def test_any_arrival_gives_the_same_bits(draw: st.DataObject) -> None:
    model, data = draw.draw(problems())
    expected = one_by_one(fresh(model), data)
    feed(model, data, draw.draw(arrivals(len(data))))
    assert model.digest() == expected.digest()
    assert model.weights == expected.weights
    last_batch = draw.draw(last_batches())
    model.flush(last_batch)
    expected.flush(last_batch)
    assert model.digest() == expected.digest()


@pytest.mark.parametrize("form", FORMS)
@given(st.data())
def test_each_form_gives_the_same_bits(form: str, draw: st.DataObject) -> None:
    model, data = draw.draw(problems(sizes=(1, 2, 7), max_size=20))
    expected = one_by_one(fresh(model), data)
    other = fresh(model)
    feed(model, data, [(form, 0, len(data))])
    feed(other, data, [(form, i, i + 1) for i in range(len(data))])
    assert model.digest() == other.digest() == expected.digest()


SIZES = {
    "four": 4,
    "eleven": 11,
    "full": None,
    "geometric": sf.schedules.GeometricBatchSize(1, 2.0, 2, 1000),
    "milestones": sf.schedules.MilestoneBatchSize(1, [(3, 6), (6, 1), (9, 2)]),
}


@pytest.mark.parametrize("size", SIZES)
@given(st.data())
def test_rows_in_fours_are_rows_one_by_one(size: str, draw: st.DataObject) -> None:
    """A plain model takes dense rows of a micro-batch in fours, and rows of one in one pass."""
    kind = draw.draw(st.sampled_from([sf.LinearRegression, sf.LogisticRegression]))
    labels, weighted = labels_of(kind, kind().loss), draw.draw(st.sampled_from([False, None]))
    data = draw.draw(samples(labels, min_size=8, min_features=6, weighted=weighted))
    model = kind(
        sf.optim.SGD(draw.draw(learning_rates(0.05))),
        batch_size=SIZES[size],
        l2=draw.draw(st.sampled_from([0.0, 0.0, 0.1])),
        features=sf.FeatureIndex(data.names),
        dtype=draw.draw(st.sampled_from(["float64", "float32"])),
    )
    expected = one_by_one(fresh(model), data)
    for a, b in draw.draw(cuts(len(data))):
        model.learn_many(data.X[a:b], data.y[a:b], None if data.w is None else data.w[a:b])
    assert model.digest() == expected.digest()
    model.flush()
    expected.flush()
    assert model.digest() == expected.digest()


@pytest.mark.parametrize("n_columns", [1, 4, 9])
def test_columns_that_have_not_come_yet_keep_their_weights(n_columns: int) -> None:
    """The kernel takes tables of the first columns of a model."""
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(6, 17)), rng.normal(size=6)
    model = sf.LinearRegression(sf.optim.SGD(0.05))
    model.learn_many(X, y)
    expected = fresh(model)
    expected.load_state_dict(model.state_dict())
    few = X[:5, :n_columns].copy()  # an odd number: two arrays of weights take turns
    model._learn_table(few, y[:5], None)
    for row, label in zip(few, y[:5].tolist(), strict=True):
        expected.learn_one(dict(enumerate(row.tolist())), label)
    assert model.digest() == expected.digest()


@pytest.mark.parametrize("slope", [0.4, 3.0])
def test_each_row_is_clipped(slope: float) -> None:
    X, y = np.ones((4, 9)), np.array([slope, -slope, slope, 5 * slope])
    model = sf.LinearRegression(sf.optim.SGD(0.01), sf.losses.HalfSquared(), clip_gradient=0.5)
    expected = fresh(model)
    model.learn_many(X, y)
    expected.learn_many(X, y, np.ones(4))
    free = sf.LinearRegression(sf.optim.SGD(0.01), sf.losses.HalfSquared())
    free.learn_many(X, y)
    assert model.digest() == expected.digest()
    assert model.weights != free.weights


@given(st.data())
def test_rows_without_weights_are_rows_of_weight_one(draw: st.DataObject) -> None:
    """A plain model learns each row in one pass if it has no weight, and otherwise does not."""
    huge = draw.draw(st.booleans())
    kind = draw.draw(st.sampled_from([sf.LinearRegression, sf.LogisticRegression]))
    loss = draw.draw(losses_of(kind))
    data = draw.draw(samples(labels_of(kind, loss), weighted=False, huge=huge))
    n = len(data)
    model = kind(
        sf.optim.SGD(draw.draw(learning_rates(1e150 if huge else 0.05))),
        loss,
        batch_size=draw.draw(batch_sizes((1, 1, 1, 2), huge)),
        reduction=draw.draw(st.sampled_from(["mean", "sum"])),
        l2=draw.draw(st.sampled_from([0.0, 0.0, 0.1])),
        fit_intercept=draw.draw(st.booleans()),
        clip_gradient=draw.draw(st.sampled_from([None, 0.4])),
        features=sf.FeatureIndex(data.names),
        dtype=draw.draw(st.sampled_from(["float64", "float32"])),
        noise_scale=draw.draw(st.sampled_from([None, True])) if not huge else None,
    )
    expected = fresh(model)
    factor = draw.draw(st.sampled_from([1.0, 0.3]))
    X, y = data.X.copy(), data.y.astype(float)
    bad = draw.draw(st.one_of(st.none(), st.integers(0, max(n - 1, 0)))) if X.size else None
    if bad is not None:
        place = draw.draw(st.sampled_from([X[bad], y[bad : bad + 1]]))
        place[-1] = draw.draw(st.sampled_from([math.nan, math.inf]))
    parts = draw.draw(cuts(n))
    found: list[Any] = []
    for one, w in ((model, None), (expected, np.ones(n))):
        one.track_loss = True
        one.set_learning_rate_factor(factor)
        block = Block(X, y, w, offsets=range(n))
        out = one.new_predictors(block)
        out[:] = 0.0
        try:
            for a, b in parts:
                one.learn_block(block, a, b, out)
        except BadSampleError as error:
            found.append(str(error))
        counts = (one.n_samples, one.n_refused, one.loss_sum, one.loss_weight)
        found.append((out.tolist(), *counts))
    half = len(found) // 2
    assert found[:half] == found[half:]
    assert model.digest() == expected.digest()


def test_a_state_whose_weights_are_scaled_takes_the_general_way() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 9)), rng.normal(size=20)
    model = sf.LinearRegression(sf.optim.SGD(0.01))
    model.learn_many(X, y)
    state = {**model.state_dict(), "weight_scale": 0.5}
    one, expected = fresh(model), fresh(model)
    for other, w in ((one, None), (expected, np.ones(20))):
        other.load_state_dict(state)
        other.learn_many(X, y, w)
    assert one.digest() == expected.digest()
    assert one.digest() != model.digest()


@given(st.data())
def test_features_that_appear_on_the_way_equal_a_matrix_with_zeros(draw: st.DataObject) -> None:
    model, data = draw.draw(problems(known=False))
    feed(model, data, draw.draw(arrivals(len(data), NAMED)))
    seen = model.index.names
    assert sorted(seen) == sorted({name for row in data.rows() for name in row} | set(seen))
    columns = [data.names.index(name) for name in seen]
    dense = Samples(seen, data.X[:, columns], data.y, data.w)
    expected = type(model).from_config({**model.get_config(), "features": as_features(seen)})
    if not seen:
        dense = Samples([], np.zeros((len(data), 0)), data.y, data.w)
    one_by_one(expected, dense)
    assert model.digest() == expected.digest()
    assert model.weights == expected.weights


@given(st.data())
def test_refused_updates_are_the_same_under_any_arrival(draw: st.DataObject) -> None:
    exploding = st.one_of(optimizers(), optimizers(max_lr=1e150))
    model, data = draw.draw(problems(optimizer=exploding, huge=True))
    expected = one_by_one(fresh(model), data)
    feed(model, data, draw.draw(arrivals(len(data))))
    assert model.digest() == expected.digest()
    assert model.n_refused == expected.n_refused
    assert np.isfinite(parameters(model)).all()


@given(st.data())
def test_refused_updates_with_features_that_appear_on_the_way(draw: st.DataObject) -> None:
    model, data = draw.draw(problems(known=False, huge=True))
    if data.w is not None and draw.draw(st.booleans()):
        data.w[: len(data) // 2] = 1e200
        if isinstance(model, sf.LinearRegression):
            data.y[...] = data.y * 1e200
    feed(model, data, [("sparse dicts", 0, len(data))])
    seen = model.index.names
    dense = Samples(seen, data.X[:, [data.names.index(f) for f in seen]], data.y, data.w)
    expected = type(model).from_config({**model.get_config(), "features": as_features(seen)})
    one_by_one(expected, dense)
    assert (model.n_updates, model.n_refused) == (expected.n_updates, expected.n_refused)
    assert model.digest() == expected.digest()


def _through_state(model: LinearLearner) -> LinearLearner:
    config = json.loads(json.dumps(model.get_config()))
    again = type(model).from_config(config)
    again.load_state_dict(model.state_dict())
    assert again.get_config() == model.get_config()
    return again


def _through_another_life(model: LinearLearner) -> LinearLearner:
    """Into a learner that has already learned something else, and refused something."""
    again = fresh(model)
    names = model.index.names or ["x"]
    if model.features is None:
        again.learn_one({"other": 3.0, "more": -2.0}, 1)
    for _ in range(3):
        again.learn_one(dict.fromkeys(names, 1.0), 1)
    again.load_state_dict(model.state_dict())
    return again


WAYS = {
    "state_dict": _through_state,
    "state_dict into a used learner": _through_another_life,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("way", WAYS)
@given(st.data())
def test_stopping_anywhere_equals_never_stopping(way: str, draw: st.DataObject) -> None:
    model, data = draw.draw(problems(known=draw.draw(st.booleans()), huge=draw.draw(st.booleans())))
    form = draw.draw(st.sampled_from(NAMED))
    stop = draw.draw(st.integers(0, len(data)))
    whole = fresh(model)
    feed(whole, data, [(form, 0, stop), (form, stop, len(data))])
    feed(model, data, [(form, 0, stop)])
    before = model.digest()
    again = WAYS[way](model)
    assert again.digest() == before
    feed(again, data, [(form, stop, len(data))])
    assert again.digest() == whole.digest()
    assert again.weights == whole.weights
    assert model.digest() == before  # the copy shares nothing with the original


@given(st.data())
def test_predictions_before_learning_are_what_predict_one_says(draw: st.DataObject) -> None:
    model, data = draw.draw(problems(max_size=20))
    # of a scaler learning already knows the sample's features, predicting does not
    config = {**model.get_config(), "scaler": None}
    if config["optimizer"]["id"] == "auto":
        config["optimizer"]["scale"] = False  # or it brings a scaler
    model = type(model).from_config(config)
    predict = "predict_one" if isinstance(model, sf.LinearRegression) else "predict_proba_one"
    expected = []
    other = fresh(model)
    for x, y, w in zip(data.X, data.y.tolist(), data.weights.tolist(), strict=True):
        expected.append(getattr(other, predict)(x))
        other.learn_one(x, y, w)
    block = Block(data.X, data.y, data.w, offsets=range(len(data)))
    out = model.new_predictors(block)
    for start, stop in [(0, len(data) // 3), (len(data) // 3, len(data))]:
        model.learn_block(block, start, stop, out)
    assert model.predictions(out) == expected


@given(st.data())
def test_predictions_agree_in_every_form(draw: st.DataObject) -> None:
    model, data = draw.draw(problems(max_size=20))
    one_by_one(model, data)
    before = model.digest()
    expected = [model.predictors_one(x) for x in data.X]
    assert [model.predictors_one(x) for x in data.rows()] == expected
    tables = [data.X, np.asfortranarray(data.X), data.X.astype(object), sparse.csr_array(data.X)]
    for table in tables:
        assert model._predictors_many(table).tolist() == expected
    unknown = [{**row, "never seen": 1e6, 7: -3.0} for row in data.rows()]
    assert [model.predictors_one(x) for x in unknown] == expected
    assert model.digest() == before
    assert model.index.names == data.names


@pytest.mark.parametrize("kind", [sf.LinearRegression, sf.LogisticRegression])
def test_a_learner_that_refuses_every_update_stays_at_zero(kind: type[LinearLearner]) -> None:
    model = kind(sf.optim.SGD(1e308), batch_size=2, reduction="sum")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            model.learn_one({"x": 1e300}, 1)
    assert model.n_refused == 3
    assert model.n_updates == 0
    assert model.weights == {"x": 0.0}
    assert {w.category for w in caught} == {sf.errors.UpdateRefusedWarning}
    assert "n_refused" in str(caught[0].message)
