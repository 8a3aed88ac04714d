"""Avro records as samples, with the schema from a file or from a registry."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from connectors.codecs._fields import Fields
from connectors.codecs.registry import HTTPSchemaRegistry, SchemaRegistry
from streamfit.errors import ConfigurationError, DecodeError, MissingDependencyError

try:
    import fastavro
    from fastavro.schema import SchemaParseException
except ImportError as error:
    raise MissingDependencyError(
        'AvroDecoder needs a package that is not installed: pip install "streamfit[avro]"'
    ) from error

__all__ = ["AvroDecoder"]

_NAMED = ("record", "error", "enum", "fixed")


class AvroDecoder:
    """Decode one Avro record, as bare binary or in Confluent's wire format, into one sample.

    A field that is null is an absent feature. Like any decoder this one judges only the
    structure; the learner names the feature whose value it refuses.

    Parameters
    ----------
    target
        Name of the field that holds the label.
    weight
        Name of the field that holds the sample's weight, if there is one.
    features
        Names of the fields to keep; by default all but `target` and `weight`.
    labelled
        False: for predicting; label and weight are left out unread, if they are there at all.
    schema
        The schema, or the path of its file (`.avsc`). With a `registry` it is the reader's
        schema, into which records of other versions are resolved.
    registry
        Where the schemas of the wire format are: a URL, or any `SchemaRegistry`. None: records
        are bare, and written with `schema`.

    Raises
    ------
    ConfigurationError
        When there is neither schema nor registry, or the schema is none.
    DecodeError
        When called: for bytes that are no such record, whole and without a rest.
    SourceError
        When called: if the registry cannot be asked. The record is not to blame for that.

    Notes
    -----
    Schemas that refer to themselves, and arrays of things that take no bytes, are
    refused: a few bytes could fill the memory with them.

    Examples
    --------
    >>> from connectors import AvroDecoder
    >>> schema = {
    ...     "type": "record",
    ...     "name": "Click",
    ...     "fields": [{"name": "age", "type": "int"}, {"name": "clicked", "type": "boolean"}],
    ... }
    >>> decode = AvroDecoder(target="clicked", schema=schema)
    >>> decode(bytes([62, 1]))
    ({'age': 31}, True, None)
    """

    def __init__(
        self,
        target: str | None,
        weight: str | None = None,
        features: Iterable[str] | None = None,
        *,
        labelled: bool = True,
        schema: Mapping[str, Any] | str | Path | None = None,
        registry: str | SchemaRegistry | None = None,
    ) -> None:
        self.fields = Fields(target, weight, features, labelled)
        if schema is None and registry is None:
            raise ConfigurationError("an AvroDecoder needs a schema or a registry")
        self._schema = _read(schema) if isinstance(schema, str | Path) else schema
        self.registry = HTTPSchemaRegistry(registry) if isinstance(registry, str) else registry
        if self.registry is not None and not isinstance(self.registry, SchemaRegistry):
            raise ConfigurationError(
                f"registry must be a URL or a SchemaRegistry, not {registry!r}"
            )
        self._reader: Any = None
        if self._schema is not None:
            try:
                self._reader = _parsed(self._schema)
            except DecodeError as error:
                raise ConfigurationError(f"schema: {error.reason}") from None
        self._writers: dict[int, Any] = {}

    def get_config(self) -> dict[str, Any] | None:
        """Return the arguments, JSON-safe; None when the registry cannot tell its own."""
        registry = None
        if self.registry is not None:
            registry = getattr(self.registry, "url", None)
            if registry is None:
                return None
        return {
            "id": "AvroDecoder",
            **self.fields.get_config(),
            "schema": None if self._schema is None else dict(self._schema),
            "registry": registry,
        }

    def __call__(self, value: bytes | None) -> tuple[dict[str, Any], Any, float | None]:
        """Decode one record into `(x, y, w)`; see `Decoder`."""
        if value is None:
            raise DecodeError("tombstone: the record has no value")
        writer: Any = self._reader
        start = 0
        if self.registry is not None:
            writer, start = self._writer(value), 5
        stream = io.BytesIO(value)
        stream.seek(start)
        reader = self._reader if self.registry is not None else None
        try:
            record = fastavro.schemaless_reader(stream, writer, reader)
        except Exception as error:  # fastavro raises whatever the bytes make Python raise
            raise DecodeError(f"not Avro of this schema: {error or type(error).__name__}") from None
        if stream.tell() != len(value):
            raise DecodeError(f"{len(value) - stream.tell()} bytes are left behind the Avro record")
        if not isinstance(record, dict):
            raise DecodeError(f"not an Avro record but {type(record).__name__}")
        return self.fields.split({k: v for k, v in record.items() if v is not None})

    def _writer(self, value: bytes) -> Any:
        """Return the schema that a record says it was written with."""
        if len(value) < 5 or value[0] != 0:
            raise DecodeError("not in the wire format: byte 0 and the four bytes of a schema's id")
        number = int.from_bytes(value[1:5], "big")
        if number not in self._writers:
            assert self.registry is not None
            try:
                self._writers[number] = _parsed(self.registry.schema(number))
            except DecodeError as error:
                error.reason = f"schema {number}: {error.reason}"
                raise
        return self._writers[number]


def _read(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read the schema {path}: {error}") from None


def _parsed(schema: Any) -> Any:
    """Return a schema as fastavro takes it, if it is one whose records are bounded."""
    try:
        parsed = fastavro.parse_schema(schema)
        _check(schema, {}, ())
    except (SchemaParseException, KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError(f"not an Avro schema: {error!r}") from None
    return parsed


def _check(schema: Any, known: dict[str, int], inside: tuple[str, ...]) -> int:
    """Return the least bytes that a value takes; refuse what is not bounded by its bytes."""
    if isinstance(schema, list):
        return 1 + min((_check(kind, known, inside) for kind in schema), default=0)
    if isinstance(schema, str):
        name = schema.rpartition(".")[2]
        if name in inside:
            raise DecodeError(f"the type {schema!r} refers to itself")
        return 0 if schema == "null" else known.get(name, 1)
    kind = schema["type"]
    if kind in ("array", "map"):
        least = _check(schema["items" if kind == "array" else "values"], known, inside)
        if kind == "array" and least == 0:  # each entry of a map has a key at least
            raise DecodeError("an array of what takes no bytes has no bound")
        return 1
    if kind in _NAMED:
        name = str(schema["name"]).rpartition(".")[2]
        size = int(schema.get("size", 0)) if kind == "fixed" else int(kind == "enum")
        for field in schema.get("fields", ()):
            size += _check(field["type"], known, (*inside, name))
        known[name] = size
        return size
    return _check(kind, known, inside)
