"""Learn from a Python generator, in ten lines.

python examples/generator.py
"""

import random
from collections.abc import Iterator

import streamfit as sf


def clicks(n: int = 20_000) -> Iterator[tuple[dict[str, float], bool]]:
    for _ in range(n):
        x = {"price": random.gauss(0, 1), "rank": random.gauss(0, 1)}
        yield x, random.random() < 1 / (1 + 2.718281828 ** (1.5 * x["price"] + 0.5 * x["rank"]))


random.seed(0)
model = sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=32)
print(sf.Trainer(model, clicks).run())
for name, truth in {"price": -1.5, "rank": -0.5}.items():
    print(f"{name:<18}{model.weights[name]:>18.3f}   (truth {truth})")
