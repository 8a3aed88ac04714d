"""Feature hashing for `streamfit.offline`: MurmurHash3 as its author describes it, in Python.

Written from Appleby's public-domain reference; nothing here comes from the compiled kernels.
"""

from __future__ import annotations

import numpy as np

from streamfit.types import FeatureName, FloatArray

__all__ = ["hash_columns", "murmurhash3", "place"]

_32_BITS = 0xFFFFFFFF


def _rotate(x: int, by: int) -> int:
    return (x << by | x >> (32 - by)) & _32_BITS


def _scramble(k: int) -> int:
    return _rotate(k * 0xCC9E2D51 & _32_BITS, 15) * 0x1B873593 & _32_BITS


def murmurhash3(data: bytes, seed: int) -> int:
    """Return MurmurHash3_x86_32 as a signed number.

    Examples
    --------
    >>> from streamfit._offline_hashing import murmurhash3
    >>> murmurhash3(b"", 0), murmurhash3(b"foo", 0), murmurhash3(b"hello", 1)
    (0, -156908512, -1152729939)
    """
    h, whole = seed, len(data) // 4 * 4
    for i in range(0, whole, 4):
        h = _rotate(h ^ _scramble(int.from_bytes(data[i : i + 4], "little")), 13)
        h = (h * 5 + 0xE6546B64) & _32_BITS
    h ^= _scramble(int.from_bytes(data[whole:], "little"))
    h ^= len(data)
    h = (h ^ h >> 16) * 0x85EBCA6B & _32_BITS
    h = (h ^ h >> 13) * 0xC2B2AE35 & _32_BITS
    h ^= h >> 16
    return h if h < 2**31 else h - 2**32


def place(name: FeatureName, bits: int) -> tuple[int, float]:
    """Say which of `2**bits` columns a feature has, and the sign that its values get there."""
    if isinstance(name, str):
        h = murmurhash3(name.encode(), 0)
    else:
        h = murmurhash3(int(name).to_bytes(8, "little", signed=True), 1)
    return abs(h) % 2**bits, 1.0 if h >= 0 else -1.0


def hash_columns(
    names: list[FeatureName], X: FloatArray, bits: int
) -> tuple[list[int], FloatArray]:
    """Return the hashed columns that have a feature, and their values in each row.

    Features that meet in a column are added up, the smallest value first, so that their order
    in a sample does not matter.
    """
    meeting: dict[int, list[FloatArray]] = {}
    for name, values in zip(names, X.T, strict=True):
        column, sign = place(name, bits)
        meeting.setdefault(column, []).append(sign * values)
    columns = sorted(meeting)
    hashed = np.zeros((len(X), len(columns)))
    for j, column in enumerate(columns):
        for values in np.sort(meeting[column], axis=0):
            hashed[:, j] += values
    return columns, hashed
