"""Which batch size? Trains side by side at a ladder of sizes, and says what came of it.

The numbers are measured here; `streamfit.advice` says what follows from them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from streamfit._bounded_sample import part_of, read_sample
from streamfit._ladder import Run, train_side_by_side
from streamfit.advice import Advice, advise
from streamfit.core import schedules
from streamfit.core.learner import LinearLearner
from streamfit.core.validation import check_integer, check_real
from streamfit.curves import Trainable, fresh, loss_at_rest
from streamfit.errors import ConfigurationError, UnsupportedError, UpdateRefusedWarning
from streamfit.types import Block, Source

__all__ = ["advise_batch_size"]

_HELD_OUT = 0.2
_LEAST = 100  # samples


def advise_batch_size(
    model: Trainable,
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
        Says what to train, but for the batch size: a linear learner, or a `KerasLearner`. It is not
        changed. What a linear one has learned is ignored; copies of a Keras model begin with the
        weights that it has.
    source
        Where the sample is read from: a source, or an iterable, as for a `Trainer`. It is closed.
    budget
        Seconds, for reading and training together; the sample is cut to what can be done in them.
        What Keras compiles, for each size anew, comes on top.
    max_samples
        Samples to read, at most. The last fifth is held out, to measure the loss on.
    batch_sizes
        The ladder; None: 1, 2, 4, ... up to a quarter of the samples, and all (None). Of a Keras
        model, for which each size is compiled: 1, 4, 16, ...

    Returns
    -------
    Advice
        Measurements of each size, a recommendation, its reasons and its uncertainty. `print` shows
        it as a table; `to_html` writes a report with plots.

    Raises
    ------
    UnsupportedError
        For other learners: those that have no batch size, or nothing tells their loss.
    ConfigurationError
        When there are too few samples, or none that count, or the model diverges at every size.

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
    if not isinstance(model, LinearLearner) and not hasattr(model, "with_batch_size"):
        raise UnsupportedError(
            f"advise_batch_size trains linear learners and KerasLearner, not {type(model).__name__}"
        )
    budget = check_real("budget", budget, positive=True)
    check_integer("max_samples", max_samples, minimum=_LEAST)
    sizes = None if batch_sizes is None else _checked(batch_sizes)
    began = time.monotonic()
    sample = read_sample(model, source, max_samples, began + budget / 2)
    if len(sample) < _LEAST:
        raise ConfigurationError(
            f"{len(sample)} samples that the model takes are too few to compare batch sizes on; "
            f"give a source of {_LEAST} at least, whose samples it does not refuse"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UpdateRefusedWarning)  # the advice says what diverges
        factor = 2 if isinstance(model, LinearLearner) else 4
        ladder = sizes or _ladder(len(sample), factor)
        sample = _affordable(model, ladder, sample, began + budget - time.monotonic())
        n = len(sample)
        train = n - int(_HELD_OUT * n)
        judge = fresh(model, None)
        for part in (part_of(sample, 0, train), part_of(sample, train, n)):
            if part.w is not None and not np.any(part.w):
                raise ConfigurationError(
                    f"{len(part)} samples, all that are to train on or held out, have weight 0; "
                    "give a source whose samples count"
                )
        untrained = loss_at_rest(judge, part_of(sample, 0, train))
        ladder = sizes or _ladder(train, factor)
        runs = [Run(model, size, sample, train, judge) for size in ladder]
        train_side_by_side(runs, train, began + budget)
    own = model.batch_size
    return advise(
        [run.rung(untrained) for run in runs],
        own=None if isinstance(own, schedules.BatchSizeSchedule) else own or 0,
        losses=np.array([run.chunk_losses for run in runs]),
        seconds=np.array([run.chunk_seconds for run in runs]),
        n_train=train,
        n_held_out=n - train,
    )


def _affordable(
    model: Trainable, ladder: Sequence[int | None], sample: Block, seconds: float
) -> Block:
    """Cut a sample to what can be learned in the time.

    One pass of the smallest size, as much for all the larger ones of a ladder where an update is
    what costs, and then as much again for each size.
    """
    smallest = min((size for size in ladder if size is not None), default=None)
    trial = Run(model, smallest, sample, _LEAST)
    most = seconds / (2 + len(ladder)) * _LEAST / max(trial.learn(0, _LEAST), 1e-9)
    return part_of(sample, 0, max(_LEAST, int(min(len(sample), most))))


def _ladder(train: int, factor: int) -> list[int | None]:
    return [*(factor**k for k in range(32) if factor**k <= train / 4), None]


def _checked(batch_sizes: Sequence[int | None]) -> list[int | None]:
    try:
        given = list(batch_sizes)
    except TypeError:
        raise ConfigurationError(
            f"batch_sizes must be a list of sizes, not {batch_sizes!r:.60}"
        ) from None
    sizes = [
        None if size is None else check_integer("batch_sizes", size, minimum=1) for size in given
    ]
    found = list(dict.fromkeys(sizes))
    if len(found) < 2:
        raise ConfigurationError(f"batch_sizes must be two sizes at least, not {found}")
    return found
