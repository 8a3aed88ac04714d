"""One generated table: learner x loss x optimizer x schedule x dtype x form of the input.

Nothing is drawn by chance here but numbers from a seed: each combination runs, in every run; sizes
of micro-batches and the scaler go round among them. A combination is fed in its form, cut into
blocks, through a checkpoint in the middle of it, and must end in the bits that dense rows end in;
those must be the oracle's numbers.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import streamfit as sf
from streamfit.offline import fit_offline
from streamfit.testing.conformance import (
    assert_close,
    closeness,
    parameters,
    step_size,
)
from streamfit.testing.forms import FORMS, Samples, feed
from streamfit.testing.strategies import fresh

N, D = 41, 9  # an odd last micro-batch; a full vector of eight lanes and a rest
LR = 0.0371239

LOSSES: list[tuple[Any, Any]] = [
    *((sf.LinearRegression, loss) for loss in (sf.losses.Squared(), sf.losses.HalfSquared())),
    (sf.LinearRegression, sf.losses.Absolute()),
    (sf.LinearRegression, sf.losses.Huber(0.7)),
    (sf.LinearRegression, sf.losses.EpsilonInsensitive(0.2)),
    (sf.LinearRegression, sf.losses.Quantile(0.8)),
    (sf.LinearRegression, sf.losses.Poisson()),
    *((sf.LogisticRegression, loss) for loss in (sf.losses.Log(), sf.losses.Hinge())),
    (sf.LogisticRegression, sf.losses.SquaredHinge()),
    (sf.LogisticRegression, sf.losses.ModifiedHuber()),
    (sf.SoftmaxRegression, sf.losses.CrossEntropy()),
]
OPTIMIZERS = {
    "SGD": sf.optim.SGD,
    "momentum": lambda lr: sf.optim.SGD(lr, momentum=0.9),
    "nesterov": lambda lr: sf.optim.SGD(lr, momentum=0.9, nesterov=True),
    "AdaGrad": sf.optim.AdaGrad,
    "RMSProp": sf.optim.RMSProp,
    "Adam": sf.optim.Adam,
    "AdamW": sf.optim.AdamW,
    "AMSGrad": sf.optim.AMSGrad,
    "AdaDelta": lambda lr: sf.optim.AdaDelta(),  # has no learning rate to schedule
    "FTRLProximal": lambda lr: sf.optim.FTRLProximal(0.3, l1=0.01),  # nor has this
    "Auto": lambda lr: sf.optim.Auto(scale=False),  # nor this
}
SCHEDULES = [
    LR,
    sf.schedules.Constant(LR),
    sf.schedules.InverseScaling(LR, 0.25),
    sf.schedules.Optimal(0.37, 1 / (0.37 * LR)),
    sf.schedules.Exponential(LR, 0.9, every=3),
    sf.schedules.Step(LR, 0.5, every=4),
    sf.schedules.CosineWarmup(LR, total=15, warmup=3, minimum=0.001),
]
BATCH_SIZES = [
    *(1, 3, 8, None),
    sf.schedules.GeometricBatchSize(1, factor=1.5, every=2, maximum=16),
    sf.schedules.MilestoneBatchSize(5, [(2, 1), (6, 9)]),
    sf.schedules.NoiseScaleBatchSize(2, 16, every=1),
]
DTYPES = ("float64", "float32")
SCALERS = (None, None, sf.StandardScaler())


class Cell(NamedTuple):
    kind: Any
    loss: Any
    optimizer: str
    schedule: Any
    dtype: str
    size: Any
    scaler: Any

    def __str__(self) -> str:
        return f"{self.loss!r}-{self.optimizer}-{self.schedule!r}-{self.dtype}-{self.size!r}"


def cells() -> Iterator[Cell]:
    """Every loss, optimizer, schedule and dtype; sizes and the scaler go round among them."""
    sizes, scalers = itertools.cycle(BATCH_SIZES), itertools.cycle(SCALERS)
    for (kind, loss), optimizer in itertools.product(LOSSES, OPTIMIZERS):
        scheduled = optimizer not in ("AdaDelta", "FTRLProximal", "Auto")
        for schedule, dtype in itertools.product(SCHEDULES if scheduled else [LR], DTYPES):
            scaler = next(scalers)
            if isinstance(loss, sf.losses.Poisson):
                scaler = None  # exp(p) and momentum run away from numbers near 1
            yield Cell(kind, loss, optimizer, schedule, dtype, next(sizes), scaler)


CELLS = list(cells())


def samples(kind: Any, loss: Any, rng: np.random.Generator) -> Samples:
    X = rng.normal(size=(N, D)) * rng.choice([1.0, 1.0, 0.0], size=(N, D))
    if isinstance(loss, sf.losses.Poisson):
        X *= 0.1  # see above
    z = X @ rng.normal(size=D)
    y: Any = z + 0.3 * rng.normal(size=N)
    if kind is sf.LogisticRegression:
        y = (y > 0).astype(float)
    elif kind is sf.SoftmaxRegression:
        y = np.array(["low", "mid", "high"])[np.digitize(y, [-1.0, 1.0])]
    elif isinstance(loss, sf.losses.Poisson):
        y = rng.poisson(np.exp(np.clip(z, -2, 1))).astype(float)
    return Samples([f"f{j}" for j in range(D)], X, y, rng.uniform(0, 2, size=N))


@pytest.mark.filterwarnings("error::streamfit.errors.UpdateRefusedWarning")
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_combination(cell: Cell) -> None:
    rng = np.random.default_rng(zlib.crc32(str(cell).encode()))
    data = samples(cell.kind, cell.loss, rng)
    model = cell.kind(
        OPTIMIZERS[cell.optimizer](cell.schedule),
        cell.loss,
        batch_size=cell.size,
        l2=0.01,
        l1=0.0 if cell.optimizer == "FTRLProximal" else 0.0123457,
        features=sf.FeatureIndex(data.names),
        scaler=cell.scaler,
        dtype=cell.dtype,
    )
    rows = fresh(model)
    feed(rows, data, [("rows", 0, N)])
    rows.flush()
    textbook = fit_offline(model, data.X, data.y, sample_weight=data.w)
    assert (rows.n_updates, rows.n_refused) == (textbook.n_updates, 0)
    assert_close(textbook.parameters, parameters(rows), step_size(model), closeness(model))
    assert np.abs(parameters(rows)).max() > 0
    for form in FORMS:
        one, other = fresh(model), fresh(model)
        cut, stop = sorted(rng.integers(0, N, size=2).tolist())
        feed(one, data, [(form, 0, cut), (form, cut, stop)])
        other.load_state_dict(one.state_dict())
        feed(other, data, [(form, stop, N)])
        other.flush()
        assert other.digest() == rows.digest(), form


def test_the_table_has_every_loss_optimizer_and_schedule() -> None:
    everything = {
        id_
        for module in (sf.losses, sf.optim, sf.schedules)
        for name in module.__all__
        if (id_ := getattr(getattr(module, name), "id", None)) is not None
    }
    models = [(cell.loss, OPTIMIZERS[cell.optimizer](cell.schedule)) for cell in CELLS]
    found = {loss.id for loss, _ in models} | {optimizer.id for _, optimizer in models}
    found |= {optimizer.schedule.id for _, optimizer in models}
    found |= {size.id for size in BATCH_SIZES if hasattr(size, "id")}
    assert found == everything
    assert len(CELLS) * len(FORMS) == 12 * (8 * 7 + 3) * 2 * 18


@pytest.mark.parametrize("other", ["kind", "loss", "optimizer", "schedule", "dtype", "scaler"])
def test_each_micro_batch_meets_each(other: str) -> None:
    met = {(repr(cell.size), repr(getattr(cell, other))) for cell in CELLS}
    values = {repr(getattr(cell, other)) for cell in CELLS}
    assert met == {(repr(size), value) for size in BATCH_SIZES for value in values}
