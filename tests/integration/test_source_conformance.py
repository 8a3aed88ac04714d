"""Every source that comes with the library, put to the suite that ships."""

from __future__ import annotations

import csv
import gzip
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from backports import zstd
from confluent_kafka import Producer
from pyarrow import parquet

import streamfit as sf
from connectors import (
    CSVSource,
    FrameSource,
    JSONDecoder,
    JSONLinesSource,
    KafkaSource,
    ParquetSource,
)
from connectors.describe import source_from_config
from streamfit.testing import LocalKafka
from streamfit.testing.source_conformance import Record, SourceConformance, Store
from streamfit.types import Source

Records = Sequence[Record | None]


class TestArraySource(SourceConformance):
    flaws = False

    @pytest.fixture
    def store(self) -> Store:
        def store(records: Records) -> Callable[[], Source]:
            good = [record for record in records if record is not None]
            X = np.array([list(record.x.values()) for record in good]).reshape(len(good), 3)
            y, w = [record.y for record in good], [record.w for record in good]
            return lambda: sf.ArraySource(X, y, w, features="abc")

        return store


class TestFrameSource(SourceConformance):
    @pytest.fixture(params=["pandas", "polars", "arrow"])
    def store(self, request: pytest.FixtureRequest) -> Store:
        def store(records: Records) -> Callable[[], Source]:
            rows = [{} if r is None else {**r.x, "y": r.y, "w": r.w} for r in records]
            table = pa.table({k: pa.array([r.get(k) for r in rows], "float64") for k in "abcwy"})
            frames = {"pandas": table.to_pandas, "polars": lambda: pl.DataFrame(table)}
            frame = frames.get(request.param, lambda: table)()
            return lambda: FrameSource(frame, "y", weight="w")

        return store


class TestIterableSource(SourceConformance):
    @pytest.fixture(params=["list", "function", "live"])
    def store(self, request: pytest.FixtureRequest) -> Store:
        def store(records: Records) -> Callable[[], Source]:
            items: list[Any] = ["no sample" if record is None else record for record in records]
            if request.param == "list":
                return lambda: sf.IterableSource(items)
            return lambda: sf.IterableSource(lambda: iter(items), live=request.param == "live")

        return store


class FromText(SourceConformance):
    """The sources that a description makes."""

    def again(self, config: dict[str, Any]) -> Source:
        return source_from_config(config)


class TestCSVSource(FromText):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        def store(records: Records) -> Callable[[], Source]:
            path = tmp_path / f"{len(records)}.csv"
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["y", "a", "b", "c", "w"])
                for record in records:
                    writer.writerow(
                        ["no number"] * 5
                        if record is None
                        else [record.y, *record.x.values(), record.w]
                    )
            return lambda: CSVSource(path, "y", weight="w")

        return store


def as_json(record: Record | None) -> bytes:
    if record is None:
        return b'{"y": '
    return json.dumps({**record.x, "y": record.y, "w": record.w}).encode()


class TestJSONLinesSource(FromText):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        def store(records: Records) -> Callable[[], Source]:
            path = tmp_path / f"{len(records)}.jsonl"
            path.write_bytes(b"".join(as_json(record) + b"\n" for record in records))
            return lambda: JSONLinesSource(path, JSONDecoder("y", weight="w"))

        return store


class TestPackedFiles(FromText):
    @pytest.fixture(params=[("gz", gzip.compress), ("zst", zstd.compress)], ids=["gzip", "zstd"])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        suffix, pack = request.param

        def store(records: Records) -> Callable[[], Source]:
            path = tmp_path / f"{len(records)}.jsonl.{suffix}"
            path.write_bytes(pack(b"".join(as_json(record) + b"\n" for record in records)))
            return lambda: JSONLinesSource(path, JSONDecoder("y", weight="w"))

        return store


class TestParquetSource(FromText):
    @pytest.fixture(params=[100, 1024, 5000], ids="groups of {}".format)
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        def store(records: Records) -> Callable[[], Source]:
            path = tmp_path / f"{len(records)}.parquet"
            rows = [
                {"y": None} if record is None else {**record.x, "y": record.y, "w": record.w}
                for record in records
            ]
            table = pa.table({k: pa.array([r.get(k) for r in rows], "float64") for k in "aybcw"})
            parquet.write_table(table, path, row_group_size=request.param)
            return lambda: ParquetSource(path, "y", weight="w")

        return store


class TestKafkaSource(FromText):
    topics: dict[str, str] = {}  # noqa: RUF012, of all tests of this class

    @pytest.fixture
    def store(self, kafka: LocalKafka, client: str) -> Store:
        def store(records: Records) -> Callable[[], Source]:
            topic = self.topics.get(repr(records))
            if topic is None:
                topic = self.topics[repr(records)] = f"conformance-{time.time_ns()}"
                kafka.create_topic(topic)
                settings = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0}
                producer = Producer({**settings, "enable.idempotence": True})
                for record in records:
                    producer.produce(topic, as_json(record))
                assert producer.flush(30) == 0
            return lambda: KafkaSource(
                topic,
                bootstrap_servers=kafka.bootstrap_servers,
                decoder=JSONDecoder("y", weight="w"),
                client=client,
                stop_at_end=True,
            )

        return store
