"""Sparse is dense: the same bits from few numbers of many as from a row with all the zeros.

`test_table.py` has a few features; here there are many, so that dicts take the sparse way too.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import streamfit as sf
from streamfit._offline_hashing import murmurhash3, place
from streamfit.core.learner import LinearLearner
from streamfit.offline import fit_offline
from streamfit.testing.conformance import assert_close, closeness, parameters, step_size
from streamfit.testing.forms import FORMS, NAMED, Samples, feed
from streamfit.testing.strategies import OPTIMIZERS, cuts, dtypes, fresh, learning_rates

pytestmark = pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")

WIDE = 400


def wide(seed: int, n: int = 25, labels: str = "real", names: Any = None) -> Samples:
    """Samples with 1% of their features, so that most features never come."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, WIDE)) * (rng.random((n, WIDE)) < 0.01)
    y: Any = 3.0 * X[:, :50].sum(axis=1) + 0.3 * rng.normal(size=n)
    if labels == "classes":
        y = np.array(["low", "mid", "high"])[np.digitize(y, [-0.2, 0.2])]
    return Samples([f"f{j}" for j in range(WIDE)] if names is None else names, X, y, None)


def permuted(data: Samples, rng: np.random.Generator) -> list[dict[Any, float]]:
    """Rows as dicts in any order, some of their zeros written out."""
    rows = []
    for row in data.X:
        kept = (row != 0.0) | (rng.random(len(row)) < 0.002)
        order = rng.permutation(np.flatnonzero(kept))
        rows.append({data.names[j]: row[j].item() for j in order})
    return rows


@pytest.mark.parametrize("kind", [sf.LinearRegression, sf.SoftmaxRegression])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@given(st.data())
def test_every_optimizer(kind: type[LinearLearner], optimizer: str, draw: st.DataObject) -> None:
    chosen = draw.draw(OPTIMIZERS[optimizer](learning_rates()))
    seed = draw.draw(st.integers(0, 2**32 - 1))
    data = wide(seed, labels="classes" if kind is sf.SoftmaxRegression else "real")
    model = kind(
        chosen,
        batch_size=draw.draw(st.sampled_from([1, 3, None])),
        l2=draw.draw(st.sampled_from([0.0, 0.5])),
        l1=0.0 if optimizer == "ftrl_proximal" else draw.draw(st.sampled_from([0.0, 0.01])),
        max_weight=draw.draw(st.sampled_from([None, 0.0771239])),
        features=sf.FeatureIndex(data.names),
        dtype=draw.draw(dtypes(chosen)),
    )
    dense = fresh(model)
    feed(dense, data, [("rows", 0, len(data))])
    in_any_order = fresh(model)
    for x, y in zip(permuted(data, np.random.default_rng(seed)), data.y.tolist(), strict=True):
        in_any_order.learn_one(x, y)
    mixed = fresh(model)  # dense and sparse rows within one micro-batch
    form = st.sampled_from(["CSR", "rows", "sparse dicts", "block of a CSR", "array"])
    feed(mixed, data, [(draw.draw(form), a, b) for a, b in draw.draw(cuts(len(data)))])
    for one in (in_any_order, mixed):
        assert one.digest() == dense.digest()
        assert one.weights == dense.weights
        one.flush()
    dense.flush()
    assert mixed.digest() == dense.digest()
    fit = fit_offline(model, sparse.csr_array(data.X), data.y)
    assert (fit.n_updates, fit.n_refused) == (dense.n_updates, dense.n_refused)
    assert_close(fit.parameters, parameters(dense), step_size(model), closeness(model))
    compiled = fit_offline(model, sparse.csr_array(data.X), data.y, kernel="compiled")
    assert compiled.digest == dense.digest()


@given(st.integers(0, 2**32 - 1))
def test_shrinking_is_multiplied_in_when_it_grows_too_small(seed: int) -> None:
    """Plain SGD keeps its L2 as a factor of all weights, which must not reach the subnormals."""
    data = wide(seed, n=60)
    model = sf.LinearRegression(sf.optim.SGD(0.047), l2=18.9, features=sf.FeatureIndex(data.names))
    dense, one = fresh(model), fresh(model)
    feed(dense, data, [("rows", 0, 60)])
    feed(one, data, [("CSR", 0, 30), ("sparse dicts", 30, 60)])
    assert one.digest() == dense.digest()
    assert 1e-9 <= one.state_dict()["weight_scale"] <= 1.0
    assert_close(fit_offline(model, data.X, data.y).parameters, parameters(one), step_size(model))


# ---- what a sample costs


def seconds(model: LinearLearner, n_features: int) -> float:
    """Least time that 400 samples of 20 numbers take, among `n_features`."""
    rng = np.random.default_rng(0)
    indices = np.sort(rng.integers(0, n_features // 20, size=(400, 20)), axis=1) * 20
    indices += np.arange(20)
    indptr, data = np.arange(0, 8001, 20), rng.normal(size=8000)
    X = sparse.csr_array((data, indices.ravel(), indptr), shape=(400, n_features))
    y = rng.normal(size=400)
    block = sf.types.Block(X, y)
    model = fresh(model)
    model.learn_block(block, 0, 400)  # makes room for the features
    took = []
    for _ in range(5):
        began = time.perf_counter()
        model.learn_block(block, 0, 400)
        took.append(time.perf_counter() - began)
    return min(took)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize(
    ("optimizer", "l2"),
    [
        *((sf.optim.SGD(0.01), l2) for l2 in (0.0, 0.01)),
        (sf.optim.AdaGrad(0.01), 0.0),
        (sf.optim.FTRLProximal(), 0.0),
    ],
    ids=["SGD", "SGD with L2", "AdaGrad", "FTRLProximal"],
)
def test_a_sample_costs_its_own_numbers(optimizer: Any, l2: float, batch_size: int) -> None:
    """A thousand times the features takes no hundred times as long, as touching all would."""
    model = sf.LinearRegression(optimizer, l2=l2, batch_size=batch_size)
    assert seconds(model, 1_000_000) < 100 * seconds(model, 1_000)


def test_adam_moves_every_weight_as_its_docstring_says() -> None:
    model = sf.LinearRegression(sf.optim.Adam(0.01), batch_size=100)
    assert seconds(model, 1_000_000) > 100 * seconds(model, 1_000)


# ---- hashing


@given(st.binary(max_size=20), st.sampled_from([0, 1, 2**32 - 1]))
def test_murmurhash3_of_the_oracle_is_scikit_learn_s(data: bytes, seed: int) -> None:
    from sklearn.utils import murmurhash3_32

    assert murmurhash3(data, seed) == murmurhash3_32(data, seed)


@given(st.lists(st.text(max_size=12), unique=True, max_size=40), st.integers(1, 16))
def test_hashed_names_are_those_of_feature_hasher(names: list[str], bits: int) -> None:
    from sklearn.feature_extraction import FeatureHasher

    rng = np.random.default_rng(len(names))
    values = rng.integers(1, 9, size=len(names)).astype(float).tolist()  # sums are exact
    x = dict(zip(names, values, strict=True))
    theirs = FeatureHasher(2**bits).transform([x])
    model = sf.LinearRegression(
        sf.optim.SGD(0.5), sf.losses.HalfSquared(), features=sf.HashedFeatures(bits=bits)
    )
    model.learn_one(x, 2.0)
    theirs.sum_duplicates()
    theirs.eliminate_zeros()
    expected = zip(theirs.indices.tolist(), theirs.data.tolist(), strict=True)
    assert model.weights == dict(expected)


@given(st.one_of(st.text(max_size=9), st.integers(-(2**63), 2**63 - 1)), st.integers(1, 16))
def test_each_name_has_the_column_and_sign_of_the_oracle(name: Any, bits: int) -> None:
    model = sf.LinearRegression(
        sf.optim.SGD(0.5), sf.losses.HalfSquared(), features=sf.HashedFeatures(bits=bits)
    )
    model.learn_one({name: 1.0}, 2.0)
    column, sign = place(name, bits)
    assert model.weights == {column: sign}


@settings(max_examples=40)
@given(st.data())
def test_hashed_features_in_every_form(draw: st.DataObject) -> None:
    """Few columns, so that many names meet; a bare array's features are named 0, 1, 2, ..."""
    bits = draw.draw(st.integers(1, 6))
    numbered = draw.draw(st.booleans())
    seed = draw.draw(st.integers(0, 2**32 - 1))
    kind = draw.draw(st.sampled_from([sf.LinearRegression, sf.SoftmaxRegression]))
    name = draw.draw(st.sampled_from(sorted(OPTIMIZERS)))
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(12, 9)) * rng.choice([1.0, 0.0], size=(12, 9))
    y: Any = X.sum(axis=1) + rng.normal(size=12)
    if kind is sf.SoftmaxRegression:
        y = np.digitize(y, [-0.5, 0.5])
    chosen = draw.draw(OPTIMIZERS[name](learning_rates()))
    data = Samples(list(range(9)) if numbered else [f"f{j}" for j in range(9)], X, y, None)
    model = kind(
        chosen,
        batch_size=draw.draw(st.sampled_from([1, 5, None])),
        l2=draw.draw(st.sampled_from([0.0, 0.1])),
        features=sf.HashedFeatures(bits=bits),
        dtype=draw.draw(dtypes(chosen)),
    )
    digests = {}
    stop = draw.draw(st.integers(0, 12))
    for form in FORMS if numbered else NAMED:
        one = fresh(model)
        feed(one, data, [(form, 0, stop)])
        other = fresh(model)
        other.load_state_dict(one.state_dict())
        feed(other, data, [(form, stop, 12)])
        digests[form] = other.digest()
        last = other
    assert len(set(digests.values())) == 1, digests
    last.flush()
    fit = fit_offline(model, data.rows(), data.y)
    assert_close(fit.parameters, parameters(last), step_size(model), closeness(model))
    compiled = fit_offline(model, data.rows(), data.y, kernel="compiled")
    assert compiled.digest == last.digest()
    assert compiled.weights == last.weights


def test_names_that_meet_are_added_in_one_order() -> None:
    """Whatever the order of the names in a dict."""
    values = [0.1, 1e17, -1e17, 0.3, 0.7]
    found = set()
    for order in itertools.permutations(range(5)):
        model = sf.LinearRegression(features=sf.HashedFeatures(bits=1))
        model.learn_one({f"f{j}": values[j] for j in order}, 1.0)
        found.add(model.digest())
    assert len(found) == 1


@pytest.mark.parametrize("n", [256, 257, 512, 513, 1024, 1025])
def test_the_last_column_has_its_place_among_sorted_ones(n: int) -> None:
    names = [f"f{i}" for i in range(n)]
    sparse, dense = (
        sf.LinearRegression(features=sf.FeatureIndex(names), batch_size=2) for _ in range(2)
    )
    columns = [n - 1, *range(0, n - 1, n // 30)]
    for turn in range(4):
        row = np.zeros(n)
        row[columns] = np.arange(1.0, len(columns) + 1.0) + turn
        sparse.learn_one({names[i]: row[i] for i in columns}, 1.0)
        dense.learn_one(row, 1.0)
    assert sparse.digest() == dense.digest()


@given(st.permutations(range(12)), st.integers(0, 2**32 - 1))
def test_names_that_share_a_column_are_added_up_in_any_order(order: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=12)
    digests = set()
    for names in (range(12), order):
        model = sf.LinearRegression(features=sf.HashedFeatures(bits=1))
        for _ in range(2):
            model.learn_one({f"f{i}": values[i] for i in names}, 1.0)
        digests.add(model.digest())
    assert len(digests) == 1
