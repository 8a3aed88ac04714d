"""A state machine that does to a learner what users do, in any order, beside the oracle.

Import this module by name; it needs pytest and hypothesis.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamfit._offline_descent import Arrival, Descent
from streamfit.errors import BadSampleError
from streamfit.testing import strategies
from streamfit.testing.conformance import (
    LearnerConformance,
    assert_close,
    closeness,
    parameters,
    step_size,
)
from streamfit.testing.forms import FORMS, Samples, feed
from streamfit.types import FeatureName, FloatArray

__all__ = ["learner_machine"]


class _Model:
    """What a learner should be: the oracle, and the samples whose update has not happened."""

    def __init__(self, config: dict[str, Any], names: list[FeatureName]) -> None:
        self.descent = Descent(config, len(names))
        self.pending: list[Arrival] = []
        self.n_samples = 0
        self.classes: dict[Any, int] = {}
        self.full_batch = config["batch_size"] is None

    def learn(self, x: FloatArray, y: Any, w: float) -> None:
        if self.descent.softmax:
            y = self.classes.setdefault(y, len(self.classes))
        self.pending.append(self.descent.arrival(x, y, w))
        self.n_samples += 1
        if not self.full_batch and len(self.pending) == self.descent.batch_size:
            self.update()

    def update(self, share: float = 1.0) -> None:
        with np.errstate(all="ignore"):
            self.descent.update(self.pending, share)
        self.pending = []

    def flush(self, last_batch: str) -> None:
        if self.pending and (self.full_batch or last_batch == "apply"):
            self.update()
        elif self.pending and last_batch == "scale":
            self.update(len(self.pending) / self.descent.batch_size)
        elif last_batch == "drop":
            self.pending = []


def learner_machine(suite: type[LearnerConformance]) -> type[RuleBasedStateMachine]:
    """Make a machine that learns, predicts, flushes, saves, loads and clones in any order.

    After every step the learner of `suite` must agree with the oracle; `TestX =
    learner_machine(suite).TestCase` makes a test of it.
    """
    names: list[FeatureName] = ["a", "b", "c"]
    row = st.integers(0, 2**32 - 1)

    class LearnerMachine(RuleBasedStateMachine):
        @initialize(draw=st.data())
        def begin(self, draw: st.DataObject) -> None:
            self.suite = suite()
            self.learner = self.suite.make(draw, names)
            self.model = _Model(self.learner.get_config(), names)
            self.saved: list[tuple[Any, str, _Model]] = []

        def samples(self, seed: int, n: int) -> Samples:
            rng = np.random.default_rng(seed)
            X = rng.normal(size=(n, 3)) * rng.choice([1.0, 1.0, 0.0], size=(n, 3))
            y = X @ [1.0, -0.5, 0.2] + 0.3 * rng.normal(size=n)
            if suite.labels == "classes":
                y = np.array(["low", "mid", "high"])[np.digitize(y, [-0.5, 0.5])]
            elif suite.labels != "real":
                y = (y > 0).astype(float)
            return Samples(names, X, y, rng.uniform(0, 2, size=n))

        def model_learns(self, data: Samples) -> None:
            for x, y, w in zip(data.X, data.y.tolist(), data.weights.tolist(), strict=True):
                self.model.learn(x, y, w)

        @rule(seed=row, form=st.sampled_from(["dicts", "sparse dicts", "rows", "lists"]))
        def learn_one(self, seed: int, form: str) -> None:
            data = self.samples(seed, 1)
            feed(self.learner, data, [(form, 0, 1)])
            self.model_learns(data)

        @rule(seed=row, n=st.integers(0, 12), form=st.sampled_from(sorted(FORMS)))
        def learn_many(self, seed: int, n: int, form: str) -> None:
            data = self.samples(seed, n)
            feed(self.learner, data, [(form, 0, n)])
            self.model_learns(data)

        @rule(seed=row, place=st.integers(0, 3))
        def learn_a_bad_sample(self, seed: int, place: int) -> None:
            data, before = self.samples(seed, 4), self.learner.digest()
            data.X[place, 1] = np.nan
            with pytest.raises(BadSampleError):
                self.learner.learn_many(data.X, data.y)
            with pytest.raises(BadSampleError):
                self.learner.learn_one({"never seen": 1.0, "b": np.inf}, 1.0)
            assert self.learner.digest() == before

        @rule(seed=row)
        def predict(self, seed: int) -> None:
            data, before = self.samples(seed, 3), self.learner.digest()
            one = [self.learner.predict_one(row) for row in data.rows()]
            assert list(self.learner.predict_many(data.X)) == one
            assert self.learner.digest() == before

        @rule(last_batch=strategies.last_batches())
        def flush(self, last_batch: str) -> None:
            self.learner.flush(last_batch)
            self.model.flush(last_batch)

        @rule()
        def save(self) -> None:
            state = self.learner.state_dict()
            self.saved.append((state, self.learner.digest(), copy.deepcopy(self.model)))

        @precondition(lambda self: self.saved)
        @rule(data=st.data(), used=st.booleans())
        def load(self, data: st.DataObject, used: bool) -> None:
            state, digest, model = data.draw(st.sampled_from(self.saved))
            self.learner = self.learner if used else self.suite.fresh(self.learner)
            self.learner.load_state_dict(state)
            self.model = copy.deepcopy(model)
            assert self.learner.digest() == digest

        @rule()
        def clone(self) -> None:
            before, self.learner = self.learner, copy.deepcopy(self.learner)
            assert self.learner.digest() == before.digest()

        @invariant()
        def agrees_with_the_oracle(self) -> None:
            if not hasattr(self, "learner"):
                return
            learner, model = self.learner, self.model
            assert learner.n_pending == len(model.pending)
            assert learner.n_updates == model.descent.n_updates
            assert learner.n_refused == model.descent.n_refused
            assert learner.n_samples == model.n_samples
            theta, ours = model.descent.theta, parameters(learner)
            assert_close(theta, ours, step_size(learner), closeness(learner))

    LearnerMachine.TestCase.settings = settings(stateful_step_count=30, deadline=None)
    return LearnerMachine
