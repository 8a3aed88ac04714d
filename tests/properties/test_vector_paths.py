"""The kernels' AVX2 path and their baseline path give the same bits.

A wheel holds both; the processor decides when the program starts. So a second copy of the package
is compiled here in which only the baseline is left, and both train the same models.
"""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import streamfit

ROOT = Path(streamfit.__file__).parents[1]
WORKER = Path(__file__).with_name("vector_paths_worker.py")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
CPU = Path("/proc/cpuinfo")

pytestmark = pytest.mark.skipif(
    not (CPU.exists() and " avx2" in CPU.read_text(encoding="utf-8")),
    reason="this processor has no AVX2 path to compare with",
)


def flags() -> list[str]:
    """Return the compiler's flags, as `setup.py` has them."""
    for statement in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "FLAGS":
            found: list[str] = ast.literal_eval(statement.value)
            return found
    raise AssertionError("setup.py has no FLAGS")


def baseline_copy(folder: Path) -> Path:
    """Return a copy of the package whose learning kernels are compiled without AVX2."""
    shutil.copytree(
        ROOT / "streamfit",
        folder / "streamfit",
        ignore=shutil.ignore_patterns("learning*.so", "*.c"),
    )
    kernels = folder / "streamfit" / "_kernels"
    directives = ["-3", "-X", "boundscheck=False", "-X", "wraparound=False"]
    cython = [sys.executable, "-m", "cython", *directives]
    subprocess.run([*cython, "streamfit/_kernels/learning.pyx"], cwd=folder, check=True)
    compiler = shlex.split(sysconfig.get_config_var("CC"))
    subprocess.run(
        [
            *(*compiler, "-shared", "-fPIC", "-DNDEBUG", "-DSF_BASELINE", *flags()),
            *("-I", sysconfig.get_path("include"), "learning.c", "-o", f"learning{SUFFIX}"),
        ],
        cwd=kernels,
        check=True,
    )
    return folder


def trained_with(package: Path) -> tuple[Path, list[str]]:
    """Run the worker; return the kernels' file, and a line for each model."""
    done = subprocess.run(
        [sys.executable, str(WORKER)],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=True,
    )
    file, *lines = done.stdout.splitlines()
    return Path(file), lines


def test_avx2_and_baseline_give_the_same_bits(tmp_path: Path) -> None:
    vector_file, vector = trained_with(ROOT)
    baseline_file, baseline = trained_with(baseline_copy(tmp_path))
    # the AVX2 version is a function of its own in the one and is nowhere in the other
    assert b"sf_learn_dense_f64.avx2" in vector_file.read_bytes()
    assert baseline_file.is_relative_to(tmp_path)
    assert b".avx2" not in baseline_file.read_bytes()
    assert len(vector) == 264
    assert vector == baseline
