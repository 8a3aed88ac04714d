"""Copies of a model that train side by side, one for each batch size of a ladder."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from streamfit._bounded_sample import part_of
from streamfit.advice import Rung
from streamfit.core.learner import LinearLearner
from streamfit.curves import AtRest, Curve, Trainable, at_rest, fresh, loss_at_rest
from streamfit.types import Block

__all__ = ["CHUNKS", "Run", "train_side_by_side"]

CHUNKS = 50
"""In which losses and times are compared pair by pair."""
_MICRO_BATCHES = 20  # whose gradients are compared with that of all samples
_DIVERGED = 2.0  # times the loss before anything was learned


class Run:
    """One rung: a copy of the model that trains at one batch size.

    Parameters
    ----------
    model
        What to train, but for the batch size.
    batch_size
        None: all training samples.
    sample
        The samples, of which the first `train` are for training.
    train
        How many.
    judge
        A copy of the model that measures: what it has compiled serves all runs. None: a new one.
    """

    def __init__(
        self,
        model: Trainable,
        batch_size: int | None,
        sample: Block,
        train: int,
        judge: Trainable | None = None,
    ) -> None:
        self.batch_size, self.sample, self.train = batch_size, sample, train
        self.model = fresh(model, batch_size)
        self._judge = judge or fresh(model, None)
        self.model.track_loss = True
        self.held_out = part_of(sample, train, len(sample))
        self.points: list[tuple[float, float, float, float]] = []
        self.chunk_losses: list[float] = []
        self.chunk_seconds: list[float] = []
        self.seconds, self.taken, self.memory = 0.0, 0, 0
        if not isinstance(model, LinearLearner):
            self._warm_up()

    def _warm_up(self) -> None:
        """Let all be compiled, which is no part of the time that learning takes."""
        before = self.model.state_dict()
        size = min(self.batch_size or self.train, self.train)
        for n in {size, self.train % size}:
            self.model.learn_block(self.sample, 0, n)
            self.model.flush()
        self.model.load_state_dict(before)
        self.model.loss_sum = self.model.loss_weight = 0.0

    def learn(self, start: int, stop: int) -> float:
        """Learn some samples, and return the CPU time that it took."""
        began = time.process_time()
        self.model.learn_block(self.sample, start, stop)
        if stop == self.train:
            self.model.flush()
        seconds = time.process_time() - began
        self.seconds += seconds
        self.taken += stop - start
        return seconds

    def learn_chunk(self, start: int, stop: int) -> None:
        """Learn a chunk of the first pass, each sample tested first."""
        before = self.model.loss_sum, self.model.loss_weight
        self.chunk_seconds.append(self.learn(start, stop))
        weight = self.model.loss_weight - before[1]
        self.chunk_losses.append((self.model.loss_sum - before[0]) / max(weight, 1e-300))
        self.memory = max(self.memory, _bytes(self.model))

    def _at_rest(self) -> Trainable:
        if isinstance(self.model, LinearLearner):
            return self.model
        self._judge.load_state_dict(self.model.state_dict())
        return self._judge

    def look(self) -> None:
        """Measure the loss of the held-out samples."""
        loss = loss_at_rest(self._at_rest(), self.held_out)
        self.points.append((self.taken, self.model.n_updates, self.seconds, loss))

    def end_pass(self) -> None:
        """Note what one pass has come to."""
        self.progressive_loss = self.model.loss_sum / max(self.model.loss_weight, 1e-300)
        self.rate = self.train / max(self.seconds, 1e-9)
        self.updates, self.refused = self.model.n_updates, self.model.n_refused
        self.loss_equal_samples = self.points[-1][3]
        model = self._at_rest()
        whole = at_rest(model, part_of(self.sample, 0, self.train))
        self.loss_of_train = whole.loss
        self.noise_scale = whole.noise / whole.signal if whole.signal > 0.0 else math.inf
        if math.isnan(whole.noise):
            self.noise_scale = math.nan
        self.cosine = self._cosine(model, whole)

    def _cosine(self, model: Trainable, whole: AtRest) -> float:
        """Mean cosine between the gradients of micro-batches and of all samples."""
        size = self.batch_size or self.train
        starts = range(0, self.train - size + 1, size)
        chosen = starts[:: max(1, len(starts) // _MICRO_BATCHES)][:_MICRO_BATCHES]
        found = []
        for start in chosen:
            part = at_rest(model, part_of(self.sample, start, start + size), parts=1).gradient
            product = float(np.linalg.norm(part) * np.linalg.norm(whole.gradient))
            if product > 0.0:
                found.append(float(np.sum(part * whole.gradient)) / product)
        return float(np.mean(found)) if found else math.nan

    def go_on_until(self, seconds: float) -> None:
        """Train further epochs until so much CPU time is spent; the loss then is of equal time."""
        step = max(1, self.train // 10)
        while self.seconds < seconds:
            start = self.taken % self.train
            self.learn(start, min(start + step, self.train))
        self.look()

    def rung(self, untrained: float) -> Rung:
        """Return what was measured; `untrained` is the training samples' loss at first."""
        n_samples, n_updates, seconds, loss = np.array(self.points).T
        fine = self.progressive_loss <= _bound(untrained) and (
            self.loss_of_train <= _bound(untrained)  # held-out samples may differ from these
            or self.loss_equal_samples <= _bound(max(untrained, float(loss[0])))
        )  # nothing that depends on the clock
        return Rung(
            batch_size=self.batch_size,
            updates_per_epoch=self.updates,
            samples_per_second=self.rate,
            progressive_loss=self.progressive_loss,
            loss_equal_samples=self.loss_equal_samples,
            loss_equal_time=float(loss[-1]),
            noise_scale=self.noise_scale,
            noise_per_update=self.noise_scale / (self.batch_size or self.train),
            cosine=self.cosine,
            memory=self.memory,
            diverges=bool(self.refused) or not fine,
            curve=Curve(n_samples, n_updates, seconds, loss, epoch_size=self.train),
        )


def train_side_by_side(runs: Sequence[Run], train: int, until: float) -> None:
    """Train all runs for a pass, chunk by chunk in turn, and then for equal time.

    Whatever else the machine does meets all of them alike; each is the first to touch a chunk of
    the data equally often.
    """
    stops = np.linspace(0, train, CHUNKS + 1).astype(int).tolist()
    looks = set(np.unique(np.geomspace(1, CHUNKS, 12).astype(int)).tolist())
    with np.errstate(over="ignore", invalid="ignore"):
        for run in runs:
            run.look()
        for k, (start, stop) in enumerate(pairwise(stops), 1):
            first = k % len(runs)
            for run in [*runs[first:], *runs[:first]]:
                run.learn_chunk(start, stop)
                if k in looks:
                    run.look()
        for run in runs:
            run.end_pass()
        slowest = max(run.seconds for run in runs)
        more = min(4.0 * slowest, max(0.0, until - time.monotonic()) / len(runs))
        for run in runs:
            run.go_on_until(slowest + more)


def _bound(before: float) -> float:
    """Return the loss above which a model diverges that had `before`, which may be negative."""
    return before + (_DIVERGED - 1.0) * abs(before)


def _bytes(model: Trainable) -> int:
    return sum(v.nbytes for v in model.state_dict().values() if isinstance(v, np.ndarray))
