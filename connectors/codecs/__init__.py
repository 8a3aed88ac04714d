"""Decoders: the bytes of one record to one sample."""

from __future__ import annotations

from connectors.codecs.json import JSONDecoder
from connectors.codecs.numpy import NumpyDecoder
from connectors.codecs.registry import HTTPSchemaRegistry, SchemaRegistry

__all__ = ["HTTPSchemaRegistry", "JSONDecoder", "NumpyDecoder", "SchemaRegistry"]
