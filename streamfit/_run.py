"""The training loop: source -> learner -> checkpoint. One `Run` is one call of `Trainer.run`.

The one rule that everything here serves: the position saved in a checkpoint is that of the
samples which are in the model, learned or pending, no more and no less. So it is moved by the
run, sample by sample, and never asked of the source while samples are under way.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Generator, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfit.bad_samples import BadSamples
from streamfit.checkpoint import Checkpoint, check_same_model
from streamfit.core.schedules import NoiseScaleBatchSize
from streamfit.errors import (
    BadSampleError,
    CheckpointError,
    CheckpointMismatchError,
    SourceError,
)
from streamfit.events import Repeated, event
from streamfit.journal import Journal
from streamfit.report import Progress, TrainingReport
from streamfit.signals import Stopped, StopRequest
from streamfit.sources import IterableSource, partition_lag
from streamfit.terminal import progress_bar
from streamfit.types import (
    Action,
    Block,
    CommitsOffsets,
    DescribesItself,
    KeepsState,
)

if TYPE_CHECKING:
    from streamfit.trainer import Trainer

__all__ = ["Run"]

_log = logging.getLogger(__name__)

_STRIDE = 1024  # samples between two looks at clock, signals and checkpoint


class Run:
    """The state of one run.

    Parameters
    ----------
    trainer
        How to train what on what.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.model = trainer.model
        self.source = trainer.source
        self.checkpoint = trainer.checkpoint
        self._web = trainer.monitor
        self._evaluation = trainer.evaluation
        self._monitors = trainer.monitors
        self._stop = StopRequest()
        self._bad = BadSamples(trainer.bad_samples, self._stop)
        self._refused = Repeated(_log, "update_refused")
        self._journal = Journal(self._directory, self.model)

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

    def _begin(self) -> None:
        """Count from nothing."""
        self._began = time.monotonic()
        self._evaluation.begin()
        self._epoch = 0  # the pass that is under way; the last one is never left
        self._n_epochs = 0
        self._resumed_at: int | None = None
        self._before = (self.model.n_samples, self.model.n_updates, self.model.n_refused)
        self._pending_since = self._began
        self._position: dict[str, int] = {}
        self._position_at_begin: dict[str, int] = {}
        self._n_samples_at_begin = 0
        self._saved: object = None

    def _take_position(self) -> None:
        """Take the start of the source, or what the latest checkpoint says."""
        saved = None if self.checkpoint is None else self.checkpoint.latest()
        if saved is None:
            self._start = dict(self.source.position())
            self._position = dict(self._start)
            self._journal.begin()
            _log.info(event("started", position=self._position))
        else:
            self._resume(saved)
        self._batch_size = self.model.current_batch_size
        self._n_samples_at_begin = self._n_samples
        self._position_at_begin = dict(self._position)
        self._stride = _STRIDE
        if self.checkpoint is not None and self.checkpoint.every_updates is not None:
            per_save = self.checkpoint.every_updates * (self.model.current_batch_size or _STRIDE)
            self._stride = min(_STRIDE, per_save)
        if self.checkpoint is not None:
            self.checkpoint.due(self.model.n_updates)  # the count of updates starts here
        if saved is None and getattr(self.source, "starts_at_end", False):
            self._save()  # where the end was must outlive a crash before the first sample

    def _resume(self, saved: Checkpoint) -> None:
        check_same_model(saved, self.model.get_config(), self._directory)
        try:
            run = saved.trainer
            self._take_more(saved)
            self._epoch, self._n_epochs = int(run["epoch"]), int(run["n_epochs"])
            self._bad.n = int(run["n_bad"])
            self._start = dict(run["start"])
            before = run["before"]
            self._before = (int(before[0]), int(before[1]), int(before[2]))
            loss = {name: float(run[name]) for name in ("loss_sum", "loss_weight")}
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise CheckpointMismatchError(
                f"checkpoint {saved.number} in {self._directory} was not written by a Trainer: "
                f"{error!r}"
            ) from None
        self.source.seek(saved.position)
        if isinstance(self.source, KeepsState) and run.get("source_state") is not None:
            self.source.load_state_dict(run["source_state"])
        self.model.load_state_dict(saved.model)
        self._journal.resume(run.get("journal"))
        self._evaluation.load_state_dict(loss)
        self._monitors.load_state_dict(run.get("monitors", []))
        self._position = dict(saved.position)
        self._resumed_at = self._n_samples
        self._saved = self._moment()
        _log.info(
            event(
                "resumed",
                checkpoint=saved.number,
                samples=self._n_samples,
                position=saved.position,
            )
        )

    def _more_state(self) -> dict[str, Any]:
        """Return what else a checkpoint keeps."""
        return {}

    def _take_more(self, saved: Checkpoint) -> None:
        """Take what `_more_state` returned."""
        if "shares" in saved.trainer:
            raise CheckpointMismatchError(
                f"checkpoint {saved.number} in {self._directory} is of a training in shares; go on "
                "with it by a RayTrainer (one worker will do), or give another directory"
            )

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

    # ---- the checkpoint

    def _save(self) -> None:
        if self.checkpoint is None:
            self._bad.flush()
            return
        began = time.monotonic()
        self.checkpoint.check_owner()
        self._bad.flush()  # the position that is saved has passed them
        source = self.source.get_config() if isinstance(self.source, DescribesItself) else None
        held = None
        if isinstance(self.source, KeepsState):
            held = self.source.state_dict(dict(self._position))
        saved = Checkpoint(
            model=self.model.state_dict(),
            config=self.model.get_config(),
            position=dict(self._position),
            trainer={
                "epoch": self._epoch,
                "n_epochs": self._n_epochs,
                "n_bad": self._bad.n,
                "start": self._start,
                "before": list(self._before),
                "journal": self._journal.save(),
                "source": source,
                "source_state": held,
                "monitors": self._monitors.state_dict(),
                **self._evaluation.state_dict(),
                **self._more_state(),
            },
        )
        path = self.checkpoint.save(saved)
        self._saved = self._moment()
        seconds = time.monotonic() - began
        _log.debug(event("checkpoint", path=path, samples=self._n_samples, seconds=seconds))
        if self._web is not None:
            self._web.saved(saved.number, self._n_samples, seconds)
        if isinstance(self.source, CommitsOffsets):
            self.source.commit(dict(self._position))

    def _save_what_is_new(self) -> None:
        """Save, but in a quiet time: `keep` checkpoints of one moment would leave no way back."""
        if self._saved != self._moment():
            self._save()

    def _moment(self) -> object:
        """Return what changes whenever there is something new to save."""
        model = self.model
        return dict(self._position), model.n_updates, model.n_pending, self._epoch, self._n_epochs

    def _save_after_failure(self) -> None:
        """Keep what was learned before the failure, whose own error must reach the user."""
        if self._resumed_at is not None and self._position == self._position_at_begin:
            return  # nothing new; and a loop of crashes must not prune away what is good
        try:
            self._save()
        except Exception as error:
            _log.error(event("checkpoint_failed", error=type(error).__name__, message=error))

    @property
    def _directory(self) -> Path | None:
        return None if self.checkpoint is None else self.checkpoint.path

    # ---- counting

    @property
    def _n_samples(self) -> int:
        """Samples of this training, those before a resume included."""
        return self.model.n_samples - self._before[0]

    @property
    def _n_duplicates(self) -> int:
        return getattr(self.source, "n_duplicates", 0)

    @property
    def _remaining(self) -> int | None:
        """Samples still wanted, None when there is no limit."""
        limit = self._trainer.max_samples
        return None if limit is None else max(0, limit - self._n_samples)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self._progress())
        if self._web is not None:
            self._web.look()

    def _progress(self) -> Progress:
        seconds = time.monotonic() - self._began
        position = dict(self._position)
        return Progress(
            n_samples=self._n_samples,
            n_updates=self.model.n_updates - self._before[1],
            n_pending=self.model.n_pending,
            n_bad=self._bad.n,
            n_duplicates=self._n_duplicates,
            n_refused=self.model.n_refused - self._before[2],
            n_epochs=self._n_epochs,
            progressive_loss=self._evaluation.progressive_loss,
            metrics=self._evaluation.metrics,
            seconds=seconds,
            samples_per_second=(self._n_samples - self._n_samples_at_begin) / max(seconds, 1e-9),
            resumed_at=self._resumed_at,
            position=position,
            _lag=lambda: partition_lag(self.source, position),
        )

    def _report(self) -> TrainingReport:
        shared = dict(vars(self._progress()))
        del shared["_lag"]
        return TrainingReport(
            **shared, digest=self.model.digest(), stopped_by=self._stop.signal_name
        )


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
