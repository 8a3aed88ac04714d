"""The learners as scikit-learn estimators.

What is learned is what a learner of streamfit learns from the same rows in the same order:
`partial_fit` continues a micro-batch where the call before left it, `fit` starts anew and
applies the partial micro-batch at the end of each pass.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from streamfit._kernels import softmax
from streamfit.core.features import FeatureIndex
from streamfit.core.learner import LAST_BATCH, LinearLearner
from streamfit.core.linear import LinearRegression, LogisticRegression
from streamfit.core.losses import Loss
from streamfit.core.optim import Optimizer
from streamfit.core.scaler import StandardScaler
from streamfit.core.schedules import BatchSizeSchedule
from streamfit.core.softmax import SoftmaxRegression
from streamfit.core.validation import check_choice, check_integer
from streamfit.errors import ConfigurationError, MissingDependencyError
from streamfit.types import FloatArray

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_is_fitted,
        column_or_1d,
        validate_data,
    )
except ImportError as error:
    raise MissingDependencyError(
        'sf.adapters.StreamClassifier needs scikit-learn: pip install "streamfit[sklearn]"'
    ) from error

__all__ = ["StreamClassifier", "StreamRegressor"]

_PARAMETERS = """Parameters
    ----------
    optimizer, loss, batch_size, l2, l1, fit_intercept, intercept_lr, clip_gradient, scaler, \
    dtype, max_weight
        As of the learners, see `sf.{learner}`.
    reduction
        `"mean"` or `"sum"` over a micro-batch, as of the learners. None is `"mean"`, but `"sum"`
        at `batch_size=1`, where a mean over the one sample would cancel its weight. So a weight
        of 2 makes the step twice as large, as in scikit-learn's own `{peer}`.
    epochs
        Passes of `fit` over the data, in the order of the rows; nothing is shuffled.
    last_batch
        What `fit` does with a partial micro-batch at the end of each pass (see `sf.Trainer`).

    Attributes
    ----------
    learner_
        The streamfit learner: `learner_.n_updates`, `learner_.digest()`, ...
    coef_, intercept_
        Weights and intercepts, in scikit-learn's shapes.
    n_features_in_, feature_names_in_
        As of any scikit-learn estimator."""


class _StreamEstimator(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: parameters, the learner, passes over the data."""

    learner_: Any

    def __init__(
        self,
        optimizer: Optimizer | None = None,
        loss: Loss | None = None,
        batch_size: int | BatchSizeSchedule | None = 1,
        reduction: str | None = None,
        l2: float = 0.0,
        l1: float = 0.0,
        fit_intercept: bool = True,
        intercept_lr: float | None = None,
        clip_gradient: float | None = None,
        scaler: StandardScaler | None = None,
        dtype: str = "float64",
        max_weight: float | None = None,
        epochs: int = 5,
        last_batch: str = "apply",
    ) -> None:
        self.optimizer = optimizer
        self.loss = loss
        self.batch_size = batch_size
        self.reduction = reduction
        self.l2 = l2
        self.l1 = l1
        self.fit_intercept = fit_intercept
        self.intercept_lr = intercept_lr
        self.clip_gradient = clip_gradient
        self.scaler = scaler
        self.dtype = dtype
        self.max_weight = max_weight
        self.epochs = epochs
        self.last_batch = last_batch

    def _make(self, kind: type[LinearLearner], **options: Any) -> LinearLearner:
        """Make a fresh learner; its features have the names of the columns, if these have any."""
        check_integer("epochs", self.epochs, minimum=1)
        check_choice("last_batch", self.last_batch, LAST_BATCH)
        names = getattr(self, "feature_names_in_", None)
        columns = range(self.n_features_in_) if names is None else names.tolist()
        reduction = "sum" if self.batch_size == 1 else "mean"
        return kind(
            optimizer=self.optimizer,
            loss=self.loss,
            batch_size=self.batch_size,
            reduction=reduction if self.reduction is None else self.reduction,
            l2=self.l2,
            l1=self.l1,
            fit_intercept=self.fit_intercept,
            intercept_lr=self.intercept_lr,
            clip_gradient=self.clip_gradient,
            features=FeatureIndex(columns),
            scaler=self.scaler,
            dtype=self.dtype,
            max_weight=self.max_weight,
            **options,
        )

    def _validated(
        self, X: Any, y: Any, sample_weight: Any, reset: bool
    ) -> tuple[Any, npt.NDArray[Any], FloatArray | None]:
        X, y = validate_data(
            self, X, y, reset=reset, accept_sparse="csr", dtype=np.float64, order="C"
        )
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight,
                X,
                dtype=np.float64,
                ensure_non_negative=True,
                allow_all_zero_weights=True,
            )
        return X, y, sample_weight

    def _passes(self, X: Any, y: npt.NDArray[Any], sample_weight: FloatArray | None) -> None:
        if sample_weight is not None and not sample_weight.any():
            raise ConfigurationError("sample_weight is zero for every sample")
        for _ in range(self.epochs):
            self.learner_.learn_many(X, y, sample_weight)
            self.learner_.flush(self.last_batch)

    def _predictors(self, X: Any) -> FloatArray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, accept_sparse="csr", dtype=np.float64, order="C")
        z: FloatArray = self.learner_._predictors_many(X)
        return z[:, 0] if z.shape[1] == 1 else z

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class StreamRegressor(RegressorMixin, _StreamEstimator):  # type: ignore[misc]
    """Linear regression in exact micro-batches, as a scikit-learn estimator.

    {parameters}

    Examples
    --------
    >>> import numpy as np
    >>> import streamfit as sf
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([1.0, 3.0, 5.0, 7.0])
    >>> model = sf.adapters.StreamRegressor(sf.optim.SGD(0.1), batch_size=2, epochs=200)
    >>> model.fit(X, y).predict([[4.0]]).round(3)
    array([9.])
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn the rows of `X` from scratch, `epochs` times in their order."""
        X, y, sample_weight = self._validated(X, y, sample_weight, reset=True)
        self.learner_ = self._make(LinearRegression)
        self._passes(X, y, sample_weight)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn the rows of `X` once; the micro-batch of the call before goes on."""
        first = not hasattr(self, "learner_")
        X, y, sample_weight = self._validated(X, y, sample_weight, reset=first)
        if first:
            self.learner_ = self._make(LinearRegression)
        self.learner_.learn_many(X, y, sample_weight)
        return self

    def _validated(
        self, X: Any, y: Any, sample_weight: Any, reset: bool
    ) -> tuple[Any, FloatArray, FloatArray | None]:
        X, y, sample_weight = super()._validated(X, y, sample_weight, reset)
        return X, np.asarray(y, dtype=np.float64), sample_weight

    def predict(self, X: Any) -> FloatArray:
        """Predict the targets of the rows of `X`."""
        predictors = self._predictors(X)
        mean: FloatArray = self.learner_.loss.mean(predictors)
        return mean

    @property
    def coef_(self) -> FloatArray:
        """The weights, of shape (n_features,)."""
        check_is_fitted(self, "learner_")
        return np.array(list(self.learner_.weights.values()))

    @property
    def intercept_(self) -> FloatArray:
        """The intercept, of shape (1,)."""
        check_is_fitted(self, "learner_")
        return np.array([self.learner_.intercept])


class StreamClassifier(ClassifierMixin, _StreamEstimator):  # type: ignore[misc]
    """Logistic regression in exact micro-batches, as a scikit-learn classifier.

    With three classes or more it is softmax regression.

    {parameters}
    classes_
        The labels, sorted.

    Examples
    --------
    >>> import streamfit as sf
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), sf.adapters.StreamClassifier(batch_size=8))
    >>> bool(cross_val_score(model, X, y, cv=3).mean() > 0.96)
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn the rows of `X` from scratch, `epochs` times in their order."""
        X, y, sample_weight = self._validated(X, y, sample_weight, reset=True)
        self._begin(np.unique(y))
        self._passes(X, self._encoded(y), sample_weight)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Learn the rows of `X` once; the micro-batch of the call before goes on.

        Parameters
        ----------
        X, y, sample_weight
            Samples, labels and weights.
        classes
            All labels that will ever come; needed at the first call.
        """
        first = not hasattr(self, "learner_")
        if first and classes is None:
            raise ConfigurationError("classes must be passed on the first call to partial_fit")
        if (
            not first
            and classes is not None
            and not np.array_equal(self.classes_, np.unique(classes))
        ):
            raise ConfigurationError(
                f"classes={classes!r} is not the same as on the first call, {self.classes_}"
            )
        X, y, sample_weight = self._validated(X, y, sample_weight, reset=first)
        if first:
            self._begin(np.unique(classes))
        self.learner_.learn_many(X, self._encoded(y), sample_weight)
        return self

    def _validated(
        self, X: Any, y: Any, sample_weight: Any, reset: bool
    ) -> tuple[Any, npt.NDArray[Any], FloatArray | None]:
        X, y, sample_weight = super()._validated(X, y, sample_weight, reset)
        check_classification_targets(y)
        return X, column_or_1d(y, warn=True), sample_weight

    def _begin(self, classes: npt.NDArray[Any]) -> None:
        if len(classes) < 2:
            raise ConfigurationError(f"there is one class only, {classes}; two are needed")
        self.learner_ = (
            self._make(LogisticRegression)
            if len(classes) == 2
            else self._make(SoftmaxRegression, classes=range(len(classes)))
        )
        self.classes_ = classes

    def _encoded(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the number of each label among the classes."""
        numbers = np.searchsorted(self.classes_, y)
        numbers[numbers == len(self.classes_)] = 0
        if len(unknown := np.setdiff1d(y, self.classes_)):
            raise ConfigurationError(f"y has labels {unknown} that are not in classes")
        return numbers

    @property
    def coef_(self) -> FloatArray:
        """The weights, of shape (1, n_features), or (n_classes, n_features) for three or more."""
        check_is_fitted(self, "learner_")
        weights = self.learner_.weights
        rows = [weights] if len(self.classes_) == 2 else weights.values()
        return np.array([list(row.values()) for row in rows])

    @property
    def intercept_(self) -> FloatArray:
        """The intercepts, one for each row of `coef_`."""
        check_is_fitted(self, "learner_")
        intercept = self.learner_.intercept
        return np.array([intercept] if len(self.classes_) == 2 else list(intercept.values()))

    def decision_function(self, X: Any) -> FloatArray:
        """Return the linear predictors: above 0 for `classes_[1]` of two, or one for each class."""
        return self._predictors(X)

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Predict the labels of the rows of `X`."""
        z = self.decision_function(X)
        numbers = (z > 0.0).astype(int) if z.ndim == 1 else z.argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[numbers]
        return labels

    def predict_proba(self, X: Any) -> FloatArray:
        """Predict the probability of each class, a column for each of `classes_`."""
        z = self.decision_function(X)
        if z.ndim == 2:
            return softmax(z)
        p = self.learner_.loss.mean(z)
        return np.column_stack([1.0 - p, p])


for _estimator, _learner, _peer in (
    (StreamRegressor, "LinearRegression", "SGDRegressor"),
    (StreamClassifier, "SoftmaxRegression", "SGDClassifier"),
):
    _estimator.__doc__ = (_estimator.__doc__ or "").replace(
        "{parameters}", _PARAMETERS.replace("{learner}", _learner).replace("{peer}", _peer)
    )
