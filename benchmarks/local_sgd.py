"""What several workers cost in loss: `python -m benchmarks.local_sgd`.

Trains by the simulations of `streamfit.offline` on equal samples, one pass, no shuffling: local
SGD with 1, 2, 4 and 8 workers, averaged every so many updates, beside updates of more and more
samples, as synchronous workers make them. Writes its tables into `docs/scaling.md` and the picture
into `docs/images/`; `--only Shuttle --samples 5000` prints a part and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import streamfit as sf
from benchmarks.data import Floats, imported
from benchmarks.document import DOCUMENT, markdown, replace

COMMAND = "python -m benchmarks.local_sgd"
RATES = tuple(0.0125 * 2**k for k in range(14))
WORKERS = (1, 2, 4, 8)
BATCH_SIZE = 8
SYNC_EVERY = {1: "1", 8: "8", 64: "64", 512: "512", 10**9: "at the end"}
EFFECTIVE = tuple(2**k for k in range(13))
WORSE = 1.01
"""From which multiple of the least loss on a loss counts as worse."""


@dataclass(frozen=True)
class Stream:
    """A data set: samples to learn, in their order, and those that come next."""

    name: str
    X: Floats
    y: Floats
    X_later: Floats
    y_later: Floats


@dataclass(frozen=True)
class Losses:
    """The mean loss of samples before they were learned, and of later ones at the end."""

    progressive: float
    later: float


@dataclass
class Runs:
    """Losses by learning rate, for each way to learn a stream."""

    local: dict[tuple[int, int], dict[float, Losses]] = field(default_factory=dict)
    synchronous: dict[int, dict[float, Losses]] = field(default_factory=dict)
    noise: dict[int, sf.GradientNoise] = field(default_factory=dict)
    fewer: dict[int, float] = field(default_factory=dict)


# ---- data


def flights(n: int) -> Stream:
    """Return the flights of `examples/flights.py`, whose numbers are scaled by hand already."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    return _stream("flights", *_table(list(imported("flights").flights(n + n // 10))), n)


def shuttle(n: int) -> Stream:
    """Return River's Shuttle (is a reading an anomaly?), scaled by its own mean and deviation."""
    X, y = _table(list(imported("river.datasets").Shuttle()))
    n = min(n, 10 * len(y) // 11)
    return _stream("Shuttle", (X - X.mean(axis=0)) / X.std(axis=0), y, n)


STREAMS: dict[str, tuple[Callable[[int], Stream], int]] = {
    "flights": (flights, 100_000),
    "Shuttle": (shuttle, 44_000),
}


def _table(samples: Sequence[tuple[dict[str, float], Any]]) -> tuple[Floats, Floats]:
    columns = {name: j for j, name in enumerate(dict.fromkeys(k for x, _ in samples for k in x))}
    X = np.zeros((len(samples), len(columns)))
    for i, (x, _) in enumerate(samples):
        X[i, [columns[k] for k in x]] = list(x.values())
    return X, np.array([y for _, y in samples], dtype=np.float64)


def _stream(name: str, X: Floats, y: Floats, n: int) -> Stream:
    later = slice(n, n + n // 10)
    return Stream(name, X[:n], y[:n], X[later], y[later])


# ---- runs


def local(stream: Stream, workers: int, sync_every: int, lr: float) -> Losses:
    """Deal the samples to workers in turn, each of which makes updates of `BATCH_SIZE`."""
    model = sf.LogisticRegression(sf.optim.SGD(lr), batch_size=BATCH_SIZE)
    shards = [(stream.X[s::workers], stream.y[s::workers]) for s in range(workers)]
    fit = sf.offline.fit_local_sgd(model, shards, sync_every=sync_every, kernel="compiled")
    return Losses(fit.progressive_loss or 0.0, _later(stream, fit.parameters))


def synchronous(stream: Stream, batch_size: int, lr: float) -> Losses:
    """Make updates of `batch_size` samples, whoever sums up their gradient."""
    model = sf.LogisticRegression(sf.optim.SGD(lr), batch_size=batch_size)
    model.track_loss = True
    model.learn_many(stream.X, stream.y)
    model.flush()
    return Losses(
        model.loss_sum / model.loss_weight, _later(stream, model.state_dict()["parameters"])
    )


def noise_of(stream: Stream, batch_size: int, lr: float) -> sf.GradientNoise:
    """Measure the noise scale on the way, its mean over the whole run."""
    always = sf.NoiseScale(decay=0.9999, every=1)
    model = sf.LogisticRegression(sf.optim.SGD(lr), batch_size=batch_size, noise_scale=always)
    model.learn_many(stream.X, stream.y)
    noise = model.gradient_noise
    assert noise is not None
    return noise


def _later(stream: Stream, parameters: Floats) -> float:
    p = stream.X_later @ parameters[1:] + parameters[0]
    return float((np.logaddexp(0.0, p) - p * stream.y_later).mean())


def best(losses: dict[float, Losses]) -> tuple[float, float]:
    """Return the learning rate of the least progressive loss, and that loss."""
    lr = min(losses, key=lambda rate: losses[rate].progressive)
    return lr, losses[lr].progressive


def run(stream: Stream) -> Runs:
    """Make all runs of one stream."""
    runs = Runs()
    for batch_size in EFFECTIVE:
        runs.synchronous[batch_size] = {lr: synchronous(stream, batch_size, lr) for lr in RATES}
        lr, loss = best(runs.synchronous[batch_size])
        if batch_size > 1:  # a batch of one tells of no noise
            runs.noise[batch_size] = noise_of(stream, batch_size, lr)
        print(f"  {batch_size} samples an update: {loss:.4f} at {lr:g}", flush=True)
    scale = runs.noise[BATCH_SIZE].scale
    lr = best(runs.synchronous[1])[0]
    for batch_size in EFFECTIVE:
        runs.fewer[batch_size] = after_fewer(stream, batch_size, scale, lr)
    for workers in WORKERS:
        for sync_every, every in SYNC_EVERY.items():
            if workers == 1:
                runs.local[workers, sync_every] = runs.synchronous[BATCH_SIZE]
                continue
            learn = partial(local, stream, workers, sync_every)
            runs.local[workers, sync_every] = {lr: learn(lr) for lr in RATES}
            lr, loss = best(runs.local[workers, sync_every])
            print(f"  {workers} workers, averaged {every}: {loss:.4f} at {lr:g}", flush=True)
    return runs


def after_fewer(stream: Stream, batch_size: int, scale: float, lr: float) -> float:
    """Return what McCandlish et al. (2018, eq. 2.11) let one expect of a larger batch.

    To get as far it needs `1 + batch_size / scale` times the samples; so after `n` it is where
    updates of one sample were after `n (1 + 1 / scale) / (1 + batch_size / scale)`.
    """
    n = round(len(stream.y) * (1.0 + 1.0 / scale) / (1.0 + batch_size / scale))
    model = sf.LogisticRegression(sf.optim.SGD(lr))
    model.track_loss = True
    model.learn_many(stream.X[:n], stream.y[:n])
    return model.loss_sum / model.loss_weight


# ---- tables


def local_table(runs: Runs) -> str:
    """Loss after equal samples, by workers and updates between averages."""
    rate = best(runs.local[1, 1])[0]
    rows = []
    for workers in WORKERS:
        for what in ("one worker's", "the best"):
            row = [f"{workers}", what]
            for sync_every in SYNC_EVERY:
                losses = runs.local[workers, sync_every]
                lr = rate if what == "one worker's" else best(losses)[0]
                at = f" ({lr:g})" if what == "the best" else ""
                row.append(f"{losses[lr].progressive:.4f}{at}")
            if workers > 1:
                rows.append(row)
            elif what == "the best":
                rows.append(["1", f"{rate:g}", row[2].split()[0], *[""] * (len(row) - 3)])
    return markdown(["workers", "learning rate", *(f"{s}" for s in SYNC_EVERY.values())], rows)


def later_table(runs: Runs) -> str:
    """Loss of the averaged model on samples that it has not learned, at its own best rates."""

    def cell(losses: dict[float, Losses]) -> str:
        lr = min(losses, key=lambda rate: losses[rate].later)
        return f"{losses[lr].later:.4f} ({lr:g})"

    rows = [["1", cell(runs.local[1, 1]), *[""] * (len(SYNC_EVERY) - 1)]]
    for n in WORKERS[1:]:
        rows.append([f"{n}", *(cell(runs.local[n, every]) for every in SYNC_EVERY)])
    return markdown(["workers", *SYNC_EVERY.values()], rows)


def synchronous_table(runs: Runs) -> str:
    """Loss after equal samples by the samples of an update, and the measured noise scale."""
    least = min(best(losses)[1] for losses in runs.synchronous.values())
    rows = []
    for batch_size, losses in runs.synchronous.items():
        lr, loss = best(losses)
        noise = runs.noise.get(batch_size)
        rows.append(
            [
                f"{batch_size:,}",
                f"{lr:g}",
                f"{loss:.4f}",
                f"{100 * (loss / least - 1):+.1f}%",
                f"{runs.fewer[batch_size]:.4f}",
                ""
                if noise is None
                else f"{noise.scale:,.0f} ({noise.low:,.0f} to {noise.high:,.0f})",
            ]
        )
    header = [
        "samples an update",
        "best rate",
        "loss",
        "above the least",
        "expected",
        "noise scale",
    ]
    return markdown(header, rows)


def sentence(stream: Stream, runs: Runs) -> str:
    """Say from which batch on the loss is worse, beside the noise scale."""
    least = min(best(losses)[1] for losses in runs.synchronous.values())
    worse = [b for b, losses in runs.synchronous.items() if best(losses)[1] > WORSE * least]
    noise = runs.noise[BATCH_SIZE]
    return (
        f"{stream.name}: {len(stream.y):,} samples, {stream.X.shape[1]} features. Measured at "
        f"{BATCH_SIZE} samples an update, the noise scale is {noise.scale:,.0f} "
        f"({noise.low:,.0f} to {noise.high:,.0f}); the loss is more than "
        f"{100 * (WORSE - 1):.0f}% above the least from {min(worse, default=0):,} samples an "
        "update on."
    )


def panel(runs: Runs) -> tuple[dict[str, dict[int, float]], sf.GradientNoise]:
    """Return the curves of the picture: all at their best rates."""
    curves = {"synchronous": {b: best(losses)[1] for b, losses in runs.synchronous.items()}}
    for sync_every, every in SYNC_EVERY.items():
        if sync_every > 1:  # one update between averages is the synchronous curve
            name = f"local, averaged every {every}".replace("every at", "at")
            curves[name] = {n * BATCH_SIZE: best(runs.local[n, sync_every])[1] for n in WORKERS}
    return curves, runs.noise[BATCH_SIZE]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, and write unless only a part was wanted."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", choices=[*STREAMS])
    parser.add_argument("--samples", type=int, help="learn so many only, and write nothing")
    options = parser.parse_args(arguments)
    panels = {}
    for name, (make, n) in STREAMS.items():
        if options.only in (None, name):
            stream = make(options.samples or n)
            print(name, flush=True)
            runs = run(stream)
            tables = {
                "batch": f"{sentence(stream, runs)}\n\n{synchronous_table(runs)}",
                "local": local_table(runs),
                "later": later_table(runs),
            }
            panels[name] = panel(runs)
            for what, text in tables.items():
                print(f"\n{text}")
                if not (options.only or options.samples):
                    replace(COMMAND, f"{name}, {what}", text)
    if not (options.only or options.samples):
        title = "Loss after equal samples, each way at its best learning rate"
        figure = sf.plot.effective_batch(panels, title=title)
        figure.savefig(DOCUMENT.parent / "images" / "local-sgd.png", dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
