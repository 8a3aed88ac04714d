"""The conformance suite over one table: every loss with its learner, and every optimizer.

Schedules of learning rate and batch size, penalties, reductions, clipping and the forms of the
input are drawn; `test_table.py` goes through them one by one.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st

from streamfit.testing.conformance import LearnerConformance
from streamfit.testing.strategies import (
    LOSSES,
    OPTIMIZERS,
    labels_of,
    learners,
    learning_rates,
)


def conformance(loss: str, optimizer: str) -> type[LearnerConformance]:
    kind, a_loss = LOSSES[loss]
    an_optimizer = OPTIMIZERS[optimizer](learning_rates())

    class Cell(LearnerConformance, share=0.007):
        labels = "counts" if loss == "poisson" else labels_of(kind, None)

        def make(self, draw: st.DataObject, names: list[Any]) -> Any:
            return draw.draw(learners([kind], None, an_optimizer, names, a_loss))

    return Cell


CELLS = {
    (loss, optimizer): conformance(loss, optimizer) for loss in LOSSES for optimizer in OPTIMIZERS
}
PROPERTIES = [name for name in dir(LearnerConformance) if name.startswith("check_")]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", [name.removeprefix("check_") for name in PROPERTIES])
def test_every_learner(name: str, loss: str, optimizer: str) -> None:
    getattr(CELLS[loss, optimizer](), f"test_{name}")()
