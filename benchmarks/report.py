"""The table, and the two files with the machine and the versions."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import threadpoolctl

from benchmarks.measure import Case, Measurement

__all__ = ["Line", "check_threads", "line", "table", "write"]

FOLDER = Path(__file__).parent
PACKAGES = (
    "numpy", "river", "scikit-learn", "vowpalwabbit", "keras", "jax", "confluent-kafka",
    "kafka-python", "orjson",
)  # fmt: skip

HEADER = (
    "| # | work | peer | target | measured | ours | peer's | spread | reached |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Line:
    """A case and what came out, or why nothing did."""

    case: Case
    found: Measurement | str


def check_threads() -> None:
    """Refuse to measure with more than one thread."""
    import numpy as np  # loads its BLAS

    np.ones((2, 2)) @ np.ones((2, 2))
    many = [pool for pool in threadpoolctl.threadpool_info() if pool["num_threads"] > 1]
    if many:
        raise SystemExit(f"a library runs several threads: {many}")


def line(entry: Line) -> str:
    """Return one line of the table."""
    case, found = entry.case, entry.found
    bound = "" if case.goal is None else f"{'≤' if case.at_most else '≥'} {case.goal:g}"
    if isinstance(found, str):
        return f"| {case.target} | {case.work} | | {bound} | {found} | | | | |"
    reached = {True: "yes", False: "no", None: ""}[case.reached(found)]
    return (
        f"| {case.target} | {case.work} | {found.peer_name} | {bound} | {number(found.ratio)} "
        f"| {number(found.ours)} {found.unit} | {number(found.peer)} {found.unit} "
        f"| {found.ours_spread:.0%}, {found.peer_spread:.0%} | {reached} |"
    )


def number(value: float) -> str:
    """Return three digits, in thousands and millions where there are many."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= 10 * size or (abs(value) >= size and letter == " M"):
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def table(lines: list[Line]) -> str:
    """Return the table."""
    return "\n".join([HEADER, *map(line, lines)])


def versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def processor() -> str:
    for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if text.startswith("model name"):
            return text.split(":")[1].strip()
    return platform.processor()


def write(lines: list[Line], seconds: float) -> None:
    """Write `results.md` and `results.json` beside this file."""
    import os

    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "load average at the end": round(os.getloadavg()[0], 2),
    }
    entries: list[dict[str, Any]] = [
        {
            "target": entry.case.target,
            "work": entry.case.work,
            "goal": entry.case.goal,
            "at_most": entry.case.at_most,
            **(
                {"not_available": entry.found}
                if isinstance(entry.found, str)
                else {**asdict(entry.found), "reached": entry.case.reached(entry.found)}
            ),
        }
        for entry in lines
    ]
    content = {"machine": machine, "versions": versions(), "seconds": seconds, "lines": entries}
    (FOLDER / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    facts = "; ".join(f"{name} {value}" for name, value in versions().items())
    (FOLDER / "results.md").write_text(
        "# Results of `make bench`\n\n"
        "Written by the program, side by side in one process run, one thread each. *Measured* is "
        "the ratio of the medians\nover interleaved repeats (rates; times, memory and "
        "milliseconds where the target is an upper bound). *Spread* is the\ndistance of the "
        "quartiles in units of the median, ours and the peer's.\n\n"
        + "\n".join(f"- {name}: {value}" for name, value in machine.items())
        + f"\n- versions: {facts}\n- the whole run: {seconds:.0f} seconds\n\n"
        + table(lines)
        + "\n",
        encoding="utf-8",
    )
