"""Decompression with a bound: a few kilobytes must not become gigabytes of memory."""

from __future__ import annotations

import io
import zlib
from typing import Any

__all__ = ["MAX_BATCH_BYTES", "gunzip", "unlz4", "unzstd"]

MAX_BATCH_BYTES = 1 << 26
"""What one compressed batch of records may hold: 64 MiB."""


def _bounded(inflated: bytes) -> bytes:
    if len(inflated) > MAX_BATCH_BYTES:
        raise ValueError(
            f"a compressed batch of records holds more than {MAX_BATCH_BYTES >> 20} MiB"
        )
    return inflated


def gunzip(payload: bytes | memoryview) -> bytes:
    """Undo gzip, up to the bound.

    >>> import gzip
    >>> gunzip(gzip.compress(b"a") + gzip.compress(b"b"))
    b'ab'
    """
    inflated = b""
    rest = bytes(payload)
    while rest:
        inflater = zlib.decompressobj(wbits=31)
        inflated += inflater.decompress(rest, MAX_BATCH_BYTES + 1 - len(inflated))
        _bounded(inflated)
        if not inflater.eof:
            raise EOFError("a gzip stream ends too early")
        rest = inflater.unused_data
    return inflated


def unlz4(lz4: Any, payload: bytes) -> bytes:
    """Undo LZ4 frames, up to the bound, with the library `lz4.frame`."""
    inflated: bytes = lz4.LZ4FrameDecompressor().decompress(payload, MAX_BATCH_BYTES + 1)
    return _bounded(inflated)


def unzstd(zstandard: Any, payload: bytes) -> bytes:
    """Undo Zstandard frames, up to the bound, with the library `zstandard`."""
    source = io.BytesIO(payload)
    decompressor = zstandard.ZstdDecompressor()
    with decompressor.stream_reader(source, read_across_frames=True) as reader:
        inflated: bytes = reader.read(MAX_BATCH_BYTES + 1)
    return _bounded(inflated)
