"""The advisor on batch sizes: what it measures, recommends, and when it says nothing is clear."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import streamfit as sf
from streamfit.advice import Rung, advise
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


def rung(batch_size: int | None, loss: float, rate: float) -> Rung:
    curve = Curve(*(np.zeros(2) for _ in range(4)), epoch_size=1)
    return Rung(
        batch_size=batch_size, updates_per_epoch=1, samples_per_second=rate, progressive_loss=loss,
        loss_equal_samples=loss, loss_equal_time=loss, noise_scale=50.0, noise_per_update=1.0,
        cosine=0.5, memory=8, curve=curve,
    )  # fmt: skip


def test_of_sizes_alike_the_faster_one_is_recommended() -> None:
    rungs = [rung(1, 0.300, 1e5), rung(32, 0.302, 1e6), rung(None, 0.690, 1e6)]
    noise = RNG.normal(scale=0.1, size=50)
    losses = np.array([0.3 + noise, 0.302 + noise[::-1], 0.69 + noise])
    advice = advise(rungs, own=1, losses=losses, n_train=1000, n_held_out=200)
    assert (advice.recommended, advice.clear, advice.alike) == (32, True, [1, 32])


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
