"""`RiverLearner`: any River model behind the Trainer, as exact as our own."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import (
    anomaly,
    compose,
    datasets,
    drift,
    dummy,
    ensemble,
    evaluate,
    feature_extraction,
    forest,
    linear_model,
    metrics,
    naive_bayes,
    neighbors,
    preprocessing,
    stats,
    stream,
    tree,
)

import streamfit as sf
from streamfit.adapters import RiverLearner
from streamfit.adapters._graph_digest import graph_digest
from streamfit.errors import (
    BadSampleError,
    CheckpointError,
    CheckpointMismatchError,
    ConfigurationError,
    UnsupportedError,
)
from streamfit.types import Block, Learner

N = 300

MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "tree": (lambda: tree.HoeffdingTreeClassifier(grace_period=30), "binary"),
    "adaptive tree": (
        lambda: tree.HoeffdingAdaptiveTreeClassifier(grace_period=30, seed=1),
        "binary",
    ),
    "forest": (lambda: forest.ARFClassifier(n_models=3, seed=1), "classes"),
    "bagging": (
        lambda: ensemble.ADWINBaggingClassifier(naive_bayes.GaussianNB(), 3, seed=1),
        "classes",
    ),
    "neighbours": (
        lambda: preprocessing.StandardScaler() | neighbors.KNNClassifier(3),
        "classes",
    ),
    "pipeline": (
        lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
        "binary",
    ),
    "regression tree": (
        lambda: preprocessing.StandardScaler() | tree.HoeffdingTreeRegressor(grace_period=30),
        "numbers",
    ),
    "regression forest": (lambda: forest.ARFRegressor(n_models=3, seed=1), "numbers"),
    "half-space trees": (
        lambda: preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=3, seed=1),
        "anomalies",
    ),
}

DATA = {
    "binary": datasets.Phishing,
    "classes": datasets.ImageSegments,
    "numbers": datasets.TrumpApproval,
    "anomalies": datasets.Phishing,
}

METRICS: dict[str, Callable[[], list[Any]]] = {
    "binary": lambda: [metrics.Accuracy(), metrics.LogLoss()],
    "classes": lambda: [metrics.Accuracy(), metrics.MacroF1()],
    "numbers": lambda: [metrics.MAE(), metrics.MSE()],
    "anomalies": lambda: [metrics.ROCAUC()],
}


def samples(kind: str) -> list[Any]:
    return list(DATA[kind]().take(N))


@pytest.mark.parametrize("name", MODELS)
def test_it_learns_and_scores_as_river_s_progressive_validation(name: str) -> None:
    make, kind = MODELS[name]
    theirs, ours = METRICS[kind](), METRICS[kind]()
    model = make()
    expected = [evaluate.progressive_val_score(samples(kind), make(), m).get() for m in theirs]
    learner = RiverLearner(model)
    assert isinstance(learner, Learner)
    report = sf.Trainer(learner, samples(kind), metrics=ours).run()
    assert [m.get() for m in ours] == expected
    assert report.n_samples == report.n_updates == N
    losses = dict(zip(map(type, ours), ours, strict=True))
    if metrics.LogLoss in losses:
        # River bounds the other class's probability: 1 - (1 - 1e-15) where we have 1e-15
        assert report.progressive_loss == pytest.approx(losses[metrics.LogLoss].get(), rel=1e-5)
    elif metrics.MSE in losses:
        assert report.progressive_loss == pytest.approx(losses[metrics.MSE].get(), rel=1e-9)
    elif kind == "anomalies":
        assert math.isnan(report.progressive_loss)


@pytest.mark.parametrize("name", MODELS)
def test_a_training_that_is_killed_resumes_exactly_and_verifies(name: str, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    make, kind = MODELS[name]
    data = samples(kind)

    def train(calls: int, state: Path | None) -> sf.TrainingReport:
        left = [calls]

        def callback(_: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        return sf.Trainer(
            RiverLearner(make(), allow_pickle=True),
            data,
            checkpoint=None if state is None else sf.Checkpointer(state, every_updates=70),
            callbacks=[callback],
        ).run()

    for calls in (4, 1):
        with pytest.raises(Killed):
            train(calls, tmp_path)
    resumed, whole = train(-1, tmp_path), train(-1, None)
    assert resumed.resumed_at
    assert resumed.digest == whole.digest
    learner = RiverLearner(make(), allow_pickle=True)
    assert sf.journal.verify(tmp_path, data, model=learner).equal
    changed = [*data[:200], (data[200][0], data[201][1]), *data[201:]]
    if data[200][1] == data[201][1] or kind == "anomalies":  # which do not look at labels
        changed = [*data[:200], *data[201:], data[200]]
    assert not sf.journal.verify(tmp_path, changed, model=learner).equal


def test_a_pickle_must_be_allowed(tmp_path: Path) -> None:
    data = samples("binary")
    learner = RiverLearner(tree.HoeffdingTreeClassifier())
    with pytest.raises(CheckpointError, match="can run any code.*allow_pickle=True"):
        sf.Trainer(learner, data, checkpoint=sf.Checkpointer(tmp_path)).run()
    assert not list(tmp_path.glob("*.safetensors"))
    allowed = RiverLearner(tree.HoeffdingTreeClassifier(), allow_pickle=True)
    sf.Trainer(allowed, data, checkpoint=sf.Checkpointer(tmp_path)).run()
    with pytest.raises(CheckpointError, match="allow_pickle=True"):
        sf.Trainer(
            RiverLearner(tree.HoeffdingTreeClassifier()),
            data,
            checkpoint=sf.Checkpointer(tmp_path),
        ).run()
    with pytest.raises(CheckpointMismatchError, match="another model"):
        sf.Trainer(
            RiverLearner(tree.HoeffdingTreeClassifier(max_depth=2), allow_pickle=True),
            data,
            checkpoint=sf.Checkpointer(tmp_path),
        ).run()


def test_a_model_that_raises_half_way_is_not_saved(tmp_path: Path) -> None:
    data: list[Any] = [({"a": float(i)}, i % 2 == 0) for i in range(50)]
    data[30] = ({"a": "text"}, True)

    def train() -> sf.TrainingReport:
        model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
        learner = RiverLearner(model, allow_pickle=True)
        files = sf.Checkpointer(tmp_path, every_updates=8)
        return sf.Trainer(learner, data, checkpoint=files).run()

    with pytest.raises(TypeError):
        train()
    saved = sf.Checkpointer(tmp_path).latest()
    assert saved is not None
    assert saved.position["samples:0"] == saved.model["n_samples"] <= 30
    data[30] = ({"a": 30.0}, True)
    assert train().n_samples == 50

    broken = RiverLearner(preprocessing.StandardScaler() | linear_model.LogisticRegression())
    with pytest.raises(TypeError):
        broken.learn_one({"a": "text"}, True)
    with pytest.raises(UnsupportedError, match="half a sample"):
        broken.learn_one({"a": 1.0}, True)


def test_texts_and_models_that_are_not_supervised() -> None:
    spam = [("buy now", True), ("see you tomorrow", False), ("buy buy buy", True)] * 5
    text = feature_extraction.BagOfWords() | naive_bayes.MultinomialNB()
    accuracy = metrics.Accuracy()
    sf.Trainer(RiverLearner(text), spam, metrics=[accuracy]).run()
    assert accuracy.get() > 0.7
    detector = RiverLearner(anomaly.HalfSpaceTrees(seed=1))
    sf.Trainer(detector, [({"a": 0.5}, None)] * 300).run()
    assert detector.n_samples == 300
    regressor = compose.Pipeline(preprocessing.StandardScaler(), dummy.NoChangeClassifier())
    accuracy = metrics.Accuracy()
    sf.Trainer(RiverLearner(regressor), spam_numbers(), metrics=[accuracy]).run()
    assert accuracy.get() == 1.0


def spam_numbers() -> list[Any]:
    return [({"a": float(i)}, "same") for i in range(9)]


def test_arrays() -> None:
    X = np.arange(12.0).reshape(4, 3)
    by_name, by_place = (RiverLearner(tree.HoeffdingTreeRegressor()) for _ in range(2))
    sf.Trainer(by_name, [(dict(enumerate(row.tolist())), 1.0) for row in X]).run()
    sf.Trainer(by_place, sf.ArraySource(X, np.ones(4))).run()
    assert by_name.digest() == by_place.digest()


def test_weights() -> None:
    once, no = (RiverLearner(tree.HoeffdingTreeClassifier()) for _ in range(2))
    once.learn_one({"a": 1.0}, True, 2.0)
    theirs = tree.HoeffdingTreeClassifier()
    theirs.learn_one({"a": 1.0}, True, w=2.0)
    assert graph_digest(once.model) == graph_digest(theirs)
    before = graph_digest(no.model)
    no.learn_one({"a": 1.0}, True, 0.0)
    assert no.n_samples == 1
    assert graph_digest(no.model) == before
    neighbours = RiverLearner(neighbors.KNNClassifier())
    with pytest.raises(BadSampleError, match="takes no weights"):
        neighbours.learn_one({"a": 1.0}, True, 2.0)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ({"a": math.nan}, 1.0, "feature 'a': value nan is not finite"),
        ({"a": np.float32("inf")}, 1.0, "feature 'a': value inf is not finite"),
        (None, 1.0, "the sample is missing"),
        ({"a": 1.0}, None, "label None is missing"),
        ({"a": 1.0}, math.nan, "label nan is missing or not finite"),
        ({"a": 1.0}, "one", "label 'one' is not a number"),
    ],
)
def test_bad_samples_change_nothing(x: Any, y: Any, message: str) -> None:
    learner = RiverLearner(tree.HoeffdingTreeRegressor())
    before = learner.digest()
    with pytest.raises(BadSampleError, match=message):
        learner.learn_one(x, y)
    assert learner.digest() == before
    with pytest.raises(BadSampleError, match="source 'clicks', partition 3, offset 9"):
        learner.learn_block(Block([{"a": 1.0}, x], [0.0, y], None, "clicks", 3, [7, 9]), 0, 2)
    assert learner.n_samples == 1


def test_arguments_and_states_that_are_refused() -> None:
    for model in (3, sf.schedules.Constant(1.0), preprocessing.StandardScaler, drift.ADWIN()):
        with pytest.raises(ConfigurationError, match="must be a River model"):
            RiverLearner(model)
    with pytest.raises(ConfigurationError, match="Accuracy does not work with"):
        sf.Trainer(RiverLearner(tree.HoeffdingTreeRegressor()), [], metrics=[metrics.Accuracy()])
    learner = RiverLearner(tree.HoeffdingTreeRegressor(), allow_pickle=True)
    good, before = learner.state_dict(), learner.digest()
    other = RiverLearner(naive_bayes.GaussianNB(), allow_pickle=True).state_dict()
    for state in (
        {},
        {**good, "more": 1},
        {**good, "n_samples": -1},
        {**good, "pickle": good["pickle"][:-5]},
        {**good, "pickle": good["pickle"].astype(float)},
        other,
    ):
        with pytest.raises(CheckpointMismatchError):
            learner.load_state_dict(state)
        assert learner.digest() == before


def test_a_copy_shares_nothing() -> None:
    learner = RiverLearner(tree.HoeffdingTreeClassifier())
    learner.learn_one({"a": 1.0}, True)
    twin = copy.deepcopy(learner)
    assert twin.digest() == learner.digest()
    twin.learn_one({"a": 1.0}, True)
    assert twin.digest() != learner.digest()


# ---- the digest of any object


def test_the_digest_tells_values_apart() -> None:
    values: list[Any] = [
        *(None, True, 1, 1.0, "1", b"1", 0.0, -0.0, np.float64(1.0), int, float, stream.iter_csv),
        *([1], (1,), {1}, {1: 2}, {2: 1}, [[1], 2], [1, [2]], {"a": 1, "b": 2}, {"b": 2, "a": 1}),
        *(np.array([1.0]), np.array([1.0], dtype="float32"), np.array([[1.0]])),
        *(stats.Mean(), stats.Var(), random.Random(1)),
    ]
    digests = [graph_digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert [graph_digest(copy.deepcopy(value)) for value in values] == digests
    assert graph_digest(random.Random(2)) == digests[-1]


def test_sharing_and_cycles() -> None:
    one = [1.0]
    assert graph_digest([one, one]) != graph_digest([[1.0], [1.0]])
    ring: list[Any] = [1]
    ring.append(ring)
    other: list[Any] = [1]
    other.append(other)
    assert graph_digest(ring) == graph_digest(other)
    deep: list[Any] = []
    for _ in range(50_000):
        deep = [deep]
    assert graph_digest(deep)
    assert graph_digest({"b", "a", "c"}) == graph_digest({"c", "b", "a"})
    text = "".join(["a", "b"])
    assert graph_digest([text, "ab"]) == graph_digest(["ab", "ab"])


def test_probabilities_are_those_of_the_model() -> None:
    learner = RiverLearner(tree.HoeffdingTreeClassifier(grace_period=20))
    for i in range(100):
        learner.learn_one({"x": i % 10}, i % 10 < 5)
    assert learner.predict_proba_one({"x": 3}) == learner.model.predict_proba_one({"x": 3})
    with pytest.raises(UnsupportedError, match="no classifier"):
        RiverLearner(tree.HoeffdingTreeRegressor()).predict_proba_one({"x": 3})
