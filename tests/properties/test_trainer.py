"""The promises P1 to P5, through the Trainer."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfit as sf
from streamfit.errors import BadSampleError
from streamfit.testing.sources import SplitSource
from streamfit.types import Block

N_FEATURES = 5
OPTIMIZERS = [
    sf.optim.SGD(0.05),
    sf.optim.SGD(0.05, momentum=0.9),
    sf.optim.SGD(0.05, momentum=0.5, nesterov=True),
    sf.optim.AdaGrad(0.1),
    sf.optim.Adam(0.02),
]


def data(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, N_FEATURES)) * (rng.random((n, N_FEATURES)) < 0.7)
    return X, (X @ np.arange(N_FEATURES) + rng.normal(size=n) > 0).astype(float), rng.random(n)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """A training problem and the ways in which its samples may arrive."""
    n = draw(st.integers(1, 70))
    X, y, w = data(n, draw(st.integers(0, 2**32 - 1)))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=8)))
    return {
        "X": X,
        "y": y,
        "w": w if draw(st.booleans()) else None,
        "cuts": cuts,
        "epochs": draw(st.integers(1, 3)),
        "last_batch": draw(st.sampled_from(["apply", "scale", "drop", "carry"])),
        "model": {
            "optimizer": draw(st.sampled_from(OPTIMIZERS)),
            "batch_size": draw(st.sampled_from([1, 2, 7, 32, 1000, None])),
            "reduction": draw(st.sampled_from(["mean", "sum"])),
            "l2": draw(st.sampled_from([0.0, 0.01])),
        },
    }


def offline(run: dict[str, Any]) -> str:
    fit = sf.offline.fit_offline(
        sf.LogisticRegression(**run["model"]),
        run["X"],
        run["y"],
        sample_weight=run["w"],
        epochs=run["epochs"],
        last_batch=run["last_batch"],
        kernel="compiled",
    )
    assert fit.digest is not None
    return fit.digest


def samples(run: dict[str, Any]) -> list[tuple[Any, ...]]:
    xs = [{j: float(v) for j, v in enumerate(row)} for row in run["X"]]
    columns = [xs, run["y"].tolist()]
    if run["w"] is not None:
        columns.append(run["w"].tolist())
    return list(zip(*columns, strict=True))


def generator(run: dict[str, Any]) -> Callable[[], Any]:
    return lambda: iter(samples(run))


SOURCES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "list": samples,
    "generator": generator,
    "array rows": lambda run: [
        (row, *rest[1:]) for row, rest in zip(run["X"], samples(run), strict=True)
    ],
    "ArraySource": lambda run: sf.ArraySource(run["X"], run["y"], run["w"]),
    "array blocks": lambda run: SplitSource(run["X"], run["y"], run["w"], cuts=run["cuts"]),
    "dict blocks": lambda run: SplitSource(
        *(list(column) for column in zip(*samples(run), strict=True)), cuts=run["cuts"]
    ),
    "live": lambda run: sf.IterableSource(generator(run), live=True),
}


@pytest.mark.parametrize("source", SOURCES)
@given(run=runs())
def test_any_source_ends_where_offline_training_ends(source: str, run: dict[str, Any]) -> None:
    model = sf.LogisticRegression(**run["model"])
    report = sf.Trainer(
        model, SOURCES[source](run), epochs=run["epochs"], last_batch=run["last_batch"]
    ).run()
    assert report.digest == model.digest() == offline(run)
    assert report.n_samples == run["epochs"] * len(run["y"])
    assert report.n_epochs == run["epochs"]


class Killed(BaseException):
    """Like kill -9 as far as Python code can be: nothing that catches errors may catch it."""


def kill_at(calls: int, error: type[BaseException]) -> Callable[[object], None]:
    left = [calls]

    def callback(_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error("at a random point")

    return callback


@given(
    run=runs(),
    every_updates=st.integers(1, 5),
    deaths=st.lists(st.integers(1, 6), max_size=4),
    error=st.sampled_from([Killed, OSError]),
)
def test_resuming_anywhere_equals_never_stopping(
    run: dict[str, Any], every_updates: int, deaths: list[int], error: type[BaseException]
) -> None:
    def attempt(state: str, callbacks: list[Any]) -> sf.TrainingReport:
        return sf.Trainer(
            sf.LogisticRegression(**run["model"]),
            SplitSource(run["X"], run["y"], run["w"], cuts=run["cuts"]),
            epochs=run["epochs"],
            last_batch=run["last_batch"],
            checkpoint=sf.Checkpointer(state, every_updates=every_updates),
            callbacks=callbacks,
        ).run()

    straight = sf.LogisticRegression(**run["model"])
    wanted = sf.Trainer(
        straight,
        SplitSource(run["X"], run["y"], run["w"]),
        epochs=run["epochs"],
        last_batch=run["last_batch"],
    ).run()
    with tempfile.TemporaryDirectory() as state:
        for calls in deaths:
            with contextlib.suppress(error):
                attempt(state, [kill_at(calls, error)])
        report = attempt(state, [])
        again = attempt(state, [])  # a finished run has nothing left to do
    for found in (report, again):
        assert found.digest == wanted.digest == offline(run)
        assert found.n_samples == wanted.n_samples
        assert found.n_updates == wanted.n_updates
        assert found.n_epochs == wanted.n_epochs
        assert found.progressive_loss == wanted.progressive_loss or math.isnan(
            wanted.progressive_loss
        )


BAD: list[tuple[Any, Any]] = [
    ({0: math.nan}, True),
    ({0: math.inf}, True),
    ({0: "1"}, True),
    ({0: None}, True),
    ({0: 1.0}, None),
    ({0: 1.0}, 2),
    ({0: 1.0}, math.nan),
    ({0: 10**400}, True),
    ([1.0, 2.0], True),
    ([[1.0]], True),
    ("text", True),
]


@given(run=runs(), where=st.lists(st.tuples(st.floats(0, 1), st.sampled_from(BAD)), max_size=6))
def test_bad_samples_change_nothing(
    run: dict[str, Any], where: list[tuple[float, tuple[Any, Any]]]
) -> None:
    good = samples(run)
    mixed = list(good)
    for place, bad in where:
        if good:  # the columns are known after the first sample
            mixed.insert(1 + int(place * (len(mixed) - 1)), bad)
    n_bad = len(mixed) - len(good)
    model = sf.LogisticRegression(**run["model"])
    report = sf.Trainer(
        model, mixed, on_bad_sample="skip", last_batch=run["last_batch"], epochs=run["epochs"]
    ).run()
    assert report.digest == offline(run)
    assert report.n_bad == n_bad * run["epochs"]
    if n_bad:
        first = next(i for i, sample in enumerate(mixed) if not any(sample is g for g in good))
        model = sf.LogisticRegression(**run["model"])
        with pytest.raises(BadSampleError) as caught:
            sf.Trainer(model, mixed).run()
        assert (caught.value.source, caught.value.offset) == ("samples", first)
        until = sf.LogisticRegression(**run["model"])
        for sample in good[:first]:
            until.learn_one(*sample)
        assert model.digest() == until.digest()
        assert model.weights == until.weights


@given(run=runs())
def test_progressive_loss_is_each_loss_before_learning(run: dict[str, Any]) -> None:
    model = sf.LogisticRegression(**run["model"])
    total = weight = 0.0
    for x, y, *w in samples(run):
        share = w[0] if w else 1.0
        p = model.predict_proba_one(x)[bool(y)]
        total += share * -math.log(p) if p else math.nan
        weight += share
        model.learn_one(x, y, *w)
    report = sf.Trainer(sf.LogisticRegression(**run["model"]), SOURCES["array blocks"](run)).run()
    if weight:
        assert report.progressive_loss == pytest.approx(total / weight, rel=1e-9)
    else:
        assert math.isnan(report.progressive_loss)


@pytest.mark.parametrize(
    ("n", "batch_size", "last_batch", "epochs", "updates"),
    [
        (1050, 100, "apply", 1, 11),
        (1050, 100, "scale", 1, 11),
        (1050, 100, "drop", 1, 10),
        (1050, 100, "carry", 1, 10),
        (1050, 100, "carry", 2, 21),
        (1000, 500, "apply", 1, 2),
        (1000, 1, "apply", 1, 1000),
        (1000, None, "apply", 3, 3),
        (1000, None, "drop", 3, 3),
    ],
)
def test_number_of_updates(
    n: int, batch_size: int | None, last_batch: str, epochs: int, updates: int
) -> None:
    X, y, _ = data(n, 0)
    sizes: list[int] = []

    def watch(progress: sf.Progress) -> None:
        sizes.append(progress.n_updates)

    model = sf.LogisticRegression(batch_size=batch_size)
    source = SplitSource(X, y, cuts=range(1, n))  # one sample a block
    trainer = sf.Trainer(model, source, last_batch=last_batch, epochs=epochs, callbacks=[watch])
    assert trainer.run().n_updates == updates
    if batch_size == 100 and epochs == 1:  # ten of 100, then one of 50 at the end
        assert [sizes.index(k) + 1 for k in range(1, 11)] == list(range(100, 1001, 100))
        assert sizes[-1] == 10


def test_a_third_party_source_needs_only_the_protocol() -> None:
    X, y, _ = data(10, 1)

    class Minimal:
        def __init__(self) -> None:
            self.next = 0

        def __iter__(self) -> Any:
            for i in range(self.next, 10):
                self.next = i + 1
                yield Block(x=X[i : i + 1], y=y[i : i + 1], source="mine", offsets=[i])

        def position(self) -> dict[str, int]:
            return {"mine:0": self.next}

        def seek(self, position: dict[str, int]) -> None:
            self.next = position["mine:0"]

        def close(self) -> None: ...

    assert isinstance(Minimal(), sf.types.Source)
    model = sf.LogisticRegression(batch_size=3)
    report = sf.Trainer(model, Minimal(), epochs=2).run()
    assert (report.n_samples, report.n_updates, report.position) == (20, 8, {"mine:0": 10})
