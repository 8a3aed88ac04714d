"""Measure everything side by side: `make bench`, or `python -m benchmarks.run --only S4 S5`.

Prints one table and writes `benchmarks/results.md` and `benchmarks/results.json`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import chain

from benchmarks import blocks, importing, kafka_topic, one_by_one, streams
from benchmarks.measure import Case, Measurement, NotAvailableError
from benchmarks.report import Line, check_threads, line, table, write

GROUPS = ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10", "S11", "S12", "S13", "S14"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TARGET", choices=GROUPS, default=GROUPS)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the 10^8 samples of S12 and S13"
    )
    options = parser.parse_args(arguments)
    check_threads()
    began = time.monotonic()
    lines: list[Line] = []
    print(table([]), flush=True)
    for case in all_cases(options.scale):
        if case.target in options.only:
            lines.append(Line(case, measured(case)))
            print(line(lines[-1]), flush=True)
    print(f"\n{time.monotonic() - began:.0f} seconds")
    if options.only == GROUPS:
        write(lines, time.monotonic() - began)


def all_cases(scale: float) -> list[Case]:
    """Return the lines of the table in the order of the targets."""
    cases = chain(
        one_by_one.cases(), blocks.cases(), streams.cases(scale), kafka_topic.cases(),
        importing.cases(),
    )  # fmt: skip
    return sorted(cases, key=lambda case: GROUPS.index(case.target))


def measured(case: Case) -> Measurement | str:
    """Measure, or say why not."""
    try:
        return case.run()
    except NotAvailableError as error:
        return f"not available: {error}"


if __name__ == "__main__":
    main()
