"""The arithmetic of the kernels: functions, gradients, the order of every sum."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import streamfit as sf
from streamfit._kernels import exp, sigmoid
from streamfit.core.losses import Loss

LARGEST = float(np.finfo(float).max)
finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.floats(-745.0, 709.7))
@example(0.0)
@example(-708.4)  # where the numbers below the normal ones begin
@example(-709.0)  # where 2^k is no normal number, and what it multiplies makes it none either
@example(-745.1)
@example(math.log(2) / 2)
@example(709.78)
def test_exp_is_within_one_ulp(x: float) -> None:
    theirs = float(np.exp(x))
    assert abs(exp(x) - theirs) <= np.spacing(theirs)


def test_exp_at_the_ends() -> None:
    assert exp(0.0) == exp(-0.0) == 1.0
    assert exp(-1e308) == exp(-math.inf) == exp(-746.0) == 0.0
    assert exp(710.0) == exp(math.inf) == math.inf
    assert math.isnan(exp(math.nan))


@given(finite)
def test_sigmoid(z: float) -> None:
    p = sigmoid(z)
    assert 0.0 <= p <= 1.0
    assert p == sf.losses.Log().mean(np.array([z]))[0]
    assert p + sigmoid(-z) == pytest.approx(1.0, abs=1e-15)
    exact = 1.0 / (1.0 + math.exp(-z)) if z > -700 else math.exp(max(z, -746.0))
    assert p == pytest.approx(exact, rel=1e-15, abs=5e-324)


@pytest.mark.parametrize(("z", "p"), [(LARGEST, 1.0), (-LARGEST, 0.0), (1e308, 1.0), (0.0, 0.5)])
def test_sigmoid_at_the_ends(z: float, p: float) -> None:
    assert sigmoid(z) == p


@given(st.lists(st.floats(-800, 800), min_size=2, max_size=2).map(sorted))
def test_sigmoid_falls_by_no_more_than_it_is_rounded(ends: list[float]) -> None:
    assert sigmoid(ends[0]) <= sigmoid(ends[1]) * (1.0 + 2.0**-51) + 5e-324


H = 1e-4
SMOOTH = (sf.losses.Squared(), sf.losses.HalfSquared(), sf.losses.Log(), sf.losses.Poisson())
CORNERS: dict[Loss, Callable[[float, float], list[float]]] = {
    # where the slope (or the slope's slope) of a loss jumps, as predictors
    sf.losses.Absolute(): lambda y, s: [y],
    sf.losses.Huber(0.7): lambda y, s: [y - 0.7, y + 0.7],
    sf.losses.EpsilonInsensitive(0.7): lambda y, s: [y - 0.7, y + 0.7],
    sf.losses.EpsilonInsensitive(0.0): lambda y, s: [y],
    sf.losses.Quantile(0.8): lambda y, s: [y],
    sf.losses.Hinge(): lambda y, s: [s],
    sf.losses.Hinge(0.0): lambda y, s: [0.0],
    sf.losses.SquaredHinge(0.7): lambda y, s: [0.7 * s],
    sf.losses.ModifiedHuber(): lambda y, s: [s, -s],
}


@pytest.mark.parametrize("loss", [*SMOOTH, *CORNERS], ids=repr)
@given(st.floats(-5, 5), st.floats(-5, 5))
def test_the_gradient_is_the_slope_of_the_loss(loss: Loss, p: float, y: float) -> None:
    if isinstance(loss, sf.LogisticRegression._losses):
        y = float(y > 0)
    for corner in CORNERS.get(loss, lambda y, s: [])(y, 2 * y - 1):
        assume(abs(p - corner) > 2 * H)
    slope = (loss.value(p + H, y) - loss.value(p - H, y)) / (2 * H)
    # rounding: ulp(loss) / 2h, below 3e-11; truncation: h^2/6 of a third derivative, which is
    # exp(p) for Poisson and below 0.1 for the others
    third = math.exp(p + H) if isinstance(loss, sf.losses.Poisson) else 0.1
    assert loss.gradient(p, y) == pytest.approx(slope, rel=0, abs=H**2 / 6 * third + 1e-9)


@pytest.mark.parametrize("loss", CORNERS, ids=repr)
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_at_a_corner_the_gradient_is_a_subgradient(loss: Loss, y: float) -> None:
    for p in CORNERS[loss](y, 2 * y - 1):
        g = loss.gradient(p, y)
        for other in (p - 3.0, p - 1e-3, p + 1e-3, p + 3.0):
            assert loss.value(other, y) >= loss.value(p, y) + g * (other - p) - 1e-12


@given(st.floats(-800, 800), st.booleans())
def test_the_log_loss_is_minus_the_log_of_the_probability(p: float, y: bool) -> None:
    q = sigmoid(p if y else -p)
    if q > 1e-300:
        assert sf.losses.Log().value(p, y) == pytest.approx(-math.log(q), rel=1e-12, abs=3e-16)


@pytest.mark.parametrize("p", [LARGEST, -LARGEST, 1e308, -1e308, 0.0])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_the_log_loss_is_finite_everywhere(p: float, y: float) -> None:
    assert 0.0 <= sf.losses.Log().value(p, y) <= LARGEST
    assert -1.0 <= sf.losses.Log().gradient(p, y) <= 1.0


def dot_in_eight_lanes(x: list[float], w: list[float]) -> float:
    """The order of summation that kernels.h promises, in Python."""
    lane = [0.0] * 8
    for j, (a, b) in enumerate(zip(x, w, strict=True)):
        lane[j % 8] += a * b
    return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]))


@given(st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_a_prediction_sums_in_eight_lanes(d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=d) * 10.0 ** rng.integers(-8, 8, size=d), rng.normal(size=d)
    model = sf.LinearRegression(features=sf.FeatureIndex(range(d)) if d else None)
    state = model.state_dict()
    state["parameters"] = np.array([0.7, *w])
    model.load_state_dict(state)
    assert model.predict_one(x) == dot_in_eight_lanes(x.tolist(), w.tolist()) + 0.7


@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_gradient_sums_row_by_row(d: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, d)), rng.normal(size=n)
    model = sf.LinearRegression(sf.optim.SGD(0.1), sf.losses.HalfSquared(), batch_size=n)
    model.learn_many(X, y)
    g = -y[0] * X[0]
    for i in range(1, n):
        g = g + -y[i] * X[i]
    expected = 0.0 - 0.1 * (g * (1.0 / n))
    assert np.array_equal(list(model.weights.values()), expected)


RATES = {
    "inverse scaling": (
        sf.schedules.InverseScaling(0.1, 0.3),
        lambda t: 0.1 / (t + 1.0) ** 0.3,
    ),
    "the square root": (sf.schedules.InverseScaling(0.1), lambda t: 0.1 / math.sqrt(t + 1.0)),
    "exponential": (sf.schedules.Exponential(0.1, 0.999, 7), lambda t: 0.1 * 0.999 ** (t / 7)),
    "growing": (sf.schedules.Exponential(0.1, 1.01, 50), lambda t: 0.1 * 1.01 ** (t / 50)),
    "from nearly nothing": (
        sf.schedules.Exponential(0.1, 5e-310, 100_000),
        lambda t: 0.1 * 5e-310 ** (t / 100_000),
    ),
    "step": (sf.schedules.Step(0.1, 0.9, 100), lambda t: 0.1 * 0.9 ** (t // 100)),
    "cosine": (
        sf.schedules.CosineWarmup(0.1, 20_000, 50, 0.01),
        lambda t: (
            0.1 * (t + 1) / 50
            if t < 50
            else 0.01 + 0.09 * math.cos(math.pi * (min(t, 20_000) - 50) / 19_950 / 2) ** 2
        ),
    ),
}


@pytest.mark.parametrize("name", RATES)
def test_a_schedule_is_its_formula(name: str) -> None:
    schedule, formula = RATES[name]
    ours = [schedule.rate(t) for t in range(20_010)]
    np.testing.assert_allclose(ours, [formula(t) for t in range(20_010)], rtol=1e-13)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_rates_do_not_depend_on_the_processor() -> None:
    """The C library's pow and cos have other last bits where there is no fused multiply-add."""
    code = (
        "import streamfit as sf; s = sf.schedules; "
        "print([r.rate(t).hex() for r in (s.InverseScaling(0.1, 0.3), "
        "s.Exponential(0.1, 0.999, 7), s.CosineWarmup(0.1, 2000)) for t in range(2000)])"
    )
    plain = {**os.environ, "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2"}
    one, other = (
        subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True)
        for env in (dict(os.environ), plain)
    )
    assert one.stdout == other.stdout
    assert one.stdout
