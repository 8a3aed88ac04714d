"""streamfit: streaming online learning in exact micro-batches.

>>> import streamfit as sf
>>> model = sf.LogisticRegression(optimizer=sf.optim.SGD(0.5), batch_size=2)
>>> for x, y in [({"rain": 1.0}, True), ({"rain": 0.0}, False)]:
...     model.learn_one(x, y)
>>> model.n_samples, model.n_updates, model.n_pending
(2, 1, 0)
"""

import importlib
import typing

from streamfit import adapters, errors, journal, types
from streamfit.checkpoint import Checkpoint, Checkpointer
from streamfit.core import losses, optim, schedules
from streamfit.core.features import FeatureIndex, HashedFeatures
from streamfit.core.noise import GradientNoise, NoiseScale
from streamfit.core.scaler import StandardScaler
from streamfit.dead_letters import DeadLetters
from streamfit.drift import DriftMonitor, RaiseLearningRate
from streamfit.exits import exit_codes
from streamfit.report import Progress, TrainingReport
from streamfit.sources import ArraySource, IterableSource
from streamfit.trainer import Trainer
from streamfit.transformed import Transformed

if typing.TYPE_CHECKING:
    from streamfit import distributed, offline, plot
    from streamfit.advisor import advise_batch_size
    from streamfit.core.linear import LinearRegression, LogisticRegression
    from streamfit.core.softmax import SoftmaxRegression
    from streamfit.date_parts import DateParts
    from streamfit.serving.monitor import WebMonitor

__all__ = [
    "ArraySource",
    "Checkpoint",
    "Checkpointer",
    "DateParts",
    "DeadLetters",
    "DriftMonitor",
    "FeatureIndex",
    "GradientNoise",
    "HashedFeatures",
    "IterableSource",
    "LinearRegression",
    "LogisticRegression",
    "NoiseScale",
    "Progress",
    "RaiseLearningRate",
    "SoftmaxRegression",
    "StandardScaler",
    "Trainer",
    "TrainingReport",
    "Transformed",
    "WebMonitor",
    "adapters",
    "advise_batch_size",
    "distributed",
    "errors",
    "exit_codes",
    "journal",
    "losses",
    "offline",
    "optim",
    "plot",
    "schedules",
    "types",
]

__version__ = "0.1.0"

# Learners are River estimators, and River takes a while to import: they load when first named,
# and so does what few programs need.
_LAZY = {
    "advise_batch_size": "streamfit.advisor",
    "distributed": "streamfit.distributed",
    "offline": "streamfit.offline",
    "plot": "streamfit.plot",
    "DateParts": "streamfit.date_parts",
    "LinearRegression": "streamfit.core.linear",
    "LogisticRegression": "streamfit.core.linear",
    "WebMonitor": "streamfit.serving.monitor",
    "SoftmaxRegression": "streamfit.core.softmax",
}

if not typing.TYPE_CHECKING:  # or every name would be one of ours

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(_LAZY[name])
        globals()[name] = value = getattr(module, name, module)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})
