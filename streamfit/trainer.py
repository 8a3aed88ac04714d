"""The training loop: source -> learner -> checkpoint.

The one rule that everything here serves: the position saved in a checkpoint is that of the
samples which are in the model, learned or pending, no more and no less. So it is moved by the
trainer, sample by sample, and never asked of the source while samples are under way.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from streamfit.checkpoint import Checkpoint, Checkpointer, check_same_model
from streamfit.core.learner import LAST_BATCH
from streamfit.core.validation import check_choice, check_flag, check_integer, check_real
from streamfit.errors import (
    BadSampleError,
    CheckpointError,
    CheckpointMismatchError,
    ConfigurationError,
    SourceError,
)
from streamfit.evaluation import Evaluation
from streamfit.journal import Journal
from streamfit.progress import progress_bar
from streamfit.report import Progress, TrainingReport
from streamfit.signals import Stopped, StopRequest
from streamfit.sources import IterableSource
from streamfit.types import (
    Block,
    CommitsOffsets,
    DescribesItself,
    Learner,
    Position,
    ReportsLag,
    Source,
)

__all__ = ["Trainer"]

_log = logging.getLogger(__name__)

_STRIDE = 1024  # samples between two looks at clock, signals and checkpoint


class Trainer:
    """Trains a model from a source of samples, resumably.

    Parameters
    ----------
    model
        The learner; it is trained in place.
    source
        A source (`ArraySource`, `KafkaSource`, ...), or any iterable of samples `(x, y)` or
        `(x, y, w)`, or a function that returns a fresh iterator of them. `run` closes it.
    epochs
        Passes over the source.
    last_batch
        What becomes of a partial micro-batch at the end of an epoch: `"apply"` (as Keras),
        `"scale"` (the step weighted by n/batch_size), `"drop"` (as PyTorch's `drop_last`),
        `"carry"` (into the next epoch; after the last one it stays pending).
    metrics
        River metrics, each updated with every sample's prediction before it is learned.
    checkpoint
        A `Checkpointer`. When its directory holds a checkpoint, `run` continues from there. What
        is applied in which order is recorded beside the checkpoints (see `streamfit.journal`).
    max_wait
        Seconds after which a partial micro-batch of a live stream is applied. Without it, up to
        a block of samples may also wait in the buffer of an iterable that pauses; pass a
        `max_wait`, or an `IterableSource` with `live=True`.
    on_bad_sample
        `"raise"` a `BadSampleError`, or `"skip"`: count and log the sample, and go on.
    max_samples
        Samples to learn in all, those before a resume included; then the stream is taken to
        have ended.
    callbacks
        Functions called with a `Progress` every 1024 samples, or sooner when a block ends.
    progress
        Show a progress bar, where there is a terminal.

    Notes
    -----
    A run leaves its source where it ended. When the same Trainer runs a second time over a list,
    it learns nothing more: the source is at its end. For more passes use `epochs`.

    Examples
    --------
    >>> import streamfit as sf
    >>> samples = [({"x": float(i % 2)}, i % 2 == 1) for i in range(1050)]
    >>> model = sf.LogisticRegression(sf.optim.SGD(0.5), batch_size=100)
    >>> report = sf.Trainer(model, samples).run()
    >>> report.n_samples, report.n_updates
    (1050, 11)
    """

    def __init__(
        self,
        model: Learner,
        source: Source | Iterable[Any] | Callable[[], Any],
        *,
        epochs: int = 1,
        last_batch: str = "apply",
        metrics: Any = (),
        checkpoint: Checkpointer | None = None,
        max_wait: float | None = None,
        on_bad_sample: str = "raise",
        max_samples: int | None = None,
        callbacks: Iterable[Callable[[Progress], object]] = (),
        progress: bool = False,
    ) -> None:
        if not isinstance(model, Learner):
            raise ConfigurationError(f"model must be a streamfit learner, not {model!r:.60}")
        self.model = model
        self.epochs = check_integer("epochs", epochs, minimum=1)
        self.last_batch = check_choice("last_batch", last_batch, LAST_BATCH)
        if checkpoint is not None and not isinstance(checkpoint, Checkpointer):
            raise ConfigurationError(f"checkpoint must be a Checkpointer, not {checkpoint!r}")
        self.checkpoint = checkpoint
        self.max_wait = None if max_wait is None else check_real("max_wait", max_wait, minimum=0.0)
        self.on_bad_sample = check_choice("on_bad_sample", on_bad_sample, ("raise", "skip"))
        self.max_samples = (
            None if max_samples is None else check_integer("max_samples", max_samples, minimum=0)
        )
        self.callbacks = list(callbacks)
        if not all(map(callable, self.callbacks)):
            raise ConfigurationError("callbacks must be functions of a Progress")
        self.progress = check_flag("progress", progress)
        self._evaluation = Evaluation(model, metrics)
        self.source: Source = (
            source
            if isinstance(source, Source)
            else IterableSource(source, live=max_wait is not None)
        )
        if isinstance(self.source, IterableSource) and epochs > 1 and not self.source.repeatable:
            raise ConfigurationError(
                "a generator object can be read only once: for more than one epoch pass a list, or "
                "the function that makes the generator"
            )

    # ---- the run

    def run(self) -> TrainingReport:
        """Train until the source ends, `max_samples` are in, or SIGTERM or Ctrl-C arrives.

        A signal ends the run after the block at hand: the state is saved as it is, the partial
        micro-batch stays pending, and the report says which signal it was.

        Raises
        ------
        BadSampleError
            At a bad sample under `on_bad_sample="raise"`; what came before it is saved.
        CheckpointError
            When a checkpoint cannot be written, read, or belongs to another model.
        SourceError
            When the source cannot go on; what came before is saved.
        """
        self._stop = StopRequest()
        with ExitStack() as stack:
            stack.callback(self.source.close)
            stack.enter_context(self._stop.installed())
            if self.checkpoint is not None:
                stack.enter_context(self.checkpoint)
            self._journal = Journal(self._directory, self.model)
            stack.callback(self._journal.close)
            self._begin()
            show = stack.enter_context(progress_bar(self.max_samples)) if self.progress else None
            self._listeners = [*self.callbacks, show] if show else self.callbacks
            try:
                self._train()
            except CheckpointError:
                raise
            except Exception:
                self._save_after_failure()
                raise
            self._save()
            return self._report()

    def _begin(self) -> None:
        """Take the start of the source, or what the latest checkpoint says."""
        self._began = time.monotonic()
        self._evaluation.begin()
        self._epoch = 0  # the pass that is under way; the last one is never left
        self._n_epochs = 0
        self._n_bad = 0
        self._resumed_at: int | None = None
        self._before = (self.model.n_samples, self.model.n_updates, self.model.n_refused)
        self._pending_since = self._began
        saved = None if self.checkpoint is None else self.checkpoint.latest()
        if saved is None:
            self._start = dict(self.source.position())
            self._position = dict(self._start)
            self._journal.begin()
        else:
            self._resume(saved)
        self._n_samples_at_begin = self._n_samples
        self._stride = _STRIDE
        if self.checkpoint is not None and self.checkpoint.every_updates is not None:
            per_save = self.checkpoint.every_updates * (self.model.current_batch_size or _STRIDE)
            self._stride = min(_STRIDE, per_save)
        if self.checkpoint is not None:
            self.checkpoint.due(self.model.n_updates)  # the count of updates starts here

    def _resume(self, saved: Checkpoint) -> None:
        check_same_model(saved, self.model.get_config(), self._directory)
        try:
            run = saved.trainer
            self._epoch, self._n_epochs = int(run["epoch"]), int(run["n_epochs"])
            self._n_bad = int(run["n_bad"])
            self._start = dict(run["start"])
            before = run["before"]
            self._before = (int(before[0]), int(before[1]), int(before[2]))
            loss = {name: float(run[name]) for name in ("loss_sum", "loss_weight")}
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointMismatchError(
                f"checkpoint {saved.number} in {self._directory} was not written by a Trainer: "
                f"{error!r}"
            ) from None
        self.source.seek(saved.position)
        self.model.load_state_dict(saved.model)
        self._journal.resume(run.get("journal"))
        self._evaluation.load_state_dict(loss)
        self._position = dict(saved.position)
        self._resumed_at = self._n_samples
        _log.info(
            "event=resumed checkpoint=%d samples=%d position=%s",
            saved.number, self._n_samples, saved.position,
        )  # fmt: skip

    def _train(self) -> None:
        # an earlier run went further if it had more epochs; the same number reads on at the end
        while self._epoch < self.epochs:
            self._read()
            if self._stop.signal_name is not None:
                _log.info("event=stopped signal=%s", self._stop.signal_name)
                return
            self._flush("epoch end", self.last_batch)
            self._n_epochs = self._epoch + 1
            if self._n_epochs >= self.epochs or self._remaining == 0:
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
        if not len(block) and self._look_at_the_clock():
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener(self._progress())

    def _learn(self, block: Block, start: int, end: int) -> int:
        """Learn from `start` up to `end`, or past a bad sample; return how far.

        Sample `start` itself may be undecoded, none after it up to `end` is.
        """
        if self._remaining is not None:
            end = min(end, start + self._remaining)
        error = block.errors.get(start)
        done = start
        if end > start:
            had_pending = self.model.n_pending
            n_samples, n_updates = self.model.n_samples, self.model.n_updates
            refused = self.model.n_refused
            self._journal.before(block)
            try:
                error = self._evaluation.learn(block, start, end)
            finally:  # a metric may raise; what is learned counts all the same
                done += self.model.n_samples - n_samples
                if done > start:
                    self._position[block.key] = int(block.offsets[done - 1]) + 1
                    self._journal.learned(block, start, done)
            if not had_pending or self.model.n_updates > n_updates:
                self._pending_since = time.monotonic()
            if self.model.n_refused > refused:
                _log.warning("event=update_refused total=%d", self.model.n_refused)
        if error is None:
            return done
        self._refuse(block, done, error)
        return done + 1

    def _refuse(self, block: Block, i: int, error: BadSampleError) -> None:
        """Deal with bad sample `i`, which the model has not seen."""
        if error.source is None:
            error.at(block.source, block.partition, int(block.offsets[i]))
        if self.on_bad_sample == "raise":
            raise error
        self._n_bad += 1
        self._position[block.key] = int(block.offsets[i]) + 1
        self._journal.skipped(block, i, error)
        _log.warning("event=bad_sample error=%s", error)

    def _look_at_the_clock(self) -> bool:
        """Flush after `max_wait`, save when it is time; return whether it was flushed."""
        late = (
            self.max_wait is not None
            and self.model.n_pending > 0
            and time.monotonic() - self._pending_since >= self.max_wait
        )
        if late:
            _log.info("event=flush reason=max_wait pending=%d", self.model.n_pending)
            self._flush("max_wait", "apply")
        if self.checkpoint is not None and self.checkpoint.due(self.model.n_updates):
            self._save()
        return late

    def _flush(self, reason: str, last_batch: str) -> None:
        refused = self.model.n_refused
        self._journal.flush(reason, last_batch)
        self.model.flush(last_batch)
        if self.model.n_refused > refused:
            _log.warning("event=update_refused total=%d", self.model.n_refused)

    # ---- the checkpoint

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        source = self.source.get_config() if isinstance(self.source, DescribesItself) else None
        saved = Checkpoint(
            model=self.model.state_dict(),
            config=self.model.get_config(),
            position=dict(self._position),
            trainer={
                "epoch": self._epoch,
                "n_epochs": self._n_epochs,
                "n_bad": self._n_bad,
                "start": self._start,
                "before": list(self._before),
                "journal": self._journal.save(),
                "source": source,
                **self._evaluation.state_dict(),
            },
        )
        path = self.checkpoint.save(saved)
        _log.debug("event=checkpoint path=%s samples=%d", path, self._n_samples)
        if isinstance(self.source, CommitsOffsets):
            self.source.commit(dict(self._position))

    def _save_after_failure(self) -> None:
        """Keep what was learned before the failure, whose own error must reach the user."""
        try:
            self._save()
        except Exception as error:
            _log.error("event=checkpoint_failed error=%s", error)

    @property
    def _directory(self) -> Path | None:
        return None if self.checkpoint is None else self.checkpoint.path

    # ---- counting

    @property
    def _n_samples(self) -> int:
        """Samples of this training, those before a resume included."""
        return self.model.n_samples - self._before[0]

    @property
    def _remaining(self) -> int | None:
        """Samples still wanted, None when there is no limit."""
        return None if self.max_samples is None else max(0, self.max_samples - self._n_samples)

    def _progress(self) -> Progress:
        seconds = time.monotonic() - self._began
        position = dict(self._position)
        return Progress(
            n_samples=self._n_samples,
            n_updates=self.model.n_updates - self._before[1],
            n_pending=self.model.n_pending,
            n_bad=self._n_bad,
            n_refused=self.model.n_refused - self._before[2],
            n_epochs=self._n_epochs,
            progressive_loss=self._evaluation.progressive_loss,
            metrics=self._evaluation.metrics,
            seconds=seconds,
            samples_per_second=(self._n_samples - self._n_samples_at_begin) / max(seconds, 1e-9),
            resumed_at=self._resumed_at,
            position=position,
            _lag=lambda: self._lag(position),
        )

    def _lag(self, position: Position) -> int | None:
        return self.source.lag(position) if isinstance(self.source, ReportsLag) else None

    def _report(self) -> TrainingReport:
        shared = dict(vars(self._progress()))
        del shared["_lag"]
        return TrainingReport(
            **shared, digest=self.model.digest(), stopped_by=self._stop.signal_name
        )


def _check_lengths(block: Block) -> None:
    """Refuse a block whose parts do not belong together, before anything of it is learned."""
    n = len(block)
    parts = {"x": block.x, "offsets": block.offsets, "w": block.w}
    for name, values in parts.items():
        if values is not None and len(values) != n:
            raise SourceError(
                f"source {block.source!r} handed out a block of {n} labels whose {name} has "
                f"{len(values)} entries"
            )
