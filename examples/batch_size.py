"""What does batch_size change? Pictures from real runs: the figures of docs/batch-size.md.

    python examples/batch_size.py                        # all of them, into docs/images/
    python examples/batch_size.py --only last-batch --out /tmp

The data are flights (see flights.py) and River's bundled Phishing. The picture of memory trains
a Keras model too; it needs `pip install -e '.[dev]'`, as the flights do.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flights import Flight, flights
from matplotlib.figure import Figure
from river import datasets

import streamfit as sf
from streamfit.core.learner import LAST_BATCH
from streamfit.curves import at_rest, learning_curve

SIZES = (1, 8, 64, 512, None)
Table = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def table_of(samples: Sequence[tuple[dict[str, float], bool]]) -> Table:
    """Turn samples into a matrix, a column for each feature, and labels."""
    names = {name: j for j, name in enumerate(dict.fromkeys(k for x, _ in samples for k in x))}
    X = np.zeros((len(samples), len(names)))
    for i, (x, _) in enumerate(samples):
        X[i, [names[k] for k in x]] = list(x.values())
    return X, np.array([y for _, y in samples], dtype=np.float64)


@cache
def first_flights(n: int) -> list[Flight]:
    return list(flights(n))


def name_of(batch_size: int | None) -> str:
    return "full batch" if batch_size is None else f"batch size {batch_size}"


# ---- the way down: two parameters over the contours of their loss


def path(X: Any, y: Any, batch_size: int | None, updates: int, lr: float) -> Any:
    """Intercept and weight after each of the first `updates` updates."""
    model = sf.LogisticRegression(sf.optim.SGD(lr), batch_size=batch_size)
    block, size = sf.types.Block(X, y), batch_size or len(y)
    places, at = [(0.0, 0.0)], 0
    while len(places) <= updates:
        stop = min(at + size, len(y))
        model.learn_block(block, at, stop)
        if stop == len(y):
            model.flush()
        places.append((model.intercept, model.weights[0]))
        at = stop % len(y)
    return np.array(places)


def descent(n: int) -> Figure:
    """Will a flight be late, from the delay of its departure alone: two parameters."""
    samples = first_flights(n)
    X = np.array([[x["dep_delay"]] for x, _ in samples])
    y = np.array([late for _, late in samples], dtype=np.float64)

    def loss(intercept: Any, weight: Any) -> Any:
        p = intercept[..., None] + weight[..., None] * X[:, 0]
        return (np.logaddexp(0.0, p) - p * y).mean(axis=-1)

    lr, epochs = 0.3, 3
    ways = {}
    for batch_size, passes in ((None, 200), (32, epochs), (1, epochs)):
        updates = passes * -(-n // (batch_size or n))
        kind = {None: "full batch", 1: "stochastic, batch size 1"}.get(
            batch_size, f"mini-batch, batch size {batch_size}"
        )
        name = f"{kind}\n{passes} epochs, {updates:,} updates"
        ways[name] = path(X, y, batch_size, updates, lr)
        print(f"  {name.replace(chr(10), ': ')}, ends at {ways[name][-1].round(3).tolist()}")
    return sf.plot.descent_paths(
        ways,
        loss,
        ("intercept", "weight of dep_delay"),
        title=f"Gradient descent on the log loss of {n:,} flights, learning rate {lr}",
    )


# ---- convergence, by epoch, by update and by second


def convergence(table: Table, data: str, lr: float, epochs: int) -> Figure:
    X, y = table
    model = sf.LogisticRegression(sf.optim.SGD(lr))
    curves = {}
    for batch_size in SIZES:
        curve = learning_curve(model, X, y, batch_size=batch_size, epochs=epochs)
        curves[name_of(batch_size)] = curve
        print(
            f"  {name_of(batch_size):<16}{curve.n_updates[-1]:>9,.0f} updates "
            f"{curve.seconds[-1]:>8.4f} s   loss {curve.loss[-1]:.4f}"
        )
    return sf.plot.convergence(
        curves,
        title=f"{data}: {len(y):,} samples, {X.shape[1]} features, {epochs} epochs, "
        f"learning rate {lr} for all",
        ylabel="mean log loss of the data",
    )


def convergence_flights(n: int) -> Figure:
    return convergence(table_of(first_flights(n)), "Flights", lr=0.3, epochs=5)


def convergence_phishing(n: int) -> Figure:
    return convergence(table_of(list(datasets.Phishing())[:n]), "Phishing", lr=0.3, epochs=20)


# ---- memory


def held(model: sf.types.Learner) -> int:
    """Bytes of all arrays of a learner's state."""
    state = model.state_dict().values()
    return sum(value.nbytes for value in state if isinstance(value, np.ndarray))


def memory(n: int) -> Figure:
    """Measure what is held when the micro-batch is about to be complete."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    X, y = table_of(first_flights(min(n, 5000)))
    network = keras.Sequential(
        [keras.Input((X.shape[1],)), keras.layers.Dense(1, activation="sigmoid")]
    )
    network.compile(optimizer="sgd", loss="binary_crossentropy")
    makes: dict[str, Callable[[int], sf.types.Learner]] = {
        "LogisticRegression: a sum of gradients": lambda size: sf.LogisticRegression(
            batch_size=size
        ),
        "KerasLearner: the rows of one micro-batch": lambda size: sf.adapters.KerasLearner(
            network, batch_size=size
        ),
    }
    measured: dict[str, dict[int, float]] = {}
    for name, make in makes.items():
        measured[name] = {}
        for size in (2**k for k in range(1, 13) if 2**k <= len(y)):
            model = make(size)
            model.learn_block(sf.types.Block(X, y, offsets=range(len(y))), 0, size - 1)
            measured[name][size] = held(model)
        print(f"  {name:<44}" + "  ".join(f"{k}: {v:,}" for k, v in measured[name].items()))
    return sf.plot.memory(
        measured, title=f"Memory of a linear model of {X.shape[1]} features, flights"
    )


# ---- the last micro-batch


def last_batch(n: int) -> Figure:
    """1,003 flights in micro-batches of 100: three are left at the end of each epoch."""
    X, y = table_of(first_flights(n)[:1003])
    size, epochs, lr = 100, 20, 0.3
    steps: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    block = sf.types.Block(X, y)
    for policy in LAST_BATCH:
        model = sf.LogisticRegression(sf.optim.SGD(lr), batch_size=size)
        steps[policy], losses[policy] = [], []
        before = np.zeros(1 + X.shape[1])
        for epoch in range(epochs):
            for start in range(0, len(y), size):
                stop = min(start + size, len(y))
                updates = model.n_updates
                model.learn_block(block, start, stop)
                if stop == len(y):
                    model.flush(policy)
                after = np.array([model.intercept, *model.weights.values()])
                if epoch == 0 and model.n_updates > updates:
                    steps[policy].append(float(np.linalg.norm(after - before)))
                before = after
            losses[policy].append(at_rest(model, block).loss)
        print(
            f"  {policy:<7}{len(steps[policy]):>3} updates in the first epoch, the last of them "
            f"moves the weights by {steps[policy][-1]:.4f};"
            f"  loss after {epochs} epochs {losses[policy][-1]:.4f}"
        )
    return sf.plot.last_batch(
        steps,
        losses,
        title=f"{len(y):,} flights, batch size {size}: the {len(y) % size} that are left",
    )


PICTURES: dict[str, Callable[[int], Figure]] = {
    "descent": descent,
    "convergence-flights": convergence_flights,
    "convergence-phishing": convergence_phishing,
    "memory": memory,
    "last-batch": last_batch,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=10_000, help="samples, at most; 1,003 or more")
    parser.add_argument("--only", choices=PICTURES, nargs="*", default=list(PICTURES))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        print(name)
        PICTURES[name](options.n).savefig(options.out / f"{name}.png", dpi=100)


if __name__ == "__main__":
    main()
