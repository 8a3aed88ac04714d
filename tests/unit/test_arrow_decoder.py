"""Arrow records: what is decoded, and that no bytes do more than to be refused."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import connectors
from connectors import ArrowDecoder
from connectors.describe import source_from_config
from streamfit.errors import ConfigurationError, DecodeError


def record(
    columns: dict[str, Any], schema: Any = None, *, compression: str | None = None, batches: int = 1
) -> bytes:
    batch = pa.record_batch(columns, schema=schema)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


GOOD = record({"a": [1.5], "sky": ["clear"], "w": [2], "y": [True]})


@given(
    x=st.dictionaries(
        st.text(min_size=1, max_size=5).map("f_{}".format),
        st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.booleans() | st.text(),
        max_size=5,
    ),
    y=st.integers(-5, 5) | st.booleans() | st.text(max_size=3),
)
def test_round_trip(x: dict[str, Any], y: Any) -> None:
    columns = {name: [value] for name, value in {**x, "y": y}.items()}
    try:
        value = record(columns)
    except UnicodeEncodeError:  # a lone surrogate
        return
    assert ArrowDecoder("y")(value) == (x, y, None)


def test_roles_nulls_dates_and_dictionaries() -> None:
    time = datetime(2013, 1, 5, 17)
    value = record(
        {
            "none": pa.array([None], pa.float64()),
            "time": [time],
            "kind": pa.array(["red"]).dictionary_encode(),
            "w": [2],
            "y": ["late"],
        }
    )
    assert ArrowDecoder("y", "w")(value) == ({"time": time, "kind": "red"}, "late", 2)
    assert ArrowDecoder("y", features=["kind"])(value) == ({"kind": "red"}, "late", None)
    assert ArrowDecoder(None, "w", labelled=False)(GOOD)[1:] == (None, None)
    empty = record({"a": pa.array([], pa.float64())})
    assert ArrowDecoder("y")(GOOD)[0] == {"a": 1.5, "sky": "clear", "w": 2}
    with pytest.raises(DecodeError, match="0 rows"):
        ArrowDecoder("y")(empty)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "tombstone"),
        (b"", "not an Arrow stream"),
        (b"ARROW1\0\0", "not an Arrow stream"),
        (GOOD[:100], "not an Arrow stream"),
        (record({"a": [1.0, 2.0], "y": [0, 1]}), "2 rows"),
        (record({"a": [1.0], "y": [0]}, batches=3), "3 rows"),
        (record({"a": [1.0], "y": [None]}), "target 'y' is missing"),
        (record({"a": [1.0], "y": [[1]]}), "target 'y' is an array"),
        (record({"a": [0.0] * 1000, "y": [0] * 1000}, compression="zstd"), "compressed"),
        (record({"a": [1.0], "y": [0]}, compression="lz4"), "compressed"),
        (GOOD + b"\0" * 2_000_000, "oversize"),
        (record({f"f{i}": [0] for i in range(60)}), "60 fields"),
    ],
)
def test_what_is_refused(value: bytes | None, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        ArrowDecoder("y", max_fields=50)(value)


def test_two_columns_of_one_name() -> None:
    value = record([[1.0], [2.0], [0]], schema=pa.schema([("a", "f8"), ("a", "f8"), ("y", "i4")]))
    with pytest.raises(DecodeError, match="the same name"):
        ArrowDecoder("y")(value)


@settings(max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, len(GOOD)) | st.none(),
    inserted=st.binary(max_size=8),
    at=st.integers(0, len(GOOD)),
)
def test_damaged_records_are_samples_or_refused(
    changes: list[tuple[int, int]], cut: int | None, inserted: bytes, at: int
) -> None:
    damaged = bytearray(GOOD)
    for i, byte in changes:
        damaged[i] = byte
    value = bytes(damaged[:at] + inserted + damaged[at:])[:cut]
    try:
        x, _, _ = ArrowDecoder("y")(value)
    except DecodeError:
        return
    assert len(x) <= 4


@given(st.binary(max_size=200))
def test_any_bytes(value: bytes) -> None:
    with pytest.raises(DecodeError):
        ArrowDecoder("y")(value)


def test_bad_arguments_and_configuration() -> None:
    for arguments in (
        {"target": ""},
        {"target": "y", "max_bytes": 0},
        {"target": "y", "weight": "y"},
    ):
        with pytest.raises(ConfigurationError):
            ArrowDecoder(**arguments)
    source = connectors.open_source("kafka://h:1/topic?target=y&decoder=ArrowDecoder&weight=w")
    assert isinstance(source, connectors.KafkaSource)
    config = source.get_config()
    assert config is not None
    assert config["decoder"] == ArrowDecoder("y", "w").get_config()
    assert source_from_config(config).get_config() == config


def test_a_date_beyond_the_calendar_is_a_bad_record() -> None:
    column = pa.array([2**31 - 1], pa.int32()).view(pa.date32())
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"d": column, "y": pa.array([1.0])})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(DecodeError):
        ArrowDecoder(target="y")(sink.getvalue().to_pybytes())
