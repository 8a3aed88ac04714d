"""P4 for what has its own ways to be bad: sparse matrices, classes, hashing, scaling, float32."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import streamfit as sf
from streamfit.core.learner import LinearLearner
from streamfit.errors import BadSampleError, ConfigurationError
from streamfit.offline import fit_offline
from streamfit.types import Block

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "float32": {"dtype": "float32"},
    "scaled": {"scaler": sf.StandardScaler()},
    "hashed": {"features": sf.HashedFeatures(bits=4)},
    "fixed": {"features": "fixed"},
}


def known(model: LinearLearner) -> tuple[Any, ...]:
    """Everything that bad input must leave alone."""
    return model.digest(), model.weights, model.intercept, model.classes, list(model.index.names)


@pytest.fixture(
    params=[
        (kind, form) for kind in (sf.LogisticRegression, sf.SoftmaxRegression) for form in FORMS
    ],
    ids=lambda param: f"{param[0].__name__}-{param[1]}",
)
def model(request: pytest.FixtureRequest) -> LinearLearner:
    """A learner in the middle of a micro-batch."""
    kind, form = request.param
    model = kind(sf.optim.AdaGrad(), batch_size=3, **FORMS[form])
    for i in range(5):
        model.learn_one({0: i, 1: 1.0 - i, 2: 0.5}, i % 2)
    return model


def refuses(model: LinearLearner, learn: Callable[[], None]) -> BadSampleError:
    before = known(model)
    with pytest.raises(BadSampleError) as caught:
        learn()
    assert known(model) == before
    return caught.value


def csr(data: Any, indices: Any, indptr: Any, shape: tuple[int, int]) -> Any:
    """Make a matrix as its arrays say, which scipy would check."""
    matrix = sparse.csr_array(shape)
    matrix.data, matrix.indices = np.array(data), np.array(indices)
    matrix.indptr = np.array(indptr)
    return matrix


BAD_SPARSE: dict[str, tuple[Any, str]] = {
    "a column twice": (
        csr([1.0, 2, 3], [0, 1, 1], [0, 1, 3], (2, 3)),
        "column 1 comes twice in row 1",
    ),
    "twice, apart": (
        csr([1.0, 2, 3], [1, 0, 1], [0, 3, 3], (2, 3)),
        "column 1 comes twice in row 0",
    ),
    "a column too many": (csr([1.0, 2], [0, 3], [0, 1, 2], (2, 3)), "column 3 .* in row 1"),
    "a column below 0": (csr([1.0, 2], [0, -1], [0, 1, 2], (2, 3)), "column -1 .* in row 1"),
    "rows that overlap": (csr([1.0, 2], [0, 1], [0, 2, 1], (2, 3)), "overlap"),
    "rows that begin before the first": (csr([1.0, 2], [0, 1], [-1, 1, 2], (2, 3)), "overlap"),
    "fewer entries than said": (csr([1.0, 2], [0, 1], [0, 1, 9], (2, 3)), "fewer entries"),
    "too narrow": (csr([1.0], [0], [0, 1, 1], (2, 2)), "2 columns"),
    "NaN": (csr([1.0, np.nan], [0, 2], [0, 1, 2], (2, 3)), "not finite"),
    "infinity": (csr([1.0, np.inf], [0, 2], [0, 1, 2], (2, 3)), "not finite"),
    "complex": (csr([1j, 2.0], [0, 1], [0, 1, 2], (2, 3)), "complex"),
    "text": (csr(["a", "b"], [0, 1], [0, 1, 2], (2, 3)), "no numbers"),
}


@pytest.mark.parametrize("name", BAD_SPARSE)
def test_a_bad_sparse_matrix(model: LinearLearner, name: str) -> None:
    X, message = BAD_SPARSE[name]
    if name == "too narrow" and model.hashing is not None:
        pytest.skip("any column has a hash")
    error = refuses(model, lambda: model.learn_many(X, [1, 0]))
    assert re.search(message, str(error))
    if "row 1" in message or message == "not finite":
        assert error.offset == 1
    if message == "not finite" and model.hashing is None:
        assert error.feature == 2


def test_rows_before_a_bad_one_are_learned_from_a_block(model: LinearLearner) -> None:
    X, _ = BAD_SPARSE["a column twice"]
    expected = type(model).from_config(model.get_config())
    expected.load_state_dict(model.state_dict())
    expected.learn_one([1.0, 0.0, 0.0], 1)
    with pytest.raises(BadSampleError, match="partition 4, offset 11"):
        model.learn_block(Block(X, [1, 0], None, "t", 4, offsets=[10, 11]), 0, 2)
    assert known(model) == known(expected)


def test_predicting_refuses_a_bad_sparse_matrix(model: LinearLearner) -> None:
    before = known(model)
    for name in ("a column twice", "a column too many", "NaN", "text", "fewer entries than said"):
        with pytest.raises(BadSampleError):
            model.predict_many(BAD_SPARSE[name][0])
    assert known(model) == before


NUMBERS = np.array([[1.0, 0.0, -2.0], [0.0, 3.0, 1.0], [1.0, 1.0, 0.0]])
TABLES: dict[str, Any] = {
    "big-endian": NUMBERS.astype(">f8"),
    "big-endian float32": NUMBERS.astype(">f4"),
    "float32": NUMBERS.astype(np.float32),
    "float16": NUMBERS.astype(np.float16),
    "long double": NUMBERS.astype(np.longdouble),
    "int8": NUMBERS.astype(np.int8),
    "big-endian int": NUMBERS.astype(">i8"),
    "object": NUMBERS.astype(object),
    "Fortran order": np.asfortranarray(NUMBERS),
    "backwards": NUMBERS[::-1].copy()[::-1],
    "every other column": np.repeat(NUMBERS, 2, axis=1)[:, ::2],
    "lists": NUMBERS.tolist(),
    "frame": pd.DataFrame(NUMBERS, columns=[0, 1, 2]),
    "CSR of int8": sparse.csr_array(NUMBERS.astype(np.int8)),
    "CSR of float32": sparse.csr_array(NUMBERS.astype(np.float32)),
    "CSR, big-endian": csr(
        *(sparse.csr_array(NUMBERS).data.astype(">f8"),),
        *(
            sparse.csr_array(NUMBERS).indices.astype(">i8"),
            sparse.csr_array(NUMBERS).indptr,
            (3, 3),
        ),
    ),
    "CSC": sparse.csc_array(NUMBERS),
    "DOK": sparse.dok_array(NUMBERS),
}


def read_only(table: Any) -> Any:
    """Forbid writing to whatever can be forbidden it."""
    for array in (table, getattr(table, "data", None), getattr(table, "indices", None)):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return table


@pytest.mark.parametrize("name", TABLES)
def test_each_kind_of_table_is_converted_exactly(model: LinearLearner, name: str) -> None:
    expected = type(model).from_config(model.get_config())
    expected.load_state_dict(model.state_dict())
    for row, label in zip(NUMBERS, [1, 0, 1], strict=True):
        expected.learn_one(row, label)
    model.learn_many(read_only(TABLES[name]), [1, 0, 1])
    assert known(model) == known(expected)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.longdouble])
def test_a_number_that_no_double_holds_rounds_alike_in_every_form(dtype: Any) -> None:
    # to a double and then to float32 it is 2**60; to float32 at once it would be 2**60 + 2**37
    table = np.array([[2**60 + 2**36 + 1]], dtype=dtype)
    model, *others = (sf.LinearRegression(sf.optim.SGD(1e-20), dtype="float32") for _ in range(4))
    model.learn_one({0: 2**60 + 2**36 + 1}, 1.0)
    others[0].learn_one(table[0], 1.0)
    others[1].learn_many(table, [1.0])
    others[2].learn_many(csr(table[0], [0], [0, 1], (1, 1)), [1.0])
    assert {other.digest() for other in others} == {model.digest()}


@pytest.mark.parametrize("dtype", [">f8", "f4", "i1", ">i4", "u8", "?", "O"])
def test_each_kind_of_label_and_weight_is_converted_exactly(
    model: LinearLearner, dtype: str
) -> None:
    labels, weights = np.array([1, 0, 1]).astype(dtype), np.array([1, 1, 0]).astype(dtype)
    labels.flags.writeable = weights.flags.writeable = False
    if model.classes is not None and dtype == "?":
        labels = labels.astype(int)  # False and 0 are one key of a dict, but not one name
    expected = type(model).from_config(model.get_config())
    expected.load_state_dict(model.state_dict())
    for row, y, w in zip(NUMBERS, [1, 0, 1], [1.0, 1.0, 0.0], strict=True):
        expected.learn_one(row, y, w)
    model.learn_many(NUMBERS, labels, weights)
    assert known(model) == known(expected)


def test_a_boolean_table(model: LinearLearner) -> None:
    table = NUMBERS != 0.0
    expected = type(model).from_config(model.get_config())
    expected.load_state_dict(model.state_dict())
    expected.learn_many(table.astype(float), [1, 0, 1])
    model.learn_many(table, [1, 0, 1])
    assert known(model) == known(expected)


@pytest.mark.parametrize("kind", ["array", "CSR", "list block", "frame"])
def test_an_empty_table_does_nothing(model: LinearLearner, kind: str) -> None:
    before = known(model), model.n_samples
    if kind == "list block":
        model.learn_block(Block([], []), 0, 0)
    else:
        X: Any = np.empty((0, 3))
        X = {"array": X, "CSR": sparse.csr_array(X), "frame": pd.DataFrame(X)}[kind]
        model.learn_many(X, [])
    assert (known(model), model.n_samples) == before


@pytest.mark.parametrize("form", [name for name in FORMS if name != "fixed"])
@pytest.mark.parametrize("make", [np.array, sparse.csr_array], ids=["array", "CSR"])
def test_no_columns_leave_the_intercept_to_learn(form: str, make: Any) -> None:
    model = sf.LogisticRegression(sf.optim.SGD(1.0), **FORMS[form])
    model.learn_many(make(np.empty((2, 0))), [1, 1])
    assert model.n_updates == 2
    assert model.intercept > 0.5
    assert model.weights == {}


def test_a_weight_of_zero_counts_and_changes_nothing(model: LinearLearner) -> None:
    model.flush()
    weights, intercept, n = model.weights, model.intercept, model.n_samples
    model.learn_one({0: 5.0}, 1, 0.0)
    assert (model.n_samples, model.n_pending) == (n + 1, 1)
    assert (model.weights, model.intercept) == (weights, intercept)
    refuses(model, lambda: model.learn_one({0: 5.0}, 1, -1e-300))


@pytest.mark.parametrize("loss", [sf.losses.Squared(), sf.losses.Poisson()])
def test_a_weight_of_zero_keeps_even_an_infinite_slope_out(loss: sf.losses.Loss) -> None:
    # the first update makes the weight 4 or 1, with which the last sample's slope is infinite
    X, y, w = [[1.0], [1.0], [1.0], [1.7e308]], [2.0, 2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]
    model = sf.LinearRegression(sf.optim.SGD(1.0), loss, batch_size=2)
    model.learn_many(X, y, w)
    expected = sf.LinearRegression(sf.optim.SGD(1.0), loss, batch_size=2)
    expected.learn_many(X[:3], y[:3])
    expected.flush()
    assert (model.n_updates, model.n_refused) == (2, 0)
    assert model.weights == expected.weights
    fit = fit_offline(model, X, y, sample_weight=w)
    assert (fit.n_updates, fit.n_refused) == (2, 0)
    assert fit.weights == pytest.approx(model.weights)


@pytest.mark.parametrize("optimizer", [sf.optim.SGD(), sf.optim.AdaGrad(), sf.optim.Adam()])
def test_a_sparse_micro_batch_without_columns_has_a_state(optimizer: Any) -> None:
    model = sf.LinearRegression(optimizer, batch_size=3)
    model.learn_many(sparse.csr_array((2, 0)), [1.0, 2.0])
    again = sf.LinearRegression(optimizer, batch_size=3)
    again.load_state_dict(model.state_dict())
    for one in (model, again):
        one.learn_one({}, 3.0)
    assert again.digest() == model.digest()


# ---- classes


@pytest.mark.parametrize("label", ["c", 7, True])
def test_a_label_outside_the_classes(label: Any) -> None:
    model = sf.SoftmaxRegression(classes=["a", "b"])
    error = refuses(model, lambda: model.learn_one({"x": 1.0, "new": 1.0}, label))
    assert repr(label) in str(error)
    refuses(model, lambda: model.learn_many([[1.0], [1.0]], np.array(["a", label], dtype=object)))
    for kernel in ("numpy", "compiled"):
        with pytest.raises(BadSampleError):
            fit_offline(model, [[1.0], [1.0]], ["a", label], kernel=kernel)


@pytest.mark.parametrize(
    "label", [None, 1.5, float("nan"), (1,), b"a", np.datetime64("2020-01-01", "ns"), 1j]
)
def test_a_label_that_names_no_class(label: Any) -> None:
    model = sf.SoftmaxRegression()
    model.learn_one({"x": 1.0}, "a")
    refuses(model, lambda: model.learn_one({"x": 1.0, "new": 1.0}, label))
    cells = np.empty(2, dtype=object)
    cells[:] = ["a", label]
    refuses(model, lambda: model.learn_many([[1.0], [2.0]], cells))


@pytest.mark.parametrize("classes", [[], "ab", b"ab", ["a", "a"], [1.5], [None], 3])
def test_classes_that_are_refused(classes: Any) -> None:
    with pytest.raises(ConfigurationError, match="classes"):
        sf.SoftmaxRegression(classes=classes)


@pytest.mark.parametrize(
    "classes", [["a", "b"], [3, 1], [True, 7], ["a", 7, False], [2**63, -1], [2**70], ["a\0", "b"]]
)
def test_a_predicted_label_is_the_class_itself(classes: list[Any]) -> None:
    model = sf.SoftmaxRegression(sf.optim.SGD(1.0), classes=classes)
    rows = np.eye(len(classes))
    for row, label in zip(rows, classes, strict=True):
        model.learn_one(row, label)
    labels = model.predict_many(rows).tolist()
    assert labels == [model.predict_one(row) for row in rows] == classes
    assert [*map(type, labels)] == [*map(type, classes)]


def test_a_refused_row_brings_no_class(model: LinearLearner) -> None:
    if model.classes is None:
        return
    refuses(model, lambda: model.learn_one({0: np.nan}, "new"))
    refuses(model, lambda: model.learn_many([[1.0, 1, 1], [np.nan, 1, 1]], ["new", "newer"]))


# ---- float32, scaler, sizes


def test_a_number_beyond_float32() -> None:
    model = sf.LinearRegression(dtype="float32")
    model.learn_one({"a": 3e38}, 0.0)
    for x in (1e39, -1e300):
        assert refuses(model, lambda x=x: model.learn_one({"a": x}, 1.0)).feature == "a"
        refuses(model, lambda x=x: model.learn_many([[x]], [1.0]))
        refuses(model, lambda x=x: model.learn_many(sparse.csr_array([[x]]), [1.0]))
        for kernel in ("numpy", "compiled"):
            with pytest.raises(BadSampleError):
                fit_offline(model, [[x]], [1.0], kernel=kernel)


def test_nan_behind_a_scaler_that_knows_no_variance() -> None:
    model = sf.LinearRegression(scaler=sf.StandardScaler())
    model.learn_one({"a": 1.0}, 1.0)
    for w in (0.0, 1.0):
        assert refuses(model, lambda w=w: model.learn_one({"a": np.nan}, 1.0, w)).feature == "a"
    with pytest.raises(BadSampleError):
        model.predict_one({"a": np.inf})


@pytest.mark.parametrize("bits", [0, -1, 29, 1.5, "18", None, True])
def test_a_hash_size_out_of_range(bits: Any) -> None:
    with pytest.raises(ConfigurationError, match="bits"):
        sf.HashedFeatures(bits=bits)


@pytest.mark.parametrize("features", ["shrink", ["a"], 3, {"bits": 3}, FORMS, np.eye(2)])
def test_features_that_are_refused(features: Any) -> None:
    with pytest.raises(ConfigurationError, match="features"):
        sf.LinearRegression(features=features)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "float16"},
        {"dtype": np.float16},
        {"scaler": "standard"},
        {"scaler": sf.StandardScaler(), "features": sf.HashedFeatures()},
        {"max_weight": 0.0},
        {"max_weight": -1.0},
        {"max_weight": float("nan")},
        {"max_weight": True},
        {"loss": sf.losses.CrossEntropy()},
        {"batch_size": sf.schedules.BatchSizeSchedule()},
    ],
    ids=repr,
)
def test_arguments_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        sf.LinearRegression(**options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sf.schedules.Constant(0.0),
        lambda: sf.schedules.Constant(float("nan")),
        lambda: sf.schedules.InverseScaling(-0.1),
        lambda: sf.schedules.InverseScaling(0.1, -1.0),
        lambda: sf.schedules.Optimal(0.0, 1.0),
        lambda: sf.schedules.Optimal(0.1, 0.0),
        lambda: sf.schedules.Optimal(1e-308, 1e-3),
        lambda: sf.schedules.Exponential(0.1, 0.0, 10),
        lambda: sf.schedules.Exponential(0.1, 0.9, 0),
        lambda: sf.schedules.Step(0.1, -0.9, 10),
        lambda: sf.schedules.Step(0.1, 0.9, 1.5),
        lambda: sf.schedules.CosineWarmup(0.1, total=0),
        lambda: sf.schedules.CosineWarmup(0.1, total=10, warmup=10),
        lambda: sf.schedules.CosineWarmup(0.1, total=10, minimum=0.2),
        lambda: sf.schedules.GeometricBatchSize(0, 2.0, 1, 8),
        lambda: sf.schedules.GeometricBatchSize(1, 0.5, 1, 8),
        lambda: sf.schedules.GeometricBatchSize(1, 2.0, 0, 8),
        lambda: sf.schedules.GeometricBatchSize(9, 2.0, 1, 8),
        lambda: sf.schedules.MilestoneBatchSize(0, [(1, 2)]),
        lambda: sf.schedules.MilestoneBatchSize(1, [(1, 0)]),
        lambda: sf.schedules.MilestoneBatchSize(1, [(5, 2), (5, 3)]),
        lambda: sf.LinearRegression(batch_size=0),
        lambda: sf.LinearRegression(batch_size=2.0),
        lambda: sf.LinearRegression(sf.optim.SGD(0.0)),
        lambda: sf.optim.SGD(sf.schedules.Schedule()),
        lambda: sf.FeatureIndex(["a"], fixed=1),
        lambda: sf.FeatureIndex(["a"], fixed=np.array([True, False])),
    ],
)
def test_schedules_out_of_range(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_numbers_of_numpy_are_plain_ones_in_a_configuration() -> None:
    two = np.int64(2)
    for batch_size in (
        sf.schedules.GeometricBatchSize(two, two, two, two),
        sf.schedules.MilestoneBatchSize(two, [(two, two)]),
    ):
        for lr in (
            sf.schedules.Exponential(two, two, two),
            sf.schedules.Step(two, two, two),
            sf.schedules.CosineWarmup(two, total=np.int64(3), warmup=two, minimum=two),
        ):
            model = sf.LinearRegression(sf.optim.SGD(lr), batch_size=batch_size)
            assert json.loads(json.dumps(model.get_config())) == model.get_config()
