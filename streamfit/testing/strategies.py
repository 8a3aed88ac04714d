"""Hypothesis strategies: learners, samples, and ways for samples to arrive.

A property reads "for every learner, all samples and any arrival, ...". These are the three:
`learners`, `samples` and `arrivals`; `feed` brings samples to a learner in the way an arrival
says. Import this module by name; it needs hypothesis, the rest of `streamfit.testing` does not.

The numbers in a sample come from a seeded generator, because hypothesis would take longer to
draw them than a learner takes to learn them; it still shrinks how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from streamfit.core import losses, optim
from streamfit.core.features import FeatureIndex
from streamfit.core.learner import LAST_BATCH, LinearLearner
from streamfit.core.linear import LinearRegression, LogisticRegression
from streamfit.types import Block, FeatureName, FloatArray

__all__ = [
    "BATCH_SIZES",
    "FORMS",
    "KINDS",
    "Arrival",
    "Samples",
    "arrivals",
    "cuts",
    "feed",
    "fresh",
    "last_batches",
    "learners",
    "optimizers",
    "problems",
    "samples",
]

KINDS: tuple[type[LinearLearner], ...] = (LinearRegression, LogisticRegression)
"""The learners."""

BATCH_SIZES: tuple[int | None, ...] = (1, 2, 7, 32, 1000, None)
"""Micro-batches worth trying: every special case of the code, and more than there are samples."""


# ---- learners


def optimizers(max_lr: float = 0.05) -> st.SearchStrategy[optim.Optimizer]:
    """Draw any optimizer, at learning rates in [1e-4, max_lr]."""
    lr = st.floats(1e-4, max_lr)
    momentum = st.sampled_from([0.3, 0.9])
    return st.one_of(
        st.builds(optim.SGD, lr),
        st.builds(optim.SGD, lr, momentum, st.booleans()),
        st.builds(optim.AdaGrad, lr, st.sampled_from([1e-8, 1e-3])),
        st.builds(optim.Adam, lr, st.sampled_from([0.0, 0.9]), st.sampled_from([0.9, 0.999])),
    )


@st.composite
def learners(
    draw: st.DrawFn,
    kinds: Sequence[type[LinearLearner]] = KINDS,
    batch_sizes: Sequence[int | None] = BATCH_SIZES,
    optimizer: st.SearchStrategy[optim.Optimizer] | None = None,
    features: Sequence[FeatureName] = (),
) -> LinearLearner:
    """Draw a fresh learner, of any configuration that is not set by an argument."""
    kind = draw(st.sampled_from(list(kinds)))
    loss = draw(st.sampled_from([losses.Squared(), losses.HalfSquared()]))
    return kind(
        draw(optimizers() if optimizer is None else optimizer),
        loss=losses.Log() if kind is LogisticRegression else loss,
        batch_size=draw(st.sampled_from(list(batch_sizes))),
        reduction=draw(st.sampled_from(["mean", "sum"])),
        l2=draw(st.sampled_from([0.0, 0.0, 0.01, 0.5])),
        fit_intercept=draw(st.sampled_from([True, True, False])),
        intercept_lr=draw(st.sampled_from([None, None, 0.0, 0.02])),
        clip_gradient=draw(st.sampled_from([None, None, 0.1, 1e12])),
        features=FeatureIndex(features) if features else None,
    )


def fresh(model: LinearLearner) -> LinearLearner:
    """Make a learner of the same configuration that has learned nothing."""
    return type(model).from_config(model.get_config())


def last_batches() -> st.SearchStrategy[str]:
    """Draw what is done with the partial micro-batch at the end of an epoch."""
    return st.sampled_from(LAST_BATCH)


# ---- samples


@dataclass(frozen=True)
class Samples:
    """`n` samples with named features; `w` is None when every weight is 1."""

    names: list[FeatureName]
    X: FloatArray
    y: FloatArray
    w: FloatArray | None

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, part: slice) -> Samples:
        return Samples(
            self.names, self.X[part], self.y[part], None if self.w is None else self.w[part]
        )

    def __repr__(self) -> str:
        return (
            f"Samples(names={self.names}, X=np.array({self.X.tolist()}), "
            f"y=np.array({self.y.tolist()}), "
            f"w={None if self.w is None else f'np.array({self.w.tolist()})'})"
        )

    @property
    def weights(self) -> FloatArray:
        """The sample weights, written out."""
        return np.ones(len(self)) if self.w is None else self.w

    def rows(self) -> list[dict[FeatureName, float]]:
        """Return the samples as mappings without their zeros: what is absent is 0."""
        return [
            {name: value for name, value in zip(self.names, row, strict=True) if value != 0.0}
            for row in self.X.tolist()
        ]


@st.composite
def samples(
    draw: st.DrawFn,
    binary: bool = False,
    min_size: int = 0,
    max_size: int = 80,
    max_features: int = 19,
    weighted: bool | None = None,
    huge: bool = False,
) -> Samples:
    """Draw samples with numbers near 1, some of them 0.

    Parameters
    ----------
    binary
        Labels 0 and 1 instead of numbers.
    min_size, max_size, max_features
        How many; the default passes two full vectors of eight lanes and a rest.
    weighted
        Whether they carry weights (0 among them): None draws that, and whole or fractional.
    huge
        Put in a few numbers whose products overflow.
    """
    n = draw(st.integers(min_size, max_size))
    d = draw(st.integers(0, max_features))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.normal(size=(n, d)) * rng.choice([1.0, 1.0, 1.0, 0.0], size=(n, d))
    if n * d and draw(st.booleans()):  # features that are away for a while
        start = draw(st.integers(0, n - 1))
        X[start : start + draw(st.integers(1, n)), draw(st.integers(0, d - 1)) :] = 0.0
    if huge and n * d:
        for place in draw(st.lists(st.integers(0, n * d - 1), max_size=3)):
            X.flat[place] = draw(st.sampled_from([1e300, -1e300, 1e155]))
    z = X @ rng.normal(size=d) if not huge else rng.normal(size=n)
    noise = rng.normal(size=n)
    y = (z + noise > 0).astype(np.float64) if binary else z + 0.3 * noise
    kinds = ["whole", "fractional"] if weighted else ["none", "whole", "fractional"]
    kind = "none" if weighted is False else draw(st.sampled_from(kinds))
    w = None
    if kind == "whole":
        w = rng.integers(0, 4, size=n).astype(np.float64)
    elif kind == "fractional":
        w = rng.uniform(0.0, 2.0, size=n) * rng.choice([1.0, 1.0, 1.0, 0.0], size=n)
    return Samples([f"f{j}" for j in range(d)], X, y, w)


@st.composite
def problems(
    draw: st.DrawFn,
    /,
    batch_sizes: Sequence[int | None] = BATCH_SIZES,
    optimizer: st.SearchStrategy[optim.Optimizer] | None = None,
    known: bool = True,
    **options: Any,
) -> tuple[LinearLearner, Samples]:
    """Draw a fresh learner and samples that fit it (`options` as in `samples`).

    Unless `known` is false, the learner knows the features, so that bare rows may come first.
    """
    kind = draw(st.sampled_from(KINDS))
    data = draw(samples(binary=kind is LogisticRegression, **options))
    model = draw(learners([kind], batch_sizes, optimizer, data.names if known else ()))
    return model, data


# ---- arrivals


def _one_by_one(
    form: Callable[[Samples], Sequence[Any]],
) -> Callable[[LinearLearner, Samples], None]:
    def feed_one_by_one(model: LinearLearner, part: Samples) -> None:
        for x, y, w in zip(form(part), part.y.tolist(), part.weights.tolist(), strict=True):
            model.learn_one(x, y, w)

    return feed_one_by_one


def _table(form: Callable[[Samples], Any]) -> Callable[[LinearLearner, Samples], None]:
    return lambda model, part: model.learn_many(form(part), part.y, part.w)


def _block(form: Callable[[Samples], Any]) -> Callable[[LinearLearner, Samples], None]:
    def feed_block(model: LinearLearner, part: Samples) -> None:
        block = Block(form(part), part.y, part.w, offsets=range(len(part)))
        model.learn_block(block, 0, len(part))

    return feed_block


def _dicts(part: Samples) -> list[dict[FeatureName, float]]:
    return [dict(zip(part.names, row, strict=True)) for row in part.X.tolist()]


def _backwards(part: Samples) -> list[dict[FeatureName, float]]:
    return [dict(reversed(list(row.items()))) for row in part.rows()]


def _frame(part: Samples) -> Any:
    import pandas as pd  # a user's library, not one of ours

    return pd.DataFrame(part.X[:, ::-1], columns=part.names[::-1])


def _narrow_frame(part: Samples) -> Any:
    frame = _frame(part)[part.names]
    return frame.loc[:, (frame != 0.0).any()]


FORMS: dict[str, Callable[[LinearLearner, Samples], None]] = {
    "dicts": _one_by_one(_dicts),
    "sparse dicts": _one_by_one(lambda part: part.rows()),
    "sparse dicts, backwards": _one_by_one(_backwards),
    "rows": _one_by_one(lambda part: list(part.X)),
    "lists": _one_by_one(lambda part: part.X.tolist()),
    "array": _table(lambda part: part.X),
    "Fortran array": _table(lambda part: np.asfortranarray(part.X)),
    "object array": _table(lambda part: part.X.astype(object)),
    "frame": _table(_frame),
    "frame without columns of zeros": _table(_narrow_frame),
    "block of dicts": _block(_dicts),
    "block of sparse dicts": _block(lambda part: part.rows()),
    "block of rows": _block(lambda part: list(part.X)),
    "block of an array": _block(lambda part: part.X),
}
"""Ways in which samples may come to a learner that knows their features, by name."""

Arrival: TypeAlias = list[tuple[str, int, int]]
"""Which form the samples `start` to `stop` come in, one entry after the other."""


@st.composite
def cuts(draw: st.DrawFn, n: int) -> list[tuple[int, int]]:
    """Cut `n` samples into blocks, some of them empty or of one sample."""
    places = sorted(draw(st.lists(st.integers(0, n), max_size=6)))
    return list(zip([0, *places], [*places, n], strict=True))


@st.composite
def arrivals(draw: st.DrawFn, n: int, forms: Sequence[str] = tuple(FORMS)) -> Arrival:
    """Draw a way for `n` samples to arrive: cut anywhere, each part in any form."""
    form = st.sampled_from(list(forms))
    return [(draw(form), start, stop) for start, stop in draw(cuts(n))]


def feed(model: LinearLearner, data: Samples, arrival: Arrival) -> None:
    """Let `model` learn `data` in the way that `arrival` says."""
    for form, start, stop in arrival:
        FORMS[form](model, data[start:stop])
