"""How well models predict that nobody tuned: `python -m benchmarks.quality`.

Progressive (each sample is predicted before it is learned), one pass, no shuffling. Writes
`benchmarks/quality.md`. `--only Phishing` prints a part of it and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from random import Random
from typing import Any, Protocol

import streamfit as sf
from benchmarks.data import imported

FILE = Path(__file__).with_name("quality.md")
FLIGHTS = 100_000
SHUFFLED = "flights, shuffled"


class Predictor(Protocol):
    """What is measured: labels or probabilities before a sample, then the sample."""

    def predict(self, x: dict[str, float]) -> Any:
        """Return the probability of True, those of the classes, or a number."""

    def learn(self, x: dict[str, float], y: Any) -> None:
        """Learn the sample."""


@dataclass(frozen=True)
class Problem:
    """A data set, and what is predicted of it."""

    name: str
    kind: str
    samples: Callable[[], Iterable[tuple[dict[str, float], Any]]]


def problems() -> list[Problem]:
    """Return the data sets: River's, and the flights of `examples/flights.py`."""
    datasets = imported("river.datasets")

    def flights() -> Iterator[tuple[dict[str, float], bool]]:
        sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
        samples: Iterator[tuple[dict[str, float], bool]] = imported("flights").flights(FLIGHTS)
        return samples

    def shuffled(samples: Iterable[Any]) -> Iterable[Any]:
        drawn = list(samples)
        Random(1).shuffle(drawn)
        return drawn

    return [
        Problem("Phishing", "classes", datasets.Phishing),
        Problem("Bananas", "classes", datasets.Bananas),
        Problem("ImageSegments", "softmax", datasets.ImageSegments),
        Problem("TrumpApproval", "regression", datasets.TrumpApproval),
        Problem("flights", "classes", flights),
        Problem(SHUFFLED, "classes", lambda: shuffled(flights())),
    ]


# ---- those who predict


class Ours:
    """`sf.optim.Auto()`, and nothing else configured."""

    def __init__(self, kind: str) -> None:
        learner: Any = {
            "classes": sf.LogisticRegression,
            "softmax": sf.SoftmaxRegression,
            "regression": sf.LinearRegression,
        }[kind]
        self.model = learner(sf.optim.Auto())
        self.proba = kind != "regression"

    def predict(self, x: dict[str, float]) -> Any:
        """Predict a sample."""
        return self.model.predict_proba_one(x) if self.proba else self.model.predict_one(x)

    def learn(self, x: dict[str, float], y: Any) -> None:
        """Learn a sample."""
        self.model.learn_one(x, y)


class LastLabel:
    """Predicts the label before: what a series is worth that hardly moves."""

    def __init__(self, kind: str) -> None:
        if kind != "regression":
            raise ValueError("only numbers are near the one before")
        self.label = 0.0

    def predict(self, x: dict[str, float]) -> float:
        """Predict a sample."""
        return self.label

    def learn(self, x: dict[str, float], y: Any) -> None:
        """Learn a sample."""
        self.label = y


class River:
    """River's linear model of the kind with one optimizer, and a rate of the intercept's own."""

    def __init__(self, kind: str, optimizer: str, scaled: bool, intercept_lr: float) -> None:
        models, optim = imported("river.linear_model"), imported("river.optim")
        made = eval(optimizer, {"optim": optim})
        learner = {
            "classes": models.LogisticRegression,
            "softmax": models.SoftmaxRegression,
            "regression": models.LinearRegression,
        }[kind]
        # its softmax has no intercept
        options = {} if kind == "softmax" else {"intercept_lr": intercept_lr}
        self.model = learner(made, **options)
        if scaled:
            self.model = imported("river.preprocessing").StandardScaler() | self.model
        self.proba = kind != "regression"

    def predict(self, x: dict[str, float]) -> Any:
        """Predict a sample."""
        return self.model.predict_proba_one(x) if self.proba else self.model.predict_one(x)

    def learn(self, x: dict[str, float], y: Any) -> None:
        """Learn a sample."""
        self.model.learn_one(x, y)


class Wabbit:
    """Vowpal Wabbit; several classes are one against all with probabilities."""

    def __init__(self, kind: str, arguments: str) -> None:
        loss = "squared" if kind == "regression" else "logistic"
        several = " --oaa 7 --probabilities" if kind == "softmax" else ""
        workspace = imported("vowpalwabbit.pyvw").Workspace
        self.model = workspace(f"--quiet --loss_function {loss}{several} {arguments}")
        self.kind = kind
        self.classes: list[Any] = []

    def predict(self, x: dict[str, float]) -> Any:
        """Predict a sample."""
        predicted = self.model.predict(self._text(x))
        if self.kind == "classes":
            return {True: _sigmoid(predicted), False: _sigmoid(-predicted)}
        if self.kind == "softmax":
            return dict(zip(self.classes, predicted, strict=False))
        return predicted

    def learn(self, x: dict[str, float], y: Any) -> None:
        """Learn a sample."""
        if self.kind == "softmax":
            if y not in self.classes:
                self.classes.append(y)
            y = self.classes.index(y) + 1
        elif self.kind == "classes":
            y = 1 if y else -1
        self.model.learn(f"{y} {self._text(x)}")

    def _text(self, x: dict[str, float]) -> str:
        return "| " + " ".join(f"{name.replace(':', '_')}:{value}" for name, value in x.items())


def _sigmoid(z: float) -> float:
    from math import exp

    return 1.0 / (1.0 + exp(-z)) if z > 0 else exp(z) / (1.0 + exp(z))


RIVER = ("optim.SGD(0.01)", "optim.SGD(0.1)", "optim.Adam()", "optim.AdaGrad(0.1)",
         "optim.FTRLProximal()")  # fmt: skip
INTERCEPT = (0.01, 0.1, 0.5)
AUTO = "streamfit `Auto()`"


def contenders() -> dict[str, Callable[[str], Predictor]]:
    """Return those who predict, by name; each is made for a kind of problem."""

    def river(optimizer: str, scaled: bool, intercept_lr: float) -> Callable[[str], Predictor]:
        return lambda kind: River(kind, optimizer, scaled, intercept_lr)

    def name(optimizer: str, scaled: bool, intercept_lr: float) -> str:
        own = "" if intercept_lr == INTERCEPT[0] else f", intercept {intercept_lr}"
        return f"river {optimizer.removeprefix('optim.')}{', scaled' if scaled else ''}{own}"

    return {
        AUTO: Ours,
        **{name(o, s, i): river(o, s, i) for i in INTERCEPT for s in (True, False) for o in RIVER},
        "VW": lambda kind: Wabbit(kind, ""),
        "VW --coin": lambda kind: Wabbit(kind, "--coin"),
        LAST: LastLabel,
    }


LAST = "the label before"
IN_BOTH_ORDERS = (AUTO, "river SGD(0.1), scaled", "river SGD(0.1)")
"""Who is measured on the flights in a random order too."""


# ---- measuring


def measure(problem: Problem, predictor: Predictor) -> tuple[float, float]:
    """Return the mean loss and the accuracy; for a regression the mean absolute error, and 0."""
    loss, right, n = 0.0, 0, 0
    for x, y in problem.samples():
        predicted = predictor.predict(x)
        if problem.kind == "regression":
            loss += abs(predicted - y)
        else:
            probabilities = predicted or {}
            loss -= log(min(max(probabilities.get(y, 0.0), 1e-15), 1.0))
            right += (
                bool(probabilities)
                and max(probabilities, key=lambda label: probabilities[label]) == y
            )
        predictor.learn(x, y)
        n += 1
    return loss / n, right / n


def measured(problem: Problem, name: str) -> list[float] | str:
    """Measure in a process of its own: two libraries here do not like each other's threads."""
    command = [sys.executable, "-m", "benchmarks.quality", "--one", problem.name, name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    numbers: list[float] = json.loads(done.stdout)
    return numbers


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="DATASET")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    known = {problem.name: problem for problem in problems()}
    if options.one:
        problem, made = known[options.one[0]], contenders()[options.one[1]]
        print(json.dumps(measure(problem, made(problem.kind))))
        return
    chosen = [known[name] for name in options.only or known]
    results: dict[str, dict[str, list[float] | str]] = {}
    for name in contenders():
        wanted = [p for p in chosen if p.name != SHUFFLED or name in IN_BOTH_ORDERS]
        results[name] = {problem.name: measured(problem, name) for problem in wanted}
        print(_row(name, results[name], chosen), flush=True)
    if options.only is None:
        FILE.write_text("\n".join(_page(results, chosen)) + "\n")


def _row(name: str, row: dict[str, list[float] | str], chosen: list[Problem]) -> str:
    return f"| {name} | {' | '.join(_cell(row.get(p.name, ''), p) for p in chosen)} |"


def _cell(result: list[float] | str, problem: Problem) -> str:
    if isinstance(result, str):
        return "-"
    if problem.kind == "regression":
        return f"{result[0]:.3f}" if result[0] < 1e4 else f"{result[0]:.0e}"
    return f"{result[0]:.4f} / {result[1]:.2%}"


def _page(results: dict[str, dict[str, list[float] | str]], chosen: list[Problem]) -> Iterator[str]:
    chosen = [problem for problem in chosen if problem.name != SHUFFLED]
    yield f"""\
# How well it predicts without tuning

Written by `python -m benchmarks.quality`. Each sample is predicted, then learned; one pass.
Log loss and accuracy, for TrumpApproval the mean absolute error. "scaled": behind River's
`StandardScaler`. VW's several classes are `--oaa 7 --probabilities`. The flights are the first
{FLIGHTS:,} of `examples/flights.py`, whose numbers are scaled by hand already. River's linear and
logistic regression train the intercept by plain SGD at a rate of its own, `intercept_lr`: 0.01
unless the row says another. `Auto` was chosen, and its three constants set, on these data sets:
new data are the better test.
"""
    yield f"| | {' | '.join(problem.name for problem in chosen)} |"
    yield "|---" * (1 + len(chosen)) + "|"
    yield from (_row(name, row, chosen) for name, row in results.items())
    yield "\n## Against the best of the others\n"
    for problem in chosen:
        yield from _verdict(problem, results)
    yield f"""
TrumpApproval is a series that moves little from one label to the next: an intercept that learns at
0.5 takes over each error whole, which is to predict {LAST}. `Auto` does not look for that.

## Why flights are lost

Neighbouring flights are alike, and what wins is a rate that never falls, on features left as they
are: it follows. In a random order there is nothing to follow, and it loses. `Auto`, whose rate
falls as AdaGrad's does, follows more slowly:
"""
    yield from _why(results)


def _why(results: dict[str, dict[str, list[float] | str]]) -> Iterator[str]:
    both = [problem for problem in problems() if problem.name.startswith("flights")]
    yield f"| | {' | '.join(problem.name for problem in both)} |"
    yield "|---" * (1 + len(both)) + "|"
    yield from (_row(name, results[name], both) for name in IN_BOTH_ORDERS)


def _verdict(problem: Problem, results: dict[str, dict[str, list[float] | str]]) -> Iterator[str]:
    def best(place: int, names: Iterable[str]) -> tuple[float, str]:
        sign = -1.0 if place else 1.0
        found = [(sign * row[place], n) for n in names
                 if not isinstance(row := results[n][problem.name], str)]  # fmt: skip
        value, name = min(found)
        return sign * value, name

    ours = results[AUTO][problem.name]
    groups = {
        "River, scaled": [n for n in results if n.startswith("river") and ", scaled" in n],
        "River, not scaled": [n for n in results if n.startswith("river") and ", scaled" not in n],
        "VW": ["VW"],
        "VW --coin": ["VW --coin"],
    }
    if isinstance(ours, str):
        return
    for place, what in enumerate(
        ["mean absolute error"] if problem.kind == "regression" else ["log loss", "accuracy"]
    ):
        said = []
        for group, names in groups.items():
            value, name = best(place, names)
            wins = ours[place] >= value if place else ours[place] <= value
            which = (
                "" if name == group else f" ({name.removeprefix('river ').replace(', scaled', '')})"
            )
            said.append(f"{'wins' if wins else '**loses**'} against {group}{which}: {value:.4f}")
        yield f"- {problem.name}, {what} {ours[place]:.4f}: {'; '.join(said)}."


if __name__ == "__main__":
    main()
