"""The samples of the benchmarks: normal features, labels of a logistic model, a fixed seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

import streamfit as sf
from benchmarks.measure import NotAvailableError

__all__ = ["arrays", "dicts", "imported", "offered", "present"]

T = TypeVar("T")

Floats = npt.NDArray[np.float64]


def arrays(n: int, n_features: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return `n` rows and labels."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, n_features))
    w = rng.standard_normal(n_features) / np.sqrt(n_features)
    return X, rng.random(n) < 1.0 / (1.0 + np.exp(-2.0 * (X @ w)))


def dicts(n: int, n_features: int) -> list[tuple[dict[str, float], bool]]:
    """Return `n` samples as `(dict, label)`, all with the same keys in the same order."""
    X, y = arrays(n, n_features)
    names = [f"feature_{j}" for j in range(n_features)]
    return [
        (dict(zip(names, row, strict=True)), label)
        for row, label in zip(X.tolist(), y.tolist(), strict=True)
    ]


def offered(name: str) -> Any:
    """Return what streamfit has under a public name, if it has."""
    try:
        return getattr(sf, name)
    except AttributeError:
        raise NotAvailableError(f"streamfit.{name}") from None


def present(make: Callable[[], T], what: str) -> T:
    """Return what `make` makes, if streamfit knows the options that it uses."""
    try:
        return make()
    except TypeError as error:
        raise NotAvailableError(f"{what}: {error}") from None


def imported(name: str) -> Any:
    """Import a peer, which the extra `bench` brings."""
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError:
        raise NotAvailableError(f'{name} is missing: pip install -e ".[bench]"') from None
