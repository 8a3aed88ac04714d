"""A sample is what its dict holds, however CPython keeps the dict.

The kernels read a dict's items where CPython keeps them, which differs with how the dict came
about and with what was done to it since. Here dicts have a life before they are a sample; the
yardstick is the same numbers as an array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import streamfit as sf
from streamfit.errors import BadSampleError
from streamfit.testing.strategies import fresh

pytestmark = pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")

KNOWN = [sys.intern(f"x{j}") for j in range(12)]  # as the names of attributes are
NAMES: list[Any] = [*KNOWN, "other", "more", 3, 4]


class Number(float):
    """A float of another type."""


class Attributes:
    """What has attributes."""


def another(name: Any) -> Any:
    """Return an equal name that is another object."""
    return "".join(list(name)) if isinstance(name, str) else name


VALUES = st.one_of(
    st.floats(-5, 5),
    st.integers(-(2**70), 2**70),
    st.just(-1),  # what a C function returns beside an error
    st.booleans(),
    st.floats(-5, 5).map(Number),
)
STEPS = st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(VALUES, st.none())), max_size=30)
Steps: TypeAlias = list[tuple[Any, Any]]


def changed(x: dict[Any, Any], steps: Steps) -> dict[Any, Any]:
    """Put names into a dict, or take them out where the value is None."""
    for name, value in steps:
        if value is None:
            x.pop(name, None)
        else:
            x[another(name) if value is True else name] = value
    return x


def attributes(steps: Steps) -> dict[Any, Any]:
    """Return the attributes of an object, whose names all objects of the class share."""
    one = Attributes()
    for name, value in steps:
        if isinstance(name, str) and value is not None:
            setattr(one, name, value)
    return vars(one)


LIVES: dict[str, Callable[[Steps], dict[Any, Any]]] = {
    "empty at first": lambda steps: changed({}, steps),
    "full at first": lambda steps: changed(dict.fromkeys(KNOWN, 1.0), steps),
    "full of other names": lambda steps: changed(dict.fromkeys(NAMES[::-1], 0.5), steps),
    "from JSON": lambda steps: changed(
        orjson.loads(orjson.dumps(dict.fromkeys(KNOWN, 2.5))), steps
    ),
    "a copy": lambda steps: changed(dict.fromkeys(KNOWN, 1.0), steps).copy(),
    "attributes": attributes,
}


@pytest.mark.parametrize("life", LIVES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@given(STEPS)
@example([("x3", None), ("x3", 2.0)])
@example([("x0", None), ("x1", None), ("x11", None)])
@example([("x5", 7), ("x6", True)])
def test_a_dict_is_the_array_of_its_numbers(life: str, dtype: str, steps: Steps) -> None:
    x = LIVES[life](steps)
    index = sf.FeatureIndex(KNOWN)
    model = sf.LinearRegression(sf.optim.SGD(0.1), features=index, dtype=dtype)
    row = np.array([float(x.get(name, 0.0)) for name in KNOWN])
    expected = fresh(model)
    for one, sample in ((model, {name: x[name] for name in x if name in KNOWN}), (expected, row)):
        one.learn_one(np.arange(12.0), 1.0)  # so that each weight differs
        one.learn_one(sample, 2.0)
    assert model.digest() == expected.digest()
    assert model.predict_one(x) == expected.predict_one(row)
    model = fresh(model)
    model.learn_one(np.arange(12.0), 1.0)
    model.learn_one(x, 2.0)
    new = [name for name in x if name not in KNOWN]
    assert model.index.names == [*KNOWN, *new]
    weights = {name: w for name, w in model.weights.items() if name in KNOWN}
    wide = sf.LinearRegression(
        sf.optim.SGD(0.1), features=sf.FeatureIndex([*KNOWN, *new]), dtype=dtype
    )
    wide.learn_one({name: float(j) for j, name in enumerate(KNOWN)}, 1.0)
    wide.learn_one(np.array([*row, *(float(x[name]) for name in new)]), 2.0)
    assert model.digest() == wide.digest()
    assert weights == {name: wide.weights[name] for name in KNOWN}


@pytest.mark.parametrize("life", LIVES)
@given(STEPS, st.integers(1, 18))
def test_hashed_names_do_not_care_either(life: str, steps: Steps, bits: int) -> None:
    x = LIVES[life](steps)
    model = sf.LinearRegression(sf.optim.SGD(0.1), features=sf.HashedFeatures(bits=bits))
    expected = fresh(model)
    for _ in range(2):  # the second time each name is known
        model.learn_one(x, 2.0)
        expected.learn_one({another(name): float(value) for name, value in x.items()}, 2.0)
    assert model.digest() == expected.digest()


@pytest.mark.parametrize("features", [sf.FeatureIndex(KNOWN), sf.HashedFeatures(bits=8)])
@pytest.mark.parametrize("life", LIVES)
@given(STEPS, st.sampled_from(KNOWN), st.sampled_from([10**400, -(10**400), "1.0", 1j, [2.0]]))
def test_what_is_no_number_changes_nothing(
    features: Any, life: str, steps: Steps, name: str, bad: Any
) -> None:
    x = {**LIVES[life](steps), name: bad}
    model = sf.LinearRegression(sf.optim.SGD(0.1), features=features)
    before = model.digest()
    with pytest.raises(BadSampleError, match=repr(name)):
        model.learn_one(x, 1.0)
    assert model.digest() == before
    x[name] = 1.0
    model.learn_one(x, 1.0)


class Point:
    """What has attributes from the first on, in the order of the model's names."""

    def __init__(self, *values: float) -> None:
        self.x0, self.x1, self.x2 = values


def test_attributes_in_the_order_of_the_names() -> None:
    model, expected = sf.LinearRegression(), sf.LinearRegression()
    for i in range(5):
        x = Point(1.5 * i, -2.0, 0.25)
        model.learn_one(vars(x), 1.0)
        expected.learn_one(dict(vars(x)), 1.0)
    assert model.digest() == expected.digest()
    assert list(model.weights) == ["x0", "x1", "x2"]
