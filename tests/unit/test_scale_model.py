"""The cost model of `benchmarks/scale_model.py`: its formulas, their limits, and a simulation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import cluster, failures, scale_model
from benchmarks.calibration import load
from benchmarks.cluster import Network
from benchmarks.document import DOCUMENT
from benchmarks.failures import Failures
from benchmarks.scale_model import Exchange

MEASURED = load()
EXACT = replace(MEASURED, tail=[1.0] * 101, both=1.0)
"""The same machine without stragglers, and without anything that its workers share."""

seconds = st.floats(1e-3, 1e3)
workers = st.integers(1, 2000)
sizes = st.floats(0.0, 1e11)
networks = st.builds(Network, st.floats(1e-6, 0.1), st.floats(0.0, 1e-3), st.floats(1e7, 1e11))


# ---- failures


@given(st.floats(0.1, 100.0), st.floats(1e3, 1e7))
def test_the_best_interval_is_where_dalys_efficiency_is_greatest(
    checkpoint: float, mtbf: float
) -> None:
    best = failures.daly(checkpoint, mtbf)
    around = [failures.efficiency(best * k, checkpoint, 10.0, mtbf) for k in (0.5, 0.8, 1.25, 2.0)]
    assert failures.efficiency(best, checkpoint, 10.0, mtbf) >= max(around)


@given(st.floats(1e-3, 1.0))
def test_young_is_daly_for_short_checkpoints(checkpoint: float) -> None:
    assert failures.daly(checkpoint, 1e6) == pytest.approx(
        failures.young(checkpoint, 1e6), rel=2e-3
    )


@given(st.floats(1.0, 1e3), st.floats(0.0, 100.0), st.floats(0.0, 100.0))
def test_without_failures_only_writing_costs(
    interval: float, checkpoint: float, restart: float
) -> None:
    found = failures.efficiency(interval, checkpoint, restart, 1e12)
    assert found == pytest.approx(interval / (interval + checkpoint), rel=1e-6)


@given(seconds, st.floats(0.0, 10.0), st.floats(0.0, 10.0), st.floats(1e2, 1e6))
def test_more_failures_leave_less(
    interval: float, writing: float, restart: float, m: float
) -> None:
    assert (
        0.0
        <= failures.efficiency(interval, writing, restart, m)
        <= failures.efficiency(interval, writing, restart, 2.0 * m)
        <= 1.0
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"workers": 1000},
        {"round_seconds": 20.0, "interval": 200.0},
        {"driver_mtbf": 1500.0, "interval": 80.0, "checkpoint": 8.0, "restart": 40.0},
        {"worker_mtbf": 1e12, "driver_mtbf": 1e12},
    ],
)
def test_the_simulation_agrees_with_the_formulas(changes: dict[str, float]) -> None:
    usual = Failures(
        workers=100, round_seconds=2.0, worker_mtbf=20_000.0, driver_mtbf=20_000.0,
        respawn=5.0, restart=30.0, interval=100.0, checkpoint=2.0,
    )  # fmt: skip
    case = replace(usual, **changes)
    found = [failures.simulate(case, 400_000.0, seed) for seed in range(8)]
    kept = np.array([outcome.kept for outcome in found])
    error = kept.std(ddof=1) / math.sqrt(len(kept))
    assert abs(kept.mean() - failures.expected(case)) < 4.0 * error + 1e-3
    for o in found:
        assert 0.99 < o.kept + o.with_workers + o.with_driver + o.writing <= 1.0 + 1e-9


# ---- combining


@given(workers, sizes, networks, st.floats(1e8, 1e11))
def test_nobody_combines_for_nothing(n: int, size: float, net: Network, add: float) -> None:
    for way in (cluster.star, cluster.tree, cluster.ring):
        assert way(n, size, net, add) >= 0.0
        assert way(n + 1, size, net, add) >= way(n, size, net, add) * (1 - 1e-12)
    assert cluster.tree(1, size, net, add) == cluster.ring(1, size, net, add) == 0.0


@given(st.integers(2, 2000), st.floats(1e9, 1e12))
def test_large_arrays_go_round_in_rings(n: int, size: float) -> None:
    """A link of a ring carries each array twice at most, the driver of a star all of them."""
    net, add = Network(1e-4, 1e-5, 1.25e9), 1e20
    ring = cluster.ring(n, size, net, add) - 2 * (n - 1) * net.latency
    assert ring == pytest.approx(2 * (n - 1) / n * size / net.bandwidth)
    star = cluster.star(n, size, net, add) - net.latency - n * net.each
    assert star == pytest.approx(2 * n * size / net.bandwidth)
    assert star / ring == pytest.approx(n * n / (n - 1))


@given(workers, sizes, networks)
def test_one_server_is_a_star_and_more_are_no_slower(n: int, size: float, net: Network) -> None:
    assert cluster.sharded(n, 8, size, net, 1e9) <= cluster.sharded(n, 1, size, net, 1e9)
    star = cluster.star(n, size, replace(net, each=0.0), 1e9)
    assert cluster.sharded(n, 1, size, net, 1e9) == pytest.approx(star + net.latency)


# ---- what a round touches


@given(st.integers(1, 10**9), st.floats(1.0, 1e8), st.sampled_from([0.0, 0.8, 1.0, 1.2]))
def test_distinct_columns_are_no_more_than_drawn_or_there(
    columns: int, draws: float, exponent: float
) -> None:
    found = cluster.distinct(draws, columns, exponent)
    assert 0.0 < found <= min(columns, draws) * (1 + 1e-6)
    assert found <= cluster.distinct(draws, columns) * (1 + 1e-6)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_distinct_columns_are_counted_right(exponent: float) -> None:
    rng, columns, draws = np.random.default_rng(0), 50_000, 20_000
    p = np.arange(1, columns + 1.0) ** -exponent
    drawn = [np.unique(rng.choice(columns, draws, p=p / p.sum())).size for _ in range(20)]
    assert cluster.distinct(draws, columns, exponent) == pytest.approx(np.mean(drawn), rel=0.01)


# ---- rounds


@given(st.integers(1, 64), st.lists(st.floats(0.5, 5.0), min_size=3, max_size=50))
def test_the_slowest_of_more_is_slower(n: int, times: list[float]) -> None:
    tail = sorted(times)
    one, more = cluster.slowest(n, tail), cluster.slowest(n + 1, tail)
    assert tail[0] - 1e-12 <= one <= more + 1e-12 <= tail[-1] + 1e-9


def test_the_slowest_of_uniform_times_is_known() -> None:
    for n in (1, 2, 10, 1000):
        found = cluster.slowest(n, np.linspace(0.0, 1.0, 101).tolist())
        assert found == pytest.approx(n / (n + 1), abs=1e-3)


@given(st.integers(1, 100), st.integers(1, 10**7), st.floats(0.0, 1e9))
def test_longer_rounds_are_better_used(n: int, samples: int, size: float) -> None:
    short = cluster.local_round(MEASURED, n, samples, 1e-6, size)
    long = cluster.local_round(MEASURED, n, 10 * samples, 1e-6, size)
    assert 0.0 < short.efficiency <= long.efficiency < 1.0
    assert short.combine == long.combine


def test_where_nothing_is_combined_workers_add_up() -> None:
    for n in (1, 2, 7):
        found = cluster.local_round(EXACT, n, 10**12, 1e-6, 0.0)
        assert found.rate == pytest.approx(n * 1e6, rel=1e-3)
        shared = cluster.local_round(EXACT, n, 10**12, 1e-6, 0.0, cores=1)
        assert shared.rate == pytest.approx(1e6, rel=1e-3)


@given(st.integers(2, 64), st.integers(1, 10**8), st.floats(1e-8, 1e-4))
def test_at_the_break_even_batch_workers_are_as_fast_as_one(
    n: int, parameters: int, learn: float
) -> None:
    batch_size = cluster.break_even(EXACT, n, learn, parameters)
    one = batch_size * learn + parameters * EXACT.update
    extra = cluster.synchronous_update(EXACT, n, 0, learn, parameters)
    assert batch_size * learn / n + extra.combine == pytest.approx(one)
    assert cluster.break_even(EXACT, 1, learn, parameters) == math.inf


@given(st.floats(0.0, 100.0), st.floats(0.0, 100.0), st.floats(1.0, 1e6), st.floats(1.01, 5.0))
def test_catching_up_works_off_what_waits(
    down: float, lost: float, arriving: float, times: float
) -> None:
    capacity = arriving * times
    t = cluster.catch_up(down, lost, arriving, capacity)
    waiting = (down + lost) * arriving + t * arriving
    assert waiting == pytest.approx(t * capacity, rel=1e-9, abs=1e-6)
    assert cluster.catch_up(down, lost, capacity, arriving) == math.inf


def test_a_replica_is_what_the_kernel_allocates() -> None:
    import streamfit as sf

    for optimizer, slots in ((sf.optim.SGD(0.1), 0), (sf.optim.AdaGrad(), 1), (sf.optim.Adam(), 2)):
        model = sf.LogisticRegression(optimizer, features=sf.HashedFeatures(bits=12))
        held = sum(v.nbytes for v in model.state_dict().values() if isinstance(v, np.ndarray))
        # the state has weights and slots once; the kernel both twice, and a gradient
        assert cluster.replica_bytes(2**12, slots) >= 2 * held - 100
        assert held == (1 + slots) * 8 * (2**12 + 1)


# ---- the tables


@pytest.mark.parametrize("way", scale_model.exchanges(MEASURED), ids=lambda way: way.name[:20])
def test_the_shortest_round_is_where_its_exchange_costs_a_tenth(way: Exchange) -> None:
    t = scale_model.shortest_round(way.seconds)
    assert way.seconds(t, scale_model.ARRIVING) == pytest.approx(scale_model.OVERHEAD * t, rel=1e-3)
    assert way.busiest(t, scale_model.ARRIVING) > 0.0
    most = scale_model.most_arriving(way.seconds)
    if most:
        assert way.seconds(1.0, most) == pytest.approx(scale_model.OVERHEAD, rel=1e-3)


def test_every_table_is_in_the_document() -> None:
    page = DOCUMENT.read_text()
    for name in scale_model.TABLES:
        assert page.count(f"<!-- {scale_model.COMMAND}: {name} -->") == 1
    for name in ("summary", "synchronous", "breaking", "exchanges"):  # made in no time
        text = scale_model.TABLES[name](MEASURED)
        assert text in page, f"{name} is old: {scale_model.COMMAND} writes it"
