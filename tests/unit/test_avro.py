"""Avro records, bare and in the wire format, with a registry that is a process of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfit as sf
from connectors import AvroDecoder, HTTPSchemaRegistry, JSONLinesSource, NumpyDecoder
from connectors.describe import source_from_config
from streamfit.errors import ConfigurationError, DecodeError, MissingDependencyError, SourceError

CLICK: dict[str, Any] = {
    "type": "record",
    "name": "Click",
    "namespace": "shop",
    "fields": [
        {"name": "age", "type": "int"},
        {"name": "income", "type": ["null", "double"], "default": None},
        {"name": "clicked", "type": "boolean"},
        {"name": "importance", "type": "float", "default": 1.0},
    ],
}
NEWER: dict[str, Any] = {
    **CLICK,
    "fields": [*CLICK["fields"], {"name": "visits", "type": "long", "default": 7}],
}


def bare(record: dict[str, Any], schema: dict[str, Any] = CLICK) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, record)
    return stream.getvalue()


def wired(number: int, record: dict[str, Any], schema: dict[str, Any] = CLICK) -> bytes:
    return b"\0" + number.to_bytes(4, "big") + bare(record, schema)


ONE = {"age": 31, "income": 2.5, "clicked": True, "importance": 2.0}


def start(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    script = str(Path(__file__).with_name("schema_registry.py"))
    process = subprocess.Popen(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, f"http://127.0.0.1:{int(process.stdout.readline())}"


def register(url: str, schema: Any, **more: Any) -> int:
    body = json.dumps({"schema": json.dumps(schema), **more}).encode()
    with urllib.request.urlopen(f"{url}/subjects/clicks-value/versions", body) as answer:
        return int(json.loads(answer.read())["id"])


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    process, url = start()
    yield url
    process.kill()
    process.wait()


def test_bare_records(tmp_path: Path) -> None:
    path = tmp_path / "click.avsc"
    path.write_text(json.dumps(CLICK))
    for schema in (CLICK, path, str(path)):
        decode = AvroDecoder("clicked", weight="importance", schema=schema)
        assert decode(bare(ONE)) == ({"age": 31, "income": 2.5}, True, 2.0)
    assert decode(bare({**ONE, "income": None})) == ({"age": 31}, True, 2.0)  # null is absent
    decode = AvroDecoder("clicked", features=["income"], schema=CLICK)
    assert decode(bare(ONE)) == ({"income": 2.5}, True, None)


def test_the_wire_format(registry: str) -> None:
    old, new = register(registry, CLICK), register(registry, NEWER)
    visits = {**ONE, "visits": 3}
    decode = AvroDecoder("clicked", weight="importance", registry=registry)
    assert decode(wired(old, ONE))[0] == {"age": 31, "income": 2.5}
    assert decode(wired(new, visits, NEWER))[0] == {"age": 31, "income": 2.5, "visits": 3}
    resolved = AvroDecoder("clicked", weight="importance", registry=registry, schema=NEWER)
    assert resolved(wired(old, ONE))[0] == {"age": 31, "income": 2.5, "visits": 7}
    for value, message in (
        (b"", "not in the wire format"),
        (b"\1\0\0\0\1\0", "not in the wire format"),
        (wired(99, ONE), "schema 99: .* knows no such schema"),
        (wired(register(registry, CLICK, schemaType="JSON"), ONE), "of type JSON, not Avro"),
        (wired(register(registry, {"type": "record"}), ONE), "not an Avro schema"),
    ):
        with pytest.raises(DecodeError, match=message):
            decode(value)


def test_a_registry_that_is_away_is_no_fault_of_the_record() -> None:
    process, url = start("user:secret")
    number = register(url, CLICK)
    decode = AvroDecoder("clicked", registry=HTTPSchemaRegistry(url, "user", "wrong"))
    with pytest.raises(SourceError, match="answers 401"):
        decode(wired(number, ONE))
    known = AvroDecoder("clicked", registry=HTTPSchemaRegistry(url, "user", "secret"))
    assert known(wired(number, ONE))[1] is True
    assert "secret" not in json.dumps(known.get_config()) + repr(known.registry)
    process.kill()
    process.wait()
    assert known(wired(number, ONE))[1] is True  # a schema is asked for once
    with pytest.raises(SourceError, match="cannot be asked"):
        known(wired(number + 1, ONE))


def test_bytes_that_are_no_such_record() -> None:
    decode = AvroDecoder("clicked", schema=CLICK)
    for value, message in (
        (None, "tombstone"),
        (bare(ONE)[:-1], "not Avro of this schema"),
        (bare(ONE) + b"\0", "1 bytes are left"),
        (b"", "not Avro of this schema"),
    ):
        with pytest.raises(DecodeError, match=message):
            decode(value)
    nullable = {**CLICK, "fields": [{"name": "clicked", "type": ["null", "boolean"]}]}
    with pytest.raises(DecodeError, match="target 'clicked' is missing"):
        AvroDecoder("clicked", schema=nullable)(b"\0")
    with pytest.raises(DecodeError, match="not an Avro record but int"):
        AvroDecoder("clicked", schema={"type": "int"})(b"\2")


@given(st.binary(max_size=60))
def test_any_bytes_are_a_sample_or_an_error(value: bytes) -> None:
    nested = {
        "type": "record",
        "name": "All",
        "fields": [
            {"name": "y", "type": "int"},
            {"name": "a", "type": {"type": "array", "items": "long"}},
            {"name": "m", "type": {"type": "map", "values": "null"}},
            {"name": "s", "type": "string"},
            {"name": "b", "type": ["null", "bytes"]},
            {"name": "e", "type": {"type": "enum", "name": "E", "symbols": ["A", "B"]}},
            {"name": "f", "type": {"type": "fixed", "name": "F", "size": 3}},
        ],
    }
    try:
        x, y, w = AvroDecoder("y", schema=nested)(value)
    except DecodeError:
        return
    assert isinstance(y, int)
    assert w is None
    assert set(x) <= {"a", "m", "s", "b", "e", "f"}


@pytest.mark.parametrize(
    "kind",
    [
        {"type": "array", "items": "null"},
        {"type": "array", "items": {"type": "record", "name": "R", "fields": []}},
        {"type": "array", "items": {"type": "fixed", "name": "Z", "size": 0}},
        {"type": "array", "items": {"type": "array", "items": "null"}},
        ["null", "shop.Click"],
        {"type": "map", "values": "Click"},
    ],
)
def test_schemas_without_a_bound_are_refused(kind: Any) -> None:
    schema = {**CLICK, "fields": [{"name": "clicked", "type": "int"}, {"name": "a", "type": kind}]}
    with pytest.raises(ConfigurationError, match="schema: .*(no bound|refers to itself)"):
        AvroDecoder("clicked", schema=schema)


def test_arguments_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.avsc").write_text("{")
    for options, message in (
        ({}, "a schema or a registry"),
        ({"schema": tmp_path / "none.avsc"}, "cannot read the schema"),
        ({"schema": tmp_path / "broken.avsc"}, "cannot read the schema"),
        ({"schema": {"type": "nothing"}}, "not an Avro schema"),
        ({"registry": "localhost:8081"}, "registry must be the URL"),
        ({"registry": "http://user:secret@localhost:8081"}, "not in the registry's URL"),
        ({"registry": 3}, "a URL or a SchemaRegistry"),
    ):
        with pytest.raises(ConfigurationError, match=message) as caught:
            AvroDecoder("clicked", **options)  # type: ignore[arg-type]
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="different fields"):
        AvroDecoder("clicked", weight="clicked", schema=CLICK)


def test_without_fastavro_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastavro", None)
    monkeypatch.delitem(sys.modules, "connectors.codecs.avro")
    import connectors

    with pytest.raises(MissingDependencyError, match=r"streamfit\[avro\]"):
        _ = connectors.AvroDecoder


# ---- rows of numbers


def test_numpy_rows() -> None:
    decode = NumpyDecoder(["y", "a", "w", "b"], "y", weight="w", features=["b"], dtype=">i2")
    assert decode(np.array([1, 2, 3, -4], dtype=">i2").tobytes()) == ({"b": -4}, 1, 3)
    flags = NumpyDecoder(["y", "a"], "y", dtype="?")
    assert flags(b"\1\0") == ({"a": False}, True, None)
    for value, message in ((None, "tombstone"), (b"\0" * 7, "7 bytes, 4 numbers of type >i2")):
        with pytest.raises(DecodeError, match=message):
            decode(value)
    for options, message in (
        ({"dtype": "O"}, "one of numbers"),
        ({"dtype": "nothing"}, "no type of NumPy"),
        ({"columns": ["y", "y"]}, "different names"),
        ({"columns": ["a"]}, r"with \['y'\] among them"),
        ({"features": ["c"]}, r"with \['c'\] among them"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            NumpyDecoder(**{"columns": ["y", "a"], "target": "y", **options})  # type: ignore[arg-type]


def test_decoders_describe_themselves(registry: str, tmp_path: Path) -> None:
    for decoder in (
        AvroDecoder("clicked", features=["age"], schema=CLICK),
        AvroDecoder("clicked", registry=registry),
        NumpyDecoder(["y", "a"], "y", dtype="<f4"),
    ):
        config = json.loads(json.dumps(JSONLinesSource(tmp_path / "x", decoder).get_config()))
        again = source_from_config(config)
        assert again.get_config() == config  # type: ignore[attr-defined]

    class Mine:
        def schema(self, number: int) -> Any:
            return CLICK

    mine = AvroDecoder("clicked", registry=Mine())
    assert mine(wired(5, ONE))[1] is True
    assert mine.get_config() is None


def test_training_from_decoded_records_is_training_from_the_samples() -> None:
    rng = np.random.default_rng(0)
    decode = AvroDecoder("clicked", weight="importance", schema=CLICK)
    one, other = (sf.LogisticRegression(sf.optim.SGD(0.1), batch_size=4) for _ in range(2))
    for i in range(50):
        record = {**ONE, "age": i % 5, "income": float(rng.normal()), "clicked": i % 3 == 0}
        one.learn_one(*decode(bare(record)))
        other.learn_one({k: record[k] for k in ("age", "income")}, record["clicked"], 2.0)
    assert one.digest() == other.digest()
