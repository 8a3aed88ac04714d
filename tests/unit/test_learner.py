from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import streamfit as sf
from streamfit.core.learner import LinearLearner
from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    SourceError,
    UpdateRefusedWarning,
)
from streamfit.types import Block

KINDS = (sf.LinearRegression, sf.LogisticRegression)


# ---- configuration


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer", "sgd"),
        ("optimizer", sf.optim.SGD),
        ("optimizer", sf.optim.Optimizer()),
        ("loss", "log"),
        ("loss", sf.losses.Loss()),
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 1.0),
        ("batch_size", True),
        ("batch_size", "32"),
        ("batch_size", 2**63),
        ("batch_size", 10**400),
        ("reduction", "average"),
        ("reduction", None),
        ("reduction", ["mean"]),
        ("l2", -0.1),
        ("l2", float("nan")),
        ("l2", float("inf")),
        ("l2", "0"),
        ("l2", True),
        ("l2", None),
        ("l2", 10**400),
        ("fit_intercept", 1),
        ("fit_intercept", None),
        ("intercept_lr", -1.0),
        ("intercept_lr", "0.1"),
        ("clip_gradient", 0.0),
        ("clip_gradient", -1.0),
        ("clip_gradient", float("inf")),
        ("features", ["a", "b"]),
        ("features", {"a": 0}),
    ],
)
def test_an_argument_is_refused_by_name(kind: type[LinearLearner], name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (sf.LinearRegression, sf.losses.Log()),
        (sf.LogisticRegression, sf.losses.Squared()),
        (sf.LogisticRegression, sf.losses.HalfSquared()),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(kind: type[LinearLearner], loss: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"loss of {kind.__name__} must be one of"):
        kind(loss=loss)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, "lr", lr) for kind in ("SGD", "AdaGrad", "Adam") for lr in (0.0, -1.0, "1", None)),
        ("SGD", "lr", 10**400),
        ("SGD", "lr", float("inf")),
        ("SGD", "momentum", 1.0),
        ("SGD", "momentum", -0.1),
        ("SGD", "nesterov", 1),
        ("SGD", "nesterov", True),  # without a momentum
        ("AdaGrad", "eps", 0.0),
        ("Adam", "beta_1", 1.0),
        ("Adam", "beta_2", -0.1),
        ("Adam", "eps", 0.0),
    ],
)
def test_an_argument_of_an_optimizer_is_refused_by_name(kind: str, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=name):
        getattr(sf.optim, kind)(**{name: value})


@pytest.mark.parametrize("names", ["abc", 5, ["a", "a"], [["a"]], [1.5], [True], [None]])
def test_names_that_an_index_refuses(names: Any) -> None:
    with pytest.raises(ConfigurationError, match="features"):
        sf.FeatureIndex(names)


def test_fixed_features_are_those_of_the_first_learned_sample() -> None:
    model = sf.LinearRegression(features="fixed")
    with pytest.raises(BadSampleError):
        model.learn_one({"a": 1.0, "c": float("nan")}, 1.0)
    model.learn_one({"a": 1.0, "b": 2.0}, 1.0)
    model.learn_one({"a": 1.0}, 1.0)  # missing: 0
    with pytest.raises(BadSampleError, match="unknown feature"):
        model.learn_one({"a": 1.0, "c": 1.0}, 1.0)
    assert list(model.weights) == ["a", "b"]
    again = sf.LinearRegression.from_config(model.get_config())
    again.load_state_dict(model.state_dict())
    with pytest.raises(BadSampleError, match="unknown feature"):
        again.learn_one({"c": 1.0}, 1.0)


def test_there_is_a_maximum_of_features() -> None:
    model = sf.LinearRegression(features=sf.FeatureIndex(maximum=2))
    model.learn_one({"a": 1.0, "b": 1.0}, 1.0)
    before = model.digest()
    with pytest.raises(BadSampleError, match="2 features, the most"):
        model.learn_one({"b": 1.0, "c": 1.0}, 1.0)
    assert model.digest() == before


def test_defaults() -> None:
    assert sf.LinearRegression().get_config() == {
        "id": "LinearRegression",
        "optimizer": {"id": "sgd", "lr": 0.01, "momentum": 0.0, "nesterov": False},
        "loss": {"id": "squared"},
        "batch_size": 1,
        "reduction": "mean",
        "l2": 0.0,
        "l1": 0.0,
        "fit_intercept": True,
        "intercept_lr": None,
        "clip_gradient": None,
        "features": None,
        "scaler": None,
        "dtype": "float64",
        "max_weight": None,
        "noise_scale": None,
    }
    assert sf.LogisticRegression().loss == sf.losses.Log()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "LogisticRegression"},
        {"id": None},
        {"optimizer": {"id": "no such"}},
        {"optimizer": {"id": "sgd", "no such": 1}},
        {"optimizer": {}},
        {"loss": {"id": "hinge"}},
        {"features": ["a"]},
        {"no such": 1},
    ],
    ids=repr,
)
def test_a_configuration_that_is_refused(change: dict[str, Any]) -> None:
    config = sf.LinearRegression().get_config()
    with pytest.raises(ConfigurationError):
        sf.LinearRegression.from_config({**config, **change})


def test_a_configuration_that_lacks_something_is_refused() -> None:
    config = sf.LinearRegression().get_config()
    del config["loss"]
    with pytest.raises(ConfigurationError, match="loss"):
        sf.LinearRegression.from_config(config)


def test_the_features_of_one_learner_are_not_another_s() -> None:
    index = sf.FeatureIndex(["a"])
    one, other = (sf.LinearRegression(features=index) for _ in range(2))
    one.learn_one({"b": 1.0}, 1.0)
    assert list(one.weights) == ["a", "b"]
    assert list(other.weights) == index.names == ["a"]


# ---- counters, weights, flush


def test_counters() -> None:
    model = sf.LinearRegression(batch_size=3)
    counts = []
    for i in range(7):
        model.learn_one({"x": float(i)}, 1.0)
        counts.append((model.n_samples, model.n_updates, model.n_pending))
    assert counts == [(1, 0, 1), (2, 0, 2), (3, 1, 0), (4, 1, 1), (5, 1, 2), (6, 2, 0), (7, 2, 1)]
    assert model.n_refused == 0


def test_weights_by_hand() -> None:
    model = sf.LinearRegression(sf.optim.SGD(0.5), sf.losses.HalfSquared(), l2=0.5)
    model.learn_one({"a": 2.0, "b": -1.0}, 3.0)
    assert model.weights == {"a": 3.0, "b": -1.5}
    assert model.intercept == 1.5
    model.learn_one({"c": 1.0}, 1.5)  # gradient 0: only l2 moves, and not the intercept
    assert model.weights == {"a": 2.25, "b": -1.125, "c": 0.0}
    assert model.intercept == 1.5


def test_a_model_without_features_learns_its_intercept() -> None:
    model = sf.LinearRegression(sf.optim.SGD(0.5), sf.losses.HalfSquared())
    model.learn_one({}, 2.0)
    model.learn_many(np.ones((1, 0)), [3.0])
    assert (model.weights, model.intercept) == ({}, 2.0)


def pending(batch_size: int | None) -> sf.LinearRegression:
    optimizer = sf.optim.SGD(1.0)
    model = sf.LinearRegression(optimizer, sf.losses.HalfSquared(), batch_size, fit_intercept=False)
    model.learn_one({"x": 1.0}, 2.0)
    model.learn_one({"x": 1.0}, 6.0)
    return model


@pytest.mark.parametrize(
    ("batch_size", "last_batch", "weight", "n_updates", "n_pending"),
    [
        (8, "apply", 4.0, 1, 0),
        (8, "scale", 1.0, 1, 0),
        (8, "drop", 0.0, 0, 0),
        (8, "carry", 0.0, 0, 2),
        *((None, last_batch, 4.0, 1, 0) for last_batch in ("apply", "scale", "drop", "carry")),
    ],
)
def test_flush(
    batch_size: int | None, last_batch: str, weight: float, n_updates: int, n_pending: int
) -> None:
    model = pending(batch_size)
    model.flush(last_batch)
    assert model.weights == {"x": weight}
    assert (model.n_samples, model.n_updates, model.n_pending) == (2, n_updates, n_pending)


def test_a_dropped_micro_batch_leaves_nothing_behind() -> None:
    model = pending(8)
    model.flush("drop")
    for _ in range(8):
        model.learn_one({"x": 1.0}, 2.0)
    assert model.weights == {"x": 2.0}


@pytest.mark.parametrize("last_batch", ["apply", "scale", "drop", "carry"])
def test_a_flush_of_nothing_does_nothing(last_batch: str) -> None:
    model = sf.LinearRegression(batch_size=2)
    model.learn_many([[1.0], [2.0]], [1.0, 2.0])
    before = model.digest()
    model.flush(last_batch)
    assert model.digest() == before


def test_an_unknown_way_to_flush_is_refused() -> None:
    model = pending(8)
    with pytest.raises(ConfigurationError, match="last_batch"):
        model.flush("keep")
    assert model.n_pending == 2


def test_a_micro_batch_of_weight_zero_moves_nothing() -> None:
    model = sf.LinearRegression(batch_size=2)
    model.learn_many([[1.0], [2.0]], [1.0, 2.0], 0.0)
    assert (model.weights, model.n_updates) == ({0: 0.0}, 1)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("many", [False, True])
def test_the_progressive_loss_is_that_of_each_sample_before_it_by_its_weight(
    batch_size: int, many: bool
) -> None:
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(20, 3)), rng.normal(size=20), rng.integers(0, 4, size=20) / 2.0
    model, before = (sf.LinearRegression(sf.optim.SGD(0.1), batch_size=batch_size) for _ in "ab")
    model.track_loss = True
    losses = []
    for x, label, weight in zip(X, y, w, strict=True):
        losses.append((before.predict_one(x) - label) ** 2)
        before.learn_one(x, label, weight)
        if not many:
            model.learn_one(x, label, weight)
    if many:
        model.learn_many(X, y, w)
    assert model.loss_sum == pytest.approx(w @ losses, rel=1e-12)
    assert model.loss_weight == w.sum()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rows_of_a_table_are_scaled_to_predict_them(dtype: str) -> None:
    rng = np.random.default_rng(0)
    X = 3.0 + 2.0 * rng.normal(size=(30, 3))
    model = sf.LinearRegression(sf.optim.SGD(0.1), scaler=sf.StandardScaler(), dtype=dtype)
    model.learn_many(X, X @ [1.0, -2.0, 0.5])
    assert model.predict_many(X).tolist() == [model.predict_one(x) for x in X]
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    told = scaled @ list(model.weights.values()) + model.intercept
    assert model.predict_many(X) == pytest.approx(told, rel=1e-9 if dtype == "float64" else 1e-4)


def test_one_weight_for_all_rows() -> None:
    one, each = (sf.LinearRegression(reduction="sum") for _ in range(2))
    one.learn_many([[1.0], [2.0]], [1.0, 2.0], 0.5)
    each.learn_many([[1.0], [2.0]], [1.0, 2.0], [0.5, 0.5])
    assert one.digest() == each.digest()


# ---- tables


def test_what_kinds_of_table_come_out() -> None:
    frame = pd.DataFrame({"b": [1.0, 2.0], "a": [0.5, -3.0]}, index=[10, 20])
    labels = pd.Series([True, False], index=[10, 20], name="late")
    classifier = sf.LogisticRegression()
    classifier.learn_many(frame, labels)
    y = classifier.predict_many(frame)
    assert isinstance(y, pd.Series)
    assert y.name == "late"
    assert list(y.index) == [10, 20]
    p = classifier.predict_proba_many(frame)
    assert isinstance(p, pd.DataFrame)
    assert list(p.columns) == [False, True]
    assert list(p.index) == [10, 20]
    assert np.array_equal(p.to_numpy(), classifier.predict_proba_many(frame.to_numpy()))
    assert p[True].tolist() == [
        classifier.predict_proba_one(row)[True] for row in frame.to_dict("records")
    ]

    regressor = sf.LinearRegression()
    regressor.learn_many(frame, labels)
    assert isinstance(regressor.predict_many(frame), pd.Series)
    assert isinstance(regressor.predict_many(frame.to_numpy()), np.ndarray)
    assert classifier.predict_many(frame.to_numpy()).dtype == bool


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, bool])
def test_other_dtypes_are_numbers_too(dtype: Any) -> None:
    X = np.array([[0, 1], [1, 1], [1, 0]], dtype=dtype)
    model, expected = sf.LinearRegression(), sf.LinearRegression()
    model.learn_many(X, X[:, 0])
    expected.learn_many(X.astype(float), X[:, 0].astype(float))
    assert model.digest() == expected.digest()


def test_strided_and_read_only_tables() -> None:
    X = np.arange(24.0).reshape(6, 4) / 24
    X.flags.writeable = False
    model, expected = sf.LinearRegression(), sf.LinearRegression()
    model.learn_many(X[::2, ::-2], X[::2, 0])
    expected.learn_many(X[::2, ::-2].copy(), X[::2, 0].copy())
    assert model.digest() == expected.digest()


def test_a_sparse_matrix_is_learned_as_its_dense_form() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    dense, labels = np.eye(3) * [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]
    models = [sf.LinearRegression(batch_size=2) for _ in range(4)]
    matrices = (dense, sparse.csr_matrix(dense), sparse.csc_array(dense), sparse.coo_array(dense))
    for model, matrix in zip(models, matrices, strict=True):
        model.learn_many(matrix, labels)
    assert len({model.digest() for model in models}) == 1
    assert all(
        np.array_equal(m.predict_many(m_), models[0].predict_many(dense))
        for m, m_ in zip(models, matrices, strict=True)
    )


def test_columns_of_frames_are_matched_by_name() -> None:
    model = sf.LinearRegression()
    model.learn_many(pd.DataFrame({"a": [1.0], "b": [2.0]}), [1.0])
    model.learn_many(pd.DataFrame({"c": [3.0], "b": [1.0]}), [1.0])
    expected = sf.LinearRegression()
    expected.learn_one({"a": 1.0, "b": 2.0}, 1.0)
    expected.learn_one({"b": 1.0, "c": 3.0}, 1.0)
    assert model.weights == expected.weights
    assert model.digest() == expected.digest()


def test_the_error_of_a_table_names_feature_and_row() -> None:
    model = sf.LinearRegression()
    frame = pd.DataFrame({"age": [1.0, 2.0, np.nan], "city": ["a", "b", "c"]})
    with pytest.raises(BadSampleError, match=r"feature 'city': .*offset 0"):
        model.learn_many(frame, [1.0, 1.0, 1.0])
    with pytest.raises(BadSampleError, match=r"feature 'age': value nan is not finite .*offset 2"):
        model.learn_many(frame[["age"]], [1.0, 1.0, 1.0])


# ---- state


@pytest.mark.parametrize(
    "change",
    [
        {"features": None},
        {"features": ["x", "x"]},
        {"features": [["x"]]},
        {"features": ["x", "y"]},
        {"parameters": np.zeros(3)},
        {"parameters": np.zeros(2, dtype=np.float32)},
        {"parameters": [0.0, 0.0]},
        {"parameters": np.array([0.0, np.nan])},
        {"gradient": np.zeros(3)},
        {"n_samples": -1},
        {"n_samples": 1.0},
        {"n_samples": 2**63},
        {"n_updates": True},
        {"n_pending": 4},
        {"n_pending": 0},
        {"weight_pending": -1.0},
        {"weight_pending": 1},
        {"weight_pending": float("nan")},
        {"no such": 1},
        {"slot_1": np.zeros(2)},
    ],
    ids=repr,
)
def test_a_state_that_does_not_fit_is_refused_whole(change: dict[str, Any]) -> None:
    model = sf.LinearRegression(batch_size=4)
    model.learn_one({"x": 1.0}, 1.0)
    before, weights = model.digest(), model.weights
    with pytest.raises(CheckpointMismatchError):
        model.load_state_dict({**model.state_dict(), **change})
    assert (model.digest(), model.weights) == (before, weights)


def test_the_largest_micro_batch_can_be_loaded_again() -> None:
    model = sf.LinearRegression(batch_size=2**63 - 1)
    model.learn_one({"x": 1.0}, 1.0)
    again = sf.LinearRegression(batch_size=2**63 - 1)
    again.load_state_dict(model.state_dict())
    assert again.digest() == model.digest()


def test_a_state_shares_nothing_with_its_learner() -> None:
    model = sf.LinearRegression(sf.optim.Adam(), batch_size=2)
    model.learn_many([[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0])
    state, before = model.state_dict(), model.digest()
    kept = copy.deepcopy(state)
    for array in [value for value in state.values() if isinstance(value, np.ndarray)]:
        array.fill(1.0)
    assert model.digest() == before
    model.load_state_dict(kept)
    model.learn_one([1.0], 1.0)
    model.load_state_dict(kept)
    assert model.digest() == before


def test_a_digest_sees_every_number() -> None:
    growing = sf.schedules.MilestoneBatchSize(2, [(100, 3)])
    model = sf.LinearRegression(sf.optim.AMSGrad(), batch_size=growing, l1=0.01)
    model.learn_many([[1.0], [2.0], [3.0]], [1.0, 2.0, 3.0])
    state = model.state_dict()
    seen = {model.digest()}
    for name, value in state.items():
        if name == "features":
            continue
        other = copy.copy(model)
        changed = copy.deepcopy(state)
        if isinstance(value, np.ndarray):
            changed[name][1] = np.nextafter(value[1], np.inf)
        elif name == "n_pending":
            continue  # checked against the batch size
        else:
            changed[name] = type(value)(value + 1)
        other.load_state_dict(changed)
        seen.add(other.digest())
    assert len(seen) == len(state) - 1


def test_ftrl_s_share_of_a_micro_batch_scales_the_gradient_not_every_weight() -> None:
    # the weights are a function of z and n: a smaller alpha would pull all of them towards 0
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1001, 2))
    model = sf.LinearRegression(sf.optim.FTRLProximal(0.5, l2=0.0), batch_size=100)
    model.learn_many(X, X @ [1.0, -2.0])
    before = model.weights
    model.flush("scale")  # one sample of a hundred
    for name, weight in model.weights.items():
        assert weight == pytest.approx(before[name], rel=0.01)
    assert model.weights != before


def test_ftrl_has_an_l1_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="use its own l1"):
        sf.LinearRegression(sf.optim.FTRLProximal(), l1=0.1)


def test_a_refused_sample_leaves_nothing_in_the_statistics_of_its_new_features() -> None:
    model, expected = (sf.LinearRegression(scaler=sf.StandardScaler()) for _ in range(2))
    for x in ({"a": 1.0}, {"a": 2.0}, {"a": 4.0, "b": 3.0}, {"a": 3.0, "b": 1.0}):
        with pytest.raises(BadSampleError):
            model.learn_one({"a": float("nan"), "new": 7.0}, 1.0)
        model.learn_one(x, 1.0)
        expected.learn_one(x, 1.0)
    assert model.digest() == expected.digest()


@pytest.mark.parametrize("form", ["array", "csr", "one by one"])
def test_a_negative_label_of_the_poisson_loss_is_refused(form: str) -> None:
    model = sf.LinearRegression(loss=sf.losses.Poisson())
    X = np.array([[1.0], [2.0], [3.0]])
    before = model.digest()
    tables = {"array": X, "csr": sparse.csr_array(X), "one by one": X[1:]}
    learn = model.learn_many
    if form == "one by one":
        learn = lambda rows, labels: model.learn_one(rows[0], labels[1])  # noqa: E731
    with pytest.raises(BadSampleError, match="label -1.0 is negative"):
        learn(tables[form], [1.0, -1.0, 2.0])
    assert model.digest() == before


def test_the_loss_of_softmax_is_minus_the_logarithm_of_what_it_predicted() -> None:
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(40, 3)), rng.integers(0, 3, size=40)
    model = sf.SoftmaxRegression(sf.optim.SGD(0.5), classes=[0, 1, 2])
    expected = []
    for x, label in zip(X, y.tolist(), strict=True):
        expected.append(-np.log(model.predict_proba_one(x)[label]))
        model.learn_one(x, label)
    report = sf.Trainer(model.clone(), sf.ArraySource(X, y)).run()
    assert report.progressive_loss == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 30.0, 200.0])
def test_softmax_of_predictors_far_apart_is_the_textbook_s(scale: float) -> None:
    rng = np.random.default_rng(4)
    X, y = scale * rng.normal(size=(60, 2)), rng.integers(0, 3, size=60)
    model = sf.SoftmaxRegression(sf.optim.SGD(1.0), batch_size=12, classes=[0, 1, 2])
    compiled, textbook = (
        sf.offline.fit_offline(model, X, y, kernel=kernel) for kernel in ("compiled", "numpy")
    )
    for x, label in zip(X, y.tolist(), strict=True):
        model.learn_one(x, label)
    assert model.digest() == compiled.digest
    np.testing.assert_allclose(compiled.parameters, textbook.parameters, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [sf.LogisticRegression, sf.SoftmaxRegression])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "convert",
    [
        lambda X, y: (X[:0], y[:0]),
        lambda X, y: (X, y.astype(bool)),
        lambda X, y: (X, np.repeat(y, 2)[::2]),
        lambda X, y: (X.astype(">f8"), y.astype(">f8")),
        lambda X, y: (np.asfortranarray(X), y.astype(np.float32)),
        lambda X, y: (X.tolist(), y.tolist()),
    ],
)
def test_arrays_of_any_kind_are_learned_alike(
    kind: type[LinearLearner], dtype: str, convert: Callable[..., tuple[Any, Any]]
) -> None:
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(22, 3)).astype(dtype), rng.integers(0, 2, size=22).astype(np.float64)
    one, other = (kind(batch_size=8, dtype=dtype) for _ in range(2))
    for model in (one, other):
        model.learn_many(X, y)
    given = convert(X, y)
    one.learn_many(*given)
    for x, label in zip(*given, strict=True):
        other.learn_one(x, label)
    assert one.digest() == other.digest()


def test_arrays_learned_the_quick_way_are_refused_whole_and_by_place() -> None:
    model = sf.LinearRegression(batch_size=4)
    X, y = np.ones((6, 2)), np.ones(6)
    model.learn_many(X, y)
    before = model.digest()
    X[5, 1] = np.nan
    with pytest.raises(BadSampleError, match="nan") as caught:
        model.learn_many(X, y)
    assert (caught.value.offset, caught.value.feature, model.digest()) == (5, 1, before)


def test_nothing_is_pending_after_an_update() -> None:
    model = sf.LinearRegression(batch_size=2)
    model.learn_one({"a": 1.0}, 1.0, 3.0)
    assert (model.n_pending, model.state_dict()["weight_pending"]) == (1, 3.0)
    model.learn_one({"a": 1.0}, 1.0, 2.0)
    assert (model.n_pending, model.state_dict()["weight_pending"]) == (0, 0.0)


@pytest.mark.parametrize("shape", [(20, 1), (20, 0), (20,), (3, 5)])
@pytest.mark.parametrize("form", ["array", "mappings"])
def test_room_for_predictors_that_is_too_small_is_refused(
    form: str, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 3)), np.arange(20) % 5
    x = X if form == "array" else [dict(enumerate(row)) for row in X.tolist()]
    model = sf.SoftmaxRegression(batch_size=4)
    before = model.digest()
    with pytest.raises(SourceError):
        model.learn_block(Block(x, y), 0, 20, np.empty(shape))
    assert model.digest() == before
    model.learn_block(Block(x, y), 0, 20, model.new_predictors(Block(x, y)))
    assert model.n_updates == 5


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_largest_weight_is_that_of_the_model_however_it_is_kept(dtype: str) -> None:
    """Plain SGD with L2 keeps its weights as a factor times numbers that may be much larger."""
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(60, 3)), rng.normal(size=60)

    def learned(max_weight: float | None) -> tuple[float, int]:
        model = sf.LinearRegression(sf.optim.SGD(0.1), l2=2.0, max_weight=max_weight, dtype=dtype)
        most = 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UpdateRefusedWarning)
            for x, label in zip(X, y.tolist(), strict=True):
                model.learn_one(x, label)
                most = max(most, *(abs(w) for w in model.weights.values()))
        assert model.state_dict()["weight_scale"] < 0.5
        return most, model.n_refused

    most, _ = learned(None)
    assert learned(most * 1.001) == (most, 0)
    assert learned(most * 0.999)[1] > 0
