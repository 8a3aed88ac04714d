"""What people see on a terminal: a progress bar, and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from streamfit.report import Progress

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_table", "progress_bar"]


@contextmanager
def progress_bar(
    total: int | None, console: Console | None = None
) -> Iterator[Callable[[Progress], None] | None]:
    """Show a bar while the context lasts; hand out None where there is no terminal.

    Parameters
    ----------
    total
        Samples expected, None when not known.
    console
        Where to draw; standard error by default.
    """
    # here, because importing it takes longer than importing all of streamfit
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("samples"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", total=total)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.n_samples,
                description=(
                    f"loss {progress.progressive_loss:.4f}  "
                    f"{progress.samples_per_second:,.0f}/s  updates {progress.n_updates:,}"
                ),
            )

        yield show


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows; what is too long for its column goes on in the next line."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
