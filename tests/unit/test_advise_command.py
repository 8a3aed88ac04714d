"""`streamfit advise`: the advisor from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamfit.cli import main


def test_it_prints_a_table_and_its_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    lines = [f"{a},{b},{int(a - b > 0)}" for a, b in X.tolist()]
    file, report = tmp_path / "data.csv", tmp_path / "report.html"
    file.write_text("\n".join(["a,b,late", *lines]) + "\n")
    arguments = ["advise", str(file), "--target", "late", "--budget", "2", "--html", str(report)]
    assert main([*arguments, "--optimizer", "sgd", "--lr", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "progressive loss" in out
    assert "Recommended batch size: " in out
    assert report.read_text().startswith("<!doctype html>")
