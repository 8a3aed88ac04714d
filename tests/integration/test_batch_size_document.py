"""docs/batch-size.md: its sessions are run, its figures are those that the example makes."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "batch-size.md"
PNG = b"\x89PNG\r\n\x1a\n"


def test_its_sessions() -> None:
    found = doctest.testfile(str(DOCUMENT), module_relative=False, optionflags=doctest.REPORT_NDIFF)
    assert found.attempted > 30
    assert found.failed == 0


def test_every_question_is_answered_by_a_command() -> None:
    sections = re.split(r"^## ", DOCUMENT.read_text(), flags=re.M)[1:]
    questions = [section for section in sections if section.splitlines()[0].endswith("?")]
    assert len(questions) >= 8
    for question in questions:
        assert "\n>>> " in question, question.splitlines()[0]


def test_the_example_makes_its_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shown = set(re.findall(r"\(images/([\w-]+)\.png\)", DOCUMENT.read_text()))
    assert shown <= {path.stem for path in (DOCUMENT.parent / "images").glob("*.png")}
    quick = sorted(shown - {"memory"})  # which starts Keras
    done = subprocess.run(
        [
            sys.executable,
            "examples/batch_size.py",
            "--n",
            "300",
            "--out",
            tmp_path,
            "--only",
            *quick,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in quick:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
