"""What the driver tells the shares, and what they answer: the messages that travel between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from streamfit._journal_file import REASONS, Entry, Segment, Skipped
from streamfit.core.learner import LinearLearner
from streamfit.core.sums import GradientSum
from streamfit.errors import BadSampleError, shown
from streamfit.types import Block, Position, StateDict

__all__ = ["Done", "Limits", "Refused", "Settings", "Update", "Want"]

_MAX_CHARACTERS = 1 << 14  # of a bad value; dead letters keep fewer


@dataclass(frozen=True)
class Settings:
    """What shares have to know of a training.

    Parameters
    ----------
    kind, config
        The learner.
    last_batch
        What becomes of a partial micro-batch at the end of an epoch.
    max_wait
        Seconds after which one of a live source is applied.
    scores
        Whether metrics want to know each prediction.
    """

    kind: type[LinearLearner]
    config: dict[str, Any]
    last_batch: str = "apply"
    max_wait: float | None = None
    scores: bool = False


@dataclass(frozen=True)
class Limits:
    """How far a share goes by itself before models are averaged.

    Parameters
    ----------
    n_batches, seconds
        Micro-batches, or time, whatever ends first; None: no such limit.
    n_samples
        Samples that are wanted of it at all.
    """

    n_batches: int | None = None
    seconds: float | None = None
    n_samples: int | None = None


class Update(NamedTuple):
    """An update that every share makes: the sums of all, and as what kind of micro-batch."""

    sums: GradientSum
    batch_size: int | None
    part: float


class Want(NamedTuple):
    """Samples of a share that are wanted for a micro-batch: how many, and where, if not next."""

    n: int
    start: Position | None = None


class _Text:
    """What a value looks like, which can be sent when the value of a bad sample cannot."""

    def __init__(self, value: object) -> None:
        self._text = shown(value, _MAX_CHARACTERS)

    def __repr__(self) -> str:
        return self._text


@dataclass(frozen=True)
class Refused:
    """A bad sample: a block that holds it alone, as text, and what is wrong with it."""

    block: Block
    error: BadSampleError


@dataclass
class Done:
    """What a share has done since it was last asked.

    Parameters
    ----------
    entries
        Segments, skipped samples and flushes, as the journal has them.
    refused
        The skipped samples, in the same order.
    position
        The next offset of each partition of which something was done.
    n_samples, loss_sum, loss_weight
        Samples learned, and their losses before that.
    scored
        Labels, weights and predictions of the samples.
    n_waiting
        Samples that were read and not yet learned.
    is_read
        Whether no others will come than these.
    n_duplicates
        Records that the source dropped so far because they came twice.
    seconds
        How long it took.
    state
        The copy of the model afterwards, in local mode.
    sums
        What is pending in it, in synchronous mode, when the micro-batch may be whole.
    """

    entries: list[Entry] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    position: Position = field(default_factory=dict)
    n_samples: int = 0
    loss_sum: float = 0.0
    loss_weight: float = 0.0
    scored: list[tuple[Any, Any, Any]] = field(default_factory=list)
    n_waiting: int = 0
    is_read: bool = False
    n_duplicates: int = 0
    seconds: float = 0.0
    state: StateDict | None = None
    sums: GradientSum | None = None

    def __add__(self, later: Done) -> Done:
        """Return both together; what was measured is the later one's."""
        return replace(
            later,
            entries=[*self.entries, *later.entries],
            refused=[*self.refused, *later.refused],
            position={**self.position, **later.position},
            n_samples=self.n_samples + later.n_samples,
            loss_sum=self.loss_sum + later.loss_sum,
            loss_weight=self.loss_weight + later.loss_weight,
            scored=[*self.scored, *later.scored],
        )

    @property
    def ended(self) -> bool:
        """Whether everything was learned."""
        return self.is_read and not self.n_waiting

    def copy(self) -> Done:
        """Return the same, which what follows does not change."""
        return replace(
            self,
            entries=[*self.entries],
            refused=[*self.refused],
            scored=[*self.scored],
            position=dict(self.position),
        )

    def learned(self, block: Block, start: int, stop: int) -> None:
        """Note that samples `start` to `stop` of a block were learned."""
        first, after, n = int(block.offsets[start]), int(block.offsets[stop - 1]) + 1, stop - start
        last = self.entries[-1] if self.entries else None
        if isinstance(last, Segment) and (last.source, last.partition) == (
            block.source,
            block.partition,
        ):
            first, n = last.start, last.n + n
            self.entries.pop()
        self.entries.append(Segment(block.source, block.partition, first, after, n))
        self.position[block.key] = after
        self.n_samples += stop - start

    def refuse(self, block: Block, i: int, error: BadSampleError) -> None:
        """Note that sample `i` of a block is bad."""
        offset = int(block.offsets[i])
        if error.source is None:
            error.at(block.source, block.partition, offset)
        error.__traceback__ = error.__context__ = None  # which lead to everything else
        name = type(error).__name__
        reason = name if name in REASONS else REASONS[0]
        self.entries.append(Skipped(block.source, block.partition, offset, reason))
        alone = replace(
            block,
            x=[_Text(block.x[i])],
            y=[_Text(block.y[i])],
            w=None if block.w is None else block.w[i : i + 1],
            offsets=[offset],
            errors={0: error} if i in block.errors else {},
            raw=None if block.raw is None else [block.raw[i]],
        )
        self.refused.append(Refused(alone, error))
        self.position[block.key] = offset + 1
