"""JSON objects as samples: `{"age": 31, "clicked": 1}`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import orjson

from connectors.codecs._fields import Fields, bound, kind_of
from connectors.codecs._same_records import TabledSamples, reader_of
from streamfit._kernels.records import SameRecords
from streamfit.errors import DecodeError

__all__ = ["JSONDecoder"]

_Columns: TypeAlias = tuple[Sequence[Any], list[Any], list[float] | None]


class JSONDecoder:
    """Decode one JSON object into one sample.

    Only the structure is judged here. The values of the features go to the learner as they are,
    and it names the feature whose value it refuses.

    Parameters
    ----------
    target
        Name of the field that holds the label: a number, a boolean, or a string (a class name).
    weight
        Name of the field that holds the sample's weight, if there is one.
    features
        Names of the fields to keep. A name that a record lacks is simply absent from the sample.
        By default every field but `target` and `weight` is a feature.
    labelled
        False: for predicting; label and weight are left out unread, if they are there at all.
    max_bytes
        Longest record that is parsed.
    max_fields
        Most fields that a record may have; without a bound one record could make a model whose
        features grow as large as the memory.

    Raises
    ------
    DecodeError
        When called: for bytes that are not UTF-8 or not JSON, for anything but an object, and for
        a label or weight that is missing, null or nested; for what is beyond the bounds. `NaN`
        and `Infinity` are not JSON, a number too large for a float is refused, and so is nesting
        deeper than 1024 levels.

    Notes
    -----
    Of duplicate keys the last one wins. `true` and `false` are the numbers 1 and 0.

    Examples
    --------
    >>> from connectors import JSONDecoder
    >>> decode = JSONDecoder(target="clicked", weight="importance")
    >>> decode(b'{"age": 31, "income": 2.5, "clicked": true, "importance": 2}')
    ({'age': 31, 'income': 2.5}, True, 2)
    >>> decode(b'{"age": 31}')
    Traceback (most recent call last):
        ...
    streamfit.errors.DecodeError: target 'clicked' is missing
    """

    def __init__(
        self,
        target: str | None,
        weight: str | None = None,
        features: Iterable[str] | None = None,
        *,
        labelled: bool = True,
        max_bytes: int = 1 << 20,
        max_fields: int = 10_000,
    ) -> None:
        self.fields = Fields(target, weight, features, labelled)
        self.max_bytes = bound("max_bytes", max_bytes)
        self.max_fields = bound("max_fields", max_fields)
        # reads the latest records that were alike, and the names of its columns
        self._alike: tuple[SameRecords, list[str]] | None = None
        self._n_tabled = self._n_parsed_again = 0

    def __repr__(self) -> str:
        return f"JSONDecoder({self.fields})"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, JSON-safe."""
        return {
            "id": "JSONDecoder",
            **self.fields.get_config(),
            "max_bytes": self.max_bytes,
            "max_fields": self.max_fields,
        }

    def __call__(self, value: bytes | None) -> tuple[dict[str, Any], Any, float | None]:
        """Decode one record into `(x, y, w)`; see `Decoder`."""
        if value is None:
            raise DecodeError("tombstone: the record has no value")
        if len(value) > self.max_bytes:
            raise DecodeError(f"oversize: {len(value)} bytes, at most {self.max_bytes} are parsed")
        try:
            x = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise DecodeError(f"not JSON: {error}") from None
        if type(x) is not dict:
            raise DecodeError(f"not a JSON object but {kind_of(x)}")
        if len(x) > self.max_fields:
            raise DecodeError(f"{len(x)} fields, at most {self.max_fields} are taken")
        return self.fields.split(x)

    def decode_many(self, values: Sequence[bytes | None]) -> _Columns | None:
        """Decode records together, in a fraction of the time; see `DecodesMany`.

        Records that are alike but for their numbers are read straight into a table, and become
        dicts where somebody looks at one. Whoever looks at most of them gets dicts at once.
        """
        its_own_way = type(self).__call__ is not JSONDecoder.__call__  # a subclass
        if its_own_way or not values or not self.fields.labelled:
            return None
        return self._read_table(list(values)) or self._parse_all(values)

    def _read_table(self, values: list[bytes | None]) -> _Columns | None:
        """Read records that are all like the first one; None if they are not."""
        if 2 * self._n_parsed_again > self._n_tabled:
            return None
        most = min(self.max_bytes, sys.maxsize)
        if self._alike is None or self._alike[0].read(values[:1], most) is None:
            self._alike = self._like(values[0])
        if self._alike is None:
            return None
        reader, names = self._alike
        read = reader.read(values, most)
        if read is None:
            return None
        table, ys, ws = read
        self._n_tabled += len(ys)
        xs = TabledSamples(table, names, values, self._parse_again)
        return xs, ys, None if self.fields.weight is None else ws

    def _like(self, value: bytes | None) -> tuple[SameRecords, list[str]] | None:
        """Return the reader of records like this one, if there is one."""
        if type(value) is not bytes or len(value) > self.max_bytes:
            return None
        try:
            x = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
        if type(x) is not dict or len(x) > self.max_fields:
            return None
        return reader_of(value, x, self.fields)

    def _parse_again(self, value: bytes | None) -> dict[str, Any]:
        self._n_parsed_again += 1
        return self(value)[0]

    def _parse_all(self, values: Sequence[bytes | None]) -> _Columns | None:
        """Parse records as dicts; None if any of them is to be refused."""
        if None in values or max(map(len, values)) > self.max_bytes:  # type: ignore[arg-type]
            return None
        try:
            xs = list(map(orjson.loads, values))  # type: ignore[arg-type]
            if set(map(type, xs)) != {dict} or max(map(len, xs)) > self.max_fields:
                return None
            fields = self.fields
            target, weight, names = fields.target, fields.weight, fields.features
            ys = [x.pop(target) for x in xs]
            ws = None if weight is None else [x.pop(weight) for x in xs]
        except (orjson.JSONDecodeError, KeyError):
            return None
        kinds, weight_kinds = set(map(type, ys)), set(map(type, ws or ()))
        if not (kinds <= {bool, int, float, str} and weight_kinds <= {bool, int, float}):
            return None
        if names is not None:
            xs = [{name: x[name] for name in names if name in x} for x in xs]
        return xs, ys, ws
