"""A bounded sample of a source as one block, for what must see the same samples many times."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import numpy as np

from streamfit.core import frames, sparse
from streamfit.core.learner import LinearLearner
from streamfit.curves import Trainable, fresh
from streamfit.errors import BadSampleError
from streamfit.sources import IterableSource
from streamfit.types import Block, FloatArray, Source

__all__ = ["part_of", "read_sample"]


def part_of(block: Block, start: int, stop: int) -> Block:
    w = None if block.w is None else block.w[start:stop]
    return Block(block.x[start:stop], block.y[start:stop], w, features=block.features)


def read_sample(model: Trainable, source: Any, max_samples: int, until: float) -> Block:
    """Read a bounded sample as one block, without what the model refuses."""
    source = source if isinstance(source, Source) else IterableSource(source)
    probe = fresh(model, None)
    parts: list[Block] = []
    n = 0
    try:
        for block in source:
            good = _good(probe, block, max_samples - n)
            n += len(good)
            if good:
                parts.append(_rows(probe, block, good))
            if n >= max_samples or time.monotonic() > until:
                break
    finally:
        source.close()
    if not parts:
        return Block([], [])
    y = [label for part in parts for label in part.y]
    w: FloatArray | None = None
    if any(part.w is not None for part in parts):
        w = np.concatenate([np.ones(len(p)) if p.w is None else np.asarray(p.w) for p in parts])
    tables = [part.x for part in parts]
    names = parts[0].features
    if all(isinstance(x, np.ndarray) for x in tables) and all(p.features == names for p in parts):
        labels = np.asarray(y) if isinstance(parts[0].y, np.ndarray) else y
        return Block(np.concatenate(tables), labels, w, features=names)
    rows: list[Any] = []
    for part in parts:
        x: Any = part.x
        rows += frames.rows_of(x, part.features) if isinstance(x, np.ndarray) else x
    return Block(rows, y, w)


def _good(probe: Trainable, block: Block, room: int) -> list[int]:
    """Return which of the first samples of a block the model takes, `room` of them at most."""
    good: list[int] = []
    undecoded = sorted(block.errors)
    i = 0
    while i < len(block) and len(good) < room:
        stop = min(len(block), i + room - len(good), *(k for k in undecoded if k >= i))
        before = probe.n_samples
        with suppress(BadSampleError):
            probe.learn_block(block, i, stop)
        learned = probe.n_samples - before
        good += range(i, i + learned)
        i += learned
        if i < stop or i in block.errors:
            i += 1
    return good


def _rows(probe: Trainable, block: Block, good: list[int]) -> Block:
    """Return some samples of a block: an array, or a list of rows."""
    x: Any = block.x
    if sparse.is_sparse(x):
        rows, error = sparse.read_rows(x, 0, x.shape[0], np.float64)
        if error is not None:
            raise error
        assert isinstance(probe, LinearLearner)  # others refuse such rows
        hashed = probe.hashing is not None
        x = sparse.mappings_of(rows, range(rows[3]) if hashed else probe.index.names)
    chosen = x[good] if isinstance(x, np.ndarray) else [x[i] for i in good]
    y = block.y[good] if isinstance(block.y, np.ndarray) else [block.y[i] for i in good]
    w = None if block.w is None else np.array([block.w[i] for i in good], dtype=np.float64)
    return Block(chosen, y, w, features=block.features)
