"""S4, S5, S7, S9: rows of arrays, against scikit-learn, NumPy and Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import streamfit as sf
from benchmarks.data import arrays, imported, offered, present
from benchmarks.measure import Case, Measurement, Side, compare

__all__ = ["cases"]

BLOCK = 1000
BATCH = 32


def logistic(batch_size: int = 1, **options: Any) -> Any:
    return sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=batch_size, **options)


def learning_blocks(
    learn: Callable[[Any, Any], object], blocks: list[tuple[Any, Any]]
) -> Callable[[], None]:
    """Return the loop that is timed; both sides run the same one."""

    def loop() -> None:
        for X, y in blocks:
            learn(X, y)

    return loop


def cut(X: Any, y: Any, size: int) -> list[tuple[Any, Any]]:
    return [(X[i : i + size], y[i : i + size]) for i in range(0, len(X) - size + 1, size)]


def s4(n_features: int) -> Measurement:
    n = {10: 20 * BLOCK, 100: 10 * BLOCK, 1000: 3 * BLOCK}[n_features]
    X, y = arrays(n, n_features)
    blocks = cut(X, y.astype(np.float64), BLOCK)
    linear_model = imported("sklearn.linear_model")

    def peer() -> Callable[[], None]:
        # plain SGD at a constant rate without penalty is its fastest path, and so is not shuffling
        model = linear_model.SGDClassifier(
            loss="log_loss", penalty=None, learning_rate="constant", eta0=0.01, shuffle=False
        )
        model.partial_fit(*blocks[0], classes=[0.0, 1.0])
        return learning_blocks(model.partial_fit, blocks)

    return compare(
        Side("streamfit", lambda: learning_blocks(logistic().learn_many, blocks), n),
        Side("scikit-learn", peer, n),
    )


def s5(n_features: int, dtype: str = "float64") -> Measurement:
    # 160 MB in float64: many times what any cache holds
    n = 20_000_000 // n_features
    X, y = arrays(n, n_features)
    X, labels = X.astype(dtype), y.astype(np.float64)
    w = np.full(n_features, 0.01, dtype=dtype)
    options = {} if dtype == "float64" else {"dtype": dtype}
    present(lambda: logistic(BATCH, **options), f"dtype {dtype}")

    def epoch() -> Callable[[], None]:
        model = logistic(BATCH, **options)
        return lambda: model.learn_many(X, labels)

    return compare(
        Side("streamfit", epoch, n), Side("NumPy X @ w", lambda: lambda: X @ w, n), of_times=True
    )


def keras_model(n_features: int) -> Any:
    keras = imported("keras")
    model = keras.Sequential(
        [keras.layers.Input((n_features,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="binary_crossentropy")
    return model


def s7(rows_a_call: int) -> Measurement:
    n = 64 * BATCH
    X, y = arrays(n, 10)
    labels = y.astype(np.float64)
    blocks = cut(X, labels, rows_a_call)
    # what Keras converts to: float32, labels in a column
    keras_blocks = cut(X.astype(np.float32), labels.astype(np.float32)[:, None], BATCH)

    def peer() -> Callable[[], None]:
        model = keras_model(10)
        model.train_on_batch(*keras_blocks[0])  # compiles
        return learning_blocks(model.train_on_batch, keras_blocks)

    peer_loop = peer()  # once: compiling takes seconds
    return compare(
        Side("streamfit", lambda: learning_blocks(logistic(BATCH).learn_many, blocks), n),
        Side("Keras on JAX", lambda: peer_loop, n),
    )


def numpy_softmax(X: Any, onehot: Any, n_classes: int) -> Callable[[], None]:
    """Return the textbook loop, written the way NumPy is fast: two products a micro-batch."""
    W, b = np.zeros((X.shape[1], n_classes)), np.zeros(n_classes)

    def epoch() -> None:
        for i in range(0, len(X), BATCH):
            rows = X[i : i + BATCH]
            z = rows @ W
            z += b
            z -= z.max(axis=1, keepdims=True)
            np.exp(z, out=z)
            z /= z.sum(axis=1, keepdims=True)
            z -= onehot[i : i + BATCH]
            z *= 0.01 / BATCH
            np.subtract(W, rows.T @ z, out=W)
            np.subtract(b, z.sum(axis=0), out=b)

    return epoch


def s9() -> Measurement:
    n, n_features, n_classes = 640 * BATCH, 64, 10
    X, _ = arrays(n, n_features)
    rng = np.random.default_rng(1)
    labels = (X @ rng.standard_normal((n_features, n_classes))).argmax(axis=1)
    onehot = np.eye(n_classes)[labels]

    kind = offered("SoftmaxRegression")

    def make() -> Any:
        return kind(sf.optim.SGD(0.01), batch_size=BATCH, classes=list(range(n_classes)))

    def ours() -> Callable[[], None]:
        model = make()
        return lambda: model.learn_many(X, labels)

    return compare(
        Side("streamfit", ours, n),
        Side("NumPy loop", lambda: numpy_softmax(X, onehot, n_classes), n),
    )


def cases() -> Iterator[Case]:
    """Yield the lines of the table."""
    for d, goal in ((10, 20.0), (100, 15.0), (1000, 5.0)):
        yield Case("S4", f"learn_many, blocks of {BLOCK}, {d} features", goal, partial(s4, d))
    for d, goal in ((100, 1.4), (1000, 2.0)):
        yield Case("S5", f"epoch at batch 32, {d} features", goal, partial(s5, d), at_most=True)
    yield Case(
        "S5", "the same in float32, 1000 features", None, lambda: s5(1000, "float32"), at_most=True
    )
    yield Case("S7", "batch 32, 10 features, 32 rows a call", 300.0, lambda: s7(BATCH))
    yield Case("S7", "the same, all rows in one call", None, lambda: s7(64 * BATCH))
    yield Case("S9", "softmax, 10 classes, 64 features, batch 32", 2.0, s9)
