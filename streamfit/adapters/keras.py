"""Any compiled Keras model behind a `Trainer`, in exact micro-batches."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfit.adapters._halves import NoiseOfHalves, at_rest, loss_at_rest
from streamfit.adapters._keras_model import KerasModel
from streamfit.adapters._rows import MicroBatch, check_classes
from streamfit.adapters._samples import SampleReader
from streamfit.core.learner import LAST_BATCH
from streamfit.core.noise import GradientNoise, NoiseScale, check_noise_scale
from streamfit.core.validation import check_choice, check_integer
from streamfit.curves import AtRest
from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    UnsupportedError,
    UpdateRefusedWarning,
)
from streamfit.types import Block, FeatureName, FloatArray, StateDict

__all__ = ["KerasLearner"]


class KerasLearner:
    """A compiled Keras model that learns from a stream, micro-batch by micro-batch.

    `model.train_on_batch` is called whenever `batch_size` samples are in, so the weights are
    those of `model.fit(x, y, batch_size=batch_size, shuffle=False)`, for any arrival of the
    samples and any number of resumes between. At most one micro-batch of rows is kept.

    Parameters
    ----------
    model
        A compiled Sequential or Functional model whose inputs have fixed shapes, with one
        output. It is trained in place.
    batch_size
        Samples of one update. None: all samples of an epoch, which are then kept in memory.
    features
        For samples that are mappings: the order in which the model takes the features. An
        absent feature is 0; what is not named is left out. Not needed for arrays.
    classes
        The labels of a classifier, in the order of the model's outputs; two labels for one
        output. None: labels are numbers, or arrays, that the loss takes as they are.
    noise_scale
        True or a `sf.NoiseScale`: measure the gradient noise scale, which `gradient_noise` tells,
        from the gradients of the two halves of a micro-batch.

    Raises
    ------
    ConfigurationError
        When the model is not compiled, or its shapes are open; when the noise is to be measured
        and nothing tells the loss of a single sample.

    Notes
    -----
    A model with several inputs takes samples that map the input's name to its array. A window
    of `connectors.Windows` is one sample.

    The state is the model's variables (random seeds of dropout included), the optimizer's, and
    the rows of the pending micro-batch: arrays, no pickle. Keras' own metrics are not saved. An
    update that leaves a variable that is not finite is taken back whole; for that the variables
    are copied before each update. The progressive loss costs a forward pass per sample.

    Measuring the noise takes the gradient twice more, beside the update, which keeps its bits. A
    layer that mixes samples, as batch normalisation does, then sees halves, so that the estimate is
    a rough one. Penalties of layers are no part of it.

    Equal bits need a backend that computes the same twice: JAX on a CPU does.

    Examples
    --------
    >>> import os
    >>> os.environ["KERAS_BACKEND"] = "jax"
    >>> import keras
    >>> import streamfit as sf
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer="sgd", loss="mse")
    >>> learner = sf.adapters.KerasLearner(model, batch_size=4, features=["x"])
    >>> report = sf.Trainer(learner, [({"x": i / 10}, 2.0 * i) for i in range(10)]).run()
    >>> report.n_samples, report.n_updates
    (10, 3)
    """

    track_loss: bool
    loss_sum: float
    loss_weight: float

    def __init__(
        self,
        model: Any,
        batch_size: int | None = 32,
        *,
        features: Sequence[FeatureName] | None = None,
        classes: Sequence[Any] | None = None,
        noise_scale: bool | NoiseScale = False,
    ) -> None:
        self.batch_size = (
            None if batch_size is None else check_integer("batch_size", batch_size, minimum=1)
        )
        self.features = None if features is None else list(features)
        self._keras = KerasModel(model, None if features is None else tuple(features))
        self.classes = None if classes is None else check_classes(list(classes), self._keras.output)
        self._reader = SampleReader(self._keras, self.classes)
        self._pending = MicroBatch(list(self._keras.inputs.values()))
        self._predicted: list[Any] = []
        self.noise_scale = check_noise_scale(noise_scale)
        if self.noise_scale is not None and not self._keras.has_loss:
            raise ConfigurationError("noise_scale needs a model with one loss, of each sample")
        self._noise = NoiseOfHalves(self.noise_scale, self._keras.gradients)
        self._config = {
            "id": "KerasLearner",
            "batch_size": self.batch_size,
            "features": self.features,
            "classes": self.classes,
            "noise_scale": None if self.noise_scale is None else self.noise_scale.get_config(),
            **self._keras.get_config(),
        }
        self.n_samples = self.n_updates = self.n_refused = 0
        self.track_loss = False
        self.loss_sum = self.loss_weight = 0.0

    @property
    def model(self) -> Any:
        """The Keras model."""
        return self._keras.model

    @property
    def n_pending(self) -> int:
        """Samples whose update has not happened yet."""
        return len(self._pending)

    @property
    def current_batch_size(self) -> int | None:
        """Size of the micro-batch that is being filled, None for a full batch."""
        return self.batch_size

    @property
    def gradient_noise(self) -> GradientNoise | None:
        """The measured gradient noise scale; None where `noise_scale` is off."""
        return self._noise.gradient_noise()

    # ---- learning

    def learn_one(self, x: Any, y: Any, w: float = 1.0) -> None:
        """Learn one sample; the model is updated when `batch_size` samples are in.

        Raises
        ------
        BadSampleError
            When the sample is refused; nothing has changed then.
        """
        self.learn_block(Block([x], [y], [w], source="learn_one", offsets=[0]), 0, 1)

    def new_predictors(self, block: Block) -> FloatArray:
        """Make the array that `learn_block` may fill."""
        return np.empty(len(block))

    def learn_block(
        self, block: Block, start: int, stop: int, predictors: FloatArray | None = None
    ) -> None:
        """Learn samples `start` to `stop` of a block.

        Raises
        ------
        BadSampleError
            At the first bad sample, with its place. The samples before it are learned.
        """
        self._predicted = []
        i = start
        while i < stop:
            room = stop - i if self.batch_size is None else self.batch_size - self.n_pending
            first, bad = self.n_pending, None
            for k in range(i, min(stop, i + room)):
                try:
                    self._reader.take(self._pending, block, k)
                    self.n_samples += 1
                except BadSampleError as error:
                    bad = error.at(block.source, block.partition, int(block.offsets[k]))
                    break
            n = self.n_pending - first
            with self._given_back_on_error(n):
                self._score(first, None if predictors is None else predictors[i : i + n])
            i += n
            if self.n_pending == self.batch_size:
                with self._given_back_on_error(1):  # the sample that filled the micro-batch
                    self._update()
            if bad is not None:
                raise bad

    # ---- updates

    @contextmanager
    def _given_back_on_error(self, n: int) -> Iterator[None]:
        """If Keras raises, the last `n` samples were not learned."""
        try:
            yield
        except BaseException:
            self._pending.give_back(n)
            self.n_samples -= n
            raise

    def _update(self) -> None:
        pending = self._pending
        w = np.array(pending.w, dtype=np.float32)
        weights = None if (w == 1.0).all() else w  # as `fit` without weights, bit for bit
        estimates = self._noise.estimates(pending, self.n_updates)
        if self._keras.update(pending.stacked(), np.stack(pending.y), weights):
            self.n_updates += 1
            self._noise.add(estimates)
        else:
            self.n_refused += 1
            warnings.warn(
                f"update {self.n_updates + 1} would have made a variable non-finite; it was "
                f"refused and its {self.n_pending} samples dropped",
                UpdateRefusedWarning,
                stacklevel=2,
            )
        pending.clear()

    def with_batch_size(self, batch_size: int | None) -> KerasLearner:
        """Return a copy with these weights that has learned nothing, for another `batch_size`."""
        twin = KerasLearner(
            copy.deepcopy(self.model),
            batch_size,
            features=self.features,
            classes=self.classes,
            noise_scale=self.noise_scale or False,
        )
        twin._keras.assign(self._keras.variables())  # Keras' own copy lacks the seeds of dropout
        return twin

    def loss_at_rest(self, block: Block) -> float:
        """Return the mean loss of samples, without changing the model."""
        return loss_at_rest(self._keras, self._reader.rows(block))

    def at_rest(self, block: Block, parts: int = 16) -> AtRest:
        """Measure the model on samples without changing it, as `streamfit.curves.at_rest`."""
        return at_rest(self._keras, self._reader.rows(block), parts)

    def flush(self, last_batch: str = "apply") -> None:
        """Deal with a partial micro-batch now, as the linear learners do.

        Raises
        ------
        UnsupportedError
            For `"scale"` when the optimizer's learning rate is a schedule.
        """
        check_choice("last_batch", last_batch, LAST_BATCH)
        if not self.n_pending:
            return
        if self.batch_size is None or last_batch == "apply":
            self._update()
        elif last_batch == "scale":
            with self._keras.learning_rate_times(self.n_pending / self.batch_size):
                self._update()
        elif last_batch == "drop":
            self._pending.clear()

    # ---- predicting

    def _score(self, first: int, predictors: FloatArray | None) -> None:
        """Let the model say what it makes of the samples from `first` on, before they count."""
        tracked = self.track_loss and self._keras.has_loss
        if first == self.n_pending or not (tracked or predictors is not None):
            return
        outputs = self._keras.outputs(self._pending.stacked(first), self.batch_size)
        if tracked:
            w = np.array(self._pending.w[first:])
            losses = self._keras.losses(np.stack(self._pending.y[first:]), outputs)
            self.loss_sum += float(np.sum(losses * w))
            self.loss_weight += float(np.sum(w))
        if predictors is not None:  # a prediction may be any object; a predictor says which
            predictors[:] = np.arange(len(self._predicted), len(self._predicted) + len(outputs))
            self._predicted += map(self._prediction, outputs)

    def predictions(self, predictors: FloatArray) -> list[Any]:
        """Return the predictions that the last `learn_block` made."""
        return [self._predicted[int(i)] for i in predictors]

    def _prediction(self, output: npt.NDArray[Any]) -> Any:
        """Turn one output into what a metric takes."""
        if self.classes is None:
            return float(output.reshape(())) if output.size == 1 else output
        p = self._keras.probabilities(output)
        return dict(zip(self.classes, p.tolist(), strict=True))

    def predict_one(self, x: Any) -> Any:
        """Predict one sample: a number, an array, or a label when there are `classes`."""
        p = self._predict(x)
        return max(p, key=p.__getitem__) if self.classes is not None else p

    def predict_proba_one(self, x: Any) -> dict[Any, float]:
        """Predict the probability of each class of one sample."""
        if self.classes is None:
            raise UnsupportedError("without classes=[...] the model is no classifier")
        p: dict[Any, float] = self._predict(x)
        return p

    def _predict(self, x: Any) -> Any:
        rows = [array[None] for array in self._reader.read(x)]
        return self._prediction(self._keras.outputs(rows, self.batch_size)[0])

    @property
    def river_estimator(self) -> Any:
        """What River's metrics take the model for."""
        from river import dummy, stats

        if self.classes is None:
            return dummy.StatisticRegressor(stats.Mean())
        return dummy.NoChangeClassifier()

    # ---- state

    def state_dict(self) -> StateDict:
        """Return everything that learning depends on, as arrays and JSON-safe values."""
        return {
            **self._keras.variables(),
            "n_samples": self.n_samples,
            "n_updates": self.n_updates,
            "n_refused": self.n_refused,
            **self._pending.state_dict(),
            **self._noise.state_dict(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from `state`, which a learner of the same configuration returned.

        Raises
        ------
        CheckpointMismatchError
            When the state does not fit; nothing has changed then.
        """
        pending = self._pending.loaded(state)
        counts = [state.get(name) for name in ("n_samples", "n_updates", "n_refused")]
        if not all(type(count) is int and count >= 0 for count in counts):
            raise CheckpointMismatchError(f"the state's counts do not fit: {counts}")
        if len(pending) > state["n_samples"] or len(pending) >= (self.batch_size or np.inf):
            raise CheckpointMismatchError(
                f"{len(pending)} pending of {state['n_samples']} samples do not fit micro-batches "
                f"of {self.batch_size}"
            )
        self._keras.check(state)
        if extra := state.keys() - self.state_dict().keys() - pending.state_dict().keys():
            raise CheckpointMismatchError(f"the state has {sorted(extra)}, which this model lacks")
        moments = self._noise.loaded(state)
        self._keras.assign(state)
        self._noise.moments = moments
        self.n_samples, self.n_updates, self.n_refused = map(int, counts)  # type: ignore[arg-type]
        self._pending = pending

    def digest(self) -> str:
        """Return the SHA-256 of all variables, counters and pending rows."""
        sha = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            if isinstance(value, np.ndarray):
                sha.update(f"{name} {value.shape} {value.dtype} ".encode())
                sha.update(np.ascontiguousarray(value).tobytes())
            else:
                sha.update(f"{name} {value!r} ".encode())
        return sha.hexdigest()

    def get_config(self) -> dict[str, Any]:
        """Describe the model and its arguments, JSON-safe; names of layers do not count."""
        return copy.deepcopy(self._config)

    def __deepcopy__(self, memo: dict[int, Any]) -> KerasLearner:
        twin = self.with_batch_size(self.batch_size)
        twin._config = self.get_config()
        twin.load_state_dict(self.state_dict())
        return twin
