"""The learners are River estimators: its checks, pipelines and evaluation take them."""

from __future__ import annotations

import pytest
from river import (
    checks,
    compose,
    datasets,
    ensemble,
    evaluate,
    feature_extraction,
    linear_model,
    metrics,
    model_selection,
    multiclass,
    preprocessing,
    stats,
)

import streamfit as sf
from streamfit.core.learner import LinearLearner
from streamfit.errors import ConfigurationError

KINDS = (sf.LinearRegression, sf.LogisticRegression, sf.SoftmaxRegression)


def checks_of(model: LinearLearner) -> list:
    skipped = model._unit_test_skips()
    return [check for check in checks.yield_checks(model) if check.__name__ not in skipped]


CASES = [
    pytest.param(kind, size, i, id=f"{kind.__name__}-{size}-{check.__name__}-{i}")
    for kind in KINDS
    for size in (1, 32)
    for i, check in enumerate(checks_of(kind(batch_size=size)))
]


@pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")  # data are unscaled
@pytest.mark.parametrize(("kind", "batch_size", "i"), CASES)
def test_river_s_own_checks(kind: type[LinearLearner], batch_size: int, i: int) -> None:
    model = kind(batch_size=batch_size)
    checks_of(model)[i](model.clone())


@pytest.mark.parametrize("kind", KINDS)
def test_no_check_is_skipped(kind: type[LinearLearner]) -> None:
    assert kind()._unit_test_skips() == set()
    assert linear_model.LogisticRegression()._unit_test_skips()  # River's own skip one


def test_a_pipeline_and_progressive_validation() -> None:
    model = compose.Pipeline(
        preprocessing.StandardScaler(), sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=4)
    )
    accuracy = evaluate.progressive_val_score(datasets.Phishing(), model, metrics.Accuracy())
    assert accuracy.get() > 0.85
    model = preprocessing.StandardScaler() | sf.LinearRegression(sf.optim.SGD(0.02))
    error = evaluate.progressive_val_score(datasets.TrumpApproval(), model, metrics.MAE())
    assert error.get() < 1.5


def test_a_clone_is_fresh_and_has_the_same_configuration() -> None:
    model = sf.LogisticRegression(sf.optim.Adam(), batch_size=4, features=sf.FeatureIndex(["a"]))
    model.learn_one({"a": 1.0, "b": 1.0}, True)
    clone = model.clone()
    assert clone.get_config() == model.get_config()
    assert (clone.n_samples, list(clone.weights)) == (0, ["a"])
    other = model.clone({"batch_size": 8})
    assert (other.batch_size, model.batch_size) == (8, 4)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_union_of_transformers(batch_size: int) -> None:
    def make(model: LinearLearner) -> compose.Pipeline:
        numbers = compose.SelectType(float) | preprocessing.StandardScaler()
        means = feature_extraction.TargetAgg(by=["is_popular"], how=stats.Mean())
        return (compose.Select("is_popular", "long_url") + numbers + means) | model

    samples = [
        ({**{k: float(v) for k, v in x.items()}, "is_popular": x["is_popular"]}, y)
        for x, y in datasets.Phishing().take(300)
    ]
    model = sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=batch_size)
    pipeline = make(model)
    accuracy = evaluate.progressive_val_score(samples, pipeline, metrics.Accuracy())
    assert accuracy.get() > 0.7
    assert "y_mean_by_is_popular" in model.weights
    # what arrived at the model is what the union hands to a model alone
    alone = sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=batch_size)
    union = make(alone)
    transformer = union[0]
    for x, y in samples:
        transformer.learn_one(x, y) if transformer._supervised else transformer.learn_one(x)
        alone.learn_one(transformer.transform_one(x), y)
    assert alone.n_samples == model.n_samples == 300


@pytest.mark.parametrize("batch_size", [1, 32])
def test_one_against_the_rest(batch_size: int) -> None:
    model = preprocessing.StandardScaler() | multiclass.OneVsRestClassifier(
        sf.LogisticRegression(sf.optim.SGD(0.5), batch_size=batch_size)
    )
    accuracy = evaluate.progressive_val_score(
        datasets.ImageSegments().take(1000), model, metrics.Accuracy()
    )
    assert accuracy.get() > 0.7
    classifiers = model["OneVsRestClassifier"].classifiers
    assert len(classifiers) == 7
    assert len({id(classifier) for classifier in classifiers.values()}) == 7


def test_the_models_that_river_s_model_selection_takes() -> None:
    def scaled(lr: float) -> compose.Pipeline:
        return preprocessing.StandardScaler() | sf.LinearRegression(sf.optim.SGD(lr), batch_size=8)

    greedy = model_selection.GreedyRegressor([scaled(1e-6), scaled(0.02)], metric=metrics.MAE())
    evaluate.progressive_val_score(datasets.TrumpApproval(), greedy, metrics.MAE())
    assert greedy.best_model["LinearRegression"].optimizer.schedule.rate(0) == 0.02
    halving = model_selection.SuccessiveHalvingClassifier(
        [sf.LogisticRegression(sf.optim.SGD(lr), batch_size=32) for lr in (1e-6, 1e-3, 0.3)],
        metric=metrics.Accuracy(),
        budget=900,
        eta=2,
    )
    accuracy = evaluate.progressive_val_score(datasets.Phishing(), halving, metrics.Accuracy())
    assert accuracy.get() > 0.7
    bagging = ensemble.BaggingClassifier(sf.LogisticRegression(batch_size=4), n_models=3, seed=1)
    evaluate.progressive_val_score(datasets.Phishing().take(200), bagging, metrics.Accuracy())
    assert len({model.digest() for model in bagging.models}) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_features_that_emerge_and_disappear_count_as_zero(
    kind: type[LinearLearner], batch_size: int
) -> None:
    names = [f"f{i}" for i in range(6)]
    sparse, dense = (kind(sf.optim.Adam(0.05), batch_size=batch_size) for _ in range(2))
    for i in range(200):
        x = {name: float(i % (k + 2)) for k, name in enumerate(names) if k <= i // 30 < k + 4}
        sparse.learn_one(x, i % 2 == 0)
        sparse.predict_one({"never seen": 1.0, **x})
        dense.learn_one({name: x.get(name, 0.0) for name in names}, i % 2 == 0)
    assert sparse.weights == dense.weights
    assert sparse.intercept == dense.intercept


def test_a_clone_forgets_the_classes_that_came() -> None:
    model = sf.SoftmaxRegression()
    model.learn_one({"a": 1.0}, "one")
    assert model.clone().classes == []
    assert sf.SoftmaxRegression(classes=["a", "b"]).clone().classes == ["a", "b"]


CHANGES: list[tuple[dict, dict]] = [  # arguments before, and what is changed
    ({"l2": 0.5}, {"l2": 0.0}),
    ({}, {"l2": 0.1}),
    ({"l2": 0.1}, {"optimizer": sf.optim.SGD(0.3)}),
    ({}, {"optimizer": {"lr": sf.schedules.InverseScaling(0.5)}}),
    ({"optimizer": sf.optim.Adam(0.1)}, {"optimizer": {"lr": 0.01, "beta_1": 0.5}}),
    ({"optimizer": sf.optim.SGD(0.1, momentum=0.9)}, {"optimizer": {"momentum": 0.5}}),
    ({"optimizer": sf.optim.AdaGrad(0.1)}, {"l2": 0.1}),
    ({}, {"intercept_lr": 0.2}),
    ({"intercept_lr": 0.2}, {"intercept_lr": None}),
    ({}, {"clip_gradient": 0.3, "max_weight": 5.0}),
]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize(("before", "change"), CHANGES)
def test_a_mutated_learner_goes_on_as_one_that_was_made_so(
    before: dict, change: dict, batch_size: int, dtype: str
) -> None:
    samples = [
        ({"a": i % 7 / 7, "b": i % 5 - 2.0, f"c{i % 20}": 1.0}, i % 3 == 0) for i in range(300)
    ]
    arguments = {"optimizer": sf.optim.SGD(0.1), "batch_size": batch_size, "dtype": dtype, **before}
    model = sf.LogisticRegression(**arguments)
    for x, y in samples[:150]:
        model.learn_one(x, y)
    state = model.state_dict()
    pipeline = preprocessing.StandardScaler() | model
    pipeline.mutate({"LogisticRegression": change})
    if isinstance(change.get("optimizer"), dict):
        old = model.optimizer.get_config()
        assert {**old, **change["optimizer"]}.keys() == old.keys()
        change = {"optimizer": model.optimizer}
    made = sf.LogisticRegression(**{**arguments, **change})
    assert made.get_config() == model.get_config()
    weights = state["parameters"]
    weights[1:] *= weights.dtype.type(state["weight_scale"])
    made.load_state_dict({**state, "weight_scale": 1.0})
    assert made.digest() == model.digest()
    for x, y in samples[150:]:
        made.learn_one(x, y)
        model.learn_one(x, y)
    assert made.digest() == model.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"l1": 0.1},
        {"batch_size": 2},
        {"loss": sf.losses.Hinge()},
        {"nothing": 1},
        {"l2": -1.0},
        {"l2": "a"},
        {"optimizer": sf.optim.Adam()},
        {"optimizer": {"lr": -1.0}},
        {"optimizer": {"speed": 1.0}},
        {"optimizer": {"momentum": 0.9}},
        {"optimizer": None},
        {"max_weight": 0.0},
    ],
)
def test_what_cannot_be_mutated_changes_nothing(change: dict) -> None:
    model = sf.LogisticRegression(l2=0.5)
    model.learn_one({"a": 1.0}, True)
    before = model.digest(), model.get_config()
    with pytest.raises(ValueError):  # noqa: PT011 (River's, or a ConfigurationError, which is one)
        model.mutate(change)
    assert (model.digest(), model.get_config()) == before
    ftrl = sf.LogisticRegression(sf.optim.FTRLProximal())
    with pytest.raises(ConfigurationError, match="FTRLProximal"):
        ftrl.mutate({"optimizer": {"alpha": 0.5}})
