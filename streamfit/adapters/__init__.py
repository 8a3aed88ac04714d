"""Streamfit in the clothes of other libraries, and their models behind a `Trainer`.

Each adapter is imported when its name is first used, and its library with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfit.adapters.keras import KerasLearner
    from streamfit.adapters.river import RiverLearner
    from streamfit.adapters.sklearn import StreamClassifier, StreamRegressor

__all__ = ["KerasLearner", "RiverLearner", "StreamClassifier", "StreamRegressor"]

_MODULES = {
    "KerasLearner": "keras",
    "RiverLearner": "river",
    "StreamClassifier": "sklearn",
    "StreamRegressor": "sklearn",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
