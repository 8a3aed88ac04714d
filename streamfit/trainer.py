"""Training: a model, a source, and how the one is to learn from the other.

A `Trainer` is the configuration; the state of one run is in `streamfit._run`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from streamfit._run import Run
from streamfit.bad_samples import BadSamplePolicy
from streamfit.checkpoint import Checkpointer
from streamfit.core.learner import LAST_BATCH
from streamfit.core.validation import check_choice, check_flag, check_integer, check_real
from streamfit.dead_letters import DeadLetters
from streamfit.errors import ConfigurationError, shown
from streamfit.evaluation import Evaluation
from streamfit.monitors import Monitors
from streamfit.report import Progress, TrainingReport
from streamfit.sources import IterableSource
from streamfit.types import Learner, Monitor, Source

if TYPE_CHECKING:
    from streamfit.serving import WebMonitor

__all__ = ["Trainer"]


class Trainer:
    """Trains a model from a source of samples, resumably.

    Parameters
    ----------
    model
        The learner; it is trained in place.
    source
        A source (`ArraySource`, `KafkaSource`, ...), or any iterable of samples `(x, y)` or
        `(x, y, w)`, or a function that returns a fresh iterator of them. `run` closes it. To resume
        from a checkpoint, an iterable must produce the same samples again: those before the
        position are skipped.
    epochs
        Passes over the source.
    last_batch
        What becomes of a partial micro-batch at the end of an epoch: `"apply"` (as Keras),
        `"scale"` (the step weighted by n/batch_size), `"drop"` (as PyTorch's `drop_last`),
        `"carry"` (into the next epoch; after the last one it stays pending).
    metrics
        River metrics, each updated with every sample's prediction before it is learned; after a
        resume they cover the samples since. (The progressive loss covers all.)
    checkpoint
        A `Checkpointer`. When its directory holds a checkpoint, `run` continues from there. What
        is applied in which order is recorded beside the checkpoints (see `streamfit.journal`).
    max_wait
        Seconds after which a partial micro-batch of a live stream is applied. Without it, up to
        a block of samples may also wait in the buffer of an iterable that pauses; pass a
        `max_wait`, or an `IterableSource` with `live=True`.
    on_bad_sample
        `"raise"` a `BadSampleError`; `"skip"`: count and log the sample, and go on; or
        `DeadLetters(...)`: put it aside and go on.
    max_bad_ratio, bad_window
        Halt with `TooManyBadSamplesError` when more than `max_bad_ratio` times `bad_window` of the
        last `bad_window` samples are bad: a stream that has changed should not run dry into the
        dead letters. None: never.
    max_samples
        Samples to learn in all, those before a resume included; then the stream is taken to
        have ended.
    callbacks
        Functions called with a `Progress` every 1024 samples, or sooner when a block ends; and
        monitors, such as `DriftMonitor`, which may act on the model (`streamfit.types.Monitor`).
    progress
        Show a progress bar, where there is a terminal.
    monitor
        `"127.0.0.1:8765"`, or a `WebMonitor`, to see the run on a live page, export its metrics and
        predict from it over HTTP, for as long as it lasts. Needs the `serve` extra.

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
        on_bad_sample: str | DeadLetters = "raise",
        max_bad_ratio: float | None = None,
        bad_window: int = 1000,
        max_samples: int | None = None,
        callbacks: Iterable[Callable[[Progress], object] | Monitor] = (),
        progress: bool = False,
        monitor: str | WebMonitor | None = None,
    ) -> None:
        if isinstance(model, type):
            raise ConfigurationError(f"pass an instance, {model.__name__}(), not the class")
        if not isinstance(model, Learner):
            raise ConfigurationError(
                f"model must be a streamfit learner, not {type(model).__name__}; "
                "sf.adapters has RiverLearner for River's models and pipelines, KerasLearner for "
                "Keras"
            )
        self.model = model
        self.epochs = check_integer("epochs", epochs, minimum=1)
        self.last_batch = check_choice("last_batch", last_batch, LAST_BATCH)
        if checkpoint is not None and not isinstance(checkpoint, Checkpointer):
            raise ConfigurationError(f"checkpoint must be a Checkpointer, not {checkpoint!r}")
        self.checkpoint = checkpoint
        self.max_wait = None if max_wait is None else check_real("max_wait", max_wait, minimum=0.0)
        self.max_samples = (
            None if max_samples is None else check_integer("max_samples", max_samples, minimum=0)
        )
        self.callbacks = _callbacks(callbacks)
        self.monitors = Monitors(self.callbacks, model)
        self.progress = check_flag("progress", progress)
        self.monitor = None if monitor is None else _web_monitor(monitor)
        self.evaluation = Evaluation(model, metrics, self.monitors.observers)
        self.source: Source = (
            source
            if isinstance(source, Source)
            else IterableSource(source, live=max_wait is not None)
        )
        self.bad_samples = BadSamplePolicy(on_bad_sample, max_bad_ratio, bad_window, self.source)
        if isinstance(self.source, IterableSource) and epochs > 1 and not self.source.repeatable:
            raise ConfigurationError(
                "a generator object can be read only once: for more than one epoch pass a list, or "
                "the function that makes the generator"
            )
        if inspect.isgenerator(source) and inspect.getgeneratorstate(source) == inspect.GEN_CLOSED:
            raise ConfigurationError("the generator is used up: make a fresh one")

    def run(self) -> TrainingReport:
        """Train until the source ends, `max_samples` are in, or SIGTERM or Ctrl-C arrives.

        A signal ends the run after the block at hand: the state is saved as it is, the partial
        micro-batch stays pending, and the report says which signal it was.

        Raises
        ------
        BadSampleError
            At a bad sample under `on_bad_sample="raise"`; what came before it is saved.
        TooManyBadSamplesError
            When more samples are bad than `max_bad_ratio` allows; what came before is saved.
        DeadLetterError
            When bad samples cannot be put aside; nothing is saved past them.
        CheckpointError
            When a checkpoint cannot be written, read, or belongs to another model.
        SourceError
            When the source cannot go on; what came before is saved.
        ServingError
            When `monitor` cannot listen on its address; nothing has happened then.
        """
        return Run(self).run()


def _callbacks(callbacks: Any) -> list[Any]:
    """Return callbacks as a list, if that is what they are."""
    if not isinstance(callbacks, Iterable):
        raise ConfigurationError(
            "callbacks must be a list of functions of a Progress, or of monitors, not "
            f"{shown(callbacks)}"
        )
    found = list(callbacks)
    for one in found:
        if not callable(one) and not isinstance(one, Monitor):
            raise ConfigurationError(
                f"callbacks must be functions of a Progress, or monitors; {shown(one)} is neither"
            )
    return found


def _web_monitor(monitor: str | WebMonitor) -> WebMonitor:
    from streamfit.serving import WebMonitor  # here, for few runs have one

    if isinstance(monitor, WebMonitor):
        return monitor
    if not isinstance(monitor, str):
        raise ConfigurationError(
            f"monitor must be 'host:port' or a WebMonitor, not {monitor!r:.60}"
        )
    return WebMonitor(monitor)
