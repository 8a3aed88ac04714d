"""What is inflated is what was deflated, and never more than the bound."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable

import lz4.frame
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka import inflate

WAYS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "gzip": (gzip.compress, inflate.gunzip),
    "lz4": (lz4.frame.compress, lambda payload: inflate.unlz4(lz4.frame, payload)),
    "zstd": (
        zstandard.ZstdCompressor().compress,
        lambda payload: inflate.unzstd(zstandard, payload),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@given(pieces=st.lists(st.binary(), min_size=1, max_size=3))
def test_round_trip(way: str, pieces: list[bytes]) -> None:
    deflate, undo = WAYS[way]
    if way == "lz4":
        pieces = pieces[:1]  # Kafka writes one frame
    assert undo(b"".join(map(deflate, pieces))) == b"".join(pieces)


@pytest.mark.parametrize("way", WAYS)
def test_bombs_are_refused_in_bounded_memory(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    deflate, undo = WAYS[way]
    bound = 1 << 20
    monkeypatch.setattr(inflate, "MAX_BATCH_BYTES", bound)
    assert len(undo(deflate(bytes(bound)))) == bound
    bomb = deflate(bytes(50 * bound))
    tracemalloc.start()
    with pytest.raises(ValueError, match="holds more than 1 MiB"):
        undo(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * bound


@pytest.mark.parametrize("way", WAYS)
def test_damage_is_an_error(way: str) -> None:
    deflate, undo = WAYS[way]
    whole = deflate(b"abc" * 1000)
    for damaged in (whole[: len(whole) // 2], b"\xff" * 40):
        with pytest.raises(Exception):  # noqa: B017, PT011 (whose error it is, is the library's)
            assert undo(damaged) == b"abc" * 1000
