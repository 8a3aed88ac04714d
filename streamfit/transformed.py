"""River's transformers between a source and a learner, exactly resumable and replayable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from streamfit._plain_state import from_plain, to_plain
from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    shown,
)
from streamfit.sources import DerivedSource, IterableSource
from streamfit.types import (
    Block,
    Position,
    Source,
)

__all__ = ["Transformed"]


@dataclass
class _Partition:
    """The transformer of one partition, and what it was before the last block."""

    transformer: Any
    before: Any = None
    block: Block | None = None
    learned: list[int] = field(default_factory=list)
    """Samples of the last block that the transformer has learned."""


class Transformed(DerivedSource):
    """A source whose samples go through a transformer of River's.

    As in River's pipelines, the transformer learns each sample (without its label) and then
    transforms it: `OneHotEncoder`, `FeatureHasher`, `BagOfWords` or `TFIDF` for text,
    `PolynomialExtender` or the product `*` of two transformers for interactions, `StatImputer`,
    `sf.DateParts`, scalers; unions and pipelines of them.

    Parameters
    ----------
    source
        A source, or any iterable of samples (see `sf.Trainer`).
    transformer
        A transformer of River's, which takes no labels.

    Raises
    ------
    ConfigurationError
        When it takes labels, or two fresh ones differ because it draws its seed by lot.
    UnsupportedError
        When its state cannot be saved without pickle.

    Notes
    -----
    Each partition has a transformer of its own, because partitions may come in another order when
    they are read again. Its state goes into the checkpoint, so that a resume goes on exactly. A
    `seek` without a checkpoint reads the stream again from where it began; `journal.verify`
    needs a `Transformed` source with a fresh transformer.

    A sample with a NaN or an infinity, or that the transformer refuses, is a bad sample and leaves
    no trace in it. One that only the learner refuses has been learned by the transformer.

    Features reach the learner sorted by name, for some transformers hand them out in an order
    that differs from process to process.

    Examples
    --------
    >>> from river import compose, preprocessing
    >>> import streamfit as sf
    >>> samples = [({"sky": "clear", "wind": 3.0}, True), ({"sky": "rain", "wind": None}, False)]
    >>> wind = compose.Select("wind") | preprocessing.PreviousImputer()
    >>> sky = compose.Select("sky") | preprocessing.OneHotEncoder()
    >>> for block in sf.Transformed(samples, wind + sky):
    ...     for x in block.x:
    ...         print(x)
    {'sky_clear': 1, 'wind': 3.0}
    {'sky_clear': 0, 'sky_rain': 1, 'wind': 3.0}
    """

    def __init__(
        self, source: Source | Iterable[Any] | Callable[[], Any], transformer: Any
    ) -> None:
        super().__init__(source if isinstance(source, Source) else IterableSource(source))
        if isinstance(transformer, type) or not all(
            hasattr(transformer, name) for name in ("learn_one", "transform_one", "clone")
        ):
            raise ConfigurationError(
                f"transformer must be one of River's transformers, not {shown(transformer)}"
            )
        if getattr(transformer, "_supervised", False):
            raise ConfigurationError(
                f"transformer: a {type(transformer).__name__} learns from labels, and would hand "
                "them to the learner"
            )
        self.transformer = deepcopy(transformer)
        self._packages = ["river", "streamfit", type(transformer).__module__]
        fresh = [self._plain(transformer.clone()) for _ in range(2)]
        if fresh[0] != fresh[1]:
            raise ConfigurationError("transformer: two fresh ones differ; give it a seed")
        self._partitions: dict[str, _Partition] = {}

    def __repr__(self) -> str:
        return f"Transformed({self.source!r}, {self.transformer!r})"

    # ---- transforming

    def _derive(self, block: Block) -> Block:
        partition = self._partitions.get(block.key)
        if partition is None:
            partition = self._partitions[block.key] = _Partition(deepcopy(self.transformer))
        partition.before, partition.block = deepcopy(partition.transformer), block
        partition.learned = []
        xs: list[Any] = []
        errors = dict(block.errors)
        for i in range(len(block)):
            x: Any = None
            if i not in errors:
                try:
                    x = self._transform_one(partition, i)
                except BadSampleError as error:
                    errors[i] = error.at(block.source, block.partition, int(block.offsets[i]))
            xs.append(x)
        done = self._wanted.get(block.key, 0)
        skip = sum(1 for offset in block.offsets if offset < done)
        return Block(
            x=xs[skip:],
            y=block.y[skip:],
            w=None if block.w is None else block.w[skip:],
            source=block.source,
            partition=block.partition,
            offsets=block.offsets[skip:],
            errors={i - skip: error for i, error in errors.items() if i >= skip},
            raw=None if block.raw is None else block.raw[skip:],
        )

    def _transform_one(self, partition: _Partition, i: int) -> dict[Any, Any]:
        x = _as_mapping(partition.block, i)
        try:
            partition.transformer.learn_one(x)
            found = partition.transformer.transform_one(x)
            partition.learned.append(i)
            return dict(sorted(found.items(), key=_by_name))
        except Exception as error:  # whatever a transformer makes of what it is not made for
            # nothing of the sample may stay, so what came before it is learned again
            partition.transformer = self._learned(partition, partition.learned)
            if isinstance(error, BadSampleError):
                raise
            raise BadSampleError(f"the transformer refused it: {error!r:.200}") from None

    def _learned(self, partition: _Partition, samples: Iterable[int]) -> Any:
        """Return the transformer as it was before the last block, with some of its samples."""
        transformer = deepcopy(partition.before)
        for i in samples:
            x = _as_mapping(partition.block, i)
            transformer.learn_one(x)
            transformer.transform_one(x)  # which may draw random numbers
        return transformer

    # ---- what is held, for the checkpoint

    def _plain(self, transformer: Any) -> Any:
        return to_plain(transformer, self._packages)

    def _forget(self) -> None:
        self._partitions = {}

    def _held_before(self, position: Position) -> dict[str, Any] | None:
        partitions: dict[str, Any] = {}
        for name, partition in self._partitions.items():
            end, block = position.get(name, 0), partition.block
            if block is None or end > int(block.offsets[-1]):
                partitions[name] = self._plain(partition.transformer)
                continue
            if end < int(block.offsets[0]):
                return None
            samples = [i for i in partition.learned if block.offsets[i] < end]
            partitions[name] = self._plain(self._learned(partition, samples))
        return {"transformer": repr(self.transformer), "partitions": partitions}

    def _hold(self, state: dict[str, Any]) -> None:
        match state:
            case {"transformer": str(described), "partitions": dict(plain)}:
                pass
            case _:
                raise CheckpointMismatchError(f"not the state of a transformer: {state!r:.80}")
        if described != repr(self.transformer):
            raise CheckpointMismatchError(
                f"the checkpoint is of the transformer {described:.200}, this is "
                f"{self.transformer!r:.200}"
            )
        partitions: dict[str, _Partition] = {}
        for name, attributes in plain.items():
            partitions[name] = _Partition(deepcopy(self.transformer))
            from_plain(partitions[name].transformer, attributes, self._packages)
        self._partitions = partitions


def _as_mapping(block: Block | None, i: int) -> dict[Any, Any]:
    """Return sample `i` as River takes it, to be changed at will."""
    assert block is not None
    x = block.x[i]
    if not isinstance(x, Mapping):
        try:
            values = list(x.tolist() if hasattr(x, "tolist") else x)
        except TypeError:
            raise BadSampleError(f"{shown(x)} is no sample") from None
        x = dict(zip(block.features or range(len(values)), values, strict=True))
    for name, value in x.items():
        if isinstance(value, float) and not isfinite(value):
            raise BadSampleError(f"value {value} is not finite", feature=name)
    return dict(x)


def _by_name(item: tuple[Any, Any]) -> tuple[bool, Any]:
    return (isinstance(item[0], str), item[0])
