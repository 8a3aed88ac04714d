"""Any River model behind a `Trainer`: trees, forests, pipelines, anomaly detectors."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from river import base
from river.compose import Pipeline

from streamfit.adapters._graph_digest import graph_digest
from streamfit.adapters._rows import as_weight
from streamfit.core.learner import LAST_BATCH
from streamfit.core.validation import check_choice, check_flag
from streamfit.errors import (
    BadSampleError,
    CheckpointError,
    CheckpointMismatchError,
    ConfigurationError,
    UnsupportedError,
    shown,
)
from streamfit.types import Block, FloatArray, StateDict

__all__ = ["RiverLearner"]

_WHY_PICKLE = (
    "a River model can be saved only as a pickle, and whoever can write a pickle can run any code "
    "in the process that loads it. If nobody but you can write the checkpoint directory, make "
    "the learner as RiverLearner(model, allow_pickle=True)"
)


class RiverLearner:
    """A River model that learns from a stream through a `Trainer`.

    So it gets what the linear learners get: Kafka, exactly-once checkpoints, journal, metrics.
    Each sample is one update.

    Parameters
    ----------
    model
        A classifier, regressor, anomaly detector or anything else with `learn_one`, or a
        pipeline that ends in one. It is trained in place.
    allow_pickle
        Whether the model may be saved in a checkpoint. There it is a pickle, because only the
        model itself knows what it consists of; and loading a pickle runs code that is in it. So
        say True only where nobody else can write the checkpoint directory.

    Notes
    -----
    The progressive loss is the log loss of a classifier and the squared error of a regressor;
    NaN for anything else. A value of a feature that is NaN or infinite is refused, since few
    models survive it; what else a value may be is up to the model. When the model raises, it may
    have learned half of the sample, so it is not saved any more; the last checkpoint stays.

    Models that draw random numbers replay to the same bits only with a fixed `seed`. The digest
    is over all that the model consists of, but for the states of its random generators.

    Examples
    --------
    >>> from river import metrics, tree
    >>> import streamfit as sf
    >>> learner = sf.adapters.RiverLearner(tree.HoeffdingTreeClassifier(grace_period=50))
    >>> samples = [({"x": i % 10}, "low" if i % 10 < 5 else "high") for i in range(1000)]
    >>> report = sf.Trainer(learner, samples, metrics=[metrics.Accuracy()]).run()
    >>> report.metrics["Accuracy"].get() > 0.9
    True
    """

    track_loss: bool
    loss_sum: float
    loss_weight: float
    n_pending = 0
    n_refused = 0

    def __init__(self, model: Any, allow_pickle: bool = False) -> None:
        if not isinstance(model, base.Base) or not hasattr(model, "learn_one"):
            raise ConfigurationError(f"model must be a River model, not {shown(model)}")
        self.model: Any = model
        self.allow_pickle = check_flag("allow_pickle", allow_pickle)
        self.river_estimator = _last_step(model)
        self._is_classifier = isinstance(self.river_estimator, base.Classifier)
        self._is_regressor = isinstance(self.river_estimator, base.Regressor)
        self._supervised = bool(getattr(model, "_supervised", True))
        self._weighted = "w" in inspect.signature(self.river_estimator.learn_one).parameters
        # a function in the model's description shows where it lies in memory
        self._config = {"id": "RiverLearner", "model": re.sub(r" at 0x[0-9a-f]+", "", repr(model))}
        self._predicted: list[Any] = []
        self._broken: str | None = None
        self.n_samples = 0
        self.track_loss = False
        self.loss_sum = self.loss_weight = 0.0

    @property
    def n_updates(self) -> int:
        """Updates made: one for each sample."""
        return self.n_samples

    @property
    def current_batch_size(self) -> int | None:
        """One: each sample is an update."""
        return 1

    # ---- learning

    def learn_one(self, x: Any, y: Any = None, w: float = 1.0) -> None:
        """Learn one sample.

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
        scored = self.track_loss and (self._is_classifier or self._is_regressor)
        for i in range(start, stop):
            try:
                x, y = self._checked(block, i)
                w = 1.0 if block.w is None else as_weight(block.w[i])
                if w not in (0.0, 1.0) and not self._weighted:
                    raise BadSampleError(
                        f"sample weight {w}: {type(self.river_estimator).__name__} takes no weights"
                    )
            except BadSampleError as error:
                raise error.at(block.source, block.partition, int(block.offsets[i])) from None
            if self._broken is not None:
                raise UnsupportedError(f"the model may have learned half a sample: {self._broken}")
            try:
                prediction = self._predict(x) if scored or predictors is not None else None
                if w > 0.0:
                    self._learn(x, y, w)
            except BaseException as error:
                self._broken = f"{type(error).__name__}: {error}"
                raise
            if scored:
                self._add_loss(prediction, y, w)
            if predictors is not None:  # a prediction may be any object; a predictor says which
                predictors[i] = len(self._predicted)
                self._predicted.append(prediction)
            self.n_samples += 1

    def _checked(self, block: Block, i: int) -> tuple[Any, Any]:
        """Return sample `i` as River takes it."""
        x, y = block.x[i], block.y[i]
        if isinstance(x, np.ndarray | list | tuple):
            names = range(len(x)) if block.features is None else block.features
            x = dict(zip(names, x.tolist() if isinstance(x, np.ndarray) else x, strict=True))
        for name, value in x.items() if isinstance(x, Mapping) else ():
            if isinstance(value, float | np.floating) and not math.isfinite(value):
                raise BadSampleError(f"value {value} is not finite", feature=name)
        if x is None:
            raise BadSampleError("the sample is missing")
        y = y.item() if isinstance(y, np.generic) else y
        if self._supervised and (y is None or (isinstance(y, float) and not math.isfinite(y))):
            raise BadSampleError(f"label {y} is missing or not finite")
        if self._is_regressor and not isinstance(y, int | float):
            raise BadSampleError(f"label {shown(y)} is not a number")
        return x, y

    def _learn(self, x: Any, y: Any, w: float) -> None:
        weight = {"w": w} if self._weighted and w != 1.0 else {}
        if self._supervised:
            self.model.learn_one(x, y, **weight)
        else:
            self.model.learn_one(x, **weight)

    def _add_loss(self, prediction: Any, y: Any, w: float) -> None:
        if prediction is None or prediction == {}:
            return  # it knows nothing yet
        if self._is_classifier:
            loss = -math.log(min(max(prediction.get(y, 0.0), 1e-15), 1.0 - 1e-15))
        else:
            loss = (float(prediction) - y) ** 2
        self.loss_sum += loss * w
        self.loss_weight += w

    def flush(self, last_batch: str = "apply") -> None:
        """Do nothing: no sample is ever pending."""
        check_choice("last_batch", last_batch, LAST_BATCH)

    # ---- predicting

    def _predict(self, x: Any) -> Any:
        """Say what River's own progressive validation would."""
        if self._is_classifier:
            try:
                return self.model.predict_proba_one(x)
            except NotImplementedError:
                label = self.model.predict_one(x)
                return {} if label is None else {label: 1.0}
        if isinstance(self.river_estimator, base.AnomalyFilter):
            return self.river_estimator.classify(self.model.score_one(x))
        if isinstance(self.river_estimator, base.AnomalyDetector):
            return self.model.score_one(x)
        return self.model.predict_one(x) if hasattr(self.model, "predict_one") else None

    def predictions(self, predictors: FloatArray) -> list[Any]:
        """Return the predictions that the last `learn_block` made."""
        return [self._predicted[int(i)] for i in predictors]

    def predict_one(self, x: Any) -> Any:
        """Predict one sample, as the model does."""
        return self.model.predict_one(x)

    def predict_proba_one(self, x: Any) -> Any:
        """Probability of each class for one sample, as the model says.

        Raises
        ------
        UnsupportedError
            When the model is no classifier.
        """
        if not self._is_classifier:
            name = type(self.river_estimator).__name__
            raise UnsupportedError(f"{name} is no classifier, it has no probabilities")
        return self.model.predict_proba_one(x)

    # ---- state

    def state_dict(self) -> StateDict:
        """Return the model as a pickle, in an array of bytes, and the count of samples.

        Raises
        ------
        CheckpointError
            Without `allow_pickle`, or when the model raised while it learned.
        """
        self._may_pickle()
        if self._broken is not None:
            raise CheckpointError(
                f"the model raised while it learned a sample, {self._broken}; it may have learned "
                "half of it, so it is not saved. The last checkpoint is as it was"
            )
        content = np.frombuffer(pickle.dumps(self.model, protocol=5), dtype=np.uint8)
        return {"pickle": content, "n_samples": self.n_samples}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from `state`, which a learner of the same model returned. Runs a pickle.

        Raises
        ------
        CheckpointError
            Without `allow_pickle`.
        CheckpointMismatchError
            When the state does not fit; nothing has changed then.
        """
        self._may_pickle()
        content, n_samples = state.get("pickle"), state.get("n_samples")
        if state.keys() != {"pickle", "n_samples"} or not isinstance(content, np.ndarray):
            raise CheckpointMismatchError(f"not the state of a RiverLearner: {sorted(state)}")
        if content.dtype != np.uint8 or type(n_samples) is not int or n_samples < 0:
            raise CheckpointMismatchError(f"the state does not fit: {n_samples} samples")
        try:
            model = pickle.loads(content.tobytes())
        except Exception as error:  # whatever the pickle's own code raises
            raise CheckpointMismatchError(f"the model cannot be unpickled: {error}") from error
        if type(model) is not type(self.model):
            raise CheckpointMismatchError(f"the state is of a {type(model).__name__}")
        self.model, self.n_samples, self._broken = model, n_samples, None
        self.river_estimator = _last_step(model)

    def _may_pickle(self) -> None:
        if not self.allow_pickle:
            raise CheckpointError(_WHY_PICKLE)

    def digest(self) -> str:
        """Return the SHA-256 of all that the model consists of, and the count of samples."""
        return graph_digest((self.model, self.n_samples))

    def get_config(self) -> dict[str, Any]:
        """Describe the model, JSON-safe."""
        return dict(self._config)

    def __deepcopy__(self, memo: dict[int, Any]) -> RiverLearner:
        twin = RiverLearner(copy.deepcopy(self.model, memo), self.allow_pickle)
        twin._config, twin._broken = self.get_config(), self._broken
        twin.n_samples = self.n_samples
        return twin


def _last_step(model: Any) -> Any:
    """Return what a pipeline ends in: the part that metrics and weights are about."""
    while isinstance(model, Pipeline):
        model = next(reversed(model.steps.values()))
    return model
