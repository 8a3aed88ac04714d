"""Everything that brings samples in from outside the process, and the in-process sources."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from connectors.codecs import (
    HTTPSchemaRegistry,
    JSONDecoder,
    NumpyDecoder,
    SchemaRegistry,
)
from connectors.describe import source_from_url as open_source
from connectors.files import CSVSource, JSONLinesSource, LibSVMSource
from connectors.kafka import KafkaSource, Security
from connectors.windows import Windows
from streamfit.sources import ArraySource, IterableSource, SourceList

if TYPE_CHECKING:
    from connectors.codecs.arrow import ArrowDecoder
    from connectors.codecs.avro import AvroDecoder
    from connectors.frames import FrameSource
    from connectors.parquet import ParquetSource

__all__ = [
    "ArraySource",
    "ArrowDecoder",
    "AvroDecoder",
    "CSVSource",
    "FrameSource",
    "HTTPSchemaRegistry",
    "IterableSource",
    "JSONDecoder",
    "JSONLinesSource",
    "KafkaSource",
    "LibSVMSource",
    "NumpyDecoder",
    "ParquetSource",
    "SchemaRegistry",
    "Security",
    "SourceList",
    "Windows",
    "open_source",
]

# What needs an extra is imported when it is first named.
_LAZY = {
    "ArrowDecoder": "connectors.codecs.arrow",
    "AvroDecoder": "connectors.codecs.avro",
    "FrameSource": "connectors.frames",
    "ParquetSource": "connectors.parquet",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
