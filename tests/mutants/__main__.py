"""Break the kernels, one mutant at a time, and see whether the tests find it.

Each mutant is compiled in a copy of the sources, never in the sources themselves, and a part of
the suite that takes a minute runs on it. The exit code is 1 when a mutant survives that is not
listed as equivalent, or when a text to change is no longer there.

    python -m tests.mutants            # all: an hour on two cores
    python -m tests.mutants steps.h    # those of one file
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from tests.mutants.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
KERNELS = Path("streamfit/_kernels")
# Not optimized, and for any processor: compiled in a few seconds, with the same bits.
FLAGS = (
    "-O0 -g1 -DSF_BASELINE -w -fPIC -shared -ffp-contract=off -fno-math-errno -fno-trapping-math"
)
QUICK = (
    *("tests/properties/test_arithmetic.py", "tests/properties/test_offline.py"),
    *("tests/properties/test_sparse.py", "tests/properties/test_machine.py"),
    *("tests/properties/test_table.py", "tests/properties/test_arrival.py"),
    *("tests/properties/test_bad_input.py", "tests/unit/test_learner.py"),
    *("tests/unit/test_drift.py", "tests/properties/test_dicts.py"),
)
"""What runs on each mutant, the likeliest to find it first; the first failure ends it."""
FIRST = {
    "sparse.h": "tests/properties/test_sparse.py",
    "learn.h": "tests/properties/test_offline.py",
    "each.h": "tests/properties/test_arrival.py",
    "dicts.h": "tests/properties/test_dicts.py",
    "decimals.h": "tests/properties/test_decimals.py",
    "noise.h": "tests/properties/test_noise_scale.py",
}
"""What is likelier for some headers."""
SECONDS = 600


def copy_of_the_sources(root: Path, folder: Path) -> Path:
    """Copy what the tests need, with the compiled modules and the C that Cython made."""
    shutil.copytree(
        root,
        folder,
        ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "benchmarks"),
    )
    return folder


@cache
def modules_of(folder: Path, header: str) -> list[str]:
    """Name the compiled modules that have code of a header, by their tables of line numbers."""

    def has_code(path: Path) -> bool:
        command = ["objdump", "--dwarf=decodedline", str(path)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return re.search(rf"^{re.escape(header)}\s", lines, re.MULTILINE) is not None

    modules = sorted(path.stem for path in (folder / KERNELS).glob("*.c"))
    return [module for module in modules if has_code(compiled(folder, module))]


def compile_kernels(folder: Path, modules: Sequence[str] = ()) -> str:
    """Compile modules of a copy, all if none is named; return what the compiler complains about."""
    include = sysconfig.get_path("include")
    for module in modules or [path.stem for path in (folder / KERNELS).glob("*.c")]:
        source = folder / KERNELS / f"{module}.c"
        command = ["gcc", *FLAGS.split(), f"-I{include}", f"-I{source.parent}", str(source)]
        command += ["-o", str(compiled(folder, module)), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return done.stderr[:2000]
    return ""


def compiled(folder: Path, module: str) -> Path:
    """Say where a compiled module lies."""
    return folder / KERNELS / f"{module}{sysconfig.get_config_var('EXT_SUFFIX')}"


def first_failure(folder: Path, header: str = "") -> str | None:
    """Run the quick part of the suite on a copy; return the test that failed, None if none did."""
    tests = dict.fromkeys([*([FIRST[header]] if header in FIRST else []), *QUICK])
    environment = {**os.environ, "PYTHONPATH": str(folder), "HYPOTHESIS_PROFILE": "mutants"}
    command = [sys.executable, "-m", "pytest", "-x", "-rf", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False,
            timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "took too long"
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found[1].removeprefix("tests/") if found else f"exit code {done.returncode}"


def outcome(mutant: Mutant, folder: Path) -> tuple[str, str]:
    """Say what became of a mutant, and how."""
    path = folder / KERNELS / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return "GONE", f"the text stands {text.count(mutant.old)} times in the file"
    modules = modules_of(folder, mutant.file)
    whole = {module: compiled(folder, module).read_bytes() for module in modules}
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        if complaint := compile_kernels(folder, modules):
            return "NO CODE", complaint.splitlines()[0]
        failure = first_failure(folder, mutant.file)
    finally:
        path.write_text(text)
        for module, content in whole.items():
            compiled(folder, module).write_bytes(content)
    if failure is not None:
        return ("killed" if not mutant.equivalent else "NOT EQUIVALENT"), failure
    return ("equivalent", mutant.equivalent) if mutant.equivalent else ("SURVIVED", "")


def main(files: list[str]) -> int:
    """Try the mutants of some files, or all; print a table; return the exit code."""
    chosen = [mutant for mutant in MUTANTS if not files or mutant.file in files]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        n = min(2, os.cpu_count() or 1)
        folders: queue.Queue[Path] = queue.Queue()
        first = copy_of_the_sources(ROOT, Path(temporary, "0"))
        if complaint := compile_kernels(first):
            print(f"the sources themselves do not compile: {complaint}")
            return 2
        if (failure := first_failure(first)) is not None:
            print(f"the sources themselves fail: {failure}")
            return 2
        for i in range(1, n):
            folders.put(copy_of_the_sources(first, Path(temporary, str(i))))
        folders.put(first)

        def attempt(mutant: Mutant) -> tuple[str, str]:
            folder = folders.get()
            try:
                result = outcome(mutant, folder)
            finally:
                folders.put(folder)
            old, new = (" ".join(text.split()) for text in (mutant.old, mutant.new))
            print(f"{result[0]:14} {mutant.file:13} {old[:60]}  ->  {new[:60]}", flush=True)
            print(f"{'':28} {result[1][:110]}", flush=True)
            return result

        with ThreadPoolExecutor(n) as pool:
            results = list(pool.map(attempt, chosen))
    words = [word for word, _ in results]
    print(f"\n{len(chosen)} mutants in {(time.monotonic() - began) / 60:.0f} minutes:")
    for word in sorted(set(words)):
        print(f"{words.count(word):5} {word}")
    return 1 if set(words) - {"killed", "equivalent"} else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
