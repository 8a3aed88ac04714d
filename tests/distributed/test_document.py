"""What docs/distributed.md shows is run."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import streamfit as sf

DOCUMENT = Path(__file__).parents[2] / "docs" / "distributed.md"


def test_the_session() -> None:
    found = doctest.testfile(str(DOCUMENT), module_relative=False)
    assert found.attempted > 10
    assert found.failed == 0


def test_the_program(ray: Any, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(import streamfit.*?)```", DOCUMENT.read_text(), re.DOTALL)
    for i in range(4):
        lines = ["a,late", *(f"{j % 7 - 2.5},{j % 2}" for j in range(3000 + 10 * i)), "spoiled,1"]
        (tmp_path / f"day{i}.csv").write_text("\n".join(lines) + "\n")
    program = program.replace("127.0.0.1:8765", "127.0.0.1:0")
    program = program.replace('f"day', f'f"{tmp_path}/day')  # the workers are in another folder
    (tmp_path / "train.py").write_text(program)
    told = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert re.search(r"samples +12,060\n", told.stdout)
    assert len((tmp_path / "dead.jsonl").read_text().splitlines()) == 4
    saved = sf.Checkpointer(tmp_path / "state").latest()
    assert saved is not None
    assert saved.position == {f"day{i}.csv:{i}": 3001 + 10 * i for i in range(4)}
