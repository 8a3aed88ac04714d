"""`StreamClassifier`, `StreamRegressor`: estimators of scikit-learn that learn as learners do."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import streamfit as sf
from streamfit.adapters import StreamClassifier, StreamRegressor
from streamfit.errors import ConfigurationError

KINDS = (StreamRegressor, StreamClassifier)
ORDER = (
    "one sample of weight 2 is one step of twice the size, two samples are two steps; "
    "scikit-learn expects the same failure of SGDClassifier and SGDRegressor"
)


def failures(estimator: Any, expected: dict[str, str]) -> list[str]:
    results = check_estimator(
        estimator, expected_failed_checks=expected, on_fail=None, on_skip=None
    )
    assert len(results) > 40
    # a check that was expected to fail and does not is a failure, too
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(expected)
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert skipped <= {"check_array_api_input"}  # which wants an environment variable
    return [f"{r['check_name']}: {r['exception']}" for r in results if r["status"] == "failed"]


@pytest.mark.filterwarnings("ignore")  # the checks feed it data on any scale
@pytest.mark.parametrize("kind", KINDS)
def test_scikit_learn_s_checks_at_batch_size_1(kind: Any) -> None:
    expected = dict.fromkeys(
        (
            "check_sample_weight_equivalence_on_dense_data",
            "check_sample_weight_equivalence_on_sparse_data",
        ),
        ORDER,
    )
    assert failures(kind(), expected) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_scikit_learn_s_checks_in_full_batches_hold_without_exception(kind: Any) -> None:
    assert failures(kind(batch_size=None, epochs=100), {}) == []


@pytest.fixture(scope="module")
def cancer() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="module")
def diabetes() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_diabetes(return_X_y=True)
    return StandardScaler().fit_transform(X), (y - y.mean()) / y.std()


def test_fit_is_offline_training(cancer: Any) -> None:
    X, y = cancer
    model = StreamClassifier(sf.optim.Adam(0.01), batch_size=32, l2=0.01, epochs=3).fit(X, y)
    learner = sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=32, l2=0.01)
    fit = sf.offline.fit_offline(learner, X, y, epochs=3, kernel="compiled")
    assert model.learner_.digest() == fit.digest
    assert model.coef_.shape == (1, 30)
    assert model.intercept_.shape == (1,)
    np.testing.assert_allclose(
        model.decision_function(X), X @ model.coef_[0] + model.intercept_[0], rtol=1e-12
    )
    proba = model.predict_proba(X)
    assert proba.shape == (len(y), 2)
    assert np.array_equal(model.predict(X), proba[:, 1] > 0.5)
    assert model.score(X, y) > 0.95


def test_a_regressor_is_too(diabetes: Any) -> None:
    X, y = diabetes
    loss = sf.losses.Huber(1.0)
    model = StreamRegressor(sf.optim.SGD(0.01), loss, batch_size=8, epochs=4).fit(X, y)
    learner = sf.LinearRegression(sf.optim.SGD(0.01), loss, batch_size=8)
    fit = sf.offline.fit_offline(learner, X, y, epochs=4, kernel="compiled")
    assert model.learner_.digest() == fit.digest
    assert model.coef_.shape == (10,)
    assert model.score(X, y) > 0.45


@pytest.mark.parametrize("cuts", [[], [1], [100, 101, 102], list(range(0, 569, 7))])
def test_how_calls_of_partial_fit_cut_the_rows_does_not_matter(cancer: Any, cuts: Any) -> None:
    X, y = cancer
    w = np.linspace(0.0, 2.0, len(y))
    model = StreamClassifier(batch_size=32)
    for start, stop in zip([0, *cuts], [*cuts, len(y)], strict=True):
        if stop > start:
            labels = np.array(["benign", "malignant"])[y[start:stop]]
            model.partial_fit(X[start:stop], labels, ["malignant", "benign"], w[start:stop])
    learner = sf.LogisticRegression(batch_size=32)
    learner.learn_many(X, y, w)
    assert model.learner_.digest() == learner.digest()
    assert model.learner_.n_pending == len(y) % 32
    assert set(model.predict(X)) == {"benign", "malignant"}


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_digits(return_X_y=True)
    return X / 16.0, y


def test_several_classes(digits: Any) -> None:
    X, y = digits
    names = np.array([f"digit {k}" for k in range(10)])[y]
    model = StreamClassifier(sf.optim.SGD(0.5), batch_size=16, epochs=3).fit(X, names)
    learner = sf.SoftmaxRegression(sf.optim.SGD(0.5), batch_size=16, classes=range(10))
    for _ in range(3):
        learner.learn_many(X, y)
        learner.flush()
    assert model.learner_.digest() == learner.digest()
    assert model.coef_.shape == (10, 64)
    assert model.intercept_.shape == (10,)
    z = model.decision_function(X)
    np.testing.assert_allclose(z, X @ model.coef_.T + model.intercept_, atol=1e-12)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)
    assert model.score(X, names) > 0.95
    parts = StreamClassifier(sf.optim.SGD(0.5), batch_size=16)
    for start in range(0, len(y), 100):
        parts.partial_fit(X[start : start + 100], y[start : start + 100], range(10))
    assert parts.learner_.n_updates == len(y) // 16


@pytest.mark.parametrize("n_classes", [2, 10])
def test_a_sparse_matrix_is_what_the_dense_one_is(digits: Any, n_classes: int) -> None:
    X, y = digits
    X, y = X[y < n_classes], y[y < n_classes]
    dense = StreamClassifier(sf.optim.SGD(0.5), batch_size=16, epochs=2).fit(X, y)
    for kind in (sparse.csr_matrix, sparse.csr_array, sparse.coo_matrix):
        model = StreamClassifier(sf.optim.SGD(0.5), batch_size=16, epochs=2).fit(kind(X), y)
        assert model.learner_.digest() == dense.learner_.digest()
        assert np.array_equal(model.predict(kind(X)), dense.predict(X))
        assert np.array_equal(model.predict_proba(kind(X)), dense.predict_proba(X))
    texts = make_pipeline(
        CountVectorizer(), StreamClassifier(sf.optim.SGD(0.5), batch_size=2, epochs=50)
    ).fit(["buy now", "see you", "buy it", "you see"], [1, 0, 1, 0])
    assert texts.predict(["buy", "see"]).tolist() == [1, 0]


def test_a_scaler_and_float32(cancer: Any) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    model = StreamClassifier(scaler=sf.StandardScaler(), dtype="float32", max_weight=10.0)
    assert cross_val_score(model, X, y, cv=3, error_score="raise").mean() > 0.95
    assert model.fit(X, y).learner_.state_dict()["parameters"].dtype == np.float32


def test_weights_count_at_batch_size_1(diabetes: Any) -> None:
    X, y = diabetes
    once = StreamRegressor(sf.optim.SGD(0.002)).fit(X, y, np.full(len(y), 2.0))
    twice = StreamRegressor(sf.optim.SGD(0.004)).fit(X, y)
    np.testing.assert_allclose(once.coef_, twice.coef_, rtol=1e-9)


def test_feature_names(cancer: Any) -> None:
    X, y = cancer
    frame = pd.DataFrame(X[:, :3], columns=["radius", "texture", "perimeter"])
    model = StreamClassifier(batch_size=16).fit(frame, y)
    assert list(model.feature_names_in_) == list(model.learner_.weights) == list(frame.columns)
    assert np.array_equal(
        model.coef_, StreamClassifier(batch_size=16).fit(frame.to_numpy(), y).coef_
    )
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["texture", "radius", "perimeter"]])


def test_pipelines_searches_and_cross_validation(cancer: Any, diabetes: Any) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), StreamClassifier(sf.optim.SGD(0.05)))
    search = GridSearchCV(
        pipeline,
        {
            "streamclassifier__batch_size": [1, 16, None],
            "streamclassifier__optimizer": [sf.optim.SGD(0.05), sf.optim.AdaGrad(0.1)],
        },
        cv=3,
        error_score="raise",
    ).fit(X, y)
    assert search.best_score_ > 0.95
    assert set(search.best_params_) == {
        "streamclassifier__batch_size",
        "streamclassifier__optimizer",
    }
    scores = cross_val_score(StreamRegressor(), *diabetes, cv=3, error_score="raise")
    assert scores.mean() > 0.4


def test_clone_and_copy(cancer: Any) -> None:
    X, y = cancer
    model = StreamClassifier(sf.optim.Adam(), sf.losses.Hinge(), batch_size=32).fit(X, y)
    fresh = clone(model)
    assert not hasattr(fresh, "learner_")
    assert fresh.fit(X, y).learner_.digest() == model.learner_.digest()
    again = copy.deepcopy(model)
    assert again.partial_fit(X, y).learner_.digest() != model.learner_.digest()
    assert model.partial_fit(X, y).learner_.digest() == again.learner_.digest()


def test_what_is_refused(cancer: Any) -> None:
    X, y = cancer
    with pytest.raises(ValueError, match="classes must be passed"):
        StreamClassifier().partial_fit(X, y)
    model = StreamClassifier().partial_fit(X, y, [0, 1])
    before = model.learner_.digest()
    with pytest.raises(ValueError, match="not the same as on the first call"):
        model.partial_fit(X, y, [0, 2])
    for label in (-1, 2):
        with pytest.raises(ValueError, match=rf"labels \[{label}\] that are not in classes"):
            model.partial_fit(X[:2], [0, label])
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        model.partial_fit(X[:2], y[:2], sample_weight=[1.0, -1.0])
    assert model.learner_.digest() == before
    with pytest.raises(ValueError, match="one class only"):
        StreamClassifier().fit(X, np.zeros(len(y)))
    with pytest.raises(ConfigurationError, match="epochs"):
        StreamClassifier(epochs=0).fit(X, y)
    with pytest.raises(ConfigurationError, match="loss of LogisticRegression"):
        StreamClassifier(loss=sf.losses.Squared()).fit(X, y)
    for name in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(StreamClassifier(), name)(X)
    for name in ("coef_", "intercept_"):
        assert not hasattr(StreamClassifier(), name)


def test_adapters_load_their_libraries_on_demand() -> None:
    code = (
        "import sys, streamfit as sf; "
        "assert 'StreamClassifier' in dir(sf.adapters); "
        "assert not {'sklearn', 'keras', 'jax', 'streamfit.adapters.sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
