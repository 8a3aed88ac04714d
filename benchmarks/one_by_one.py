"""S1, S2, S3, S6: samples one at a time, as dicts, against River and Vowpal Wabbit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import streamfit as sf
from benchmarks.data import dicts, imported, offered, present
from benchmarks.measure import Case, Measurement, Side, compare

__all__ = ["cases"]

Samples = list[tuple[dict[str, float], bool]]

N_SAMPLES = {10: 5000, 100: 2000, 1000: 300}
HASH_BITS = 18


def learning(learn: Callable[[Any, Any], object], samples: Samples) -> Callable[[], None]:
    """Return the loop that is timed; both sides run the same one."""

    def loop() -> None:
        for x, y in samples:
            learn(x, y)

    return loop


def predicting_and_learning(model: Any, samples: Samples) -> Callable[[], None]:
    """Return the loop of test-then-train."""
    predict, learn = model.predict_proba_one, model.learn_one

    def loop() -> None:
        for x, y in samples:
            predict(x)
            learn(x, y)

    return loop


def ours(**options: Any) -> Any:
    return present(
        lambda: sf.LogisticRegression(sf.optim.SGD(0.01), **options), f"options {sorted(options)}"
    )


def river_model() -> Any:
    # River's own default optimizer is this SGD(0.01); plain SGD is its fastest.
    linear_model, optim = imported("river.linear_model"), imported("river.optim")
    return linear_model.LogisticRegression(optim.SGD(0.01))


def s1(n_features: int) -> Measurement:
    samples = dicts(N_SAMPLES[n_features], n_features)
    n = len(samples)
    return compare(
        Side("streamfit", lambda: learning(ours().learn_one, samples), n),
        Side("river", lambda: learning(river_model().learn_one, samples), n),
    )


def s2(n_features: int) -> Measurement:
    samples = dicts(N_SAMPLES[n_features], n_features)
    n = len(samples)
    return compare(
        Side("streamfit", lambda: predicting_and_learning(ours(), samples), n),
        Side("river", lambda: predicting_and_learning(river_model(), samples), n),
    )


def s3(n_features: int) -> Measurement:
    samples = dicts(N_SAMPLES[n_features], n_features)
    n = len(samples)
    preprocessing = imported("river.preprocessing")
    scaler = offered("StandardScaler")()
    return compare(
        Side("streamfit", lambda: predicting_and_learning(ours(scaler=scaler), samples), n),
        Side(
            "river",
            lambda: predicting_and_learning(
                preprocessing.StandardScaler() | river_model(), samples
            ),
            n,
        ),
    )


def sparse_dicts(n: int, n_nonzero: int) -> Samples:
    """Return samples with `n_nonzero` of 2^18 features each, and their own names."""
    rng = np.random.default_rng(0)
    names = [f"f{j}" for j in range(2**HASH_BITS)]
    samples = []
    for _ in range(n):
        columns = rng.choice(len(names), n_nonzero, replace=False)
        values = rng.standard_normal(n_nonzero).tolist()
        x = {names[j]: v for j, v in zip(columns.tolist(), values, strict=True)}
        samples.append((x, bool(rng.integers(2))))
    return samples


def learning_in_vw(samples: Samples) -> Callable[[], None]:
    # `--sgd` is the same algorithm as ours and faster than VW's adaptive default; the examples
    # are parsed and set up before, so that `learn` is all that is timed.
    vowpalwabbit = imported("vowpalwabbit")
    vw = vowpalwabbit.Workspace(
        f"--loss_function logistic -b {HASH_BITS} --sgd -l 0.01 --power_t 0 --quiet --no_stdin"
    )
    examples = []
    for x, y in samples:
        features = " ".join(f"{name}:{value:.9g}" for name, value in x.items())
        examples.append(vw.parse(f"{1 if y else -1} | {features}"))
    learn = vw.learn

    def loop() -> None:
        for example in examples:
            learn(example)

    return loop


def s6(n_nonzero: int) -> Measurement:
    samples = sparse_dicts({10: 5000, 100: 1000}[n_nonzero], n_nonzero)
    hashed = offered("HashedFeatures")(bits=HASH_BITS)
    n = len(samples)
    return compare(
        Side("streamfit", lambda: learning(ours(features=hashed).learn_one, samples), n),
        Side("vowpalwabbit", lambda: learning_in_vw(samples), n),
    )


def cases() -> Iterator[Case]:
    """Yield the lines of the table."""
    for d, goal in ((10, 25.0), (100, 18.0), (1000, 15.0)):
        yield Case("S1", f"learn_one(dict), {d} features", goal, partial(s1, d))
    for d, goal in ((10, 14.0), (100, 12.0)):
        yield Case("S2", f"predict_proba_one + learn_one, {d} features", goal, partial(s2, d))
    for d, goal in ((10, 25.0), (100, 20.0)):
        yield Case("S3", f"the same with a standard scaler, {d} features", goal, partial(s3, d))
    for d in (10, 100):
        yield Case("S6", f"hashed dicts, {d} of 2^18 features", 3.0, partial(s6, d))
