"""Faults 16 and 18: a resume is exactly as never having stopped, or is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import streamfit as sf
from connectors import JSONDecoder, KafkaSource
from streamfit.checkpoint import Checkpoint
from streamfit.errors import CheckpointMismatchError, SourceError

SAMPLES: list[Any] = [({"x": math.sin(i), "z": 1.0 / (1 + i)}, i % 3 == 1) for i in range(200)]

OPTIMIZERS = [
    kind
    for name in sf.optim.__all__
    if isinstance(kind := getattr(sf.optim, name), type)
    and issubclass(kind, sf.optim.Optimizer)
    and kind is not sf.optim.Optimizer
]
LEARNERS = [sf.LinearRegression, sf.LogisticRegression, sf.SoftmaxRegression]


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_resume_equals_straight(optimizer: Any, learner: Any, tmp_path: Path) -> None:
    """18: for every optimizer, cut in the middle of a micro-batch and elsewhere."""

    def model() -> Any:
        return learner(optimizer(), batch_size=7, l2=0.01)

    straight = sf.Trainer(model(), SAMPLES).run()
    state = tmp_path / "state"
    for cut in (1, 7, 10, 75, 199, None):
        report = sf.Trainer(
            model(),
            SAMPLES,
            checkpoint=sf.Checkpointer(state),
            max_samples=cut,
            last_batch="carry" if cut else "apply",
        ).run()
    assert report.digest == straight.digest
    assert report.progressive_loss == straight.progressive_loss
    assert (report.n_samples, report.n_updates) == (200, 29)


def test_changed_hyperparameters(tmp_path: Path) -> None:
    """16: another model is refused, by the names of what differs."""
    sf.Trainer(
        sf.LogisticRegression(batch_size=4), SAMPLES, checkpoint=sf.Checkpointer(tmp_path)
    ).run()
    changed = sf.LogisticRegression(sf.optim.SGD(0.5), batch_size=8)
    before = changed.digest()
    with pytest.raises(CheckpointMismatchError, match="batch_size: 4 saved, 8 now; optimizer"):
        sf.Trainer(changed, SAMPLES, checkpoint=sf.Checkpointer(tmp_path)).run()
    assert changed.digest() == before
    with pytest.raises(CheckpointMismatchError, match="LinearRegression"):
        sf.Trainer(
            sf.LinearRegression(batch_size=4), SAMPLES, checkpoint=sf.Checkpointer(tmp_path)
        ).run()


def test_other_topic(tmp_path: Path) -> None:
    """16: a position of another topic is refused before a broker is asked."""
    model = sf.LogisticRegression()
    with sf.Checkpointer(tmp_path) as checkpointer:
        trainer = {"epoch": 0, "n_epochs": 0, "n_bad": 0, "start": {}, "before": [0, 0, 0]}
        trainer |= {"loss_sum": 0.0, "loss_weight": 0.0}
        checkpointer.save(
            Checkpoint(model.state_dict(), model.get_config(), {"clicks:0": 5}, trainer)
        )
    source = KafkaSource("views", bootstrap_servers="127.0.0.1:1", decoder=JSONDecoder(target="y"))
    for other in (source, SAMPLES):
        with pytest.raises(SourceError, match="position"):
            sf.Trainer(model, other, checkpoint=sf.Checkpointer(tmp_path)).run()
    assert model.n_samples == 0
