"""docs/from-river.md: what stands in one row learns the same."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from river import datasets, drift, evaluate, linear_model, metrics, optim, preprocessing, tree

import streamfit as sf

DOCUMENT = Path(__file__).parents[2] / "docs" / "from-river.md"
TABLES = [
    [
        tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        for line in part.splitlines()[2:]
    ]
    for part in re.findall(r"(?m)(?:^\|.*\n)+", DOCUMENT.read_text())
]
MODELS, AROUND = TABLES


def samples(n: int = 300) -> list[tuple[dict[str, float], bool]]:
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(n, 3))
    noise = rng.normal(size=n)
    return [
        (dict(zip("abc", row.tolist(), strict=True)), bool(row[0] - row[2] + e > 0))
        for row, e in zip(rows, noise, strict=True)
    ]


@pytest.mark.parametrize(("theirs", "ours"), MODELS, ids=[row[0] for row in MODELS])
def test_models(theirs: str, ours: str) -> None:
    names = {"linear_model": linear_model, "optim": optim, "sf": sf}
    river, learner = eval(theirs.strip("`"), names), eval(ours.strip("`"), names)
    for x, y in samples():
        river.learn_one(x, y)
        learner.learn_one(x, y)
    assert learner.weights == pytest.approx(dict(river.weights), rel=1e-9, abs=1e-12)
    assert learner.intercept == pytest.approx(river.intercept, rel=1e-9, abs=1e-12)
    assert any(learner.weights.values())


# ---- around a model: one function for each row, by the first words of its left cell


def scaled(data: list[Any]) -> None:
    model = sf.LogisticRegression(scaler=sf.StandardScaler())
    pipeline = preprocessing.StandardScaler() | sf.LogisticRegression()
    for x, y in data:
        pipeline.learn_one(x, y)
    sf.Trainer(model, data).run()
    assert model.weights == pytest.approx(pipeline["LogisticRegression"].weights, rel=1e-9)


def evaluated(data: list[Any]) -> None:
    metric, other = metrics.LogLoss(), metrics.LogLoss()
    evaluate.progressive_val_score(data, sf.LogisticRegression(), metric)
    sf.Trainer(sf.LogisticRegression(), data, metrics=[other]).run()
    assert metric.get() == other.get()


def one_by_one(data: list[Any]) -> None:
    model = sf.LogisticRegression(batch_size=3)
    for i, (x, y) in enumerate(data, start=1):
        model.learn_one(x, y)
        assert model.n_updates == i // 3


def many(data: list[Any]) -> None:
    frame = pd.DataFrame([x for x, _ in data])
    one, table = sf.LogisticRegression(), sf.LogisticRegression()
    for x, y in data:
        one.learn_one(x, y)
    table.learn_many(frame, pd.Series([y for _, y in data]))
    assert one.digest() == table.digest()


def changed(_: list[Any]) -> None:
    model = sf.LogisticRegression().clone()
    model.mutate({"l2": 0.1})
    assert model.l2 == 0.1
    listed = next(ours for theirs, ours in AROUND if "mutate" in theirs)
    assert set(re.findall(r"`(\w+)`", listed)) == model._mutable_attributes


def hashed(data: list[Any]) -> None:
    model = sf.LogisticRegression(features=sf.HashedFeatures(bits=18))
    sf.Trainer(model, data).run()
    river = preprocessing.FeatureHasher(2**18, seed=1) | linear_model.LogisticRegression()
    for x, y in data:
        river.learn_one(x, y)
    assert len(model.weights) == len(river["LogisticRegression"].weights) == 3


def transformed(data: list[Any]) -> None:
    pipeline = preprocessing.StandardScaler() | sf.LogisticRegression()
    for x, y in data:
        pipeline.learn_one(x, y)
    model = sf.LogisticRegression()
    sf.Trainer(model, sf.Transformed(data, preprocessing.StandardScaler())).run()
    assert model.weights == pipeline["LogisticRegression"].weights


def watched(data: list[Any]) -> None:
    turned = [*data, *((x, not y) for x, y in data)] * 3
    monitor = sf.DriftMonitor(drift.ADWIN(), on_drift="reset_optimizer")
    model = sf.LogisticRegression(sf.optim.AdaGrad(0.1))
    sf.Trainer(model, turned, callbacks=[monitor]).run()
    assert monitor.drifts


def any_model(_: list[Any]) -> None:
    data = list(datasets.Phishing().take(200))
    metric, other = metrics.Accuracy(), metrics.Accuracy()
    evaluate.progressive_val_score(data, tree.HoeffdingTreeClassifier(), metric)
    learner = sf.adapters.RiverLearner(tree.HoeffdingTreeClassifier())
    sf.Trainer(learner, data, metrics=[other]).run()
    assert metric.get() == other.get()


def saved(data: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as state:
        model, again = sf.LogisticRegression(), sf.LogisticRegression()
        for learner in (model, again):
            sf.Trainer(learner, data, checkpoint=sf.Checkpointer(state)).run()
        assert again.digest() == model.digest()


CHECKS = {
    "`preprocessing.StandardScaler()": scaled,
    "`evaluate.progressive_val_score": evaluated,
    "`for x, y in data": one_by_one,
    "`model.learn_many": many,
    "`model.clone()`": changed,
    "`preprocessing.FeatureHasher": hashed,
    "`transformer |": transformed,
    "`drift.ADWIN()`": watched,
    "`tree.Hoeffding": any_model,
    "`pickle.dump": saved,
}


@pytest.mark.parametrize("left", [row[0] for row in AROUND])
def test_around_a_model(left: str) -> None:
    (check,) = [check for words, check in CHECKS.items() if left.startswith(words)]
    check(samples())


def test_each_check_has_its_row() -> None:
    assert len(CHECKS) == len(AROUND)
    assert len(MODELS) == 10
