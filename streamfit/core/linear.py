"""Linear learners: regression and binary classification."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from river import base

from streamfit.core import frames, losses
from streamfit.core.learner import LinearLearner
from streamfit.types import FloatArray

__all__ = ["LinearRegression", "LogisticRegression", "describe"]

_PARAMETERS = """Parameters
    ----------
    optimizer
        One of `sf.optim`; None is `SGD(0.01)`.
    loss
        {losses}
    batch_size
        Samples whose gradients make one update: 1 is stochastic gradient descent, None is
        full-batch (only `flush`, or the end of a `Trainer`'s epoch, updates), a batch-size
        schedule of `sf.schedules` changes it as updates go by. Memory does not depend on it.
    reduction
        `"mean"` divides a micro-batch's gradient by the sum of its sample weights, so that at
        `batch_size=1` a sample's weight cancels; `"sum"` does not divide.
    l2
        Adds `l2 * w` to the gradient of each weight (not of the intercept), once per update.
    l1
        Cumulative L1 penalty (Tsuruoka et al. 2009, as River): each update pulls each weight by
        `lr * l1` towards 0 and never across it. It acts on all weights, absent features included.
    fit_intercept
        Whether there is an intercept.
    intercept_lr
        None: the optimizer trains the intercept like any weight. A number: plain SGD at this
        rate, as River does.
    clip_gradient
        Bound on the absolute value of each sample's weighted loss gradient (the factor that its
        row is multiplied by), as in River.
    features
        `"grow"` (the same as None): a feature gets a column when it first appears. `"fixed"`: those
        of the first sample learned are all there will be. A `FeatureIndex` names them beforehand.
        `HashedFeatures` for names without bound.
    scaler
        `StandardScaler()` scales each feature by its running mean and variance.
    dtype
        `"float32"` halves the memory; losses, schedules and sample weights stay double.
    max_weight
        An update that would leave a weight beyond this is refused whole, as one that would leave
        it infinite always is.
    noise_scale
        True or a `sf.NoiseScale`: measure the gradient noise scale, which `gradient_noise` tells.

    Notes
    -----
    Sparse input (CSR, or a mapping with few of many features) means what the same dense input
    means, bit for bit. With plain SGD (`l2` included), and with AdaGrad and FTRLProximal without
    the learner's `l2`, a sample costs its own non-zeros. Momentum, RMSProp, AdaDelta, the Adam
    family, `l1`, and `l2` beside AdaGrad and FTRLProximal move every weight in every update: there
    a sample costs its non-zeros and each update costs all features. A `scaler` makes every sample
    dense."""


class LinearRegression(LinearLearner, base.MiniBatchRegressor):
    """Linear regression, learned in exact micro-batches.

    {parameters}

    Examples
    --------
    >>> import streamfit as sf
    >>> model = sf.LinearRegression(sf.optim.SGD(0.1), batch_size=2)
    >>> model.learn_one({"x": 1.0}, 2.0)
    >>> model.n_pending, model.weights
    (1, {'x': 0.0})
    >>> model.learn_one({"x": 2.0}, 4.0)
    >>> model.n_updates, model.weights
    (1, {'x': 1.0})
    >>> model.predict_one({"x": 3.0})
    3.6
    """

    _losses: ClassVar[tuple[type[losses.Loss], ...]] = (
        *(losses.Squared, losses.HalfSquared, losses.Absolute, losses.Huber),
        *(losses.EpsilonInsensitive, losses.Quantile, losses.Poisson),
    )

    predict_one = LinearLearner.mean_one

    def predict_many(self, X: Any) -> Any:
        """Predict the targets of a table: an array, or a series when `X` is a frame."""
        p = self.loss.mean(self._predictors_many(X)[:, 0])
        return frames.native_series(p, X, self._target_name) if frames.is_frame(X) else p

    def predictions(self, predictors: FloatArray) -> list[float]:
        """Turn linear predictors into what `predict_one` returns."""
        means: list[float] = self.loss.mean(predictors).tolist()
        return means


class LogisticRegression(LinearLearner, base.MiniBatchClassifier):
    """Logistic regression for labels False and True (0 and 1), learned in exact micro-batches.

    {parameters}

    Examples
    --------
    >>> import streamfit as sf
    >>> model = sf.LogisticRegression(sf.optim.SGD(1.0))
    >>> model.learn_one({"x": 2.0}, True)
    >>> model.weights, model.intercept
    ({'x': 1.0}, 0.5)
    >>> model.predict_one({"x": 1.0})
    True
    """

    _losses: ClassVar[tuple[type[losses.Loss], ...]] = (
        *(losses.Log, losses.Hinge, losses.SquaredHinge, losses.ModifiedHuber),
    )

    predict_proba_one = LinearLearner.probability_one  # type: ignore[assignment]
    predict_one = LinearLearner.label_one

    def predict_proba_many(self, X: Any) -> Any:
        """Predict the probabilities of a table: columns False and True."""
        p = self.loss.mean(self._predictors_many(X)[:, 0])
        if frames.is_frame(X):
            return frames.native_frame({False: 1.0 - p, True: p}, X)
        return np.column_stack([1.0 - p, p])

    def predict_many(self, X: Any) -> Any:
        """Predict the labels of a table: a bool array, or a series when `X` is a frame."""
        labels = self._predictors_many(X)[:, 0] > 0.0
        return frames.native_series(labels, X, self._target_name) if frames.is_frame(X) else labels

    def predictions(self, predictors: FloatArray) -> list[dict[bool, float]]:
        """Turn linear predictors into what `predict_proba_one` returns."""
        return [{False: 1.0 - p, True: p} for p in self.loss.mean(predictors).tolist()]


def describe(learner: type[LinearLearner], fitting: str) -> None:
    """Put the parameters that all linear learners share into the docstring of one."""
    learner.__doc__ = (learner.__doc__ or "").replace(
        "{parameters}", _PARAMETERS.replace("{losses}", fitting)
    )


for _learner, _fitting in (
    (
        LinearRegression,
        "`sf.losses.Squared`, the default (as River and Keras), `HalfSquared` (as scikit-learn), "
        "`Absolute`,\n        `Huber`, `EpsilonInsensitive`, `Quantile` or `Poisson`.",
    ),
    (
        LogisticRegression,
        "`sf.losses.Log`, the default, `Hinge`, `SquaredHinge` or `ModifiedHuber`.",
    ),
):
    describe(_learner, _fitting)
