"""docs/from-vw.md: each row of its table of updates, run by both programs on the same samples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import streamfit as sf
from streamfit import cli

vowpalwabbit = pytest.importorskip("vowpalwabbit")

DOCUMENT = Path(sf.__file__).parents[1] / "docs" / "from-vw.md"
ROWS = re.findall(r"^\| `(--[^`]+)` \| `(--[^`]+)` \| (equal|differs)", DOCUMENT.read_text(), re.M)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 2))
Z = X[:, 0] - X[:, 1] + 0.3 + RNG.normal(scale=0.3, size=300)


def of_vw(options: str, labels: list[str], weights: list[int] | None = None) -> list[float]:
    workspace = vowpalwabbit.Workspace(f"{options} --quiet")
    for i, ((a, b), y) in enumerate(zip(X.tolist(), labels, strict=True)):
        importance = "" if weights is None else f" {weights[i]}"
        workspace.learn(f"{y}{importance} | a:{a!r} b:{b!r}")
    found = [float(workspace.get_weight_from_name(name)) for name in "ab"]
    workspace.finish()
    return found


def ours(
    options: str,
    labels: list[str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    weights: list[int] | None = None,
) -> list[float]:
    path, state = folder / "clicks.csv", folder / "state"
    of_samples = weights or [1] * len(labels)
    rows = [
        f"{a!r},{b!r},{y},{w}" for (a, b), y, w in zip(X.tolist(), labels, of_samples, strict=True)
    ]
    path.write_text("\n".join(["a,b,y,w", *rows, ""]))
    command = ["train", str(path), "--target", "y", "--weight", "w", "--checkpoint", str(state)]
    assert cli.main([*command, *options.split()]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(state), "--json"]) == 0
    top = json.loads(capsys.readouterr().out)["top_weights"]
    by_name = {row["feature"]: row["weight"] for row in top}
    return [by_name["a"], by_name["b"]]


def labels_of(vw_options: str) -> tuple[list[str], list[str]]:
    """Return the labels as each program wants them: -1 and 1, or 0 and 1; or numbers."""
    if "logistic" in vw_options or "hinge" in vw_options:
        return ["1" if z > 0 else "-1" for z in Z], ["1" if z > 0 else "0" for z in Z]
    return [repr(z) for z in Z.tolist()], [repr(z) for z in Z.tolist()]


def test_the_table_is_read() -> None:
    assert {outcome for *_, outcome in ROWS} == {"equal", "differs"}
    assert len(ROWS) == 12


@pytest.mark.parametrize(("vw", "streamfit", "outcome"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_table(
    vw: str, streamfit: str, outcome: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, mine = labels_of(vw)
    expected = of_vw(vw, theirs)
    found = ours(streamfit, mine, tmp_path, capsys)
    difference = np.abs(np.subtract(found, expected)) / np.abs(expected)
    assert min(map(abs, expected)) > 0.1  # something was learned
    if outcome == "equal":
        assert difference.max() < 1e-5
    else:
        assert difference.max() > 1e-3


def test_importance_is_the_weight_of_a_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vw = "--sgd --power_t 0 -l 0.05 --loss_function logistic"
    theirs, mine = labels_of(vw)
    weights = [1 + i % 3 for i in range(len(Z))]
    expected = of_vw(vw, theirs, weights)
    summed = ours("--lr 0.05 --reduction sum", mine, tmp_path, capsys, weights)
    assert np.allclose(summed, expected, rtol=1e-5)
