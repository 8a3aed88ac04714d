"""A hash of an object and all that it refers to, as equal for equal objects as possible.

A pickle's own bytes will not do: they tell which equal strings are one object, which a model that
was loaded and one that was not disagree about.
"""

from __future__ import annotations

import copyreg
import hashlib
import random
import struct
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["graph_digest"]


def graph_digest(value: Any) -> str:
    """Return the SHA-256 of what `value` consists of, in hexadecimal.

    Objects are taken apart as pickle does it. Two objects of equal parts are equal; for mutable
    parts, it also counts which of them are one and the same. Sets have no order, dicts have.

    The state of a `random.Random` does not count: each Gaussian of River has one, seeded by the
    operating system, of which learning makes no use. Where a model does draw numbers, what it made
    of them counts.

    Examples
    --------
    >>> from streamfit.adapters._graph_digest import graph_digest
    >>> graph_digest({"a": [1.0]}) == graph_digest({"a": [1.0]})
    True
    >>> graph_digest([1.0]) == graph_digest([1])
    False
    """
    sha = hashlib.sha256()
    for part in _parts(value):
        sha.update(struct.pack("<Q", len(part)))
        sha.update(part)
    return sha.hexdigest()


def _parts(root: Any) -> Iterator[bytes]:
    """Walk over the object without recursion; a tree may be deep."""
    seen: dict[int, tuple[int, Any]] = {}  # with the object, so that its id is not used again
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Token):
            yield value.text
            continue
        kind = type(value)
        name = f"{kind.__module__}.{kind.__qualname__}".encode()
        if value is None or kind in (bool, int, float, complex, str, bytes):
            yield name
            yield value.hex().encode() if kind is float else repr(value).encode()
            continue
        if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
            yield name
            yield f"{value.__module__}.{value.__qualname__}".encode()
            continue
        if isinstance(value, types.ModuleType):
            yield value.__name__.encode()
            continue
        if kind not in (tuple, frozenset):
            if id(value) in seen:
                yield b"again %d" % seen[id(value)][0]
                continue
            seen[id(value)] = (len(seen), value)
        yield name
        waiting += reversed(list(_inside(value)))


class _Token:
    """Bytes that stand for themselves among the objects to visit."""

    def __init__(self, text: bytes) -> None:
        self.text = text


def _inside(value: Any) -> Iterator[Any]:
    kind = type(value)
    if kind in (tuple, list):
        yield _Token(b"%d items" % len(value))
        yield from value
    elif kind is dict:
        yield _Token(b"%d entries" % len(value))
        for key, item in value.items():
            yield key
            yield item
    elif kind in (set, frozenset):
        yield _Token("".join(sorted(map(graph_digest, value))).encode())
    elif kind is random.Random:
        return
    elif isinstance(value, np.ndarray) and value.dtype != object:
        yield _Token(f"{value.dtype.str} {value.shape}".encode())
        yield _Token(np.ascontiguousarray(value).tobytes())
    else:
        yield from _reduced(value)


def _reduced(value: Any) -> Iterator[Any]:
    """Yield what pickle would write of an object."""
    reduce = copyreg.dispatch_table.get(type(value))
    reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
    if isinstance(reduced, str):
        yield _Token(reduced.encode())
        return
    made_by, arguments, state, items, entries = (*reduced, None, None, None)[:5]
    yield made_by
    yield arguments
    yield state
    for tag, iterator in ((b"items", items), (b"entries", entries)):
        contents = [] if iterator is None else list(iterator)
        yield _Token(b"%d %s" % (len(contents), tag))
        yield from contents
