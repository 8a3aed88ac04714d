"""A state machine over every learner; the oracle is its model."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import streamfit as sf
from streamfit.testing.conformance import LearnerConformance
from streamfit.testing.machine import learner_machine
from streamfit.testing.strategies import learners


class Regression(LearnerConformance):
    def make(self, draw: st.DataObject, names: list[Any]) -> Any:
        model = draw.draw(learners([sf.LinearRegression], features=names))
        return self.fresh(model, loss={"id": "squared"}) if model.loss.id == "poisson" else model


class Counts(LearnerConformance):
    labels = "counts"

    def make(self, draw: st.DataObject, names: list[Any]) -> Any:
        poisson = st.just(sf.losses.Poisson())
        return draw.draw(learners([sf.LinearRegression], features=names, loss=poisson))


class Classification(LearnerConformance):
    labels = "binary"

    def make(self, draw: st.DataObject, names: list[Any]) -> Any:
        return draw.draw(learners([sf.LogisticRegression], features=names))


class Classes(LearnerConformance):
    labels = "classes"

    def make(self, draw: st.DataObject, names: list[Any]) -> Any:
        return draw.draw(learners([sf.SoftmaxRegression], features=names))


TestRegression = learner_machine(Regression).TestCase
TestCounts = learner_machine(Counts).TestCase
TestClasses = learner_machine(Classes).TestCase
TestClassification = learner_machine(Classification).TestCase
