"""What one run of a training knows: where it is, how to save that, and how to go on from it.

The one rule that everything here serves: the position saved in a checkpoint is that of the
samples which are in the model, learned or pending, no more and no less. So it is moved by the
run, sample by sample, and never asked of the source while samples are under way.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfit.bad_samples import BadSamples
from streamfit.checkpoint import Checkpoint, check_same_model
from streamfit.errors import CheckpointMismatchError, StreamfitError
from streamfit.events import Repeated, event
from streamfit.journal import Journal
from streamfit.report import Progress, TrainingReport
from streamfit.signals import StopRequest
from streamfit.sources import partition_lag
from streamfit.types import CommitsOffsets, DescribesItself, KeepsState

if TYPE_CHECKING:
    from streamfit.trainer import Trainer

__all__ = ["RunState"]

_log = logging.getLogger(__name__)

STRIDE = 1024  # samples between two looks at clock, signals and checkpoint


class RunState:
    """A run's model, position and counts; it begins fresh, or where the latest checkpoint was.

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
        self._stride = STRIDE
        if self.checkpoint is not None and self.checkpoint.every_updates is not None:
            per_save = self.checkpoint.every_updates * (self.model.current_batch_size or STRIDE)
            self._stride = min(STRIDE, per_save)
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
        except StreamfitError:
            raise
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
