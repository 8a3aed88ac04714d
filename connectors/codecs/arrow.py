"""Records in Arrow's IPC stream format, one row each."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from connectors.codecs._fields import Fields, bound
from streamfit.errors import DecodeError, MissingDependencyError

try:
    import pyarrow as pa
except ImportError as error:
    raise MissingDependencyError(
        'ArrowDecoder needs a package that is not installed: pip install "streamfit[arrow]"'
    ) from error

__all__ = ["ArrowDecoder"]

_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # of the union MessageHeader in Arrow's Message.fbs


class ArrowDecoder:
    """Decode an Arrow IPC stream that holds one row, with its schema, into one sample.

    Columns are fields of the sample; a null is a field that is not there. Texts and dates pass as
    such, for a transformer (see `sf.Transformed`).

    Parameters
    ----------
    target, weight, features
        Which columns are the label, the weight and the features (by default all others); a
        `target` of None is for predicting.
    labelled
        False: for predicting. Label and weight are left out of the features and not looked at.
    max_bytes
        Longest record that is read.
    max_fields
        Most columns that a record may have.

    Raises
    ------
    DecodeError
        When called: for bytes that are no such stream, for more or fewer rows than one (a record
        is a sample, for each has one offset), for compressed buffers (which a few bytes could
        blow up to any size), and for a label or weight that is missing.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from connectors import ArrowDecoder
    >>> row = pa.record_batch({"age": [31], "income": [2.5], "clicked": [True]})
    >>> sink = pa.BufferOutputStream()
    >>> with pa.ipc.new_stream(sink, row.schema) as writer:
    ...     writer.write_batch(row)
    >>> decode = ArrowDecoder(target="clicked")
    >>> decode(sink.getvalue().to_pybytes())
    ({'age': 31, 'income': 2.5}, True, None)
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

    def __repr__(self) -> str:
        return f"ArrowDecoder({self.fields})"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, JSON-safe."""
        return {
            "id": "ArrowDecoder",
            **self.fields.get_config(),
            "max_bytes": self.max_bytes,
            "max_fields": self.max_fields,
        }

    def __call__(self, value: bytes | None) -> tuple[dict[str, Any], Any, float | None]:
        """Decode one record into `(x, y, w)`; see `Decoder`."""
        if value is None:
            raise DecodeError("tombstone: the record has no value")
        if len(value) > self.max_bytes:
            raise DecodeError(f"oversize: {len(value)} bytes, at most {self.max_bytes} are read")
        try:
            return self.fields.split(self._row(value))
        except (
            pa.ArrowException,
            OSError,
            struct.error,
            ValueError,
            OverflowError,
            MemoryError,
        ) as error:
            if isinstance(error, DecodeError):
                raise
            raise DecodeError(f"not an Arrow stream: {error!s:.200}") from None

    def _row(self, value: bytes) -> dict[str, Any]:
        messages = pa.ipc.MessageReader.open_stream(value)
        for message in messages:
            if _is_compressed(message.metadata.to_pybytes()):
                raise DecodeError("its buffers are compressed, which is not taken in a record")
        with pa.ipc.open_stream(value) as reader:
            names = reader.schema.names
            if len(names) > self.max_fields:
                raise DecodeError(f"{len(names)} fields, at most {self.max_fields} are taken")
            if len(set(names)) < len(names):
                raise DecodeError("two columns have the same name")
            batches = [batch for batch in reader if batch.num_rows]
        n = sum(batch.num_rows for batch in batches)
        if n != 1:
            raise DecodeError(f"{n} rows; a record must be one")
        (batch,) = batches
        batch.validate(full=True)  # what was read refers to nothing outside of it
        row = {name: batch.column(i)[0].as_py() for i, name in enumerate(names)}
        return {name: field for name, field in row.items() if field is not None}


def _is_compressed(metadata: bytes) -> bool:
    """Look into a message's Flatbuffers table; pyarrow does not tell before it has unpacked."""
    (root,) = struct.unpack_from("<I", metadata)
    kind = _field(metadata, root, 1)
    at = _field(metadata, root, 2)
    if kind is None or at is None or metadata[kind] not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return False
    table = at + struct.unpack_from("<I", metadata, at)[0]
    if metadata[kind] == _DICTIONARY_BATCH:
        at = _field(metadata, table, 1)
        if at is None:
            return False
        table = at + struct.unpack_from("<I", metadata, at)[0]
    return _field(metadata, table, 3) is not None


def _field(metadata: bytes, table: int, i: int) -> int | None:
    """Say where the i-th field of a table is, None where it is not given."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    if not 0 <= vtable <= len(metadata):
        raise ValueError("a table lies outside of its message")
    size, entry = struct.unpack_from("<H", metadata, vtable)[0], 4 + 2 * i
    if entry + 2 > size:
        return None
    offset: int = struct.unpack_from("<H", metadata, vtable + entry)[0]
    if offset and table + offset >= len(metadata):
        raise ValueError("a field lies outside of its message")
    return table + offset if offset else None
