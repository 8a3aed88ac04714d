"""P2: a stream equals the same samples offline: bitwise and against the textbook loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfit as sf
from streamfit.core.learner import LAST_BATCH, LinearLearner
from streamfit.offline import fit_offline
from streamfit.testing.conformance import (
    assert_close,
    closeness,
    parameters,
    step_size,
)
from streamfit.testing.strategies import (
    Samples,
    arrivals,
    cuts,
    feed,
    fresh,
    last_batches,
    problems,
)

pytestmark = pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")


def stream(
    model: LinearLearner, data: Samples, epochs: int, last_batch: str, draw: st.DataObject
) -> LinearLearner:
    model = fresh(model)
    for _ in range(epochs):
        feed(model, data, draw.draw(arrivals(len(data))))
        model.flush(last_batch)
    return model


@given(st.data(), st.integers(1, 3), last_batches())
def test_a_stream_is_bitwise_the_compiled_replay(
    draw: st.DataObject, epochs: int, last_batch: str
) -> None:
    model, data = draw.draw(problems())
    live = stream(model, data, epochs, last_batch, draw)
    fit = fit_offline(
        model,
        data.X,
        data.y,
        sample_weight=data.w,
        epochs=epochs,
        last_batch=last_batch,
        kernel="compiled",
    )
    assert fit.digest == live.digest()
    assert fit.weights == live.weights
    assert fit.intercept == live.intercept
    assert (fit.n_updates, fit.n_refused, fit.n_pending) == (
        live.n_updates,
        live.n_refused,
        live.n_pending,
    )


@given(st.data(), st.integers(1, 3), last_batches())
def test_a_stream_equals_the_textbook(draw: st.DataObject, epochs: int, last_batch: str) -> None:
    model, data = draw.draw(problems())
    live = stream(model, data, epochs, last_batch, draw)
    fit = fit_offline(
        model, data.X, data.y, sample_weight=data.w, epochs=epochs, last_batch=last_batch
    )
    assert fit.digest is None
    assert (fit.n_updates, fit.n_refused, fit.n_pending) == (
        live.n_updates,
        live.n_refused,
        live.n_pending,
    )
    assert list(fit.weights) == list(live.weights)
    assert_close(fit.parameters, parameters(live), step_size(model), closeness(model))


@given(problems(min_size=1, huge=True), st.integers(1, 3), last_batches())
def test_refused_updates_are_the_textbook_s(
    problem: tuple[LinearLearner, Samples], epochs: int, last_batch: str
) -> None:
    model, data = problem
    options = {"sample_weight": data.w, "epochs": epochs, "last_batch": last_batch}
    live = fit_offline(model, data.X, data.y, kernel="compiled", **options)
    fit = fit_offline(model, data.X, data.y, **options)
    assert (fit.n_updates, fit.n_refused) == (live.n_updates, live.n_refused)
    assert_close(fit.parameters, live.parameters, step_size(model), closeness(model))


@pytest.mark.parametrize("optimizer", [sf.optim.SGD(0.1, 0.9), sf.optim.AdaGrad(), sf.optim.Adam()])
def test_a_refused_update_is_as_if_its_samples_had_never_come(
    optimizer: sf.optim.Optimizer,
) -> None:
    model, expected = (sf.LinearRegression(optimizer, batch_size=2) for _ in range(2))
    rng = np.random.default_rng(0)
    for i in range(10):
        X, y = rng.normal(size=(2, 3)), rng.normal(size=2)
        model.learn_many(X, y)
        expected.learn_many(X, y)
        if i in {0, 4}:
            model.learn_many([[1.0, 1e300, 0.0], [1.0, 1.0, 1.0]], [1e300, 1.0])
    assert model.n_refused == 2
    assert model.n_updates == expected.n_updates == 10
    assert parameters(model).tolist() == parameters(expected).tolist()


@pytest.mark.parametrize("last_batch", LAST_BATCH)
@given(st.data(), st.integers(1, 3))
def test_mappings_offline_equal_mappings_streamed(
    last_batch: str, draw: st.DataObject, epochs: int
) -> None:
    model, data = draw.draw(problems(known=False, min_size=1, max_size=40))
    live = fresh(model)
    for _ in range(epochs):
        feed(live, data, [("sparse dicts", a, b) for a, b in draw.draw(cuts(len(data)))])
        live.flush(last_batch)
    options = {"sample_weight": data.w, "epochs": epochs, "last_batch": last_batch}
    compiled = fit_offline(model, data.rows(), data.y, kernel="compiled", **options)
    assert compiled.digest == live.digest()
    assert compiled.weights == live.weights
    textbook = fit_offline(model, data.rows(), data.y, **options)
    assert list(textbook.weights) == list(live.weights)
    assert_close(textbook.parameters, parameters(live), step_size(model), closeness(model))


@given(problems(known=False, min_size=1))
def test_the_model_that_says_what_to_fit_is_not_changed(
    problem: tuple[LinearLearner, Samples],
) -> None:
    model, data = problem
    first = fit_offline(model, data.rows(), data.y, kernel="compiled")
    feed(model, data, [("dicts", 0, len(data))])
    before, weights = model.digest(), model.weights
    again = fit_offline(model, data.rows(), data.y, kernel="compiled")
    fit_offline(model, data.rows(), data.y)
    assert (model.digest(), model.weights) == (before, weights)
    assert again.digest == first.digest  # what it had learned by then is ignored


# ---- counts


def counted(n: int, batch_size: int | None, last_batch: str = "apply") -> tuple[int, int, int]:
    """Updates of a stream, of the compiled replay and of the textbook."""
    X = np.random.default_rng(0).normal(size=(n, 3))
    y = X.sum(axis=1)
    model = sf.LinearRegression(sf.optim.SGD(0.001), batch_size=batch_size)
    live = fresh(model)
    for start in range(0, n, 37):
        live.learn_many(X[start : start + 37], y[start : start + 37])
    live.flush(last_batch)
    fits = [fit_offline(model, X, y, last_batch=last_batch, kernel=k) for k in KERNELS]
    return live.n_updates, fits[0].n_updates, fits[1].n_updates


KERNELS = ("compiled", "numpy")


@pytest.mark.parametrize(
    ("n", "batch_size", "last_batch", "updates"),
    [
        (1050, 100, "apply", 11),
        (1050, 100, "scale", 11),
        (1050, 100, "drop", 10),
        (1050, 100, "carry", 10),
        (1000, 500, "apply", 2),
        (1000, 1, "apply", 1000),
        (1000, None, "apply", 1),
        (1000, None, "drop", 1),
        (50, 100, "apply", 1),
        (50, 100, "drop", 0),
        (0, 100, "apply", 0),
        (0, None, "apply", 0),
    ],
)
def test_updates_are_counted(n: int, batch_size: int | None, last_batch: str, updates: int) -> None:
    assert counted(n, batch_size, last_batch) == (updates, updates, updates)


def test_an_eleventh_update_has_the_fifty_samples_that_are_left() -> None:
    X = np.random.default_rng(0).normal(size=(1050, 3))
    y = X.sum(axis=1)
    model = sf.LinearRegression(sf.optim.SGD(0.01), batch_size=100)
    model.learn_many(X[:1000], y[:1000])
    theta = parameters(model)
    slope = 2 * (X[1000:] @ theta[1:] + theta[0] - y[1000:])
    g = np.array([slope.mean(), *(slope @ X[1000:] / 50)])
    model.learn_many(X[1000:], y[1000:])
    assert model.n_pending == 50
    model.flush()
    assert_close(parameters(model), theta - 0.01 * g)


@given(st.integers(0, 60), st.sampled_from([1, 2, 7, 32, 1000, None]), st.integers(1, 3))
def test_the_number_of_updates_is_arithmetic(n: int, batch_size: int | None, epochs: int) -> None:
    X, y = np.ones((n, 2)), np.ones(n)
    model = sf.LinearRegression(sf.optim.SGD(0.001), batch_size=batch_size)
    size = n if batch_size is None else batch_size
    whole, rest = divmod(n, size) if size else (0, 0)
    carried = epochs * n // size if size else 0
    expected = {
        "apply": epochs * (whole + (rest > 0)),
        "scale": epochs * (whole + (rest > 0)),
        "drop": epochs * whole,
        "carry": carried,
    }
    for last_batch, updates in expected.items():
        for kernel in KERNELS:
            fit = fit_offline(model, X, y, epochs=epochs, last_batch=last_batch, kernel=kernel)
            assert fit.n_updates == updates
            pending = epochs * n - updates * size if last_batch == "carry" else 0
            assert fit.n_pending == pending


@pytest.mark.parametrize("kind", [sf.LinearRegression, sf.LogisticRegression])
@given(st.data())
def test_full_batch_does_not_depend_on_the_order_but_for_rounding(
    kind: type[LinearLearner], draw: st.DataObject
) -> None:
    model, data = draw.draw(problems(sizes=(None,), min_size=1, max_size=30, kind=kind))
    config = {**model.get_config(), "scaler": None}  # which has an order
    if config["optimizer"]["id"] == "auto":
        config["optimizer"]["scale"] = False  # or it brings a scaler
    model = type(model).from_config(config)
    fits = [
        fit_offline(model, X, y, sample_weight=w, epochs=3, kernel="compiled").parameters
        for X, y, w in (
            (data.X, data.y, data.weights),
            (data.X[::-1], data.y[::-1], data.weights[::-1]),
        )
    ]
    assert_close(*fits, step_size(model), closeness(model))
