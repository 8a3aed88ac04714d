"""One generated table: learner x optimizer x loss x schedule x micro-batches x form of the input.

Nothing is drawn by chance here but numbers from a seed: each combination runs, in every run. A
combination is fed in its form, cut into blocks, through a checkpoint in the middle of it, and
must end in the bits that dense rows end in; those must be the oracle's numbers.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest

import streamfit as sf
from streamfit.offline import fit_offline
from streamfit.testing.conformance import assert_close, parameters, step_size
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
    *(1, 8, None),
    sf.schedules.GeometricBatchSize(1, factor=1.5, every=2, maximum=16),
    sf.schedules.MilestoneBatchSize(5, [(2, 1), (6, 9)]),
]
CELLS = [
    (kind, loss, optimizer, schedule)
    for kind, loss in LOSSES
    for optimizer in OPTIMIZERS
    for schedule in (SCHEDULES if optimizer not in ("AdaDelta", "FTRLProximal") else [LR])
]


def samples(kind: Any, loss: Any, rng: np.random.Generator) -> Samples:
    X = rng.normal(size=(N, D)) * rng.choice([1.0, 1.0, 0.0], size=(N, D))
    if isinstance(loss, sf.losses.Poisson):
        X *= 0.3  # exp(p) and momentum run away from larger ones
    z = X @ rng.normal(size=D)
    y = z + 0.3 * rng.normal(size=N)
    if kind is sf.LogisticRegression:
        y = (y > 0).astype(float)
    elif isinstance(loss, sf.losses.Poisson):
        y = rng.poisson(np.exp(np.clip(z, -2, 1))).astype(float)
    return Samples([f"f{j}" for j in range(D)], X, y, rng.uniform(0, 2, size=N))


@pytest.mark.filterwarnings("error::streamfit.errors.UpdateRefusedWarning")
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[1]!r}-{cell[2]}-{cell[3]!r}")
def test_combination(cell: tuple[Any, Any, str, Any]) -> None:
    kind, loss, optimizer, schedule = cell
    rng = np.random.default_rng(zlib.crc32(repr(cell).encode()))
    data = samples(kind, loss, rng)
    for size in BATCH_SIZES:
        model = kind(
            OPTIMIZERS[optimizer](schedule),
            loss,
            batch_size=size,
            l2=0.01,
            l1=0.0 if optimizer == "FTRLProximal" else 0.0123457,
            features=sf.FeatureIndex(data.names),
        )
        rows = fresh(model)
        feed(rows, data, [("rows", 0, N)])
        rows.flush()
        textbook = fit_offline(model, data.X, data.y, sample_weight=data.w)
        assert (rows.n_updates, rows.n_refused) == (textbook.n_updates, 0)
        assert_close(textbook.parameters, parameters(rows), scale=step_size(model))
        assert np.abs(parameters(rows)).max() > 0
        for form in FORMS:
            one, other = fresh(model), fresh(model)
            cut, stop = sorted(rng.integers(0, N, size=2).tolist())
            feed(one, data, [(form, 0, cut), (form, cut, stop)])
            other.load_state_dict(one.state_dict())
            feed(other, data, [(form, stop, N)])
            other.flush()
            assert other.digest() == rows.digest(), (size, form)


def test_the_table_has_every_loss_optimizer_and_schedule() -> None:
    everything = {
        id_
        for module in (sf.losses, sf.optim, sf.schedules)
        for name in module.__all__
        if (id_ := getattr(getattr(module, name), "id", None)) is not None
    }
    models = [(cell[0], cell[1], OPTIMIZERS[cell[2]](cell[3])) for cell in CELLS]
    found = {loss.id for _, loss, _ in models} | {optimizer.id for *_, optimizer in models}
    found |= {optimizer.schedule.id for *_, optimizer in models}
    found |= {size.id for size in BATCH_SIZES if hasattr(size, "id")}
    assert found == everything
    assert len(CELLS) * len(BATCH_SIZES) * len(FORMS) == 11 * (8 * 7 + 2) * 5 * 14
