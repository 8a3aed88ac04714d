"""Hypothesis strategies: learners, samples, and ways for samples to arrive.

A property reads "for every learner, all samples and any arrival, ...". These are the three:
`learners`, `samples` and `arrivals`; `feed` brings samples to a learner in the way an arrival
says. Import this module by name; it needs hypothesis, the rest of `streamfit.testing` does not.

The numbers in a sample come from a seeded generator, because hypothesis would take longer to
draw them than a learner takes to learn them; it still shrinks how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from streamfit.core import losses, optim, schedules
from streamfit.core.features import FeatureIndex
from streamfit.core.learner import LAST_BATCH, LinearLearner
from streamfit.core.linear import LinearRegression, LogisticRegression
from streamfit.core.noise import NoiseScale
from streamfit.core.scaler import StandardScaler
from streamfit.core.softmax import SoftmaxRegression
from streamfit.testing.forms import FORMS, Arrival, Samples, feed
from streamfit.types import FeatureName

__all__ = [
    "BATCH_SIZES",
    "FORMS",
    "KINDS",
    "LOSSES",
    "OPTIMIZERS",
    "SCHEDULES",
    "Arrival",
    "Samples",
    "arrivals",
    "batch_sizes",
    "cuts",
    "dtypes",
    "every_optimizer",
    "feed",
    "fresh",
    "labels_of",
    "last_batches",
    "learners",
    "learning_rates",
    "losses_of",
    "noise_scales",
    "optimizers",
    "problems",
    "samples",
]

KINDS: tuple[type[LinearLearner], ...] = (
    *(LinearRegression, LogisticRegression, SoftmaxRegression),
)
"""The learners."""

BATCH_SIZES: tuple[int | None, ...] = (1, 2, 7, 32, 1000, None)
"""Micro-batches worth trying: every special case of the code, and more than there are samples."""


# ---- learners

_EPSILON = st.sampled_from([0.1, 1.0])
_THRESHOLD = st.sampled_from([1.0, 0.7])

LOSSES: dict[str, tuple[type[LinearLearner], st.SearchStrategy[losses.Loss]]] = {
    "squared": (LinearRegression, st.just(losses.Squared())),
    "half_squared": (LinearRegression, st.just(losses.HalfSquared())),
    "absolute": (LinearRegression, st.just(losses.Absolute())),
    "huber": (LinearRegression, st.builds(losses.Huber, _EPSILON)),
    "epsilon_insensitive": (LinearRegression, st.builds(losses.EpsilonInsensitive, _EPSILON)),
    "quantile": (LinearRegression, st.builds(losses.Quantile, st.sampled_from([0.5, 0.9]))),
    "poisson": (LinearRegression, st.just(losses.Poisson())),
    "log": (LogisticRegression, st.just(losses.Log())),
    "hinge": (LogisticRegression, st.builds(losses.Hinge, _THRESHOLD)),
    "squared_hinge": (LogisticRegression, st.builds(losses.SquaredHinge, _THRESHOLD)),
    "modified_huber": (LogisticRegression, st.just(losses.ModifiedHuber())),
    "cross_entropy": (SoftmaxRegression, st.just(losses.CrossEntropy())),
}
"""Each loss by name: the learner that it belongs to, and how it is drawn.

Thresholds keep away from 0, which is where a predictor begins: at the corner of a hinge rounding
decides between two gradients, and no two programs need agree.
"""


def losses_of(kind: type[LinearLearner]) -> st.SearchStrategy[losses.Loss]:
    """Draw any loss that fits a learner."""
    return st.one_of([loss for learner, loss in LOSSES.values() if learner is kind])


# No round numbers: steps that add up to exactly 1 would end on the corner of a hinge.
_RATES = (0.0471239, 0.0123457, 0.00193131, 0.000271829)
_T = st.integers(1, 12)

SCHEDULES: dict[str, Callable[[float], st.SearchStrategy[float | schedules.Schedule]]] = {
    "number": st.just,
    "constant": lambda lr: st.just(schedules.Constant(lr)),
    "inverse_scaling": lambda lr: st.builds(
        schedules.InverseScaling, st.just(lr), st.sampled_from([0.0, 0.25, 0.5, 1.0])
    ),
    "optimal": lambda lr: st.builds(
        lambda alpha, t: schedules.Optimal(alpha, t / (alpha * lr)),
        st.sampled_from([1e-4, 0.37]),
        st.sampled_from([1.0, 3.0]),
    ),
    "exponential": lambda lr: st.builds(
        schedules.Exponential, st.just(lr), st.sampled_from([0.9, 1.01]), _T
    ),
    "step": lambda lr: st.builds(schedules.Step, st.just(lr), st.sampled_from([0.5, 0.9]), _T),
    "cosine_warmup": lambda lr: st.builds(
        lambda warmup, more, minimum: schedules.CosineWarmup(lr, warmup + more, warmup, minimum),
        st.integers(0, 5),
        st.integers(1, 40),
        st.sampled_from([0.0, lr / 7]),
    ),
}
"""Each learning-rate schedule by name: how it is drawn for a largest rate near `lr`."""


def learning_rates(max_lr: float = 0.05) -> st.SearchStrategy[float | schedules.Schedule]:
    """Draw a learning rate or a schedule of them, of which none is above `2 max_lr`."""
    scale = max_lr / 0.05
    rate = st.sampled_from([rate * scale for rate in _RATES])
    return rate.flatmap(lambda lr: st.one_of([kind(lr) for kind in SCHEDULES.values()]))


_Rates: TypeAlias = st.SearchStrategy[float | schedules.Schedule]
_MOMENTUM = st.sampled_from([0.3, 0.9])
_SCALERS = (StandardScaler(), StandardScaler(), StandardScaler(1.5))
_EPS = st.sampled_from([1e-8, 1e-3])
# With Adam's own eps of 1e-8 a gradient that is nothing but rounding, 1e-17, would move a weight
# by the 1e-9 that two programs are allowed to differ by.
_ADAM = (st.sampled_from([0.0, 0.9]), st.sampled_from([0.9, 0.999]), st.sampled_from([1e-6, 1e-3]))

OPTIMIZERS: dict[str, Callable[[_Rates], st.SearchStrategy[optim.Optimizer]]] = {
    "sgd": lambda lr: st.builds(optim.SGD, lr),
    "momentum": lambda lr: st.builds(optim.SGD, lr, _MOMENTUM),
    "nesterov": lambda lr: st.builds(optim.SGD, lr, _MOMENTUM, st.just(True)),
    "adagrad": lambda lr: st.builds(optim.AdaGrad, lr, _EPS),
    "adadelta": lambda lr: st.builds(optim.AdaDelta, st.sampled_from([0.9, 0.95]), _EPS),
    "rmsprop": lambda lr: st.builds(optim.RMSProp, lr, st.sampled_from([0.0, 0.9]), _EPS),
    "adam": lambda lr: st.builds(optim.Adam, lr, *_ADAM),
    "adamw": lambda lr: st.builds(
        optim.AdamW, lr, *_ADAM, weight_decay=st.sampled_from([0.0, 0.1])
    ),
    "amsgrad": lambda lr: st.builds(optim.AMSGrad, lr, *_ADAM),
    "ftrl_proximal": lambda lr: st.builds(
        optim.FTRLProximal,
        st.sampled_from([0.0471239, 0.512347]),
        st.sampled_from([0.5, 1.0]),
        st.sampled_from([0.0, 0.0123457]),
        st.sampled_from([0.0, 1.0]),
    ),
    "auto": lambda lr: st.builds(optim.Auto, st.booleans()),
}
"""Each optimizer by name: how it is drawn, given how learning rates are."""


def every_optimizer() -> set[type[optim.Optimizer]]:
    """Return the optimizers that `sf.optim` has: a table of them that lacks one can say so."""
    kinds = {kind for name in optim.__all__ if isinstance(kind := getattr(optim, name), type)}
    return {kind for kind in kinds if issubclass(kind, optim.Optimizer)} - {optim.Optimizer}


def optimizers(max_lr: float = 0.05) -> st.SearchStrategy[optim.Optimizer]:
    """Draw any optimizer, at learning rates around `max_lr` and below, constant or scheduled."""
    rates = learning_rates(max_lr)
    return st.one_of([kind(rates) for kind in OPTIMIZERS.values()])


def batch_sizes(
    sizes: Sequence[int | None] = BATCH_SIZES, huge: bool = False
) -> st.SearchStrategy[int | schedules.BatchSizeSchedule | None]:
    """Draw a size of micro-batches, or a schedule of sizes.

    None that follows the noise where numbers are `huge`: what overflows on the way to an estimate
    depends on the order of the arithmetic.
    """
    following = st.builds(
        schedules.NoiseScaleBatchSize,
        st.integers(2, 3),
        st.sampled_from([3, 20, 1000]),
        st.integers(1, 4),
    )
    milestones = st.lists(
        st.tuples(st.integers(1, 10), st.integers(1, 9)), max_size=4, unique_by=lambda at: at[0]
    )
    return st.one_of(
        st.sampled_from(list(sizes)),
        st.sampled_from(list(sizes)),
        st.builds(
            schedules.GeometricBatchSize,
            st.integers(1, 3),
            st.sampled_from([1.0, 1.3, 2.0]),
            st.integers(1, 4),
            st.sampled_from([3, 20, 1000]),
        ),
        st.builds(
            lambda initial, pairs: schedules.MilestoneBatchSize(initial, sorted(pairs)),
            st.integers(1, 9),
            milestones,
        ),
        *(() if huge else (following,)),
    )


@st.composite
def learners(
    draw: st.DrawFn,
    kinds: Sequence[type[LinearLearner]] = KINDS,
    sizes: Sequence[int | None] | None = None,
    optimizer: st.SearchStrategy[optim.Optimizer] | None = None,
    features: Sequence[FeatureName] = (),
    loss: st.SearchStrategy[losses.Loss] | None = None,
    huge: bool = False,
) -> LinearLearner:
    """Draw a fresh learner, of any configuration that is not set by an argument.

    One for `huge` numbers computes in float64 and does not scale: those would be bad samples.
    """
    kind = draw(st.sampled_from(list(kinds)))
    chosen = draw(optimizers() if optimizer is None else optimizer)
    if huge and isinstance(chosen, optim.Auto):
        chosen = optim.Auto(scale=False)
    penalties = [0.0] if isinstance(chosen, optim.FTRLProximal) else [0.0, 0.0, 0.0123457]
    return kind(
        chosen,
        loss=draw(losses_of(kind) if loss is None else loss),
        batch_size=draw(batch_sizes(huge=huge) if sizes is None else st.sampled_from(list(sizes))),
        reduction=draw(st.sampled_from(["mean", "sum"])),
        l2=draw(st.sampled_from([0.0, 0.0, 0.01, 0.5])),
        l1=draw(st.sampled_from(penalties)),
        fit_intercept=draw(st.sampled_from([True, True, False])),
        intercept_lr=draw(st.sampled_from([None, None, 0.0, 0.0271829])),
        clip_gradient=draw(st.sampled_from([None, None, 0.1, 1e12])),
        features=FeatureIndex(features) if features else None,
        scaler=None if huge or draw(st.integers(0, 3)) else draw(st.sampled_from(_SCALERS)),
        dtype="float64" if huge else draw(dtypes(chosen)),
        max_weight=draw(st.sampled_from([None, None, None, 0.0771239])),
        noise_scale=draw(st.sampled_from([None, None, None]) | noise_scales()) or False,
    )


def noise_scales() -> st.SearchStrategy[NoiseScale]:
    """Draw how to measure the gradient noise scale."""
    return st.builds(
        NoiseScale, st.sampled_from([0.5, 0.9, 0.99]), st.sampled_from([None, 1, 2, 3])
    )


def dtypes(optimizer: optim.Optimizer) -> st.SearchStrategy[str]:
    """Draw a precision; float64 where an `eps` would make a step of what float32 rounds away.

    A gradient that is 0 but for rounding is 1e-8 in float32, beside which an eps of 1e-8 or 1e-6
    is small: the step has then a size that no two programs need agree on.
    """
    tiny = getattr(optimizer, "eps", 1.0) < 1e-3
    return st.just("float64") if tiny else st.sampled_from(["float64", "float32"])


def fresh(model: LinearLearner) -> LinearLearner:
    """Make a learner of the same configuration that has learned nothing."""
    return type(model).from_config(model.get_config())


def last_batches() -> st.SearchStrategy[str]:
    """Draw what is done with the partial micro-batch at the end of an epoch."""
    return st.sampled_from(LAST_BATCH)


# ---- samples


@st.composite
def samples(
    draw: st.DrawFn,
    labels: str = "real",
    min_size: int = 0,
    max_size: int = 80,
    max_features: int = 19,
    weighted: bool | None = None,
    huge: bool = False,
    min_features: int = 0,
) -> Samples:
    """Draw samples with numbers near 1, some of them 0.

    Parameters
    ----------
    labels
        `"real"` numbers, `"binary"` (0 and 1), `"counts"` (0, 1, 2, ...) or names of `"classes"`.
    min_size, max_size, max_features
        How many; the default passes two full vectors of eight lanes and a rest.
    weighted
        Whether they carry weights (0 among them): None draws that, and whole or fractional.
    huge
        Put in a few numbers whose products overflow.
    min_features
        How many at least.
    """
    n = draw(st.integers(min_size, max_size))
    d = draw(st.integers(min_features, max_features))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    X = rng.normal(size=(n, d)) * rng.choice([1.0, 1.0, 1.0, 0.0], size=(n, d))
    if n * d and draw(st.booleans()):  # features that are away for a while
        start = draw(st.integers(0, n - 1))
        X[start : start + draw(st.integers(1, n)), draw(st.integers(0, d - 1)) :] = 0.0
    if huge and n * d:
        # one a column: of two that cancel, the order of adding decides what is left
        places = st.lists(st.integers(0, n * d - 1), max_size=3, unique_by=lambda at: at % d)
        for place in draw(places):
            X.flat[place] = draw(st.sampled_from([1e300, -1e300, 1e155]))
    z = X @ rng.normal(size=d) if not huge else rng.normal(size=n)
    noise = rng.normal(size=n)
    y: npt.NDArray[Any] = z + 0.3 * noise
    if labels == "classes":
        names: list[Any] = draw(
            st.sampled_from([["a", "b", "c"], [7, 0, -3, 2], [True, False], ["one"]])
        )
        scores = X @ rng.normal(size=(d, len(names))) if not huge else np.zeros((n, len(names)))
        y = np.array(names)[(scores + rng.normal(size=(n, len(names)))).argmax(axis=1)]
    elif labels == "binary":
        y = (z + noise > 0).astype(np.float64)
    elif labels == "counts":
        y = rng.poisson(np.exp(np.clip(z, -3.0, 1.5))).astype(np.float64)
    kinds = ["whole", "fractional"] if weighted else ["none", "whole", "fractional"]
    kind = "none" if weighted is False else draw(st.sampled_from(kinds))
    w = None
    if kind == "whole":
        w = rng.integers(0, 4, size=n).astype(np.float64)
    elif kind == "fractional":
        w = rng.uniform(0.0, 2.0, size=n) * rng.choice([1.0, 1.0, 1.0, 0.0], size=n)
    return Samples([f"f{j}" for j in range(d)], X, y, w)


def labels_of(kind: type[LinearLearner], loss: losses.Loss) -> str:
    """Labels that fit a learner and its loss, as `samples` names them."""
    if kind is SoftmaxRegression:
        return "classes"
    if kind is LogisticRegression:
        return "binary"
    return "counts" if isinstance(loss, losses.Poisson) else "real"


@st.composite
def problems(
    draw: st.DrawFn,
    /,
    sizes: Sequence[int | None] | None = None,
    optimizer: st.SearchStrategy[optim.Optimizer] | None = None,
    known: bool = True,
    kind: type[LinearLearner] | None = None,
    loss: st.SearchStrategy[losses.Loss] | None = None,
    **options: Any,
) -> tuple[LinearLearner, Samples]:
    """Draw a fresh learner and samples that fit it (`options` as in `samples`).

    Unless `known` is false, the learner knows the features, so that bare rows may come first.
    """
    kind = draw(st.sampled_from(KINDS)) if kind is None else kind
    chosen = draw(losses_of(kind) if loss is None else loss)
    data = draw(samples(labels=labels_of(kind, chosen), **options))
    names = data.names if known else ()
    huge = bool(options.get("huge"))
    return draw(learners([kind], sizes, optimizer, names, st.just(chosen), huge)), data


# ---- arrivals


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
