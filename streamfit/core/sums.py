"""Micro-batches in shares: sums of gradients that are taken apart and put together.

The order of every addition is part of the definition. Each share of a micro-batch is summed from
nothing, its first row assigned; then the sums are added in the order of the shares, element by
element, `(g_0 + g_1) + g_2 ...`, as are their weights; and one update is made of the result. So
one share is the kernel's own micro-batch, bit for bit, and any number of them is the textbook's
within rounding.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfit.core import optim
from streamfit.core.learner import LAST_BATCH, LinearLearner
from streamfit.core.validation import check_choice
from streamfit.errors import ConfigurationError
from streamfit.types import Block, FeatureName

__all__ = [
    "Cuts",
    "GradientSum",
    "MicroBatches",
    "check_separable",
    "combine",
    "cut",
    "places",
]


def cut(n: int, shares: int) -> list[int]:
    """Cut `n` samples into contiguous shares: `n // shares` each, the first ones one more.

    >>> cut(8, 3)
    [3, 3, 2]
    """
    each, more = divmod(n, shares)
    return [each + (share < more) for share in range(shares)]


def places(batch_size: int, shares: int) -> list[int]:
    """Say before which place in a micro-batch each contiguous share ends; the last has no end.

    >>> places(8, 3)
    [3, 6]
    """
    return list(accumulate(cut(batch_size, shares)))[:-1]


def check_separable(model: LinearLearner) -> None:
    """Raise `ConfigurationError` when the shares of a micro-batch of `model` need each other."""
    sequential = None
    if isinstance(model.optimizer, optim.Auto):
        sequential = "optimizer=Auto() needs the curvature at each sample as well"
    elif model.scaler is not None:
        sequential = "a scaler scales each sample by those before it"
    elif model.noise_scale is not None:
        sequential = "noise_scale is measured over a whole micro-batch"
    elif model.classes is not None and not model.classes_fixed:
        sequential = "a class counts from its first sample on (name them: classes=[...])"
    if sequential is not None:
        raise ConfigurationError(
            f"{sequential}, and the shares of a micro-batch are learned at the same time; "
            'mode="local" takes such a model'
        )


@dataclass(frozen=True)
class GradientSum:
    """What the samples of one share add to a micro-batch.

    Parameters
    ----------
    gradient
        The sum of their gradients, the intercept's first: shape (1 + n_features,), with classes
        (n_classes, 1 + n_features).
    n, weight
        How many they are, and the sum of their weights.
    new_features
        The last of the features: those that nobody knew before the micro-batch.
    """

    gradient: npt.NDArray[Any]
    n: int
    weight: float
    new_features: tuple[FeatureName, ...] = ()

    @classmethod
    def taken(cls, model: LinearLearner, n_known: int) -> GradientSum:
        """Return what is pending in `model`, which knew `n_known` features before."""
        gradient, n, weight = model._pending_sums()
        return cls(gradient, n, weight, tuple(model.index.names[n_known:]))

    def apply(self, model: LinearLearner, batch_size: int | None, part: float = 1.0) -> None:
        """Update `model`, whose own pending samples are among those of the sum.

        Parameters
        ----------
        model
            A learner that is as it was before the micro-batch, but for what is pending.
        batch_size
            Its `current_batch_size`, which it was not told to heed.
        part
            What the learning rate is multiplied by; 0: the samples are dropped.
        """
        n_known = self.gradient.shape[-1] - 1 - len(self.new_features)
        model._forget_sums(n_known if model.hashing is None else None)
        model._update_by_sums(
            self.gradient, self.n, self.weight, self.new_features, batch_size or 0, part
        )


def combine(sums: Sequence[GradientSum]) -> GradientSum:
    """Put the sums of the shares together, in their order.

    New features get their columns in the order of the shares, which in contiguous shares is the
    order of the samples.

    Examples
    --------
    >>> import numpy as np
    >>> from streamfit.core.sums import GradientSum, combine
    >>> one = GradientSum(np.array([1.0, 2.0]), 3, 3.0)
    >>> two = GradientSum(np.array([10.0, 20.0, 5.0]), 2, 1.5, ("rain",))
    >>> combine([one, two])
    GradientSum(gradient=array([11., 22.,  5.]), n=5, weight=4.5, new_features=('rain',))
    """
    present = [one for one in sums if one.n] or list(sums[:1])
    names = tuple(dict.fromkeys(name for one in present for name in one.new_features))
    total: Any = None
    weight = 0.0
    for one in present:
        gradient = _spread(one, names)
        with np.errstate(over="ignore", invalid="ignore"):  # the update is refused then
            total = gradient if total is None else total + gradient
        weight = min(weight + one.weight, sys.float_info.max)
    return GradientSum(total, sum(one.n for one in present), weight, names)


def _spread(one: GradientSum, names: tuple[FeatureName, ...]) -> npt.NDArray[Any]:
    if one.new_features == names:
        return one.gradient
    n_known = one.gradient.shape[-1] - len(one.new_features)
    spread = np.zeros((*one.gradient.shape[:-1], n_known + len(names)), one.gradient.dtype)
    columns = [names.index(name) for name in one.new_features]
    spread[..., :n_known] = one.gradient[..., :n_known]
    spread[..., [n_known + column for column in columns]] = one.gradient[..., n_known:]
    return spread


class MicroBatches:
    """Learns micro-batches in shares, in one process: what many processes equal, bit for bit.

    Parameters
    ----------
    model
        The learner, with nothing pending. It is trained.

    Attributes
    ----------
    n, size
        Samples in the micro-batch at hand, and how many there are to be; None: any number.

    Examples
    --------
    >>> import streamfit as sf
    >>> from streamfit.core.sums import MicroBatches
    >>> from streamfit.types import Block
    >>> model = sf.LinearRegression(sf.optim.SGD(0.1), batch_size=3)
    >>> batches = MicroBatches(model)
    >>> block = Block([{"x": 1.0}, {"x": 2.0}, {"x": 3.0}], [2.0, 4.0, 6.0])
    >>> batches.learn(0, block, 0, 2)
    >>> batches.learn(1, block, 2, 3)
    >>> model.n_updates, model.weights
    (1, {'x': 1.8666666666666665})
    """

    def __init__(self, model: LinearLearner) -> None:
        self._model = model
        self._share = 0
        self._begin()

    def _begin(self) -> None:
        self.n = 0
        self._sums: list[GradientSum] = []
        self._n_known = len(self._model.index)
        self.size = self._model.current_batch_size

    @property
    def room(self) -> int | None:
        """How many samples the micro-batch at hand still takes; None: any number."""
        return None if self.size is None else self.size - self.n

    def learn(self, share: int, block: Block, start: int, stop: int) -> None:
        """Add samples to a share; when that makes a micro-batch, update.

        Parameters
        ----------
        share
            Its number, which never goes down within a micro-batch.
        block, start, stop
            The samples; there may be more of them than there is room.

        Raises
        ------
        BadSampleError
            At the first bad one; those before it are learned.
        """
        model = self._model
        while start < stop:
            if share != self._share:
                self._take()
                self._share = share
            end = stop if self.room is None else min(stop, start + self.room)
            before = model.n_samples
            model._hold_updates()
            try:
                model.learn_block(block, start, end)
            finally:
                self.n += model.n_samples - before
            if self.n == self.size:
                self._update(1.0)
            start = end

    def flush(self, last_batch: str = "apply") -> None:
        """Deal with a partial micro-batch; see `LinearLearner.flush`, but for `"carry"`."""
        check_choice("last_batch", last_batch, LAST_BATCH[:-1])
        if self.n:
            size = self.size
            part = {"apply": 1.0, "scale": self.n / (size or self.n), "drop": 0.0}[last_batch]
            self._update(1.0 if size is None else part)

    def _take(self) -> None:
        """End a share."""
        if self._model.n_pending:
            self._sums.append(GradientSum.taken(self._model, self._n_known))
            self._model._forget_sums(None if self._model.hashing is not None else self._n_known)

    def _update(self, part: float) -> None:
        self._take()
        combine(self._sums).apply(self._model, self.size, part)
        self._begin()


class Cuts:
    """Learns one partition in micro-batches, each of which is cut into contiguous shares.

    A sample belongs to the share of its place: how far it is from where the micro-batch begins. So
    bad samples, which have a place and are not learned, move no other one to another share; what is
    learned beyond the last place, in their stead, belongs to the last share.

    Parameters
    ----------
    model
        The learner, with nothing pending. It is trained.
    shares
        How many there are.
    start
        The first offset.
    rows
        How many samples an epoch has; a full batch is what is left of them.
    at
        The offset to begin with, if that is not the first.
    """

    def __init__(
        self, model: LinearLearner, shares: int, start: int, rows: int, at: int | None = None
    ) -> None:
        self._batches = MicroBatches(model)
        self._shares, self._start, self._end = shares, start, start + rows
        self._first = self._next = start if at is None else at

    def begin(self) -> None:
        """Begin an epoch."""
        self._first = self._next = self._start

    def learn(self, block: Block, start: int, stop: int) -> None:
        """Learn samples `start` to `stop` of a block that has offsets."""
        batches, offsets = self._batches, block.offsets
        while start < stop:
            size = self._end - self._first if batches.size is None else batches.size
            bounds = [self._first + place for place in places(size, self._shares)]
            share = bisect_right(bounds, offsets[start])
            end = stop
            if share < len(bounds):
                end = bisect_left(offsets, bounds[share], start, stop)
            if batches.room is not None:
                end = min(end, start + batches.room)
            batches.learn(share, block, start, end)
            self._next, start = offsets[end - 1] + 1, end
            if not batches.n:
                self._first = self._next

    def flush(self, last_batch: str = "apply") -> None:
        """Deal with a partial micro-batch."""
        self._batches.flush(last_batch)
        self._first = self._next
