"""The weights are Keras': a Dense layer, `fit(shuffle=False)`, the same optimizer, on JAX.

In float32 to 1e-5, which is what float32 leaves, and in float64 to 1e-9 where Keras' mean over a
micro-batch is exact: it divides in float32 always, so sizes that are powers of two.
Where Keras means something else by the same name, a test shows the difference; see
docs/equivalence.md.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np
import pytest
from keras import optimizers

import streamfit as sf
from streamfit.offline import fit_offline

RELATIVE = {"float32": 1e-5, "float64": 1e-9}
N, D, EPOCHS = 133, 5, 2  # 133: an odd last batch for each size but 1 and n
LR = 1 / 64  # the same number in float32, in which Keras keeps its learning rate
TINY = 1e-30  # no part in the step, and still a normal number in float32


@pytest.fixture(autouse=True, scope="module")
def _x64() -> Any:
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def even(X: np.ndarray, y: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Leave an odd last micro-batch away in float64: Keras divides by its size in float32."""
    return (X, y) if dtype == "float32" else (X[:128], y[:128])


def data(labels: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(N, D)).astype("float32").astype("float64")
    z = X @ np.linspace(-1, 1, D) + 0.3 * rng.normal(size=N) + 0.2
    if labels == "binary":
        return X, (z > 0).astype(float)
    if labels == "counts":
        return X, rng.poisson(np.exp(np.clip(z, -2, 1))).astype(float)
    return X, z.astype("float32").astype("float64")


def their_fit(
    optimizer: Callable[[], Any],
    loss: Callable[[], Any],
    X: Any,
    y: Any,
    size: int,
    dtype: str,
    activation: Any = None,
) -> tuple[np.ndarray, int]:
    keras.config.set_floatx(dtype)  # of the data and the loss
    keras.config.set_dtype_policy(dtype)  # of the layer
    zeros = {"kernel_initializer": "zeros", "activation": activation}
    model = keras.Sequential([keras.Input((D,)), keras.layers.Dense(1, **zeros)])
    model.compile(optimizer=optimizer(), loss=loss(), jit_compile=True)
    model.fit(
        *(X.astype(dtype), y.astype(dtype)[:, None]),
        batch_size=size,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
    )
    kernel, bias = model.get_weights()
    return np.array([bias[0], *kernel[:, 0]], dtype=float), int(model.optimizer.iterations)


def our_fit(model: Any, X: Any, y: Any) -> tuple[np.ndarray, int]:
    fit = fit_offline(model, X, y, epochs=EPOCHS, kernel="compiled")
    return fit.parameters, fit.n_updates


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def log_loss() -> Any:
    return keras.losses.BinaryCrossentropy(from_logits=True)


OPTIMIZERS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "SGD": (sf.optim.SGD(LR), lambda: optimizers.SGD(LR)),
    "momentum": (
        sf.optim.SGD(LR, momentum=0.875),
        lambda: optimizers.SGD(LR, momentum=0.875),
    ),
    "nesterov": (
        sf.optim.SGD(LR, momentum=0.875, nesterov=True),
        lambda: optimizers.SGD(LR, momentum=0.875, nesterov=True),
    ),
    "AdaGrad": (
        sf.optim.AdaGrad(LR, eps=1e-7),
        lambda: optimizers.Adagrad(LR, initial_accumulator_value=0.0, epsilon=1e-7),
    ),
    "AdaDelta": (
        sf.optim.AdaDelta(0.95, eps=1e-7),
        lambda: optimizers.Adadelta(1.0, rho=0.95, epsilon=1e-7),
    ),
    "RMSProp": (
        sf.optim.RMSProp(LR, rho=0.9, eps=1e-7),
        lambda: optimizers.RMSprop(LR, rho=0.9, epsilon=1e-7),
    ),
    "Adam": (sf.optim.Adam(LR, eps=TINY), lambda: optimizers.Adam(LR, epsilon=TINY)),
    "AMSGrad": (
        sf.optim.AMSGrad(LR, eps=TINY),
        lambda: optimizers.Adam(LR, epsilon=TINY, amsgrad=True),
    ),
    "FTRLProximal": (  # Keras halves: its l2 is half of ours
        sf.optim.FTRLProximal(0.25, beta=1.0, l1=0.01, l2=0.5),
        lambda: optimizers.Ftrl(
            0.25,
            beta=1.0,
            initial_accumulator_value=0.0,
            l1_regularization_strength=0.01,
            l2_regularization_strength=0.25,
        ),
    ),
}


@pytest.mark.parametrize(
    ("size", "dtype"),
    [*((size, "float32") for size in (1, 32, 100, N)), (32, "float64"), (128, "float64")],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_optimizer(optimizer: str, size: int, dtype: str) -> None:
    X, y = even(*data("binary"), dtype)
    ours, theirs = OPTIMIZERS[optimizer]
    b, iterations = their_fit(theirs, log_loss, X, y, size, dtype)
    a, updates = our_fit(sf.LogisticRegression(ours, batch_size=size), X, y)
    assert updates == iterations == EPOCHS * -(-len(y) // size)
    assert difference(a, b) <= RELATIVE[dtype]
    if size == N:
        full, updates = our_fit(sf.LogisticRegression(ours, batch_size=None), X, y)
        assert updates == EPOCHS
        assert np.array_equal(full, a)


LOSSES: dict[str, tuple[Any, Callable[[], Any], str, str | None]] = {
    "Squared": (sf.losses.Squared(), keras.losses.MeanSquaredError, "real", None),
    "Absolute": (sf.losses.Absolute(), keras.losses.MeanAbsoluteError, "real", None),
    "Huber": (sf.losses.Huber(0.75), lambda: keras.losses.Huber(delta=0.75), "real", None),
    "Hinge": (sf.losses.Hinge(), keras.losses.Hinge, "binary", None),
    "SquaredHinge": (sf.losses.SquaredHinge(), keras.losses.SquaredHinge, "binary", None),
    "Log": (
        sf.losses.Log(),
        log_loss,
        "binary",
        None,
    ),
}


@pytest.mark.parametrize(("size", "dtype"), [(1, "float32"), (32, "float32"), (32, "float64")])
@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss(loss: str, size: int, dtype: str) -> None:
    ours, theirs, labels, activation = LOSSES[loss]
    X, y = even(*data(labels), dtype)
    kind = sf.LogisticRegression if labels == "binary" else sf.LinearRegression
    a, updates = our_fit(kind(sf.optim.SGD(LR), ours, batch_size=size), X, y)
    b, iterations = their_fit(lambda: optimizers.SGD(LR), theirs, X, y, size, dtype, activation)
    assert updates == iterations
    assert difference(a, b) <= RELATIVE[dtype]


@pytest.mark.parametrize("labels", ["sparse", "categorical"])
@pytest.mark.parametrize(
    ("size", "dtype"),
    [*((size, "float32") for size in (1, 32, 100, N)), (32, "float64")],
)
@pytest.mark.parametrize("optimizer", ["SGD", "nesterov", "AdaGrad", "Adam"])
def test_softmax(optimizer: str, size: int, dtype: str, labels: str) -> None:
    """A Dense layer of three outputs."""
    X, z = even(*data("real"), dtype)
    y = np.digitize(z, [-0.5, 0.5])
    ours, theirs = OPTIMIZERS[optimizer]
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    layer = keras.layers.Dense(3, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((D,)), layer])
    if labels == "sparse":
        loss, target = keras.losses.SparseCategoricalCrossentropy(from_logits=True), y
    else:
        loss, target = keras.losses.CategoricalCrossentropy(from_logits=True), np.eye(3)[y]
    model.compile(optimizer=theirs(), loss=loss, jit_compile=True)
    fit = {"batch_size": size, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    model.fit(X.astype(dtype), target, **fit)
    kernel, bias = model.get_weights()
    b = np.column_stack([bias, kernel.T]).astype(float)
    a, updates = our_fit(sf.SoftmaxRegression(ours, batch_size=size, classes=[0, 1, 2]), X, y)
    assert updates == int(model.optimizer.iterations)
    assert difference(a, b) <= RELATIVE[dtype]


@pytest.mark.parametrize("size", [1, 32, N])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_float32(optimizer: str, size: int) -> None:
    """Both in float32, in which each rounds in its own order."""
    X, y = data("binary")
    ours, theirs = OPTIMIZERS[optimizer]
    b, _ = their_fit(theirs, log_loss, X, y, size, "float32")
    a, _ = our_fit(sf.LogisticRegression(ours, batch_size=size, dtype="float32"), X, y)
    assert difference(a, b) <= 1e-4


SCHEDULES: dict[str, tuple[Any, Callable[[], Any]]] = {
    "Exponential": (
        sf.schedules.Exponential(LR, 0.5, every=10),
        lambda: optimizers.schedules.ExponentialDecay(LR, 10, 0.5),
    ),
    "Step": (
        sf.schedules.Step(LR, 0.5, every=10),
        lambda: optimizers.schedules.ExponentialDecay(LR, 10, 0.5, staircase=True),
    ),
    "CosineWarmup": (
        sf.schedules.CosineWarmup(LR, total=16),
        lambda: optimizers.schedules.CosineDecay(LR, 16),
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_schedule(schedule: str) -> None:
    X, y = data("binary")
    ours, theirs = SCHEDULES[schedule]
    a, updates = our_fit(sf.LogisticRegression(sf.optim.SGD(ours), batch_size=32), X, y)
    b, iterations = their_fit(lambda: optimizers.SGD(theirs()), log_loss, X, y, 32, "float32")
    assert updates == iterations
    assert difference(a, b) <= RELATIVE["float32"]


# ---- where Keras means something else


def test_adam_differs_from_keras_by_its_eps_only() -> None:
    X, y = even(*data("binary"), "float64")
    a, _ = our_fit(sf.LogisticRegression(sf.optim.Adam(LR, eps=1e-3), batch_size=32), X, y)
    b, _ = their_fit(lambda: optimizers.Adam(LR, epsilon=1e-3), log_loss, X, y, 32, "float64")
    assert difference(a, b) > 1e-3
    theta, m, v = np.zeros((3, D + 1))  # Keras' step, with its eps beside the uncorrected root
    Z = np.column_stack([np.ones(len(y)), X])
    for t in range(1, 1 + EPOCHS * len(y) // 32):
        part = slice((t - 1) * 32 % len(y), (t - 1) * 32 % len(y) + 32)
        g = (1 / (1 + np.exp(-Z[part] @ theta)) - y[part]) @ Z[part] / 32
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        alpha = LR * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        theta = theta - alpha * m / (np.sqrt(v) + 1e-3)
    assert difference(theta, b) <= RELATIVE["float64"]


def test_adamw_decays_the_intercept_too_in_keras() -> None:
    X, y = even(*data("binary"), "float64")
    ours = sf.optim.AdamW(LR, eps=TINY, weight_decay=0.25)
    a, _ = our_fit(sf.LogisticRegression(ours, batch_size=32), X, y)

    def theirs() -> Any:
        return optimizers.AdamW(LR, epsilon=TINY, weight_decay=0.25)

    b, _ = their_fit(theirs, log_loss, X, y, 32, "float64")
    assert difference(a, b) > 1e-5

    def spared() -> Any:
        adamw = theirs()
        adamw.exclude_from_weight_decay(var_names=["bias"])
        return adamw

    b, _ = their_fit(spared, log_loss, X, y, 32, "float64")
    assert difference(a, b) <= RELATIVE["float64"]


def test_the_poisson_loss_of_keras_keeps_off_log_0() -> None:
    X, y = even(*data("counts"), "float64")
    model = sf.LinearRegression(sf.optim.SGD(LR), sf.losses.Poisson(), batch_size=32)
    a, _ = our_fit(model, X, y)
    b, _ = their_fit(
        lambda: optimizers.SGD(LR), keras.losses.Poisson, X, y, 32, "float64", "exponential"
    )
    # y log(p + 1e-7) instead of y log(p)
    assert 1e-12 < difference(a, b) < 1e-5


def test_keras_divides_a_mean_in_float32_even_in_float64() -> None:
    keras.config.set_floatx("float64")
    x = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    theirs = keras.ops.mean(x)
    assert theirs.dtype == np.float64
    assert 1e-9 < abs(float(theirs) - x.mean()) / x.mean() < 1e-7
    assert float(keras.ops.mean(x[:4])) == pytest.approx(x[:4].mean(), rel=1e-15)
