"""`RayTrainer`: how to train one model with several workers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from streamfit.checkpoint import Checkpointer
from streamfit.core.features import FeatureIndex
from streamfit.core.learner import LinearLearner
from streamfit.core.sums import check_separable
from streamfit.core.validation import check_choice, check_integer, check_real
from streamfit.dead_letters import DeadLetters
from streamfit.distributed._messages import Settings
from streamfit.distributed._run import ShareRun
from streamfit.distributed._workers import Here, Pool
from streamfit.errors import ConfigurationError, UnsupportedError
from streamfit.report import Progress, TrainingReport
from streamfit.shards import MODES, split
from streamfit.trainer import Trainer
from streamfit.types import Learner, Monitor

if TYPE_CHECKING:
    from streamfit.serving import WebMonitor

__all__ = ["RayTrainer", "ShareTrainer"]

_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?s")
_MOST = 10_000  # workers, and shares: ten times what docs/scaling.md says can work together


class ShareTrainer(Trainer):
    """Trains in shares that are computed here, one after the other: what `RayTrainer` equals.

    For tests, and for finding out what shares cost in loss. Its parameters are `RayTrainer`'s.

    Examples
    --------
    >>> import numpy as np
    >>> import streamfit as sf
    >>> from streamfit.distributed import ShareTrainer
    >>> X = np.random.default_rng(0).normal(size=(1000, 3))
    >>> model = sf.LogisticRegression(batch_size=10)
    >>> report = ShareTrainer(
    ...     model, sf.ArraySource(X, X[:, 0] > 0), workers=2, mode="local", sync_every=5
    ... ).run()
    >>> report.n_samples, report.n_updates
    (1000, 50)
    """

    def __init__(
        self,
        model: Learner,
        source: Any,
        *,
        workers: int,
        mode: str = "synchronous",
        sync_every: int | str | None = None,
        shares: int | None = None,
        worker_timeout: float = 60.0,
        max_restarts: int = 10,
        **options: Any,
    ) -> None:
        self.workers = check_integer("workers", workers, minimum=1, maximum=_MOST)
        self.mode = check_choice("mode", mode, MODES)
        self.sync_batches, self.sync_seconds = _sync_every(sync_every, mode)
        self.given_shares = (
            None if shares is None else check_integer("shares", shares, minimum=1, maximum=_MOST)
        )
        self.shares = self.given_shares or self.workers
        self.worker_timeout = check_real("worker_timeout", worker_timeout, minimum=1.0)
        self.max_restarts = check_integer("max_restarts", max_restarts, minimum=0)
        self.given_source = source
        self.shards = split(source, self.shares, mode)
        _check_model(model, mode)
        super().__init__(model, self.shards.source, **options)
        if self.last_batch == "carry":
            raise ConfigurationError(
                'last_batch="carry" leaves samples pending where shares are put together; use '
                '"apply", "scale" or "drop"'
            )
        if any(isinstance(one, Monitor) for one in self.callbacks):
            raise ConfigurationError(
                "callbacks: a monitor acts between two samples, and shares learn theirs at the "
                "same time; functions of a Progress are welcome"
            )
        if model.current_batch_size is None and getattr(self.source, "live", False):
            raise ConfigurationError(
                "batch_size=None makes one update an epoch, and a live source has no end"
            )

    def settings(self) -> Settings:
        """Return what shares have to know."""
        assert isinstance(self.model, LinearLearner)
        return Settings(
            type(self.model),
            self.model.get_config(),
            self.last_batch,
            self.max_wait,
            bool(self.evaluation.metrics),
        )

    def open_pool(self, settings: Settings) -> Pool:
        """Make the place where workers are."""
        return Here(settings)

    def session(self) -> AbstractContextManager[object]:
        """Return what the workers need around them while they work."""
        return nullcontext()

    def run(self) -> TrainingReport:
        """Train as `Trainer.run` does, in shares.

        Raises
        ------
        WorkerError
            When more than `max_restarts` workers were lost, or there is no Ray or no CPU for them;
            what came before is saved.
        ConfigurationError
            When model or source cannot be sent to another process.
        StreamfitError
            As `Trainer.run` does.
        """
        if self.model.n_pending:
            raise UnsupportedError(
                f"the model has {self.model.n_pending} pending samples, which are nobody's share; "
                "flush() it"
            )
        with self.session():
            return ShareRun(self).run()


class RayTrainer(ShareTrainer):
    """Trains one model with several workers, which are actors of Ray.

    The source is dealt out to *shares*, and workers compute shares. How many shares there are is a
    part of what is learned, like the batch size; how many workers there are is not, and may be
    another after a restart.

    Parameters
    ----------
    model
        A linear learner; it is trained in place, as by `Trainer`.
    source
        An `ArraySource` (rows), a `KafkaSource` (partitions), or a list of sources (one file each,
        say), each of which is a partition. The partitions of a topic take turns; sources of a list
        that share a share are read one after the other, so live ones need one each. It is sent to
        the workers, with what it holds: a generator, a lock or an open file cannot be.
    workers
        How many actors, up to 10,000. Each takes one of the cluster's CPUs.
    mode
        `"synchronous"`: each micro-batch is cut into shares, whose gradients are summed apart, put
        together in the order of the shares, and applied by everybody. With an array it is
        `fit_offline` with `shares`, bit for bit, and with one share `Trainer`.

        `"local"`: each share trains a copy of the model on its own partitions; the copies are
        averaged, weighted by samples, every `sync_every`. It is `sf.offline.fit_local_sgd` with
        the samples of each share, bit for bit.

        Whatever the source, `ShareTrainer` gives the same bits in this process, without Ray.
    sync_every
        In `local` mode: micro-batches of each share between two averages; or a time, such as
        `"0.5s"` (at least a millisecond), and then what is learned depends on how fast everybody
        was.
    shares
        How many shares, up to 10,000; by default, and at the first start, as many as workers.
    worker_timeout
        Seconds, at least 1, after which a worker that answers nothing is killed and replaced. Also
        how long to wait for CPUs: a cluster with fewer than workers is told of at once (log line
        `cpus_missing`), and ends the run after this time, unless it has grown. Where others use
        the CPUs, they are waited for this long too, and at least 30 seconds.
    max_restarts
        How many workers may be lost before the run gives up.
    epochs, ..., monitor
        As of `Trainer`; except that `last_batch` cannot be `"carry"`, and callbacks cannot be
        monitors.

    Raises
    ------
    ConfigurationError
        When an argument is refused, the source cannot be split, or the model cannot be learned in
        shares.
    MissingDependencyError
        Without the `ray` extra.

    Notes
    -----
    `ray.init` is yours to call. Without it, the cluster that the environment variable
    `RAY_ADDRESS` names is used; and without that, a local Ray with a CPU for each worker is started
    for the run.

    The model, position, checkpoint, journal, dead letters, metrics and monitor are the driver's,
    and change between two rounds only. So whoever is killed, driver or worker, costs at most the
    round at hand.
    """

    def __init__(
        self,
        model: Learner,
        source: Any,
        *,
        workers: int,
        mode: str = "synchronous",
        sync_every: int | str | None = None,
        shares: int | None = None,
        worker_timeout: float = 60.0,
        max_restarts: int = 10,
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
        super().__init__(
            model,
            source,
            workers=workers,
            mode=mode,
            sync_every=sync_every,
            shares=shares,
            worker_timeout=worker_timeout,
            max_restarts=max_restarts,
            epochs=epochs,
            last_batch=last_batch,
            metrics=metrics,
            checkpoint=checkpoint,
            max_wait=max_wait,
            on_bad_sample=on_bad_sample,
            max_bad_ratio=max_bad_ratio,
            bad_window=bad_window,
            max_samples=max_samples,
            callbacks=callbacks,
            progress=progress,
            monitor=monitor,
        )
        from streamfit.distributed import _ray  # last: no missing package hides a mistake above

        self._ray = _ray

    def open_pool(self, settings: Settings) -> Pool:
        """Make the place where actors are."""
        return self._ray.RayPool(settings)

    def session(self) -> AbstractContextManager[object]:
        """Start a local Ray unless there is one."""
        return self._ray.session(min(self.workers, self.shares))


def _sync_every(value: object, mode: str) -> tuple[int | None, float | None]:
    """Read `sync_every` as a number of updates, or as seconds."""
    if mode == "synchronous":
        if value is not None:
            raise ConfigurationError(
                'sync_every belongs to mode="local"; mode="synchronous" puts the gradients of '
                "every micro-batch together"
            )
        return None, None
    if isinstance(value, str) and (match := _SECONDS.fullmatch(value)):
        return None, check_real("sync_every", float(match[1]), minimum=0.001)
    if value is None or isinstance(value, str):
        raise ConfigurationError(
            'mode="local" needs sync_every: a number of updates, or a time such as "0.5s"; not '
            f"{value!r:.60}"
        )
    return check_integer("sync_every", value, minimum=1), None


def _check_model(model: object, mode: str) -> None:
    """Refuse what cannot be learned in shares, or not in this mode."""
    if isinstance(model, type):
        return  # Trainer tells of it
    if not isinstance(model, LinearLearner):
        kind = type(model)
        raise ConfigurationError(
            "several workers train streamfit's own linear models, such as sf.LogisticRegression, "
            f"not {kind.__module__}.{kind.__name__}; models of Keras and River are trained by "
            "sf.Trainer"
        )
    if isinstance(model.features, FeatureIndex):
        names, fixed = model.features.names, model.features.fixed
        if (fixed and not names) or (
            not fixed and model.features.maximum != FeatureIndex().maximum
        ):
            raise ConfigurationError(
                "which features a model has must not depend on which share is first: name them, "
                "FeatureIndex(names, fixed=True), or let them grow without a maximum"
            )
    if mode == "synchronous":
        check_separable(model)
