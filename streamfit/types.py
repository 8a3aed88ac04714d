"""The words of the library as types: sample, block, position, source, learner.

Nothing here computes. Every other module may import this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from streamfit.errors import BadSampleError

__all__ = [
    "Action",
    "Block",
    "CommitsOffsets",
    "DeadLetterQueue",
    "Decoder",
    "DecodesMany",
    "DescribesItself",
    "FeatureName",
    "FloatArray",
    "HoldsTable",
    "KeepsState",
    "Label",
    "Learner",
    "Monitor",
    "ObservesSamples",
    "Position",
    "ReportsLag",
    "ReportsPartitionLag",
    "Sample",
    "SendsDeadLetters",
    "Source",
    "Splits",
    "StateDict",
    "Target",
]

FloatArray: TypeAlias = npt.NDArray[np.float64]
"""A float64 array."""

FeatureName: TypeAlias = str | int
"""What may name a feature; columns of an unnamed array are named 0, 1, 2, ..."""

Label: TypeAlias = str | int | bool
"""What may name a class of `SoftmaxRegression`."""

Target: TypeAlias = float | Label
"""A label: a number (regression), False / True / 0 / 1 (binary), or the name of a class."""

Sample: TypeAlias = (
    tuple[Mapping[FeatureName, float] | npt.ArrayLike, Target]
    | tuple[Mapping[FeatureName, float] | npt.ArrayLike, Target, float]
)
"""One `(x, y)` or `(x, y, w)`."""

Position: TypeAlias = dict[str, int]
"""Where a source stands: `{"clicks:0": 1234}`, the next offset to read of each partition."""

StateDict: TypeAlias = dict[str, Any]
"""Plain state: NumPy arrays and JSON-safe values, by name."""


@dataclass(frozen=True, slots=True)
class Action:
    """What was done to a model between two samples; a replay does it again at the same place.

    Parameters
    ----------
    name
        One of those in `streamfit.actions`.
    parameters
        Its arguments, JSON-safe.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """Samples of one partition that arrived together, in order.

    How a stream is cut into blocks never influences what is learned.

    Parameters
    ----------
    x
        `n` mappings of feature name to number, or 1-D rows (a list, or a sequence that
        `HoldsTable`), or a 2-D array of shape `(n, n_features)`.
    y
        `n` labels.
    w
        `n` sample weights, or None when every weight is 1.
    source, partition
        Name of the source (a Kafka topic, say) and the partition within it.
    offsets
        `n` offsets, rising. Sample `i` is done with when the position says `offsets[i] + 1`.
    features
        Column names when `x` is a 2-D array that has them.
    errors
        Samples that could not be decoded, by their index in the block; the entries of `x`
        and `y` at these indices are placeholders that nobody may read.
    raw
        `n` pairs `(value, key)`: the bytes each sample was decoded from, for a dead letter. None
        when there never were any bytes.
    """

    x: Sequence[Any] | npt.NDArray[Any]
    y: Sequence[Any] | npt.NDArray[Any]
    w: Sequence[Any] | npt.NDArray[Any] | None = None
    source: str = "samples"
    partition: int = 0
    offsets: Sequence[int] = ()
    features: Sequence[FeatureName] | None = None
    errors: Mapping[int, BadSampleError] = field(default_factory=dict)
    raw: Sequence[tuple[bytes | None, bytes | None]] | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def key(self) -> str:
        """Key of this block's partition in a `Position`."""
        return f"{self.source}:{self.partition}"


@runtime_checkable
class HoldsTable(Protocol):
    """Mappings of a block that are the rows of a table, too; a learner may take that instead.

    All have the same names, in the same order. To look at one as a mapping may cost more.
    """

    @property
    def table(self) -> FloatArray | None:
        """The numbers, of shape (n, n_features); None once a mapping was handed out."""

    @property
    def names(self) -> Sequence[FeatureName]:
        """The names of the columns."""


@runtime_checkable
class Source(Protocol):
    """Where samples come from, in blocks, resumable.

    A source may also carry an attribute `live` (bool, False when absent). A live source hands
    out an empty block whenever nothing has arrived for a moment, so that its reader can look
    at the clock; any other source may block until the next sample.
    """

    def __iter__(self) -> Iterator[Block]:
        """Hand out blocks from the present position on."""

    def position(self) -> Position:
        """Say where the next block will start."""

    def seek(self, position: Position) -> None:
        """Make the next iteration start at `position`."""

    def close(self) -> None:
        """Release whatever is held; calling it again does nothing."""


@runtime_checkable
class CommitsOffsets(Protocol):
    """A source that can tell an outside dashboard how far it was applied. Advisory only."""

    def commit(self, position: Position) -> None:
        """Publish `position`; never raises for a broker that is away."""


@runtime_checkable
class ReportsLag(Protocol):
    """A source that knows how much it has left to read."""

    def lag(self, position: Position) -> int | None:
        """Count the samples between `position` and the end, or None when not known."""


@runtime_checkable
class ReportsPartitionLag(Protocol):
    """A source that knows it of each partition."""

    def partition_lag(self, position: Position) -> dict[str, int] | None:
        """Count the samples between `position` and the end by partition, or None."""


class DeadLetterQueue(Protocol):
    """Where records that were refused are kept, as they came."""

    def send(
        self, value: bytes | None, key: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        """Take one record in; it is safe only after `flush`."""

    def flush(self, timeout: float) -> None:
        """Wait until every record taken in is acknowledged.

        Raises
        ------
        BrokerUnavailableError
            When that took longer than `timeout` seconds. Nothing is given up: what was not
            acknowledged is sent again by the next `flush`, and may then be there twice.
        SourceError
            When trying again cannot help: no such topic, no right to write to it.
        """

    def close(self) -> None:
        """Let go of connections; what was not acknowledged is given up."""


@runtime_checkable
class SendsDeadLetters(Protocol):
    """A source whose refused records can go where it came from itself."""

    def dead_letters(self, topic: str | None = None) -> DeadLetterQueue:
        """Return the topic to send to: the one named, or the source's own."""


@runtime_checkable
class DescribesItself(Protocol):
    """A source of which `streamfit verify` can make another, from the checkpoint alone."""

    def get_config(self) -> dict[str, Any] | None:
        """Return the arguments, JSON-safe and without secrets; None when they cannot be told."""


@runtime_checkable
class Splits(Protocol):
    """A source whose partitions can be read apart, each by another worker."""

    def partitions(self) -> list[str]:
        """Return the keys of its partitions, as a position names them; may ask a broker."""

    def only(self, partitions: Sequence[str]) -> Source:
        """Return the same source with only some of its partitions, to be sent to a worker."""


@runtime_checkable
class KeepsState(Protocol):
    """A source with more to remember than its position; it goes into the checkpoint.

    Windows hold samples back; a topic that was made anew under its old name has another id.
    """

    def state_dict(self, position: Position) -> dict[str, Any] | None:
        """Return, JSON-safe, what is held of the samples before `position`; None: not known."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what `state` says; called after `seek` to the position it belongs to."""


@runtime_checkable
class Learner(Protocol):
    """What a `Trainer` needs of a model."""

    track_loss: bool
    """Whether `learn_block` adds each sample's loss, before it is learned, to `loss_sum`."""
    loss_sum: float
    loss_weight: float

    @property
    def n_samples(self) -> int:
        """Samples learned or pending."""

    @property
    def n_updates(self) -> int:
        """Updates made."""

    @property
    def n_pending(self) -> int:
        """Samples whose update has not happened yet."""

    @property
    def current_batch_size(self) -> int | None:
        """Size of the micro-batch that is being filled, None for a full batch."""

    @property
    def n_refused(self) -> int:
        """Updates refused because a weight would have become non-finite."""

    def new_predictors(self, block: Block) -> FloatArray:
        """Make the array that `learn_block` fills, one row for each sample of the block."""

    def learn_block(
        self, block: Block, start: int, stop: int, predictors: FloatArray | None = None
    ) -> None:
        """Learn samples `start` to `stop`; raise `BadSampleError` at the first bad one."""

    def predictions(self, predictors: FloatArray) -> list[Any]:
        """Turn the predictors that `learn_block` wrote into predictions for a metric."""

    def flush(self, last_batch: str = "apply") -> None:
        """Deal with a partial micro-batch."""

    def state_dict(self) -> StateDict:
        """Return everything that learning depends on."""

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from a state."""

    def get_config(self) -> dict[str, Any]:
        """Describe the model's arguments, JSON-safe."""

    def digest(self) -> str:
        """Return a hash over parameters, optimizer state, counters and pending sums."""


@runtime_checkable
class Monitor(Protocol):
    """A callback of a `Trainer` that may act on the model, always between the same two samples.

    How samples arrive decides when a function of a `Progress` is called, but not when a monitor
    is asked: after each `every` samples of the training, the bad ones not counted. What it decides
    may depend on the samples and on its state, never on time or arrival; then a training that is
    killed and resumed decides the same. What it decides is written into the journal and then done.
    """

    every: int

    def check(self, model: Learner) -> None:
        """Raise `ConfigurationError` when the model cannot do what may be decided."""

    def decide(self, model: Learner, n_samples: int) -> Sequence[Action]:
        """Say what to do now that `n_samples` have been learned."""

    def state_dict(self) -> dict[str, Any]:
        """Return, JSON-safe, all that decisions depend on; it goes into the checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; raise `CheckpointMismatchError` when it does not fit."""


@runtime_checkable
class ObservesSamples(Protocol):
    """A monitor that is shown what was predicted for each sample before it was learned."""

    def observe(self, y: Any, prediction: Any) -> None:
        """Look at one sample: its label, and a number or each label's probability."""


class Decoder(Protocol):
    """Turns the value of one record into one sample."""

    def __call__(self, value: bytes | None) -> tuple[Any, Any, float | None]:
        """Decode one record.

        Returns
        -------
        tuple
            `(x, y, w)`, where `w` is None when the record carries no weight.

        Raises
        ------
        DecodeError
            When the bytes are not a sample.
        """


@runtime_checkable
class DecodesMany(Protocol):
    """A decoder that decodes records together faster than one by one."""

    def decode_many(
        self, values: Sequence[bytes | None]
    ) -> tuple[Sequence[Any], list[Any], list[float] | None] | None:
        """Decode records, to exactly what decoding each of them gives.

        Returns
        -------
        tuple or None
            `(xs, ys, ws)`, where `ws` is None when no record carries a weight. None instead of
            all when any record would be refused, or has to be decoded by itself: then each is.
        """
