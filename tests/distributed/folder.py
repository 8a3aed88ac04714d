"""A driver to be killed, of a training from a folder of CSV files, as somebody would write it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

import streamfit as sf
from connectors import CSVSource
from streamfit.distributed import RayTrainer, ShareTrainer

N_FILES, N_ROWS, EVERY_BAD = 3, 2000, 97
MODES: dict[str, dict[str, Any]] = {"local": {"sync_every": 5}, "synchronous": {}}


def write(folder: Path) -> None:
    """Write the files; some of their lines are no samples."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(N_FILES):
        X = rng.normal(size=(N_ROWS, 3))
        lines = [
            "oops" if n % EVERY_BAD == i else ",".join(map(str, [*x, int(x[0] > 0.3)]))
            for n, x in enumerate(X.tolist())
        ]
        (folder / f"part-{i}.csv").write_text("\n".join(["a,b,c,late", *lines]) + "\n")


def train(kind: type[ShareTrainer], folder: Path, mode: str, **options: Any) -> sf.TrainingReport:
    """Train from all files of a folder, in shares that are always three."""
    model = sf.LogisticRegression(
        sf.optim.Adam(sf.schedules.InverseScaling(0.05, 0.25)),
        batch_size=sf.schedules.GeometricBatchSize(4, maximum=32, factor=1.5, every=20),
    )
    sources = [CSVSource(path, target="late") for path in sorted(folder.glob("*.csv"))]
    return kind(model, sources, shares=3, mode=mode, **MODES[mode], **options).run()


def main() -> None:
    address, folder, state, mode = sys.argv[1:]
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")

    def tell(progress: sf.Progress) -> None:
        print(progress.n_samples, flush=True)
        time.sleep(0.01)

    train(
        *(RayTrainer, Path(folder), mode),
        workers=2,
        checkpoint=sf.Checkpointer(state, every_updates=3),
        on_bad_sample=sf.DeadLetters(path=Path(state, "letters.jsonl")),
        callbacks=[tell],
    )


if __name__ == "__main__":
    main()
