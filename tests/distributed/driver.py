"""A driver to be killed: trains on a Ray that runs already, and tells how far it is."""

from __future__ import annotations

import sys
import time

import numpy as np
import ray

import streamfit as sf
from streamfit.distributed import RayTrainer


def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).normal(size=(n, 5))
    return X, X @ np.arange(5.0) > 0.3


def model() -> sf.LogisticRegression:
    return sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=8, l2=0.01)


def main() -> None:
    address, state, mode, every = sys.argv[1:]
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")

    def tell(progress: sf.Progress) -> None:
        print(progress.n_samples, flush=True)
        time.sleep(0.01)

    RayTrainer(
        *(model(), sf.ArraySource(*rows(4000))),
        workers=2,
        mode=mode,
        sync_every=int(every) or None,
        checkpoint=sf.Checkpointer(state, every_updates=5),
        callbacks=[tell],
    ).run()


if __name__ == "__main__":
    main()
