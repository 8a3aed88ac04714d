"""The names that a pipeline may choose from, and what each one makes.

They are read off the library's own classes, so that a new optimizer or metric needs no word here.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from streamfit.cli.values import Choice, nearest
from streamfit.core.validation import check_integer
from streamfit.errors import ConfigurationError, StreamfitError

__all__ = ["REGISTRIES", "make"]

Makers = Mapping[str, Callable[..., Any]]


def make(registry: str, choice: Choice) -> Any:
    """Make what `choice` says.

    Raises
    ------
    ConfigurationError
        When there is no such name or option, with the nearest right one.

    Examples
    --------
    >>> make("losses", Choice.of_text("huber:epsilon=0.5"))
    Huber(epsilon=0.5)
    >>> make("optimizers", Choice.of_text("adma"))
    Traceback (most recent call last):
        ...
    streamfit.errors.ConfigurationError: there is no 'adma'; did you mean adam?
    >>> make("optimizers", Choice.of_text("sgd:momentun=0.9"))
    Traceback (most recent call last):
        ...
    streamfit.errors.ConfigurationError: sgd has no option 'momentun'; did you mean momentum?
    """
    makers = REGISTRIES[registry]()
    if choice.kind not in makers:
        raise ConfigurationError(f"there is no {choice.kind!r}; {nearest(choice.kind, makers)}")
    maker = makers[choice.kind]
    known = inspect.signature(maker).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    for name in choice.options:
        if name not in known and not open_ended:
            hint = nearest(name, known) if known else "it takes none"
            raise ConfigurationError(f"{choice.kind} has no option {name!r}; {hint}")
    try:
        return maker(**choice.options)
    except StreamfitError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{choice.kind}: {error}") from None


def _by_id(module: types.ModuleType) -> Makers:
    public = (getattr(module, name) for name in module.__all__)
    return {kind.id: kind for kind in public if isinstance(kind, type) and hasattr(kind, "id")}


def _is_a(kind: object, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _optimizers() -> Makers:
    from streamfit.core import optim

    return _by_id(optim)


def _losses() -> Makers:
    from streamfit.core import losses

    return _by_id(losses)


def _schedules() -> Makers:
    from streamfit.core import schedules

    return {n: k for n, k in _by_id(schedules).items() if _is_a(k, schedules.Schedule)}


def _batch_sizes() -> Makers:
    from streamfit.core import schedules

    growing = {n: k for n, k in _by_id(schedules).items() if _is_a(k, schedules.BatchSizeSchedule)}
    return {"full": lambda: None, **growing}


def _models() -> Makers:
    import streamfit as sf

    return {
        "linear": sf.LinearRegression,
        "logistic": sf.LogisticRegression,
        "softmax": sf.SoftmaxRegression,
    }


def _scalers() -> Makers:
    from streamfit.core.scaler import StandardScaler

    return {"standard": StandardScaler}


def _feature_indexes() -> Makers:
    from streamfit.core.features import FeatureIndex, HashedFeatures

    def grow(maximum: int | None = None) -> FeatureIndex | None:
        return None if maximum is None else FeatureIndex(maximum=maximum)

    def hashed(bits: int = 18) -> HashedFeatures:
        return HashedFeatures(bits=bits)

    return {"grow": grow, "fixed": lambda: FeatureIndex(fixed=True), "hashed": hashed}


def _bad_samples() -> Makers:
    from streamfit.dead_letters import DeadLetters

    return {"raise": lambda: "raise", "skip": lambda: "skip", "dead_letters": DeadLetters}


def _metrics() -> Makers:
    from river import metrics

    found: dict[str, Any] = {name: getattr(metrics, name, None) for name in metrics.__all__}
    return {n: _rollable(kind) for n, kind in found.items() if _is_a(kind, metrics.base.Metric)}


def _rollable(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Make metrics that may look back on the last `rolling` samples only."""
    from river import utils

    def metric(rolling: int | None = None, **options: Any) -> Any:
        if rolling is None:
            return kind(**options)
        return utils.Rolling(
            kind, window_size=check_integer("rolling", rolling, minimum=1), **options
        )

    its_own = inspect.signature(kind).parameters.values()
    rolling = inspect.Parameter("rolling", inspect.Parameter.KEYWORD_ONLY)
    metric.__signature__ = inspect.Signature([*its_own, rolling])  # type: ignore[attr-defined]
    return metric


def _decoders() -> Makers:
    def json(**options: Any) -> dict[str, Any]:
        return {"id": "JSONDecoder", **options}

    def avro(**options: Any) -> dict[str, Any]:
        return {"id": "AvroDecoder", **options}

    def numpy(**options: Any) -> dict[str, Any]:
        return {"id": "NumpyDecoder", **options}

    return {"json": json, "avro": avro, "numpy": numpy}


REGISTRIES: Mapping[str, Callable[[], Makers]] = {
    "bad_samples": _bad_samples,
    "batch_sizes": _batch_sizes,
    "decoders": _decoders,
    "feature_indexes": _feature_indexes,
    "losses": _losses,
    "metrics": _metrics,
    "models": _models,
    "optimizers": _optimizers,
    "scalers": _scalers,
    "schedules": _schedules,
}
"""By name, functions that import what they need and tell what there is."""
