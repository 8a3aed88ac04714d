"""A model at one moment: what predicts while the learner goes on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamfit.core.learner import LinearLearner
from streamfit.errors import BadSampleError, UnsupportedError
from streamfit.types import Label, Learner, StateDict

__all__ = ["NO_RAW_SAMPLES", "FrozenModel", "Prediction"]

NO_RAW_SAMPLES = (
    "the model learned what {:.100} made of the samples, and requests are not put through that"
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one sample.

    Parameters
    ----------
    value
        A number, a label, a list of numbers, or None when the model knows nothing yet.
    probabilities
        Of each class, where there are classes.
    """

    value: Any
    probabilities: dict[Label, float] | None = None


class FrozenModel:
    """A copy of a model that nobody trains.

    Made where the model is trained, between two blocks, so it never shows half an update. Of a
    linear learner only the numbers are copied there; the learner around them is made when it is
    first asked, by whoever asks.

    Parameters
    ----------
    model
        The learner; it is only read, and only here.

    Examples
    --------
    >>> import streamfit as sf
    >>> from streamfit.serving.frozen import FrozenModel
    >>> model = sf.LinearRegression(sf.optim.SGD(0.5))
    >>> model.learn_one({"x": 1.0}, 2.0)
    >>> frozen = FrozenModel(model)
    >>> model.learn_one({"x": 1.0}, 2.0)
    >>> frozen.n_samples, frozen.predict([{"x": 1.0}])[0].value
    (1, 4.0)
    """

    def __init__(self, model: Learner) -> None:
        self.time = time.time()
        self.n_samples, self.n_updates = model.n_samples, model.n_updates
        self._model: Any = None
        self._state: StateDict | None = None
        if isinstance(model, LinearLearner):
            self._kind, self._config = type(model), model.get_config()
            self._state = model.state_dict()
        else:
            self._model = copy.deepcopy(model)

    def predict(self, rows: Sequence[Any]) -> list[Prediction]:
        """Predict samples, each a mapping of feature to number or a row of numbers.

        Raises
        ------
        BadSampleError
            At the first that the model refuses, with its feature, and its row as the offset.
        UnsupportedError
            When this model does not predict single samples.
        """
        model = self._learner()
        if not hasattr(model, "predict_one"):
            raise UnsupportedError(f"{type(model).__name__} does not predict single samples")
        found = []
        for i, row in enumerate(rows):
            try:
                found.append(self._predict(model, row))
            except BadSampleError as error:
                raise error.at("predict", 0, i) from None
        return found

    def _predict(self, model: Any, row: Any) -> Prediction:
        for name, number in row.items() if isinstance(row, dict) else ():
            if isinstance(number, float) and not math.isfinite(number):
                # the model does not look at features that it does not know
                raise BadSampleError(f"value {number} is not finite", feature=name)
        probabilities = None
        if hasattr(model, "predict_proba_one"):
            try:
                probabilities = model.predict_proba_one(row)
            except (NotImplementedError, UnsupportedError):
                probabilities = None  # it is no classifier
        value = model.predict_one(row)
        if isinstance(value, np.ndarray | np.generic):
            value = value.tolist()
        shown = [value, *(probabilities or {}).values()]
        if any(isinstance(number, float) and not math.isfinite(number) for number in shown):
            raise BadSampleError(f"the prediction is {value}: the values are too large")
        return Prediction(value, probabilities)

    def _learner(self) -> Any:
        if self._model is None:
            model = self._kind.from_config(self._config)
            assert self._state is not None
            model.load_state_dict(self._state)
            self._model = model
        return self._model

    def largest_weights(self, n: int = 20) -> list[tuple[str, float]] | None:
        """Return the weights that are furthest from 0, the furthest first; None: it has none.

        With classes a weight is named `class: feature`.
        """
        if self._state is None:
            return None
        values = self._state["parameters"].astype(np.float64)[..., 1:]
        values = np.atleast_2d(values * self._state["weight_scale"])
        if not values.size:
            return []
        flat = values.ravel()
        n = min(n, int(np.count_nonzero(flat)))
        furthest = np.argpartition(-np.abs(flat), n - 1)[:n] if n else np.array([], dtype=int)
        furthest = furthest[np.argsort(-np.abs(flat[furthest]), kind="stable")]
        features, classes = self._state["features"], self._state.get("classes")
        found = []
        for place in furthest.tolist():
            k, column = divmod(place, values.shape[1])
            name = str(features[column] if features else column)
            found.append((name if classes is None else f"{classes[k]}: {name}", float(flat[place])))
        return found
