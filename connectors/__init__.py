"""Everything that brings samples in from outside the process, and the in-process sources."""

from __future__ import annotations

from connectors.codecs import JSONDecoder
from connectors.describe import source_from_url as open_source
from connectors.files import CSVSource, JSONLinesSource, LibSVMSource
from connectors.kafka import KafkaSource, Security
from connectors.windows import Windows
from streamfit.sources import ArraySource, IterableSource

__all__ = [
    "ArraySource",
    "CSVSource",
    "IterableSource",
    "JSONDecoder",
    "JSONLinesSource",
    "KafkaSource",
    "LibSVMSource",
    "Security",
    "Windows",
    "open_source",
]
