"""Local SGD for `streamfit.offline`: copies of one model, a shard each, averaged now and then.

`run_rounds` says who learns what and when they are averaged, for any kind of copy: textbook ones
(`TextbookCopies`), and real learners, averaged as the library does (`CompiledCopies`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from streamfit import _offline_formulas as formulas
from streamfit._offline_data import Data
from streamfit._offline_descent import Descent
from streamfit._offline_noise import OfflineNoise
from streamfit.core import frames
from streamfit.core.averaging import average_states
from streamfit.core.learner import LinearLearner
from streamfit.core.noise import NoiseMoments, moments_of
from streamfit.types import Block, FloatArray

__all__ = ["CompiledCopies", "Copies", "TextbookCopies", "run_rounds"]


class Copies(Protocol):
    """A copy of a model for each shard. Samples are counted over all epochs, wrapping around."""

    def batch_size(self, shard: int) -> int | None:
        """Size of the micro-batch that a copy takes next; None: all that is left."""

    def learn(self, shard: int, start: int, stop: int, part: float) -> None:
        """Let a copy make an update of samples `start` to `stop`, the rate multiplied by `part`.

        A `part` of 0 makes none: the samples are taken in and dropped.
        """

    def average(self) -> None:
        """Make all copies equal to their average, by the samples each has taken in since."""


def run_rounds(
    copies: Copies, lengths: Sequence[int], sync_every: int, epochs: int, last_batch: str
) -> tuple[int, int]:
    """Learn all shards; return the number of rounds, and of samples that are left.

    In a round each copy takes `sync_every` micro-batches, fewer where its shard ends, and then all
    are averaged. An epoch is over when every shard is.
    """
    at = [0] * len(lengths)
    n_rounds = 0
    for epoch in range(1, epochs + 1):
        ends = [epoch * length for length in lengths]
        while sum(
            _learn(copies, shard, at, ends[shard], sync_every, last_batch)
            for shard in range(len(lengths))
        ):
            copies.average()
            n_rounds += 1
    return n_rounds, sum(epochs * length - n for n, length in zip(at, lengths, strict=True))


def _learn(
    copies: Copies, shard: int, at: list[int], end: int, n_batches: int, last_batch: str
) -> int:
    """Let a copy take its micro-batches of a round, moving `at`; return of how many samples."""
    began = at[shard]
    for _ in range(n_batches):
        left = end - at[shard]
        size = copies.batch_size(shard) or left
        part = 1.0
        if left < size:
            if last_batch == "carry":
                break
            part = {"apply": 1.0, "scale": left / size, "drop": 0.0}[last_batch]
            size = left
        if not size:
            break
        copies.learn(shard, at[shard], at[shard] + size, part)
        at[shard] += size
    return at[shard] - began


class TextbookCopies:
    """Copies that descend by `streamfit.offline`'s own formulas."""

    def __init__(self, config: dict[str, Any], shards: Sequence[Data]) -> None:
        self.config, self.shards = config, shards
        self.start = Descent(config, shards[0].table.X.shape[1])
        self.classes = list(range(len(config.get("classes") or ())))
        """Numbers of the classes that all copies know, in the order of the rows of `theta`."""
        self._part()

    def _part(self) -> None:
        self.copies = [copy.deepcopy(self.start) for _ in self.shards]
        self.known = [list(self.classes) for _ in self.shards]
        self.taken = [0 for _ in self.shards]
        self.seen: list[FloatArray] = []

    @property
    def average_of_all(self) -> Descent:
        """The average, with a row for each class of the data, in their order."""
        average = copy.deepcopy(self.start)
        n_classes = len(self.shards[0].classes or ())
        if average.softmax:
            average.theta = np.zeros((n_classes, average.theta.shape[1]))
            average.theta[self.classes] = self.start.theta
        return average

    def batch_size(self, shard: int) -> int | None:
        """Size of the micro-batch that a copy takes next; None: all that is left."""
        return None if self.config["batch_size"] is None else self.copies[shard].batch_size

    def learn(self, shard: int, start: int, stop: int, part: float) -> None:
        """Let a copy make an update of samples `start` to `stop`."""
        data, descent, known = self.shards[shard], self.copies[shard], self.known[shard]
        batch = []
        for i in range(start, stop):
            i %= len(data.y)  # noqa: PLW2901
            x, y, s = data.table.X[i], float(data.y[i]), float(data.w[i])
            if descent.softmax:
                if y not in known:
                    known.append(int(y))
                y = float(known.index(int(y)))
            if s > 0:
                self.seen.append(x)
            batch.append(descent.arrival(x, y, s))
        self.taken[shard] += stop - start
        if part:
            descent.update(batch, share=part)

    def average(self) -> None:
        """Make all copies equal to their average."""
        self.classes = list(
            dict.fromkeys(k for known in [self.classes, *self.known] for k in known)
        )
        shares = [n / sum(self.taken) for n in self.taken]
        start, copies = self.start, self.copies
        average = copy.deepcopy(max(copies, key=lambda one: one.n_updates))  # the first of equals
        average.theta = self._mean(shares, [one.theta for one in copies])
        average.slots = tuple(
            self._mean(shares, slots) for slots in zip(*(one.slots for one in copies), strict=True)
        )
        average.l1_had = self._mean(shares, [one.l1_had for one in copies])
        average.l1_total = float(np.dot(shares, [one.l1_total for one in copies]))
        average.n_refused = start.n_refused + sum(one.n_refused - start.n_refused for one in copies)
        optimizer = dict(self.config["optimizer"])
        if optimizer.pop("id") == "ftrl_proximal":  # whose weights are what its slots say
            z, n = average.slots
            theta = formulas.ftrl_weights(z, n, **optimizer)
            first = self.config["fit_intercept"] and self.config["intercept_lr"] is None
            average.theta[..., 0 if first else 1 :] = theta[..., 0 if first else 1 :]
        if start.scaler is not None:  # one scaler that sees all samples
            average.scaler = copy.deepcopy(start.scaler)
            for x in self.seen:
                average.scaler.learn(x)
        if average.noise is not None and start.noise is not None:
            average.noise.begin_at(
                _mean_moments(start.noise, shares, [one.noise for one in copies])
            )
        self.start = average
        self._part()

    def _mean(self, shares: Sequence[float], arrays: Sequence[FloatArray]) -> FloatArray:
        """Average arrays; a class that a copy has not met is a row of zeros there."""
        mean: Any = 0.0
        for share, array, known in zip(shares, arrays, self.known, strict=True):
            whole = array
            if array.ndim > 1:
                whole = np.zeros((len(self.classes), array.shape[1]))
                whole[[self.classes.index(k) for k in known]] = array
            mean = mean + share * whole
        averaged: FloatArray = mean
        return averaged


def _mean_moments(
    start: OfflineNoise, shares: Sequence[float], noises: Sequence[OfflineNoise | None]
) -> NoiseMoments:
    moments = [noise.moments() for noise in noises if noise is not None]
    began = start.moments().n
    means = np.dot(shares, [one.as_list() for one in moments])
    return moments_of(began + sum(one.n - began for one in moments), means)


class CompiledCopies:
    """Copies that are real learners, averaged as a cluster does."""

    def __init__(
        self, kind: type[LinearLearner], config: dict[str, Any], shards: Sequence[Any]
    ) -> None:
        self.copies = [kind.from_config(config) for _ in shards]
        self.shards = [_block(self.copies[0], *shard) for shard in shards]
        self.start = self.copies[0].state_dict()
        for learner in self.copies:
            learner.track_loss = True

    @property
    def progressive_loss(self) -> float:
        """Mean loss of samples before their copies learned them; NaN where none had a weight."""
        weight = sum(learner.loss_weight for learner in self.copies)
        return sum(learner.loss_sum for learner in self.copies) / weight if weight else math.nan

    def batch_size(self, shard: int) -> int | None:
        """Size of the micro-batch that a copy takes next; None: all that is left."""
        return self.copies[shard].current_batch_size

    def learn(self, shard: int, start: int, stop: int, part: float) -> None:
        """Let a copy make an update of samples `start` to `stop`."""
        learner, block = self.copies[shard], self.shards[shard]
        while start < stop:
            at = start % len(block)
            end = min(at + stop - start, len(block))
            learner.learn_block(block, at, end)
            start += end - at
        if part:
            learner._flush_pending(part)
        else:
            learner._discard_pending()

    def average(self) -> None:
        """Make all copies equal to their average."""
        states = [learner.state_dict() for learner in self.copies]
        self.start = average_states(self.copies[0], self.start, states)
        for learner in self.copies:
            learner.load_state_dict(self.start)


def _block(learner: LinearLearner, X: Any, y: Any, w: Any = None) -> Block:
    if isinstance(X, list | tuple) and (not X or isinstance(X[0], Mapping)):
        n = len(X)
        X, w = list(X), np.full(n, w) if w is not None and frames.is_scalar(w) else w
        return Block(
            X, frames.as_vector(y, "y", n), None if w is None else frames.as_vector(w, "w", n)
        )
    return learner._as_block(X, y, w)
