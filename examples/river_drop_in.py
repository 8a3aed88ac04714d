"""A River pipeline, its model exchanged for streamfit's: one line differs.

    python examples/river_drop_in.py

The data are River's Phishing: 1,250 web sites, in the package.
"""

from __future__ import annotations

import time
from typing import Any

from river import datasets, evaluate, linear_model, metrics, optim, preprocessing

import streamfit as sf

MODELS: dict[str, Any] = {
    "river": linear_model.LogisticRegression(optim.SGD(0.1), intercept_lr=0.1),
    "streamfit": sf.LogisticRegression(sf.optim.SGD(0.1), intercept_lr=0.1),
    "streamfit, micro-batches of 8": sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=8),
}

METRICS: Any = metrics.Accuracy() + metrics.LogLoss()  # type: ignore[no-untyped-call]


def main() -> None:
    print(f"{'model':<32}{'accuracy':>10}{'log loss':>12}{'seconds':>10}")
    for name, model in MODELS.items():
        pipeline = preprocessing.StandardScaler() | model
        both = METRICS.clone()
        began = time.perf_counter()
        evaluate.progressive_val_score(datasets.Phishing(), pipeline, both)
        seconds = time.perf_counter() - began
        accuracy, log_loss = both.get()
        print(f"{name:<32}{accuracy:>10.2%}{log_loss:>12.6f}{seconds:>10.2f}")


if __name__ == "__main__":
    main()
