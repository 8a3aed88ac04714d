"""`POST /predict`: JSON in, JSON out; what is no sample is refused and named."""

from __future__ import annotations

import json
from typing import Any

from streamfit.errors import BadSampleError
from streamfit.serving.frozen import FrozenModel, Prediction

__all__ = ["answer", "read_samples"]

_MAX_ROWS = 10_000


def read_samples(body: bytes) -> tuple[list[Any], bool]:
    """Read samples from the body of a request.

    A sample is an object, `{"age": 31}`, or an array of numbers, for a model whose features have
    no names. An array of samples is many.

    Returns
    -------
    tuple
        The samples, and whether there may be many.

    Raises
    ------
    BadSampleError
        When it is anything else.

    Examples
    --------
    >>> from streamfit.serving.requests import read_samples
    >>> read_samples(b'{"age": 31}')
    ([{'age': 31}], False)
    >>> read_samples(b'[{"age": 31}, {"age": 44}]')
    ([{'age': 31}, {'age': 44}], True)
    >>> read_samples(b"[1.5, 2]")
    ([[1.5, 2]], False)
    """
    try:
        value = json.loads(body, parse_constant=_refuse)
    except RecursionError:
        raise BadSampleError("not JSON that can be read: nested too deep") from None
    except ValueError as error:  # not UTF-8, not JSON, a number of thousands of digits
        raise BadSampleError(f"not JSON: {error}") from None
    if isinstance(value, dict):
        return [value], False
    if not isinstance(value, list) or not value:
        raise BadSampleError(
            "send a sample, an object {feature: number} or an array of numbers, or an array of them"
        )
    if not any(isinstance(item, dict | list) for item in value):
        return [value], False
    if len(value) > _MAX_ROWS:
        raise BadSampleError(f"{len(value)} samples, at most {_MAX_ROWS} are taken at once")
    for i, item in enumerate(value):
        if not isinstance(item, dict | list):
            raise BadSampleError(f"sample {i} is no object and no array")
    return value, True


def _refuse(name: str) -> float:
    raise BadSampleError(f"{name} is not JSON, and not a number to predict from")


def answer(model: FrozenModel, samples: list[Any], many: bool) -> dict[str, Any]:
    """Predict samples and say from which state of the model.

    Raises
    ------
    BadSampleError
        At the first sample that is refused.
    UnsupportedError
        When the model does not predict.
    """
    told = [_told(prediction) for prediction in model.predict(samples)]
    learned = {"n_samples": model.n_samples, "n_updates": model.n_updates, "time": model.time}
    return {"predictions": told, "model": learned} if many else {**told[0], "model": learned}


def _told(prediction: Prediction) -> dict[str, Any]:
    if prediction.probabilities is None:
        return {"prediction": prediction.value}
    return {  # arrays, for JSON has no objects whose keys are numbers or booleans
        "prediction": prediction.value,
        "classes": list(prediction.probabilities),
        "probabilities": list(prediction.probabilities.values()),
    }
