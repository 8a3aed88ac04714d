"""The training loop: source -> learner -> checkpoint. One `Run` is one call of `Trainer.run`.

What a run knows, saves and resumes from is in `streamfit._run_state`.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Generator, Iterator
from contextlib import ExitStack, nullcontext

from streamfit._run_state import RunState
from streamfit.core.schedules import NoiseScaleBatchSize
from streamfit.errors import BadSampleError, CheckpointError, SourceError
from streamfit.events import event
from streamfit.report import TrainingReport
from streamfit.signals import Stopped
from streamfit.sources import IterableSource
from streamfit.terminal import progress_bar
from streamfit.types import Action, Block

__all__ = ["Run"]

_log = logging.getLogger(__name__)


class Run(RunState):
    """One run.

    Parameters
    ----------
    trainer
        How to train what on what.
    """

    def run(self) -> TrainingReport:
        """See `Trainer.run`."""
        total = self._trainer.max_samples
        with ExitStack() as stack:
            stack.callback(self.source.close)
            stack.enter_context(self._stop.installed())
            if self.checkpoint is not None:
                stack.enter_context(self.checkpoint)
            stack.callback(self._journal.close)
            stack.callback(self._bad.close)
            stack.callback(self._refused.close)
            if self._web is not None:
                stack.enter_context(self._web)
            self._begin()
            try:
                with self._stop.waiting():  # for the first connection, which may take long
                    self._take_position()
            except Stopped:
                _log.info(event("stopped", signal=self._stop.signal_name, samples=0))
                return self._report()  # nothing was learned, so there is nothing to save
            if self._web is not None:
                self._web.begin(self.model, self._progress, self.source)
            show = stack.enter_context(progress_bar(total)) if self._trainer.progress else None
            callbacks = [one for one in self._trainer.callbacks if callable(one)]
            self._listeners = [*callbacks, *([show] if show else [])]
            try:
                self._train()
            except CheckpointError:
                raise
            except Exception:
                self._save_after_failure()
                raise
            self._save_what_is_new()
            if self._web is not None:
                self._web.end("stopped" if self._stop.signal_name else "finished")
            report = self._report()
            _log.info(
                event("finished", samples=report.n_samples, bad=report.n_bad, digest=report.digest)
            )
            return report

    # ---- from the source into the model

    def _train(self) -> None:
        # an earlier run went further if it had more epochs; the same number reads on at the end
        epochs = self._trainer.epochs
        while self._epoch < epochs:
            self._read()
            if self._stop.signal_name is not None:
                _log.info(event("stopped", signal=self._stop.signal_name, samples=self._n_samples))
                return
            self._flush("epoch end", self._trainer.last_batch)
            self._n_epochs = self._epoch + 1
            if self._n_epochs >= epochs or self._remaining == 0:
                return
            self.source.seek(self._start)
            self._journal.epoch()
            self._epoch += 1
            self._position = dict(self._start)

    def _read(self) -> None:
        """Make one pass over the source, from its position to its end."""
        blocks = iter(self.source)
        with ExitStack() as stack:
            if isinstance(blocks, Generator):
                stack.callback(blocks.close)  # whatever ends the run; a thread may be behind it
            if isinstance(self.source, IterableSource):
                stack.callback(setattr, self.source, "max_block", self.source.max_block)
            self._take_all(blocks)

    def _take_all(self, blocks: Iterator[Block]) -> None:
        # a live source hands out empty blocks, others are interrupted while they wait
        live = getattr(self.source, "live", False)
        while self._remaining != 0 and self._stop.signal_name is None:
            if isinstance(self.source, IterableSource) and self._remaining is not None:
                self.source.max_block = min(self.source.max_block, self._remaining)
            try:
                with nullcontext() if live else self._stop.waiting():
                    block = next(blocks, None)
            except Stopped:
                return
            if block is None:
                return
            self._take(block)

    def _take(self, block: Block) -> None:
        """Learn a block in strides, and look up after each: a block may be of any length."""
        _check_lengths(block)
        undecoded = sorted(block.errors)
        done = 0
        while done < len(block) and self._remaining != 0 and self._stop.signal_name is None:
            stop = min(len(block), done + self._stride)
            while done < stop and self._remaining != 0:
                k = bisect_left(undecoded, done)
                end = min(stop, undecoded[k]) if k < len(undecoded) else stop
                done = self._learn(block, done, end)
            self._look_at_the_clock()
            self._tell()
        if not len(block):
            if self._look_at_the_clock():
                self._tell()
            elif self._web is not None:
                self._web.look()

    def _learn(self, block: Block, start: int, end: int) -> int:
        """Learn from `start` up to `end`, or past a bad sample; return how far.

        Sample `start` itself may be undecoded, none after it up to `end` is.
        """
        if self._remaining is not None:
            end = min(end, start + self._remaining)
        if (room := self._monitors.room(self._n_samples)) is not None:
            end = min(end, start + room)
        error = block.errors.get(start)
        done = start
        if end > start:
            had_pending = self.model.n_pending
            n_samples, n_updates = self.model.n_samples, self.model.n_updates
            n_refused = self.model.n_refused
            self._journal.before(block)
            try:
                error = self._evaluation.learn(block, start, end)
            finally:  # a metric may raise; what is learned counts all the same
                done += self.model.n_samples - n_samples
                if done > start:
                    self._position[block.key] = int(block.offsets[done - 1]) + 1
                    self._journal.learned(block, start, done)
            if done > start:
                self._monitors.ask(self._n_samples, self._journal)
                self._record_batch_size()
            if not had_pending or self.model.n_updates > n_updates:
                self._pending_since = time.monotonic()
            if self.model.n_refused > n_refused:
                self._refused.happened(
                    self.model.n_refused - n_refused,
                    source=block.source,
                    partition=block.partition,
                    offset=self._position[block.key] - 1,
                )
        if error is None:
            return done
        self._refuse(block, done, error)
        return done + 1

    def _record_batch_size(self) -> None:
        """Write down what size a schedule that follows the data has arrived at."""
        size = self.model.current_batch_size
        if size != self._batch_size:
            self._batch_size = size
            if isinstance(getattr(self.model, "batch_size", None), NoiseScaleBatchSize):
                parameters = {"size": size, "n_updates": self.model.n_updates}
                self._journal.acted(Action("batch_size", parameters))

    def _refuse(self, block: Block, i: int, error: BadSampleError) -> None:
        """Deal with bad sample `i`, which the model has not seen."""
        if error.source is None:
            error.at(block.source, block.partition, int(block.offsets[i]))
        dead_letter = self._bad.refuse(block, i, error, self._n_samples)
        self._position[block.key] = int(block.offsets[i]) + 1
        self._journal.skipped(block, i, error, dead_letter)
        self._bad.flush_when_due()
        if self._web is not None:
            self._web.refused(error)

    def _look_at_the_clock(self) -> bool:
        """Flush after `max_wait`, save when it is time; return whether it was flushed."""
        max_wait = self._trainer.max_wait
        late = (
            max_wait is not None
            and self.model.n_pending > 0
            and time.monotonic() - self._pending_since >= max_wait
        )
        if late:
            self._flush("max_wait", "apply")
        self._bad.flush_when_due()
        if self.checkpoint is not None and self.checkpoint.due(self.model.n_updates):
            self._save_what_is_new()
        return late

    def _flush(self, reason: str, last_batch: str) -> None:
        n_refused, n_pending = self.model.n_refused, self.model.n_pending
        self._journal.flush(reason, last_batch)
        self.model.flush(last_batch)
        _log.debug(event("flush", reason=reason, pending=n_pending, last_batch=last_batch))
        if self.model.n_refused > n_refused:
            self._refused.happened(reason=reason)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self._progress())
        if self._web is not None:
            self._web.look()


def _check_lengths(block: Block) -> None:
    """Refuse a block whose parts do not belong together, before anything of it is learned."""
    n = len(block)
    parts = {"x": block.x, "offsets": block.offsets, "w": block.w, "raw": block.raw}
    for name, values in parts.items():
        if values is None:
            continue
        shape = getattr(values, "shape", None)  # which a sparse matrix has, and no length
        found = len(values) if shape is None else shape[0]
        if found != n:
            raise SourceError(
                f"source {block.source!r} handed out a block of {n} labels whose {name} has "
                f"{found} entries"
            )
