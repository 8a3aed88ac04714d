"""Answers to drift depend on the samples alone: any arrival, any crash, and the replay."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift
from river.drift import binary

import streamfit as sf
from streamfit import journal
from streamfit.testing.sources import PartitionedSource

DETECTORS: list[Callable[[], Any]] = [
    lambda: drift.ADWIN(clock=4, grace_period=5, delta=0.1),
    lambda: drift.PageHinkley(min_instances=10, threshold=2.0),
    lambda: drift.KSWIN(window_size=40, stat_size=12, seed=1, alpha=0.01),
    lambda: binary.HDDMA(drift_confidence=0.05),
    lambda: drift.DummyDriftDetector("random", t_0=40, w=8, seed=1),
]


class Killed(BaseException):
    """Nothing that catches errors may catch it."""


def changing(seed: int, n: int) -> list[Any]:
    """A stream whose concept turns around each 80 samples; now and then a sample is bad."""
    rng = np.random.default_rng(seed)
    samples: list[Any] = []
    for i in range(n):
        a, b = rng.normal(size=2)
        x = {"a": a, "b": None if rng.random() < 0.05 else b}
        samples.append((x, bool((a + 0.3 * b > 0) == (i // 80 % 2 == 0))))
    return samples


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    on_drift = st.one_of(
        st.sampled_from(["report", "reset_optimizer"]),
        st.builds(sf.RaiseLearningRate, st.sampled_from([3.0, 0.1]), st.integers(1, 90)),
    )
    return {
        "samples": changing(draw(st.integers(0, 99)), draw(st.integers(0, 250))),
        "detector": draw(st.sampled_from(DETECTORS)),
        "on_drift": draw(on_drift),
        "every": draw(st.sampled_from([1, 7, 32])),
        "optimizer": draw(
            st.sampled_from(
                [
                    sf.optim.SGD(sf.schedules.InverseScaling(0.5)),
                    sf.optim.AdaGrad(0.3),
                    sf.optim.Adam(),
                ]
            )
        ),
        "batch_size": draw(st.sampled_from([1, 3, 32, None])),
        "epochs": draw(st.integers(1, 2)),
        "blocks": draw(st.lists(st.integers(1, 60), max_size=20)),
        "deaths": draw(st.lists(st.integers(1, 8), max_size=3)),
        "every_updates": draw(st.integers(1, 40)),
    }


def train(run: dict[str, Any], blocks: list[int], deaths: list[int], state: str | None) -> Any:
    """Train to the end, through all deaths; return the report and where there were drifts."""

    def attempt(calls: int | None) -> Any:
        left = [calls]

        def callback(_: object) -> None:
            if left[0] is not None:
                left[0] -= 1
                if left[0] == 0:
                    raise Killed

        monitor = sf.DriftMonitor(run["detector"](), run["on_drift"], every=run["every"])
        report = sf.Trainer(
            sf.LogisticRegression(run["optimizer"], batch_size=run["batch_size"]),
            PartitionedSource([run["samples"]], [(0, n) for n in blocks]),
            epochs=run["epochs"],
            on_bad_sample="skip",
            checkpoint=None
            if state is None
            else sf.Checkpointer(state, every_updates=run["every_updates"]),
            callbacks=[monitor, callback],
        ).run()
        return report, list(monitor.drifts)

    for calls in deaths:
        with contextlib.suppress(Killed):
            attempt(calls)
    return attempt(None)


@settings(max_examples=max(20, settings.default.max_examples // 4))
@given(run=runs())
def test_neither_arrival_nor_crashes_change_what_is_done_and_it_replays(
    run: dict[str, Any],
) -> None:
    plain, drifts = train(run, [], [], None)
    with tempfile.TemporaryDirectory() as state:
        report, found = train(run, run["blocks"], run["deaths"], state)
        entries = list(journal.entries(state))
        verified = journal.verify(state, PartitionedSource([run["samples"]]))
    assert (report.digest, found) == (plain.digest, drifts)
    actions = [entry for entry in entries if isinstance(entry, journal.Action)]
    assert [a.parameters["n_samples"] for a in actions if a.name == "drift"] == drifts
    names = [action.name for action in actions]
    if run["on_drift"] == "reset_optimizer":
        assert names == ["drift", "reset_optimizer"] * len(drifts)
    elif run["on_drift"] == "report":
        assert names == ["drift"] * len(drifts)
    else:
        factors = [a.parameters["factor"] for a in actions if a.name.startswith("set_")]
        assert factors.count(run["on_drift"].factor) == len(drifts)
    assert verified.equal, verified


def test_the_answers_of_these_runs_matter() -> None:
    """Or the property above would hold for monitors that do nothing."""
    run = {
        **{"samples": changing(1, 250), "every": 7, "optimizer": sf.optim.AdaGrad(0.3)},
        **{"batch_size": 3, "epochs": 1, "every_updates": 9},
    }
    for detector in DETECTORS:
        digests = set()
        for on_drift in ("report", "reset_optimizer", sf.RaiseLearningRate(3.0, 50)):
            with tempfile.TemporaryDirectory() as state:
                report, drifts = train(
                    {**run, "detector": detector, "on_drift": on_drift}, [], [4, 9], state
                )
            assert drifts
            digests.add(report.digest)
        assert len(digests) == 3
