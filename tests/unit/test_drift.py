"""Drift monitors: what they see, what they do, and what of them is saved."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from river import drift, metrics
from river.drift import binary

import streamfit as sf
from streamfit._plain_state import from_plain, to_plain
from streamfit.errors import CheckpointMismatchError, ConfigurationError, UnsupportedError
from streamfit.types import Block

DETECTORS: dict[str, Callable[[], Any]] = {
    "ADWIN": lambda: drift.ADWIN(grace_period=5, clock=4),
    "PageHinkley": lambda: drift.PageHinkley(min_instances=10, threshold=3.0),
    "KSWIN": lambda: drift.KSWIN(window_size=40, stat_size=12, seed=1),
    "Dummy": lambda: drift.DummyDriftDetector("random", t_0=40, w=8, seed=1),
    "NoDrift": drift.NoDrift,
    "DDM": binary.DDM,
    "EDDM": binary.EDDM,
    "FHDDM": binary.FHDDM,
    "FHDDM short": lambda: binary.FHDDM(short_window_size=20),
    "HDDMA": lambda: binary.HDDMA(two_sided_test=True),
    "HDDMW": lambda: binary.HDDMW(two_sided_test=True),
}


def errors(n: int) -> list[bool]:
    rng = random.Random(3)
    return [rng.random() < (0.1 if i // 150 % 2 else 0.5) for i in range(n)]


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("at", [0, 7, 333, 461])
def test_a_detector_goes_on_from_its_plain_state(name: str, at: int) -> None:
    first, second = DETECTORS[name](), DETECTORS[name]()
    stream = errors(800)
    for error in stream[:at]:
        first.update(error)
    from_plain(second, json.loads(json.dumps(to_plain(first, ["river"]))), ["river"])
    found = []
    for detector in (first, second):
        drifts = []
        for i, error in enumerate(stream[at:]):
            detector.update(error)
            if detector.drift_detected:
                drifts.append(i)
        found.append(drifts)
    assert found[0] == found[1]
    assert found[0] or name in ("NoDrift", "EDDM", "FHDDM", "DDM")
    assert to_plain(first, ["river"]) == to_plain(second, ["river"])


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        [],
        {"again": 0},
        {"_drift_detected": {"object": ["os", "system"], "arguments": ["true"], "state": None}},
        {"_drift_detected": {"object": ["river.os", "system"], "arguments": [], "state": None}},
        {"_drift_detected": {"object": ["river.base", "Base"], "arguments": [], "state": None}},
        {"_drift_detected": {"method": "__init__"}},
        {"_drift_detected": {"bytes": "no base 64"}},
        {"_drift_detected": {"again": 9}},
        {"_drift_detected": {"set": [{"list": []}]}},
        {"_drift_detected": {"random": {"tuple": [3, {"tuple": [1]}, None]}}},
        {"_drift_detected": False, "_helper": {"kept": True}},
        {"_drift_detected": {"set": [], "list": []}},
    ],
)
def test_what_is_no_state_is_refused_and_changes_nothing(state: Any) -> None:
    detector = drift.NoDrift()
    before = dict(vars(detector))
    with pytest.raises(CheckpointMismatchError):
        from_plain(detector, state, ["river"])
    assert vars(detector) == before


def test_damaged_bytes_of_a_detector_are_refused() -> None:
    detector = drift.ADWIN()
    state = to_plain(detector, ["river"])
    state["_helper"]["state"] = {"bytes": "AAAA"}
    with pytest.raises(CheckpointMismatchError):
        from_plain(detector, state, ["river"])
    detector.update(1.0)


def test_a_shared_part_stays_shared_and_foreign_things_are_refused() -> None:
    detector = drift.NoDrift()
    detector.one = detector.two = [1.0, math.inf, (b"x", {1: {2}}), np.float64(3.0)]
    other = drift.NoDrift()
    other.one = other.two = None
    from_plain(other, json.loads(json.dumps(to_plain(detector, ["river"]))), ["river"])
    assert other.one == detector.one
    assert other.one is other.two
    detector.one = np.array(["x"])
    with pytest.raises(UnsupportedError, match="ndarray"):
        sf.DriftMonitor(detector)


# ---- the monitor


@pytest.mark.parametrize(
    "arguments",
    [
        {"detector": drift.ADWIN},
        {"detector": object()},
        {"on_drift": "panic"},
        {"on_drift": None},
        {"every": 0},
        {"error": 3},
    ],
)
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        sf.DriftMonitor(**{"detector": drift.ADWIN(), **arguments})


@pytest.mark.parametrize("arguments", [{"factor": 0.0}, {"factor": math.inf}, {"n_samples": 0}])
def test_bad_raises(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        sf.RaiseLearningRate(**arguments)


def test_a_trainer_refuses_what_its_model_cannot_do() -> None:
    from river import tree

    forest = sf.adapters.RiverLearner(tree.HoeffdingTreeClassifier())
    for on_drift in ("reset_optimizer", sf.RaiseLearningRate()):
        with pytest.raises(ConfigurationError, match="RiverLearner cannot"):
            sf.Trainer(forest, [], callbacks=[sf.DriftMonitor(drift.ADWIN(), on_drift)])
    monitor = sf.DriftMonitor(drift.ADWIN(), sf.RaiseLearningRate())
    with pytest.raises(ConfigurationError, match="FTRLProximal"):
        sf.Trainer(sf.LogisticRegression(sf.optim.FTRLProximal()), [], callbacks=[monitor])
    with pytest.raises(ConfigurationError, match="not the class"):
        sf.Trainer(sf.LogisticRegression(), [], callbacks=[sf.DriftMonitor])


class Recorder:
    """A detector that remembers, and finds a drift where it is told to."""

    def __init__(self, at: int = 0) -> None:
        self.seen: list[float] = []
        self.at = at
        self.drift_detected = False

    def update(self, value: float) -> None:
        self.seen.append(value)
        self.drift_detected = len(self.seen) == self.at


def test_what_a_detector_sees_is_the_error_made_before_learning() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2))
    y = X[:, 0] > 0
    recorder = Recorder()
    accuracy = metrics.Accuracy()
    model = sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=4)
    sf.Trainer(
        model, zip(X, y, strict=True), metrics=[accuracy], callbacks=[sf.DriftMonitor(recorder)]
    ).run()
    assert len(recorder.seen) == 500
    assert 1.0 - np.mean(recorder.seen) == pytest.approx(accuracy.get())
    recorder, mae = Recorder(), metrics.MAE()
    sf.Trainer(
        sf.LinearRegression(),
        zip(X, X[:, 1], strict=True),
        metrics=[mae],
        callbacks=[sf.DriftMonitor(recorder)],
    ).run()
    assert np.mean(recorder.seen) == pytest.approx(mae.get())
    recorder = Recorder()
    softmax = sf.SoftmaxRegression()
    labels = np.where(y, "yes", "no")
    error = lambda y, p: -math.log(p.get(y, 1e-9))  # noqa: E731
    monitor = sf.DriftMonitor(recorder, error=error)
    report = sf.Trainer(softmax, zip(X, labels, strict=True), callbacks=[monitor]).run()
    assert len(recorder.seen) == 499  # nothing is said before the first class has come
    assert 0 < report.progressive_loss < 1


@pytest.mark.parametrize(("every", "expected"), [(1, 37), (32, 64), (100, 100)])
def test_an_answer_comes_at_the_next_multiple(every: int, expected: int) -> None:
    rates: dict[int, float] = {}
    model = sf.LinearRegression(sf.optim.SGD(0.1))

    def samples() -> Any:
        for i in range(400):
            rates[i] = model.learning_rate_factor
            yield {"x": 1.0}, float(i % 2)

    raised = sf.RaiseLearningRate(4.0, n_samples=every)
    monitor = sf.DriftMonitor(Recorder(37), raised, every=every)
    source = sf.IterableSource(samples)
    source.max_block = 1
    sf.Trainer(model, source, callbacks=[monitor]).run()
    assert list(monitor.drifts) == [expected]
    assert [i for i, rate in rates.items() if rate == 4.0] == list(
        range(expected, expected + every)
    )
    assert model.learning_rate_factor == 1.0


def test_another_drift_while_the_rate_is_raised_begins_the_count_anew() -> None:
    monitor = sf.DriftMonitor(Recorder(1), sf.RaiseLearningRate(2.0, 10), every=5)
    model = sf.LinearRegression()
    monitor.observe(0.0, 1.0)
    assert [a.name for a in monitor.decide(model, 5)] == ["drift", "set_learning_rate_factor"]
    monitor.detector.at = 2
    monitor.observe(0.0, 1.0)
    assert [a.name for a in monitor.decide(model, 10)] == ["drift", "set_learning_rate_factor"]
    assert monitor.decide(model, 15) == []
    (back,) = monitor.decide(model, 20)
    assert back.parameters == {"factor": 1.0}
    assert monitor.decide(model, 25) == []


def test_a_state_of_another_detector_is_refused() -> None:
    state = sf.DriftMonitor(drift.ADWIN()).state_dict()
    sf.DriftMonitor(drift.ADWIN()).load_state_dict(json.loads(json.dumps(state)))
    for other in (drift.ADWIN(delta=0.1), drift.PageHinkley()):
        with pytest.raises(CheckpointMismatchError, match="the detector ADWIN"):
            sf.DriftMonitor(other).load_state_dict(state)
    with pytest.raises(CheckpointMismatchError, match="not the state"):
        sf.DriftMonitor(drift.ADWIN()).load_state_dict({})


# ---- what a learner does when it is told to


OPTIMIZERS = {
    "sgd": sf.optim.SGD(sf.schedules.InverseScaling(0.5)),
    "momentum": sf.optim.SGD(0.05, momentum=0.9),
    "adagrad": sf.optim.AdaGrad(0.3),
    "adadelta": sf.optim.AdaDelta(),
    "rmsprop": sf.optim.RMSProp(0.05),
    "adam": sf.optim.Adam(sf.schedules.Exponential(0.1, 0.99)),
    "adamw": sf.optim.AdamW(0.05),
    "amsgrad": sf.optim.AMSGrad(0.05),
    "auto": sf.optim.Auto(scale=False),  # new statistics of a scaler would be another model
}


def data(n: int = 200) -> tuple[Any, Any]:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(n, 3))
    return X, X @ [1.0, -2.0, 0.5] + 0.1


def with_weights(model: sf.LinearRegression, like: sf.LinearRegression) -> sf.LinearRegression:
    """Make a fresh learner with the weights of another."""
    state, weights = model.state_dict(), like.state_dict()
    for name in ("parameters", "features", "weight_scale"):
        state[name] = weights[name]
    for name in state:
        if name.startswith("slot_"):
            state[name] = np.zeros_like(weights["parameters"])
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_reset_optimizer_is_a_new_one_on_the_same_weights(name: str, dtype: str) -> None:
    X, y = data()
    model = sf.LinearRegression(OPTIMIZERS[name], batch_size=4, l2=0.01, dtype=dtype)
    model.learn_many(X[:100], y[:100])
    model.reset_optimizer()
    new = with_weights(model.clone(), model)
    for learner in (model, new):
        learner.learn_many(X[100:], y[100:])
    assert model.weights == new.weights
    assert model.n_updates == 50
    assert new.n_updates == 25


def test_ftrl_that_is_reset_keeps_its_weights_and_begins_with_the_first_step_size() -> None:
    X, y = data()
    model = sf.LinearRegression(sf.optim.FTRLProximal(alpha=0.5, l1=0.1, l2=0.3))
    model.learn_many(X, y)
    before = {**model.weights, "intercept": model.intercept}
    model.reset_optimizer()
    state = model.state_dict()
    assert not state["slot_2"].any()
    model.learn_one(dict.fromkeys(model.weights, 0.0), model.intercept)  # a gradient of 0
    after = {**model.weights, "intercept": model.intercept}
    assert after == pytest.approx(before, rel=1e-12)


@pytest.mark.parametrize("kind", ["dense", "sparse", "pending"])
def test_a_factor_is_a_factor_of_every_step(kind: str) -> None:
    X, y = data()
    if kind == "sparse":
        X[np.abs(X) < 0.8] = 0.0
    one = sf.LinearRegression(sf.optim.SGD(0.02), batch_size=3, intercept_lr=0.01, l2=0.1)
    two = sf.LinearRegression(sf.optim.SGD(0.08), batch_size=3, intercept_lr=0.04, l2=0.1)
    n = 0
    if kind == "pending":
        n = 2
        for model in (one, two):
            model.learn_many(X[:n], y[:n])
    one.set_learning_rate_factor(4.0)
    assert one.learning_rate_factor == 4.0
    for model in (one, two):
        for row, label in zip(X[n:], y[n:], strict=True):
            x = {f"x{j}": v for j, v in enumerate(row) if v} if kind == "sparse" else row
            model.learn_one(x, label)
    assert one.weights == two.weights
    assert one.intercept == two.intercept
    assert one.digest() != two.digest()  # the factor is part of the state
    one.set_learning_rate_factor(1.0)
    assert one.digest() == two.digest()


def test_the_textbook_with_a_factor_and_a_reset() -> None:
    X, y = data(60)
    model = sf.LinearRegression(sf.optim.AdaGrad(0.3), sf.losses.HalfSquared(), batch_size=2)
    w, b, G, lr = np.zeros(3), 0.0, np.zeros(4), 0.3
    for i in range(0, 60, 2):
        if i == 20:
            model.set_learning_rate_factor(5.0)
            lr = 1.5
        if i == 40:
            model.reset_optimizer()
            G[:] = 0.0
        model.learn_many(X[i : i + 2], y[i : i + 2])
        slope = X[i : i + 2] @ w + b - y[i : i + 2]
        g = np.append(X[i : i + 2].T @ slope, slope.sum()) / 2
        G += g * g
        step = lr * g / np.sqrt(G + 1e-8)
        w, b = w - step[:3], b - step[3]
    assert list(model.weights.values()) == pytest.approx(w, rel=1e-12)
    assert model.intercept == pytest.approx(b, rel=1e-12)


def test_the_state_of_a_changed_rate_goes_where_the_model_goes() -> None:
    import copy

    X, y = data()
    model = sf.LinearRegression(OPTIMIZERS["sgd"], batch_size=4)
    model.learn_many(X[:90], y[:90])
    model.set_learning_rate_factor(3.0)
    model.reset_optimizer()
    twin = copy.deepcopy(model)
    other = sf.LinearRegression.from_config(model.get_config())
    other.load_state_dict(model.state_dict())
    for learner in (model, twin, other):
        learner.learn_many(X[90:], y[90:])
    assert model.digest() == twin.digest() == other.digest()
    assert model.clone().learning_rate_factor == 1.0


def test_states_with_impossible_rates_are_refused() -> None:
    model = sf.LinearRegression()
    state = model.state_dict()
    for wrong in ({"lr_factor": 0.0}, {"lr_factor": math.nan}, {"lr_factor": 2}, {"lr_factor": "a"},
                  {"schedule_start": 1}, {"schedule_start": -1}, {"schedule_start": 0.0},
                  {"lr": 1.0}):  # fmt: skip
        with pytest.raises(CheckpointMismatchError):
            model.load_state_dict({**state, **wrong})
    with pytest.raises(UnsupportedError):
        sf.LinearRegression(sf.optim.FTRLProximal()).set_learning_rate_factor(2.0)
    for factor in (0.0, -1.0, math.nan, "2"):
        with pytest.raises(ConfigurationError):
            model.set_learning_rate_factor(factor)  # type: ignore[arg-type]
    block = Block([{"x": 1.0}], [1.0], offsets=[0])
    model.learn_block(block, 0, 1)
    assert model.n_updates == 1
