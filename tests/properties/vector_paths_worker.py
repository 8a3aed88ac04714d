"""Train many models on random problems and print what they hold; run by `test_vector_paths`.

The first line names the kernels' file, the others are one model each: its digest, its progressive
loss and a hash of its predictions, all to the last bit.
"""

from __future__ import annotations

import hashlib
import warnings
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse

import streamfit as sf
from streamfit._kernels import learning
from streamfit.errors import UpdateRefusedWarning

WIDTHS = (1, 7, 8, 9, 37)
ROWS = 150

OPTIMIZERS = (
    sf.optim.SGD(0.05),
    sf.optim.SGD(sf.schedules.InverseScaling(0.05, power=0.3)),
    sf.optim.SGD(0.05, momentum=0.9, nesterov=True),
    *(sf.optim.AdaGrad(0.05), sf.optim.AdaDelta(), sf.optim.RMSProp(0.01), sf.optim.Adam(0.01)),
    *(sf.optim.AdamW(0.01), sf.optim.AMSGrad(0.01), sf.optim.FTRLProximal(), sf.optim.Auto()),
)
REGRESSION = (
    *(sf.losses.Squared(), sf.losses.HalfSquared(), sf.losses.Absolute(), sf.losses.Huber()),
    *(sf.losses.EpsilonInsensitive(), sf.losses.Quantile(), sf.losses.Poisson()),
)
BINARY = (
    *(sf.losses.Log(), sf.losses.Hinge(), sf.losses.SquaredHinge(), sf.losses.ModifiedHuber()),
)


def told(model: Any, X: Any, y: Any) -> str:
    """Train a model and say what it holds."""
    model.track_loss = True
    table = scipy.sparse.csr_matrix(X) if model.features is not None else X
    for start in range(0, ROWS, 40):
        model.learn_many(table[start : start + 40], y[start : start + 40])
    predict = getattr(model, "predict_proba_many", model.predict_many)
    predicted = hashlib.sha256(np.ascontiguousarray(predict(X)).tobytes()).hexdigest()
    return f"{model.digest()} {float(model.loss_sum).hex()} {predicted}"


def main() -> None:
    """Print a line for each model."""
    warnings.simplefilter("ignore", UpdateRefusedWarning)
    print(learning.__file__)
    rng = np.random.default_rng(7)
    kinds = (
        *((sf.LinearRegression, loss) for loss in REGRESSION),
        *((sf.LogisticRegression, loss) for loss in BINARY),
        (sf.SoftmaxRegression, None),
    )
    for (kind, loss), optimizer, dtype in product(kinds, OPTIMIZERS, ("float64", "float32")):
        width = int(rng.choice(WIDTHS))
        X = rng.standard_normal((ROWS, width)) * rng.choice([0.0, 1.0, 30.0], (1, width))
        y = rng.integers(0, 2 if kind is not sf.SoftmaxRegression else 4, ROWS)
        sparse = bool(rng.integers(2))
        model = kind(
            optimizer,
            loss,
            batch_size=[1, 2, 7, 32, None][int(rng.integers(5))],
            reduction=str(rng.choice(["mean", "sum"])),
            l2=float(rng.choice([0.0, 0.01])),
            l1=0.0
            if isinstance(optimizer, sf.optim.FTRLProximal)
            else float(rng.choice([0, 0.01])),
            clip_gradient=[None, 3.0][int(rng.integers(2))],
            features=sf.FeatureIndex(list(range(width))) if sparse else None,
            scaler=[None, sf.StandardScaler()][int(rng.integers(2))],
            dtype=dtype,
        )
        print(kind.__name__, type(optimizer).__name__, dtype, told(model, X, y))


if __name__ == "__main__":
    main()
