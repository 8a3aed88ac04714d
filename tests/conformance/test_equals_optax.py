"""The weights are optax's, in float64 to 1e-9: each shared optimizer, loss and schedule.

`optax.MultiSteps` is its accumulation: k micro-steps of b samples make one update, which is our
`batch_size = k b`. Where optax means something else, a test shows it; see docs/equivalence.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamfit as sf
from streamfit.offline import fit_offline

RELATIVE = 1e-9
N, D, LR = 200, 5, 0.05


@pytest.fixture(autouse=True, scope="module")
def _x64() -> Any:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def data(binary: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(N, D))
    z = X @ np.linspace(-1, 1, D) + 0.3 * rng.normal(size=N) + 0.2
    return X, (z > 0).astype(float) if binary else z


def their_fit(optimizer: Any, loss: Callable[..., Any], X: Any, y: Any, size: int) -> np.ndarray:
    """Mini-batch descent on the mean of `loss(p, y)`; the intercept is the first parameter."""
    theta = jnp.zeros(X.shape[1] + 1)
    state = optimizer.init(theta)

    def cost(theta: Any, X: Any, y: Any) -> Any:
        return loss(X @ theta[1:] + theta[0], y).mean()

    @jax.jit
    def step(theta: Any, state: Any, X: Any, y: Any) -> Any:
        updates, state = optimizer.update(jax.grad(cost)(theta, X, y), state, theta)
        return optax.apply_updates(theta, updates), state

    for start in range(0, len(y), size):
        theta, state = step(theta, state, X[start : start + size], y[start : start + size])
    return np.asarray(theta)


def our_fit(model: Any, X: Any, y: Any) -> np.ndarray:
    return fit_offline(model, X, y, kernel="compiled").parameters


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert theirs.dtype == np.float64
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


log = optax.losses.sigmoid_binary_cross_entropy
OPTIMIZERS: dict[str, tuple[Any, Any]] = {
    "SGD": (sf.optim.SGD(LR), optax.sgd(LR)),
    "momentum": (sf.optim.SGD(LR, momentum=0.9), optax.sgd(LR, momentum=0.9)),
    "nesterov": (
        sf.optim.SGD(LR, momentum=0.9, nesterov=True),
        optax.sgd(LR, momentum=0.9, nesterov=True),
    ),
    "AdaGrad": (sf.optim.AdaGrad(LR), optax.adagrad(LR, 0.0, eps=1e-8)),
    "AdaDelta": (sf.optim.AdaDelta(0.9), optax.adadelta(1.0, rho=0.9, eps=1e-8)),
    "RMSProp": (sf.optim.RMSProp(LR), optax.rmsprop(LR, decay=0.9, eps=1e-8)),
    "Adam": (sf.optim.Adam(LR, eps=1e-3), optax.adam(LR, eps=1e-3)),
    "AdamW": (
        sf.optim.AdamW(LR, weight_decay=0.1),
        optax.adamw(LR, weight_decay=0.1, mask=jnp.array([False] + [True] * D)),
    ),
}
OPTIMIZERS["AdamW"] = (  # the mask is by leaf, so a hand-made one spares the intercept
    OPTIMIZERS["AdamW"][0],
    optax.chain(
        optax.scale_by_adam(),
        optax.stateless(lambda g, theta: g + 0.1 * theta * jnp.array([0.0] + [1.0] * D)),
        optax.scale(-LR),
    ),
)


@pytest.mark.parametrize("size", [1, 32, N])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer(optimizer: str, size: int) -> None:
    ours, theirs = OPTIMIZERS[optimizer]
    X, y = data()
    model = sf.LogisticRegression(ours, batch_size=size)
    assert difference(our_fit(model, X, y), their_fit(theirs, log, X, y, size)) <= RELATIVE


def quantile(p: Any, y: Any) -> Any:
    return jnp.maximum(0.8 * (y - p), -0.2 * (y - p))


LOSSES: dict[str, tuple[Any, Any]] = {
    "Squared": (sf.losses.Squared(), optax.losses.squared_error),
    "HalfSquared": (sf.losses.HalfSquared(), optax.losses.l2_loss),
    "Absolute": (sf.losses.Absolute(), lambda p, y: jnp.abs(p - y)),
    "Huber": (sf.losses.Huber(0.7), lambda p, y: optax.losses.huber_loss(p, y, delta=0.7)),
    "EpsilonInsensitive": (
        sf.losses.EpsilonInsensitive(0.2),
        lambda p, y: jnp.maximum(0.0, jnp.abs(p - y) - 0.2),
    ),
    "Quantile": (sf.losses.Quantile(0.8), quantile),
    "Log": (sf.losses.Log(), log),
    "Hinge": (sf.losses.Hinge(), lambda p, y: optax.losses.hinge_loss(p, 2 * y - 1)),
    "SquaredHinge": (
        sf.losses.SquaredHinge(),
        lambda p, y: optax.losses.hinge_loss(p, 2 * y - 1) ** 2,
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss(loss: str) -> None:
    """JAX differentiates the loss by itself, so this checks our slopes too."""
    ours, theirs = LOSSES[loss]
    binary = type(ours) in sf.LogisticRegression._losses
    X, y = data(binary)
    kind = sf.LogisticRegression if binary else sf.LinearRegression
    model = kind(sf.optim.SGD(LR), ours, batch_size=7)
    assert difference(our_fit(model, X, y), their_fit(optax.sgd(LR), theirs, X, y, 7)) <= RELATIVE


def test_poisson() -> None:
    X, y = data(binary=False)
    y = np.floor(np.exp(np.clip(y, -2, 1)))
    model = sf.LinearRegression(sf.optim.SGD(LR), sf.losses.Poisson(), batch_size=7)
    theirs = their_fit(optax.sgd(LR), lambda p, y: jnp.exp(p) - y * p, X, y, 7)
    assert difference(our_fit(model, X, y), theirs) <= RELATIVE


@pytest.mark.parametrize("size", [1, 32, N])
@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "AdamW"])
def test_softmax(optimizer: str, size: int) -> None:
    """JAX differentiates the cross-entropy of all classes at once."""
    ours, theirs = OPTIMIZERS[optimizer]
    X, z = data(binary=False)
    y = np.digitize(z, [-0.5, 0.5])
    model = sf.SoftmaxRegression(ours, batch_size=size, classes=[0, 1, 2])
    theta = jnp.zeros((3, D + 1))
    state = theirs.init(theta)

    def cost(theta: Any, X: Any, y: Any) -> Any:
        logits = X @ theta[:, 1:].T + theta[:, 0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @jax.jit
    def step(theta: Any, state: Any, X: Any, y: Any) -> Any:
        updates, state = theirs.update(jax.grad(cost)(theta, X, y), state, theta)
        return optax.apply_updates(theta, updates), state

    for start in range(0, N, size):
        theta, state = step(theta, state, X[start : start + size], y[start : start + size])
    assert difference(our_fit(model, X, y), np.asarray(theta)) <= RELATIVE


SCHEDULES: dict[str, tuple[Any, Any]] = {
    "Exponential": (
        sf.schedules.Exponential(LR, 0.9, every=3),
        optax.exponential_decay(LR, 3, 0.9),
    ),
    "Step": (
        sf.schedules.Step(LR, 0.9, every=3),
        optax.exponential_decay(LR, 3, 0.9, staircase=True),
    ),
    "CosineWarmup": (
        sf.schedules.CosineWarmup(LR, total=20, minimum=0.01),
        optax.cosine_decay_schedule(LR, 20, alpha=0.01 / LR),
    ),
    "CosineWarmup, warming up": (  # ours begins at lr / 5, theirs at 0
        sf.schedules.CosineWarmup(LR, total=20, warmup=5),
        lambda t: jnp.where(
            t < 5, LR * (t + 1) / 5, optax.warmup_cosine_decay_schedule(0.0, LR, 5, 20)(t)
        ),
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_schedule(schedule: str) -> None:
    ours, theirs = SCHEDULES[schedule]

    def in_float64(t: Any) -> Any:
        return theirs(jnp.asarray(t, jnp.float64))

    for t in range(25):
        assert ours.rate(t) == pytest.approx(float(in_float64(t)), rel=RELATIVE)
    X, y = data()
    model = sf.LogisticRegression(sf.optim.SGD(ours), batch_size=8)
    assert (
        difference(our_fit(model, X, y), their_fit(optax.sgd(in_float64), log, X, y, 8)) <= RELATIVE
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("k", "size"), [(1, 8), (4, 1), (5, 8), (200, 1)])
def test_multi_steps_accumulate_to_our_batch_size(optimizer: str, k: int, size: int) -> None:
    ours, theirs = OPTIMIZERS[optimizer]
    X, y = data()
    accumulated = optax.MultiSteps(theirs, k, accumulator_dtype=jnp.float64)
    model = sf.LogisticRegression(ours, batch_size=k * size)
    a, b = our_fit(model, X, y), their_fit(accumulated, log, X, y, size)
    assert difference(a, b) <= RELATIVE


# ---- where optax means something else


def test_amsgrad_takes_the_largest_of_the_corrected_averages_in_optax() -> None:
    X, y = data()
    y = np.where(np.arange(N) < 50, y, 0.5)  # gradients shrink, so that the maximum matters
    ours = sf.LinearRegression(sf.optim.AMSGrad(LR, beta_2=0.9), sf.losses.HalfSquared())
    half = optax.losses.l2_loss
    assert (
        difference(our_fit(ours, X, y), their_fit(optax.amsgrad(LR, b2=0.9), half, X, y, 1)) > 1e-3
    )


def test_optax_computes_rates_in_float32_from_its_int32_count() -> None:
    ours, theirs = SCHEDULES["Exponential"]
    rate = theirs(jnp.asarray(7, jnp.int32))
    assert rate.dtype == jnp.float32
    assert 1e-9 < abs(float(rate) - ours.rate(7)) / ours.rate(7) < 1e-6


def test_warming_up_begins_at_0_in_optax() -> None:
    theirs = optax.warmup_cosine_decay_schedule(0.0, LR, 5, 20)
    assert float(theirs(0)) == 0.0
    assert sf.schedules.CosineWarmup(LR, total=20, warmup=5).rate(0) == pytest.approx(LR / 5)
