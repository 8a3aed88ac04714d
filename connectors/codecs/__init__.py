"""Decoders: the bytes of one record to one sample."""

from __future__ import annotations

from connectors.codecs.json import JSONDecoder

__all__ = ["JSONDecoder"]
