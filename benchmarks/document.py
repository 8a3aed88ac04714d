"""Parts of a document that a command writes: between two comments that name it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["DOCUMENT", "markdown", "replace"]

DOCUMENT = Path(__file__).parent.parent / "docs" / "scaling.md"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; all columns but the first are numbers, to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace(command: str, name: str, text: str, path: Path = DOCUMENT) -> None:
    r"""Put `text` between `<!-- command: name -->` and `<!-- end -->`.

    Raises
    ------
    ValueError
        When the document has no such place, or more than one.

    Examples
    --------
    >>> import tempfile
    >>> from benchmarks.document import replace
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "page.md")
    ...     _ = path.write_text("<!-- make it: sizes -->\nold\n<!-- end -->\n")
    ...     replace("make it", "sizes", "new", path)
    ...     print(path.read_text())
    <!-- make it: sizes -->
    <BLANKLINE>
    new
    <BLANKLINE>
    <!-- end -->
    <BLANKLINE>
    """
    begin = f"<!-- {command}: {name} -->"
    pattern = re.compile(re.escape(begin) + r"\n.*?\n?<!-- end -->", flags=re.S)
    page, n = pattern.subn(lambda _: f"{begin}\n\n{text}\n\n<!-- end -->", path.read_text())
    if n != 1:
        raise ValueError(f"{path.name} has {n} places {begin}")
    path.write_text(page)
