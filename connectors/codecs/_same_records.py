"""Records of one producer: the same names in the same order, read straight into a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from connectors.codecs._fields import Fields
from streamfit._kernels.records import LABEL, NOTHING, WEIGHT, SameRecords
from streamfit.types import FloatArray

__all__ = ["TabledSamples", "reader_of"]

# in a flat object a text is a name where a colon follows
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(?P<colon>\s*:)?|-?\d[-+.\deE]*|true|false|null')


def reader_of(
    record: bytes, x: dict[str, Any], fields: Fields
) -> tuple[SameRecords, list[str]] | None:
    """Make the reader of records like this one; return it and the names of its table's columns.

    Parameters
    ----------
    record, x
        A record and the object that it was parsed into.
    fields
        Which of its fields are what.

    Returns
    -------
    tuple or None
        None when they are no rows of a table: a feature is no number, a value is nested.
    """
    if fields.target not in x or (fields.weight is not None and fields.weight not in x):
        return None
    kept = x if fields.features is None else fields.features
    roles = {fields.target: LABEL, fields.weight: WEIGHT}
    names = [name for name in kept if name in x and name not in roles]
    columns = {name: column for column, name in enumerate(names)}
    if any(isinstance(value, dict | list) for value in x.values()) or not (
        all(type(x[name]) in (bool, int, float) for name in names)
    ):
        return None
    tokens = list(_TOKEN.finditer(record))
    spans = [found.span() for found in tokens if not found["colon"]]
    if not len(x) == len(spans) == len(tokens) - len(spans):  # a name that is there twice
        return None
    ends = [0, *(stop for _, stop in spans)]
    starts = [*(start for start, _ in spans), len(record)]
    pieces = [record[end:start] for end, start in zip(ends, starts, strict=True)]
    places = [roles.get(name, columns.get(name, NOTHING)) for name in x]
    return SameRecords(pieces, places), names


class TabledSamples(Sequence[dict[str, Any]]):
    """Samples that were read into a table; they become dicts when somebody looks.

    Parameters
    ----------
    table
        Array of shape (n, n_features).
    names
        The names of its columns.
    records
        What it was read from.
    parse
        Makes the dict of such a record.
    """

    def __init__(
        self,
        table: FloatArray,
        names: Sequence[str],
        records: Sequence[Any],
        parse: Callable[[Any], dict[str, Any]],
    ) -> None:
        self.names = names
        self._table, self._records, self._parse = table, records, parse
        self._dicts: dict[int, dict[str, Any]] = {}

    @property
    def table(self) -> FloatArray | None:
        """The table; None once there are dicts, which their owner may have changed."""
        return None if self._dicts else self._table

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        record = self._records[i]
        i %= len(self)
        if i not in self._dicts:
            self._dicts[i] = self._parse(record)
        return self._dicts[i]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))
