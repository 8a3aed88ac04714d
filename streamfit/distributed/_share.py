"""One share of a training: the samples that it reads, and a replica of the model that learns them.

A share answers with what it has done since it was last asked (`Done`). Nothing of it counts before
the driver has everybody's answer, so a share that is lost costs the round at hand and no more.
"""

from __future__ import annotations

import time
import warnings
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple

from streamfit._journal_file import Flush
from streamfit._kernels import Snapshot
from streamfit.core.learner import LinearLearner
from streamfit.core.sums import GradientSum
from streamfit.distributed._messages import Done, Limits, Settings, Update, Want
from streamfit.distributed._reader import Piece, Reader
from streamfit.errors import BadSampleError, UpdateRefusedWarning
from streamfit.types import Block, FloatArray, Position, Source, StateDict

__all__ = ["Share"]

_CHUNK = 8192  # samples between two looks at the clock
_IDLE_SECONDS = 0.5  # a share to which nothing comes says so
_WAIT_SECONDS = 0.05  # between two looks at the clock while nothing comes


class _Before(NamedTuple):
    """A share when its last micro-batch ended, and what it has taken since."""

    model: Snapshot
    done: Done
    pieces: list[Piece]


class Share:
    """Learns the samples of one share.

    Parameters
    ----------
    settings
        How to learn them.
    source
        Where they are.
    position
        Where to begin.
    """

    def __init__(self, settings: Settings, source: Source, position: Position) -> None:
        self.model = settings.kind.from_config(settings.config)
        self.model.track_loss = True
        self.reader = Reader(source, position)
        self._settings = settings
        self._source = source
        self._done = Done()
        self._before: _Before | None = None
        self._n_known = 0
        self._waiting_since: float | None = None

    def close(self) -> None:
        """Stop reading."""
        self.reader.close()

    # ---- by itself, between two averages

    def train(
        self,
        state: StateDict,
        limits: Limits,
        hurried: Callable[[], bool] = lambda: False,
        halted: Callable[[], bool] = lambda: False,
    ) -> Done:
        """Train a replica that begins as `state`, in whole micro-batches.

        Parameters
        ----------
        state
            The model that all shares begin with.
        limits
            How far.
        hurried
            Whether others wait: then a share does not wait for samples.
        halted
            Whether to end after the micro-batch at hand.
        """
        began, model = time.monotonic(), self.model
        model.load_state_dict(state)
        self._begin()
        last = None if limits.n_batches is None else _n_batches(model) + limits.n_batches
        while True:
            late = limits.seconds is not None and time.monotonic() - began >= limits.seconds
            left = None if last is None else last - _n_batches(model)
            if not model.n_pending and (left == 0 or late or halted()):
                break
            wanted = None if limits.n_samples is None else limits.n_samples - self._done.n_samples
            if n := self._ready(left, wanted):
                self._learn(n)
            elif wanted == 0 or self.reader.at_end():
                self._flush("epoch end", self._settings.last_batch)
                break
            elif self._waited_long():
                self._learn(self.reader.n_waiting)
                self._flush("max_wait", "apply")
            elif late or hurried() or halted() or time.monotonic() - began >= _IDLE_SECONDS:
                break
            else:
                self.reader.wait(self._room(), _WAIT_SECONDS, lambda: hurried() or halted())
        if model.n_pending:
            self._undo_partial()
        self._done.state = model.state_dict()
        self.reader.at_end()  # looks, and so knows
        return self.finish(began)

    def _room(self) -> int:
        """Say how many samples end the micro-batch at hand; of a full batch, any number does."""
        size = self.model.current_batch_size
        return 1 if size is None else size - self.model.n_pending

    def _ready(self, left: int | None, wanted: int | None) -> int:
        """Say how many samples can be learned now: whole micro-batches, or what is left at last."""
        room, size = self._room(), self.model.current_batch_size
        most = _CHUNK if wanted is None else min(_CHUNK, wanted)
        waiting = self.reader.fill(room if wanted is None else min(room, wanted))
        if size is None:
            return min(waiting, most)
        if wanted is not None and wanted <= room:
            return min(waiting, wanted) if waiting >= wanted or self.reader.is_read else 0
        if waiting < room:
            return waiting if self.reader.is_read else 0
        if not isinstance(self._settings.config["batch_size"], int):
            return room  # the next one may be of another size
        more = max(0, min(waiting, most) - room) // size
        return room + size * (more if left is None else min(more, left - 1))

    def _waited_long(self) -> bool:
        """Say whether a partial micro-batch has waited for `max_wait`."""
        if not self.reader.n_waiting and not self.model.n_pending:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = time.monotonic()
        max_wait, since = self._settings.max_wait, self._waiting_since
        return max_wait is not None and since is not None and time.monotonic() - since >= max_wait

    def _learn(self, n: int) -> None:
        """Learn `n` samples that wait, so that a micro-batch they leave partial can be undone."""
        pieces = self.reader.take(n)
        self._waiting_since = None
        if not self.model.n_pending:
            undoable = self.reader.live and self.model.current_batch_size not in (None, 1)
            model, done = self.model, self._done
            self._before = _Before(model._snapshot(), done.copy(), []) if undoable else None
        if self._before is not None:
            self._before.pieces.extend(pieces)
        self.learn(pieces)

    def _undo_partial(self) -> None:
        """Go back to the end of the last micro-batch: bad samples have left one unfinished."""
        assert self._before is not None
        before, self._before = self._before, None
        n_whole = self.model.n_samples - self.model.n_pending
        self.model._restore(before.model)
        self._done = before.done
        self.reader.put_back(before.pieces)
        while self.model.n_samples < n_whole:
            self.learn(self.reader.take(n_whole - self.model.n_samples))

    def _flush(self, reason: str, last_batch: str) -> None:
        if self.model.n_pending:
            self._done.entries.append(Flush(reason, last_batch))
            self.model.flush(last_batch)

    # ---- with the others, in every micro-batch

    def load(self, state: StateDict) -> None:
        """Begin with this model."""
        self.model.load_state_dict(state)
        self._n_known = len(self.model.index)
        self._begin()

    def step(
        self,
        update: Update | None,
        want: Want,
        ahead: int,
        is_last: bool,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> Done:
        """Make the update that is due, and add samples to the next micro-batch.

        Parameters
        ----------
        update
            The micro-batch before, if this one begins.
        want
            What to add.
        ahead
            How many samples to have waiting afterwards, where reading takes no time.
        is_last
            Whether the sums are wanted, for the micro-batch may be whole.
        abandoned
            Whether nobody wants the answer any more: then it does not wait for samples.
        """
        began = time.monotonic()
        if update is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UpdateRefusedWarning)
                update.sums.apply(self.model, update.batch_size, update.part)
            self._n_known = len(self.model.index)
        if want.n:
            if want.start is not None:
                self.reader.seek(want.start)
            self.model._hold_updates()
            self.reader.fill(want.n, abandoned)
            self.learn(self.reader.take(want.n))
        if is_last:
            self._done.sums = self._sums()
        if ahead:
            self.reader.fill(ahead, abandoned)
        return self.finish(began)

    def _sums(self) -> GradientSum | None:
        return GradientSum.taken(self.model, self._n_known) if self.model.n_pending else None

    # ---- what both modes do

    def _begin(self) -> None:
        """Note from now on what is done."""
        self._done = Done()
        self.model.loss_sum = self.model.loss_weight = 0.0

    def finish(self, began: float) -> Done:
        """Return what was done since `began`."""
        done, self._done = self._done, Done()
        done.loss_sum, done.loss_weight = self.model.loss_sum, self.model.loss_weight
        self.model.loss_sum = self.model.loss_weight = 0.0
        done.is_read = self.reader.is_read and self.reader.error is None
        done.n_waiting = self.reader.n_waiting
        done.n_duplicates = getattr(self._source, "n_duplicates", 0)
        done.seconds = time.monotonic() - began
        return done

    def learn(self, pieces: list[Piece]) -> None:
        """Learn samples in order; what is bad is put aside."""
        for block, start, stop in pieces:
            undecoded = sorted(block.errors)
            done = start
            while done < stop:
                k = bisect_left(undecoded, done)
                end = min(stop, undecoded[k]) if k < len(undecoded) else stop
                error = block.errors.get(done)
                if end > done:
                    done, error = self._learn_good(block, done, end)
                if error is not None:
                    self._done.refuse(block, done, error)
                    done += 1

    def _learn_good(self, block: Block, start: int, end: int) -> tuple[int, BadSampleError | None]:
        """Learn up to `end` or the first bad sample; return how far, and what is wrong there."""
        model = self.model
        before, error = model.n_samples, None
        predictors = model.new_predictors(block) if self._settings.scores else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UpdateRefusedWarning)  # the driver tells of them
            try:
                model.learn_block(block, start, end, predictors)
            except BadSampleError as bad:
                error = bad
        done = start + model.n_samples - before
        if done > start:
            self._done.learned(block, start, done)
            if predictors is not None:
                self._done.scored.append(_scored(model, block, start, done, predictors))
        return done, error


def _scored(
    model: Any, block: Block, start: int, stop: int, predictors: FloatArray
) -> tuple[Any, Any, Any]:
    """Return labels, weights and linear predictors of samples; of classes, their probabilities."""
    out = predictors[start:stop]
    weights = None if block.w is None else block.w[start:stop]
    return block.y[start:stop], weights, out if model.classes is None else model.predictions(out)


def _n_batches(model: LinearLearner) -> int:
    """Count micro-batches, those whose update was refused among them."""
    return model.n_updates + model.n_refused
