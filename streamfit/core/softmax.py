"""Softmax regression: any number of classes, which may come as the stream goes by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from river import base

from streamfit._kernels import FeatureIndex, HashedFeatures, exact_label, softmax
from streamfit.core import frames, losses, optim, schedules
from streamfit.core.learner import LinearLearner
from streamfit.core.linear import describe
from streamfit.core.noise import NoiseScale
from streamfit.core.scaler import StandardScaler
from streamfit.errors import BadSampleError, ConfigurationError
from streamfit.types import FeatureName, FloatArray, Label

__all__ = ["SoftmaxRegression"]


class SoftmaxRegression(LinearLearner, base.MiniBatchClassifier):
    """Multinomial logistic regression, learned in exact micro-batches.

    Each class `k` has weights and an intercept, `z_k = w_k . x + b_k`, and the probability
    `exp(z_k) / sum_j exp(z_j)` (Bishop, Pattern Recognition and Machine Learning, 4.104).

    Classes are numbered as they first appear, or as `classes` lists them, and that is the order of
    the columns of `predict_proba_many`; `classes` says it after training. A class that has just
    appeared begins with weights of 0; until then it takes no part, so that the samples before it
    are learned without it.

    {parameters}

    Other Parameters
    ----------------
    classes
        The labels there are (str, int or bool); any other is refused then. None takes them as
        they come.

    Examples
    --------
    >>> import streamfit as sf
    >>> model = sf.SoftmaxRegression(sf.optim.SGD(1.0))
    >>> for x, y in [({"x": -1.0}, "low"), ({"x": 0.0}, "mid"), ({"x": 1.0}, "high")]:
    ...     model.learn_one(x, y)
    >>> model.classes
    ['low', 'mid', 'high']
    >>> model.predict_one({"x": 2.0})
    'high'
    """

    _losses: ClassVar[tuple[type[losses.Loss], ...]] = (losses.CrossEntropy,)
    _multiclass = True

    def __init__(
        self,
        optimizer: optim.Optimizer | None = None,
        loss: losses.Loss | None = None,
        batch_size: int | schedules.BatchSizeSchedule | None = 1,
        reduction: str = "mean",
        l2: float = 0.0,
        l1: float = 0.0,
        fit_intercept: bool = True,
        intercept_lr: float | None = None,
        clip_gradient: float | None = None,
        features: FeatureIndex | HashedFeatures | str | None = None,
        scaler: StandardScaler | None = None,
        dtype: str = "float64",
        max_weight: float | None = None,
        noise_scale: bool | NoiseScale = False,
        classes: Iterable[Label] | None = None,
    ) -> None:
        self._check_arguments(
            optimizer, loss, batch_size, reduction, l2, l1, fit_intercept, intercept_lr,
            clip_gradient, features, scaler, dtype, max_weight, noise_scale,
        )  # fmt: skip
        self._target_name: str | None = None
        self._given_classes = None if classes is None else _check_classes(classes)
        self._start(self._given_classes or ())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments in JSON-safe form."""
        given = None if self._given_classes is None else list(self._given_classes)
        return {**super().get_config(), "classes": given}

    def _get_params(self) -> dict[str, Any]:
        """Return the constructor's arguments, for River: `classes` may have grown since."""
        return {**super()._get_params(), "classes": self._given_classes}

    @property
    def weights(self) -> dict[Label, dict[FeatureName, float]]:
        """The weight of each feature, for each class."""
        values = self._values()[:, 1:]
        assert self._classes is not None
        return {k: self._weights_of(row) for k, row in zip(self._classes, values, strict=True)}

    @property
    def intercept(self) -> dict[Label, float]:
        """The intercept of each class."""
        assert self._classes is not None
        return dict(zip(self._classes, self._values()[:, 0].tolist(), strict=True))

    def predict_proba_one(self, x: Any) -> dict[Label, float]:  # type: ignore[override]
        """Predict the probability of each class; there is none before the first was learned."""
        z = np.array([self.predictors_one(x)])
        assert self._classes is not None
        return dict(zip(self._classes, softmax(z)[0].tolist(), strict=True))

    def predict_one(self, x: Any) -> Label | None:  # type: ignore[override]
        """Predict the label of one sample: the most probable, of equals the first that came."""
        z = self.predictors_one(x)
        assert self._classes is not None
        return self._classes[z.index(max(z))] if z else None

    def predict_proba_many(self, X: Any) -> Any:
        """Predict the probabilities of a table: a column for each of `classes`."""
        p = softmax(self._predictors_many(X))
        if frames.is_frame(X):
            assert self._classes is not None
            return frames.native_frame({k: p[:, i] for i, k in enumerate(self._classes)}, X)
        return p

    def predict_many(self, X: Any) -> Any:
        """Predict the labels of a table: an array, or a series when `X` is a frame."""
        z = self._predictors_many(X)
        assert self._classes is not None
        labels = _label_array(self._classes if z.shape[1] else [None])
        chosen = labels[z.argmax(axis=1) if z.shape[1] else np.zeros(len(z), dtype=np.int64)]
        return frames.native_series(chosen, X, self._target_name) if frames.is_frame(X) else chosen

    def predictions(self, predictors: FloatArray) -> list[dict[Label, float]]:
        """Turn linear predictors into what `predict_proba_one` returns."""
        assert self._classes is not None
        known = predictors > -np.inf
        probabilities = softmax(np.ascontiguousarray(predictors)) if known.any() else predictors
        return [
            {k: p for k, p, there in zip(self._classes, row, here, strict=False) if there}
            for row, here in zip(probabilities.tolist(), known.tolist(), strict=True)
        ]


def _label_array(labels: Sequence[Label | None]) -> npt.NDArray[Any]:
    """Return labels as an array of objects, unless NumPy's own kinds keep each as it is."""
    array, objects = np.array(labels), np.array(labels, dtype=object)
    kept = [(type(label), label) for label in array.tolist()]
    return array if kept == [(type(label), label) for label in labels] else objects


def _check_classes(classes: Iterable[Label]) -> tuple[Label, ...]:
    try:
        names = tuple(exact_label(name) for name in classes)
    except (TypeError, BadSampleError) as error:
        raise ConfigurationError(f"classes must be labels (str, int or bool): {error}") from None
    if isinstance(classes, str | bytes) or not names or len(set(names)) < len(names):
        raise ConfigurationError(f"classes must be different labels, at least one: {classes!r:.80}")
    return names


describe(SoftmaxRegression, "`sf.losses.CrossEntropy`, the only one.")
