"""Which batch size? Trains side by side at a ladder of sizes, and says what came of it.

The numbers are measured here; `streamfit.advice` says what follows from them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from streamfit.advice import Advice, Rung, advise
from streamfit.core import frames, schedules, sparse
from streamfit.core.learner import LinearLearner
from streamfit.core.validation import check_integer, check_real
from streamfit.curves import AtRest, Curve, at_rest
from streamfit.errors import BadSampleError, ConfigurationError, UnsupportedError
from streamfit.sources import IterableSource
from streamfit.types import Block, FloatArray, Source

__all__ = ["advise_batch_size"]

_CHUNKS = 50  # in which losses are compared pair by pair
_HELD_OUT = 0.2
_MICRO_BATCHES = 20  # whose gradients are compared with that of all samples
_LEAST = 100  # samples


def advise_batch_size(
    model: LinearLearner,
    source: Source | Iterable[Any] | Callable[[], Any],
    *,
    budget: float = 10.0,
    max_samples: int = 10_000,
    batch_sizes: Sequence[int | None] | None = None,
) -> Advice:
    """Train copies of a model at a ladder of batch sizes on a bounded sample, and compare them.

    Parameters
    ----------
    model
        Says what to train, but for the batch size. It is not changed, and what it has learned is
        ignored.
    source
        Where the sample is read from: a source, or an iterable, as for a `Trainer`. It is closed.
    budget
        Seconds, for reading and training together; the sample is cut to what can be done in them.
    max_samples
        Samples to read, at most. The last fifth is held out, to measure the loss on.
    batch_sizes
        The ladder; None: 1, 2, 4, ... up to a quarter of the samples, and all (None).

    Returns
    -------
    Advice
        Measurements of each size, a recommendation, its reasons and its uncertainty. `print` shows
        it as a table; `to_html` writes a report with plots.

    Examples
    --------
    >>> import numpy as np
    >>> import streamfit as sf
    >>> rng = np.random.default_rng(1)
    >>> X = rng.normal(size=(2000, 3))
    >>> samples = list(zip(X, X @ [1.0, 2.0, 3.0] + rng.normal(size=2000)))
    >>> advice = sf.advise_batch_size(sf.LinearRegression(), samples, batch_sizes=[1, 200, None])
    >>> advice.recommended, advice.clear
    (1, True)
    """
    if not isinstance(model, LinearLearner):
        raise UnsupportedError(
            f"advise_batch_size trains linear learners of streamfit, not {type(model).__name__}"
        )
    budget = check_real("budget", budget, positive=True)
    check_integer("max_samples", max_samples, minimum=_LEAST)
    began = time.monotonic()
    sample = _read(model, source, max_samples, began + budget / 2)
    n = len(sample)
    if n < _LEAST:
        raise ConfigurationError(
            f"{n} samples are too few to compare batch sizes on; give a source of {_LEAST} at least"
        )
    train = n - int(_HELD_OUT * n)
    ladder = _ladder(batch_sizes, train)
    runs = [_Run(model, size, sample, train) for size in ladder]
    for run in runs:
        run.one_pass()
    slowest = max(run.seconds for run in runs)
    left = budget - (time.monotonic() - began)
    more = min(4.0 * slowest, max(0.0, left) / len(runs))
    for run in runs:
        run.go_on_until(slowest + more)
    own = model.batch_size
    return advise(
        [run.rung() for run in runs],
        own=None if isinstance(own, schedules.BatchSizeSchedule) else own or 0,
        losses=np.array([run.chunk_losses for run in runs]),
        n_train=train,
        n_held_out=n - train,
    )


def _ladder(batch_sizes: Sequence[int | None] | None, train: int) -> list[int | None]:
    if batch_sizes is None:
        sizes: list[int | None] = [2**k for k in range(32) if 2**k <= train / 4]
        return [*sizes, None]
    found = list(dict.fromkeys(batch_sizes))
    for size in found:
        if size is not None:
            check_integer("batch_sizes", size, minimum=1)
    if len(found) < 2:
        raise ConfigurationError(f"batch_sizes must be two sizes at least, not {found}")
    return sorted(found, key=lambda size: train + 1 if size is None else size)


@dataclass
class _Run:
    """One rung: a copy of the model that trains at one batch size."""

    original: LinearLearner
    batch_size: int | None
    sample: Block
    train: int

    def __post_init__(self) -> None:
        config = {**self.original.get_config(), "batch_size": self.batch_size}
        self.model = type(self.original).from_config(config)
        self.model.track_loss = True
        self.held_out = _part(self.sample, self.train, len(self.sample))
        self.points: list[tuple[float, float, float, float]] = []
        self.chunk_losses: list[float] = []
        self.seconds, self.taken, self.memory = 0.0, 0, 0

    def _learn(self, start: int, stop: int) -> None:
        began = time.process_time()
        self.model.learn_block(self.sample, start, stop)
        if stop == self.train:
            self.model.flush()
        self.seconds += time.process_time() - began
        self.taken += stop - start

    def _look(self) -> None:
        loss = at_rest(self.model, self.held_out).loss
        self.points.append((self.taken, self.model.n_updates, self.seconds, loss))

    def one_pass(self) -> None:
        """Train one epoch, each sample tested first."""
        stops = np.linspace(0, self.train, _CHUNKS + 1).astype(int).tolist()
        looks = set(np.unique(np.geomspace(1, _CHUNKS, 12).astype(int)).tolist())
        self._look()
        for k, (start, stop) in enumerate(pairwise(stops), 1):
            before = self.model.loss_sum, self.model.loss_weight
            self._learn(start, stop)
            weight = self.model.loss_weight - before[1]
            self.chunk_losses.append((self.model.loss_sum - before[0]) / max(weight, 1e-300))
            self.memory = max(self.memory, _bytes(self.model))
            if k in looks:
                self._look()
        self.progressive_loss = self.model.loss_sum / max(self.model.loss_weight, 1e-300)
        self.rate = self.train / max(self.seconds, 1e-9)
        self.updates = self.model.n_updates
        self.loss_equal_samples = self.points[-1][3]
        whole = at_rest(self.model, _part(self.sample, 0, self.train))
        self.noise_scale = whole.noise / whole.signal if whole.signal > 0.0 else float("inf")
        self.cosine = self._cosine(whole)

    def _cosine(self, whole: AtRest) -> float:
        """Mean cosine between the gradients of micro-batches and of all samples."""
        size = self.batch_size or self.train
        starts = range(0, self.train - size + 1, size)
        chosen = starts[:: max(1, len(starts) // _MICRO_BATCHES)][:_MICRO_BATCHES]
        found = []
        for start in chosen:
            part = at_rest(self.model, _part(self.sample, start, start + size)).gradient
            product = float(np.linalg.norm(part) * np.linalg.norm(whole.gradient))
            if product > 0.0:
                found.append(float(np.sum(part * whole.gradient)) / product)
        return float(np.mean(found)) if found else float("nan")

    def go_on_until(self, seconds: float) -> None:
        """Train further epochs until so much CPU time is spent; the loss then is of equal time."""
        step = max(1, self.train // 10)
        while self.seconds < seconds:
            start = self.taken % self.train
            self._learn(start, min(start + step, self.train))
        self._look()

    def rung(self) -> Rung:
        n_samples, n_updates, seconds, loss = np.array(self.points).T
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
            curve=Curve(n_samples, n_updates, seconds, loss, epoch_size=self.train),
        )


def _bytes(model: LinearLearner) -> int:
    return sum(v.nbytes for v in model.state_dict().values() if isinstance(v, np.ndarray))


# ---- the sample


def _part(block: Block, start: int, stop: int) -> Block:
    w = None if block.w is None else block.w[start:stop]
    return Block(block.x[start:stop], block.y[start:stop], w, features=block.features)


def _read(model: LinearLearner, source: Any, max_samples: int, until: float) -> Block:
    """Read a bounded sample as one block, without what the model refuses."""
    source = source if isinstance(source, Source) else IterableSource(source)
    probe = type(model).from_config({**model.get_config(), "batch_size": None})
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


def _good(probe: LinearLearner, block: Block, room: int) -> list[int]:
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


def _rows(probe: LinearLearner, block: Block, good: list[int]) -> Block:
    """Return some samples of a block: an array, or a list of rows."""
    x: Any = block.x
    if sparse.is_sparse(x):
        rows, error = sparse.read_rows(x, 0, x.shape[0], np.float64)
        if error is not None:
            raise error
        hashed = probe.hashing is not None
        x = sparse.mappings_of(rows, range(rows[3]) if hashed else probe.index.names)
    chosen = x[good] if isinstance(x, np.ndarray) else [x[i] for i in good]
    y = block.y[good] if isinstance(block.y, np.ndarray) else [block.y[i] for i in good]
    w = None if block.w is None else np.array([block.w[i] for i in good], dtype=np.float64)
    return Block(chosen, y, w, features=block.features)
