"""The advisor on batch sizes: what it measures, recommends, and when it says nothing is clear."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import streamfit as sf
from streamfit._ladder import _bound
from streamfit.advice import Advice, Rung, advise
from streamfit.curves import Curve

RNG = np.random.default_rng(1)
X = RNG.normal(size=(1500, 5))
Y = X @ [1.0, -1.0, 0.5, 0.0, 2.0] + RNG.normal(size=1500) > 0
SAMPLES = [
    (dict(zip("abcde", x, strict=True)), bool(y)) for x, y in zip(X.tolist(), Y, strict=True)
]


def test_each_size_of_the_ladder_is_measured() -> None:
    model = sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=8)
    before = model.digest()
    advice = sf.advise_batch_size(model, SAMPLES, budget=3.0)
    sizes = [rung.batch_size for rung in advice.rungs]
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 128, 256, None]
    assert (advice.n_train, advice.n_held_out) == (1200, 300)
    assert [r.updates_per_epoch for r in advice.rungs] == [-(-1200 // (s or 1200)) for s in sizes]
    assert model.digest() == before
    for rung in advice.rungs:
        run = sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=rung.batch_size)
        loss = sf.Trainer(run, SAMPLES[:1200]).run().progressive_loss
        assert rung.progressive_loss == pytest.approx(loss)
    assert advice.rungs[-1].cosine == pytest.approx(1.0)
    assert advice.clear
    assert None not in advice.alike  # one update in all is no match for many
    assert f"Recommended batch size: {advice.recommended}." in advice.reasons


def test_a_rate_too_small_to_learn_shows_no_clear_difference() -> None:
    model = sf.LogisticRegression(sf.optim.SGD(1e-7), batch_size=16)
    advice = sf.advise_batch_size(model, SAMPLES[:500], budget=3.0, batch_sizes=[1, 16, None])
    assert not advice.clear
    assert advice.recommended == 16  # what the model has
    assert advice.reasons[0].startswith("No clear difference")
    assert "No clear difference" in str(advice)


# ---- what follows from measurements


def rung(batch_size: int | None, loss: float, *, diverges: bool = False) -> Rung:
    curve = Curve(*(np.zeros(2) for _ in range(4)), epoch_size=1)
    return Rung(
        batch_size=batch_size, updates_per_epoch=1, samples_per_second=1e6, progressive_loss=loss,
        loss_equal_samples=loss, loss_equal_time=loss, noise_scale=50.0, noise_per_update=1.0,
        cosine=0.5, memory=8, diverges=diverges, curve=curve,
    )  # fmt: skip


NOISE = RNG.normal(scale=0.1, size=50)
NEAR = [rung(1, 0.300), rung(32, 0.302), rung(None, 0.690)]
NEAR_LOSSES = np.array([0.3 + NOISE, 0.302 + NOISE[::-1], 0.69 + NOISE])


def advised(rungs: list[Rung], losses: Any, seconds: Any, own: int | None = 1) -> Advice:
    spread = 1.0 + 0.2 * np.abs(NOISE)
    times = np.array([s * (spread if k % 2 else spread[::-1]) for k, s in enumerate(seconds)])
    return advise(rungs, own=own, losses=losses, seconds=times, n_train=1000, n_held_out=200)


def test_of_sizes_alike_the_faster_one_is_recommended() -> None:
    advice = advised(NEAR, NEAR_LOSSES, [1e-2, 1e-3, 1e-3])
    assert (advice.recommended, advice.clear, advice.alike) == (32, True, [1, 32])


def test_a_difference_in_speed_within_its_spread_is_none() -> None:
    advice = advised(NEAR, NEAR_LOSSES, [1.0e-3, 0.999e-3, 1e-3])
    assert advice.recommended == 1  # of the least loss
    assert "No clear difference in speed between these." in advice.reasons
    wild = 1e-3 * np.exp(3.0 * RNG.normal(size=(3, 50)))
    wild[1] *= 0.8
    advice = advise(NEAR, own=1, losses=NEAR_LOSSES, seconds=wild, n_train=1, n_held_out=1)
    assert advice.recommended == 1


def test_a_size_at_which_the_model_diverges_is_never_recommended() -> None:
    rungs = [rung(1, 0.1, diverges=True), rung(32, 0.5), rung(None, 3e151, diverges=True)]
    losses = np.array([0.1 + NOISE, 0.5 + NOISE, 3e151 * (1.0 + NOISE)])
    advice = advised(rungs, losses, [1e-3, 1e-3, 1e-6])
    assert (advice.recommended, advice.alike, advice.diverging) == (32, [32], [1, None])
    assert "The model diverges at 1, full: at this learning rate that is no choice." in (
        advice.reasons
    )
    text = [row[3:5] for row in advice.rows()]
    assert text == [("diverges", "-"), ("0.5000", "least"), ("diverges", "-")]
    assert max(map(len, str(advice).split("\n")[1].split("  "))) < 15
    with pytest.raises(sf.errors.ConfigurationError, match="diverges at every batch size"):
        advised([rungs[0], rungs[2]], losses[[0, 2]], [1e-3, 1e-3])


@given(st.data())
def test_the_order_of_the_ladder_does_not_matter(draw: st.DataObject) -> None:
    n = draw.draw(st.integers(2, 6))
    sizes = draw.draw(st.permutations([1, 2, 4, 8, 16, None][:n]))
    of = st.sampled_from([0.3, 0.301, 0.32, 0.5])
    rungs = [rung(s, draw.draw(of), diverges=draw.draw(st.integers(0, 4)) == 0) for s in sizes]
    assume(not all(r.diverges for r in rungs))
    noise = np.random.default_rng(n).normal(scale=0.02, size=(n, 50))
    losses = np.array([r.progressive_loss for r in rungs])[:, None] + noise
    seconds = draw.draw(st.sampled_from([1.0, 2.0])) + np.abs(noise)
    own = draw.draw(st.sampled_from([0, 1, 4, None]))
    order = draw.draw(st.permutations(range(n)))
    options = {"own": own, "n_train": 1000, "n_held_out": 200}
    one = advise(rungs, losses=losses, seconds=seconds, **options)
    other = advise(
        [rungs[k] for k in order], losses=losses[order], seconds=seconds[order], **options
    )
    assert one == other


# ---- what is trained


@pytest.mark.parametrize("order", [[1, 32, None], [None, 1, 32], [32, None, 1]])
def test_the_order_of_training_does_not_matter(order: list[int | None]) -> None:
    model = sf.LogisticRegression(sf.optim.SGD(0.1))
    one = sf.advise_batch_size(model, SAMPLES, budget=3.0, batch_sizes=[1, 32, None])
    other = sf.advise_batch_size(model, SAMPLES, budget=3.0, batch_sizes=order)
    assert one.recommended == other.recommended == 1
    for a, b in zip(one.rungs, other.rungs, strict=True):
        assert (a.batch_size, a.progressive_loss) == (b.batch_size, b.progressive_loss)


def test_diverging_rates_are_named(tmp_path: Path) -> None:
    """A rate that only averages of many samples bear."""
    samples = [(x, 1000.0 * y) for x, y in SAMPLES]
    model = sf.LinearRegression(sf.optim.SGD(0.4))
    advice = sf.advise_batch_size(model, samples, budget=3.0, batch_sizes=[1, 2, 256, None])
    assert 1 in advice.diverging
    assert 256 not in advice.diverging
    assert advice.recommended == 256
    assert "e+" not in advice.reasons[0]
    pytest.importorskip("matplotlib")
    advice.to_html(tmp_path / "report.html")
    assert "<td>diverges</td>" in (tmp_path / "report.html").read_text()
    with pytest.raises(sf.errors.ConfigurationError, match="smaller learning rate"):
        sf.advise_batch_size(
            sf.LinearRegression(sf.optim.SGD(50.0)), samples, budget=3.0, batch_sizes=[1, 256]
        )


def test_samples_that_the_model_refuses_are_left_out() -> None:
    bad = [*SAMPLES[:100], ({"a": float("nan")}, True), *SAMPLES[100:250]]
    advice = sf.advise_batch_size(sf.LogisticRegression(), bad, budget=2.0, batch_sizes=[1, 8])
    assert advice.n_train + advice.n_held_out == 250


def test_the_report_is_one_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    advice = sf.advise_batch_size(
        sf.LogisticRegression(), SAMPLES[:300], budget=2.0, batch_sizes=[1, 8, None]
    )
    advice.to_html(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("<img") == 2
    assert not re.findall(r"(?:src|href)='(?!data:)", text)
    for row in advice.rows():
        assert f"<td>{row[3]}</td>" in text


def test_what_cannot_be_compared_is_refused() -> None:
    model = sf.LogisticRegression()
    with pytest.raises(sf.errors.ConfigurationError, match="too few"):
        sf.advise_batch_size(model, SAMPLES[:50])
    with pytest.raises(sf.errors.ConfigurationError, match="budget"):
        sf.advise_batch_size(model, SAMPLES, budget=0.0)
    with pytest.raises(sf.errors.ConfigurationError, match="two sizes"):
        sf.advise_batch_size(model, SAMPLES, batch_sizes=[4])
    with pytest.raises(sf.errors.UnsupportedError):
        sf.advise_batch_size(object(), SAMPLES)  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_sizes", [5, [[1], [2]], [0, 1], [1.0, 2], "ab"])
def test_sizes_that_are_none_are_refused_before_the_source_is_read(batch_sizes: Any) -> None:
    source = iter(SAMPLES)
    with pytest.raises(sf.errors.ConfigurationError, match="batch_sizes"):
        sf.advise_batch_size(sf.LogisticRegression(), source, batch_sizes=batch_sizes)
    assert next(source) is SAMPLES[0]


def test_sizes_may_be_any_iterable_of_any_integers() -> None:
    advice = sf.advise_batch_size(
        sf.LogisticRegression(),
        SAMPLES[:200],
        batch_sizes=iter(np.array([1, 8])),  # type: ignore[arg-type]
    )
    assert [type(rung.batch_size) for rung in advice.rungs] == [int, int]


def test_a_budget_of_any_size_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamfit._ladder.time.process_time", lambda: 0.0)  # a fast machine
    monkeypatch.setattr("streamfit._ladder.Run.go_on_until", lambda run, _: run.look())
    advice = sf.advise_batch_size(
        sf.LogisticRegression(), SAMPLES[:200], budget=1.7e308, batch_sizes=[1, 8]
    )
    assert advice.n_train == 160


@pytest.mark.parametrize("counting", [slice(0), slice(160), slice(160, None)])
def test_samples_of_no_weight_are_not_called_diverging(counting: slice) -> None:
    w = np.zeros(200)
    w[counting] = 1.0
    samples = [(x, y, v) for (x, y), v in zip(SAMPLES, w.tolist(), strict=False)]
    with pytest.raises(sf.errors.ConfigurationError, match="weight 0"):
        sf.advise_batch_size(sf.LogisticRegression(), samples, batch_sizes=[1, 8])


def test_labels_that_an_untrained_model_happens_to_know_make_no_divergence() -> None:
    """The held-out fifth has labels 0, which weights 0 predict without a loss."""
    samples = [(x, 5.0 * (i < 160)) for i, (x, _) in enumerate(SAMPLES[:200])]
    model = sf.LinearRegression(sf.optim.SGD(0.01))
    advice = sf.advise_batch_size(model, samples, batch_sizes=[1, 8, None])
    assert not advice.diverging
    assert advice.recommended == 1


@pytest.mark.parametrize("model", [sf.LogisticRegression(), sf.SoftmaxRegression()])
def test_a_class_that_only_the_held_out_samples_have_makes_no_divergence(model: Any) -> None:
    samples = [({**x, "a": 10.0}, i >= 160) for i, (x, _) in enumerate(SAMPLES[:200])]
    advice = sf.advise_batch_size(model, samples, batch_sizes=[1, 8, None])
    assert not advice.diverging


@pytest.mark.parametrize(("before", "bound"), [(3.0, 6.0), (0.0, 0.0), (-5.0, 0.0)])
def test_a_loss_that_may_be_negative_has_a_bound_above_it(before: float, bound: float) -> None:
    assert _bound(before) == bound
