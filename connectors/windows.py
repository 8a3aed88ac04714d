"""Windows over a stream: each sample of the result is a fixed number of samples in a row."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    shown,
)
from streamfit.sources import DerivedSource, IterableSource
from streamfit.types import (
    Block,
    DescribesItself,
    FeatureName,
    Position,
    Source,
)

__all__ = ["Windows"]

_Key: TypeAlias = str | int | float | bool | None
_Held: TypeAlias = "deque[tuple[int, Any]]"
"""Samples of one key that wait for their window to fill, with their offsets."""


@dataclass
class _Partition:
    """What is held of one partition, and what it was before the last block."""

    held: dict[_Key, _Held] = field(default_factory=dict)
    block: Block | None = None
    before: dict[_Key, _Held] = field(default_factory=dict)
    """Of the keys that the last block touched, what was held before it."""
    made_before: int = -1
    made: int = -1
    """Offset of the last window, before the last block and with it."""


class Windows(DerivedSource):
    """Cut a stream into windows of `size` samples in a row.

    A window takes the label, the weight and the offset of its last sample. Its `x` is the list of
    the samples' `x`, or one array of shape (size, n_features) when these are arrays, so to a
    learner it is one sample: `batch_size=100` means 100 windows.

    Parameters
    ----------
    source
        A source, or any iterable of samples (see `sf.Trainer`). A window never spans partitions.
    size
        Samples in a window.
    stride
        Samples (of the same key) from the start of a window to the start of the next; at most
        `size`.
    key
        The field of a sample that says to which of several interleaved series it belongs (it is
        no feature then), or a function of `x` that does.

    Notes
    -----
    Samples that wait for their window to fill go into the checkpoint, so that a resume goes on
    with exactly the windows that would have come. A `seek` without a checkpoint reads the stream
    again from where it began, and takes it up at the position.

    A sample that could not be decoded, or has no key, is reported and belongs to no window. One
    whose values the learner refuses spoils each window that holds it.

    Each key that has been seen holds up to `size` samples in memory.

    Examples
    --------
    >>> from connectors import Windows
    >>> samples = [({"x": float(i)}, 10 * i) for i in range(5)]
    >>> for block in Windows(samples, size=3, stride=2):
    ...     for x, y in zip(block.x, block.y):
    ...         print(x, y)
    [{'x': 0.0}, {'x': 1.0}, {'x': 2.0}] 20
    [{'x': 2.0}, {'x': 3.0}, {'x': 4.0}] 40
    """

    def __init__(
        self,
        source: Source | Iterable[Any] | Callable[[], Any],
        size: int = 10,
        stride: int = 1,
        key: FeatureName | Callable[[Any], _Key] | None = None,
    ) -> None:
        self.size = _count("size", size)
        self.stride = _count("stride", stride)
        if self.stride > self.size:
            raise ConfigurationError(
                f"stride must be at most size={size}, not {stride}: it would leave samples out"
            )
        self.key = key
        super().__init__(source if isinstance(source, Source) else IterableSource(source))
        self._partitions: dict[str, _Partition] = {}

    def __repr__(self) -> str:
        return f"Windows({self.source!r}, size={self.size}, stride={self.stride}, key={self.key!r})"

    def get_config(self) -> dict[str, Any] | None:
        """Return the arguments, JSON-safe; None when the source or the key cannot be told."""
        config = self.source.get_config() if isinstance(self.source, DescribesItself) else None
        if config is None or callable(self.key):
            return None
        return {
            "id": "Windows",
            "source": config,
            "size": self.size,
            "stride": self.stride,
            "key": self.key,
        }

    # ---- cutting

    def _derive(self, block: Block) -> Block:
        partition = self._partitions.setdefault(block.key, _Partition())
        partition.block, partition.before, partition.made_before = block, {}, partition.made
        wanted = self._wanted.get(block.key, 0)
        xs: list[Any] = []
        rows: list[int] = []
        errors: dict[int, BadSampleError] = {}
        for i in range(len(block)):
            offset = int(block.offsets[i])
            error, window = block.errors.get(i), None
            if error is None:
                try:
                    key, x = self._keyed(block, i)
                except BadSampleError as found:
                    error = found.at(block.source, block.partition, offset)
                else:
                    if key not in partition.before:
                        partition.before[key] = deque(partition.held.get(key, ()))
                    window = self._push(partition.held, key, x, offset)
            if error is None and window is None:
                continue
            partition.made = offset
            if offset < wanted:
                continue
            if error is not None:
                errors[len(xs)] = error
            xs.append(window)
            rows.append(i)
        return Block(
            x=xs,
            y=[block.y[i] for i in rows],
            w=None if block.w is None else [block.w[i] for i in rows],
            source=block.source,
            partition=block.partition,
            offsets=[int(block.offsets[i]) for i in rows],
            errors=errors,
        )

    def _push(self, held: dict[_Key, _Held], key: _Key, x: Any, offset: int) -> Any:
        """Hold a sample; return the window that it completes, if it does."""
        waiting = held.setdefault(key, deque())
        waiting.append((offset, x))
        if len(waiting) < self.size:
            return None
        rows = [x for _, x in waiting]
        for _ in range(self.stride):
            waiting.popleft()
        if not waiting:
            del held[key]
        shapes = {row.shape if isinstance(row, np.ndarray) else None for row in rows}
        return rows if None in shapes or len(shapes) > 1 else np.stack(rows)

    def _keyed(self, block: Block, i: int) -> tuple[_Key, Any]:
        """Return the key of a sample, and its `x` without it."""
        x = block.x[i]
        if block.features is not None and not isinstance(x, Mapping):
            x = dict(zip(block.features, x, strict=True))
        if self.key is None:
            return None, x
        key: Any
        if callable(self.key):
            key = self.key(x)
        elif isinstance(x, Mapping):
            if self.key not in x:
                raise BadSampleError("is missing; it is the key of windows", feature=self.key)
            key, x = x[self.key], {name: v for name, v in x.items() if name != self.key}
        else:
            row = np.asarray(x)
            if not isinstance(self.key, int) or row.ndim != 1 or not self.key < len(row):
                raise BadSampleError("is missing; it is the key of windows", feature=self.key)
            key, x = row[self.key], np.delete(row, self.key)
        key = key.item() if isinstance(key, np.generic) else key
        if not isinstance(key, _Key):
            raise BadSampleError(f"the key of windows must be a text or a number, not {shown(key)}")
        return key, x

    # ---- what is held, for the checkpoint

    def _forget(self) -> None:
        self._partitions = {}

    def _held_before(self, position: Position) -> dict[str, Any] | None:
        state: dict[str, Any] = {}
        for name, partition in self._partitions.items():
            end = position.get(name, 0)
            if partition.made_before >= end:
                return None
            state[name] = [
                [key, [[offset, _to_json(x)] for offset, x in waiting]]
                for key, waiting in self._held_at(partition, end).items()
                if waiting
            ]
        return {"partitions": state}

    def _held_at(self, partition: _Partition, end: int) -> dict[_Key, _Held]:
        """Undo the last block, and do again what of it lies before `end`."""
        held = {**partition.held, **{key: deque(w) for key, w in partition.before.items()}}
        block = partition.block
        for i in range(0 if block is None else len(block)):
            assert block is not None
            if block.offsets[i] < end and i not in block.errors:
                try:
                    self._push(held, *self._keyed(block, i), int(block.offsets[i]))
                except BadSampleError:
                    continue
        # what came after `end` completed no window, or `end` would lie further on
        return {k: deque(row for row in waiting if row[0] < end) for k, waiting in held.items()}

    def _hold(self, state: dict[str, Any]) -> None:
        try:
            partitions = {
                name: _Partition(
                    {
                        key: deque((int(offset), _from_json(x)) for offset, x in waiting)
                        for key, waiting in entries
                    }
                )
                for name, entries in state["partitions"].items()
            }
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise CheckpointMismatchError(f"not the state of windows: {error!r}") from None
        longest = max((len(w) for p in partitions.values() for w in p.held.values()), default=0)
        if longest >= self.size:
            raise CheckpointMismatchError(
                f"the checkpoint is of longer windows: {longest} samples wait, size={self.size}"
            )
        self._partitions = partitions


def _to_json(x: Any) -> Any:
    """Return one sample's `x` as what JSON gives back unchanged."""
    if isinstance(x, Mapping):
        return {"names": [_to_json(n) for n in x], "values": [_to_json(v) for v in x.values()]}
    if isinstance(x, np.ndarray):
        return {"array": x.tolist(), "dtype": x.dtype.str}
    if isinstance(x, list | tuple):
        return [_to_json(value) for value in x]
    return x.item() if isinstance(x, np.generic) else x


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(value["array"], dtype=value["dtype"])
    return dict(zip(value["names"], map(_from_json, value["values"]), strict=True))


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} must be an integer >= 1, not {value!r}")
    return value
