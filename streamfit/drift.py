"""Drift: one of River's detectors watches a training, and something is done about it."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from streamfit._plain_state import from_plain, to_plain
from streamfit.actions import check_able
from streamfit.core.validation import check_integer, check_real
from streamfit.errors import CheckpointMismatchError, ConfigurationError, shown
from streamfit.events import event
from streamfit.types import Action, Learner

__all__ = ["DriftMonitor", "RaiseLearningRate"]

_log = logging.getLogger(__name__)

_PACKAGES = ("river.drift", "river.stats", "river._river_rust", "river.utils")
_REMEMBERED = 1000


@dataclass(frozen=True)
class RaiseLearningRate:
    """After a drift, learn faster for a while.

    Parameters
    ----------
    factor
        What the learning rate (as the optimizer's schedule has it) is multiplied by.
    n_samples
        For how many samples. Another drift meanwhile begins the count anew.
    """

    factor: float = 10.0
    n_samples: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", check_real("factor", self.factor, positive=True))
        check_integer("n_samples", self.n_samples, minimum=1)


class DriftMonitor:
    """Watches a training with a drift detector of River; a callback of `Trainer`.

    Each sample's error, made before it was learned, goes into the detector. A drift is logged
    and written into the journal, and then answered. All of it depends on the samples alone, not
    on how they arrive: a training that is killed and resumed finds the same drifts at the same
    samples, and `streamfit verify` replays what was done about them (without the detector).

    Parameters
    ----------
    detector
        A drift detector of River's: `river.drift.ADWIN()`, `river.drift.binary.DDM()`, ... ADWIN
        also finds that an error has become smaller, as it does while a model learns: that is not
        taken for a drift.
    on_drift
        `"report"`: nothing more. `"reset_optimizer"`: its running averages and its schedule begin
        anew, the weights stay. `RaiseLearningRate(...)`: larger steps for a while.
    every
        A drift is answered after the next multiple of so many samples. With 1 it is answered
        at once, and each sample is learned by a call of its own.
    error
        A function of label and prediction (a number, or a mapping of labels to probabilities).
        None: whether the likeliest label is wrong, or the absolute error of a regression.

    Examples
    --------
    >>> import random
    >>> from river import drift
    >>> import streamfit as sf
    >>> rng = random.Random(1)
    >>> def changing():
    ...     for i in range(2000):
    ...         x = rng.random()
    ...         yield {"x": x}, (x > 0.5) == (i < 1000)
    >>> monitor = sf.DriftMonitor(drift.ADWIN(), on_drift=sf.RaiseLearningRate(10, 200))
    >>> model = sf.LogisticRegression(sf.optim.SGD(0.1))
    >>> report = sf.Trainer(model, changing(), callbacks=[monitor]).run()
    >>> [1000 < n for n in monitor.drifts]
    [True]
    """

    def __init__(
        self,
        detector: Any,
        on_drift: str | RaiseLearningRate = "report",
        *,
        every: int = 32,
        error: Callable[[Any, Any], float] | None = None,
    ) -> None:
        if isinstance(detector, type) or not (
            callable(getattr(detector, "update", None)) and hasattr(detector, "drift_detected")
        ):
            raise ConfigurationError(
                f"detector must be a drift detector of River's, not {shown(detector)}"
            )
        if on_drift not in ("report", "reset_optimizer") and not isinstance(
            on_drift, RaiseLearningRate
        ):
            raise ConfigurationError(
                "on_drift must be 'report', 'reset_optimizer' or a RaiseLearningRate, not "
                f"{shown(on_drift)}"
            )
        if error is not None and not callable(error):
            raise ConfigurationError(f"error must be a function, not {shown(error)}")
        self.detector = detector
        self.on_drift = on_drift
        self.every = check_integer("every", every, minimum=1)
        self.drifts: deque[int] = deque(maxlen=_REMEMBERED)
        """How many samples had been learned when drifts were found; the last thousand."""
        self._error = _error if error is None else error
        self._detected = False
        self._raised_until: int | None = None
        self._params = repr(getattr(detector, "_get_params", dict)())
        to_plain(detector, self._packages)  # now, not when the first checkpoint is due

    def check(self, model: Learner) -> None:
        """Raise `ConfigurationError` when the model cannot do what may be decided."""
        if isinstance(self.on_drift, RaiseLearningRate):
            check_able("set_learning_rate_factor", model)
            if getattr(getattr(model, "optimizer", None), "id", None) == "ftrl_proximal":
                raise ConfigurationError(
                    "on_drift: FTRLProximal has no learning rate to raise; reset_optimizer it"
                )
        elif self.on_drift == "reset_optimizer":
            check_able("reset_optimizer", model)

    def observe(self, y: Any, prediction: Any) -> None:
        """Show one sample to the detector."""
        error = self._error(y, prediction)
        if math.isfinite(error):
            before = getattr(self.detector, "estimation", -math.inf)
            self.detector.update(error)
            if self.detector.drift_detected:
                self._detected |= getattr(self.detector, "estimation", math.inf) > before

    def decide(self, model: Learner, n_samples: int) -> list[Action]:
        """Say what to do now."""
        return list(self._decided(n_samples))

    def _decided(self, n_samples: int) -> Iterator[Action]:
        if self._detected:
            self._detected = False
            self.drifts.append(n_samples)
            name = type(self.detector).__name__
            _log.warning(event("drift", detector=name, samples=n_samples, action=self.on_drift))
            yield Action("drift", {"detector": name, "n_samples": n_samples})
            if isinstance(self.on_drift, RaiseLearningRate):
                self._raised_until = n_samples + self.on_drift.n_samples
                yield Action("set_learning_rate_factor", {"factor": self.on_drift.factor})
            elif self.on_drift == "reset_optimizer":
                yield Action("reset_optimizer")
        elif self._raised_until is not None and n_samples >= self._raised_until:
            self._raised_until = None
            yield Action("set_learning_rate_factor", {"factor": 1.0})

    # ---- state

    @property
    def _packages(self) -> list[str]:
        return [*_PACKAGES, type(self.detector).__module__]

    def state_dict(self) -> dict[str, Any]:
        """Return the detector's state and what was found, JSON-safe."""
        return {
            "detector": [type(self.detector).__name__, self._params],
            "state": to_plain(self.detector, self._packages),
            "detected": self._detected,
            "drifts": list(self.drifts),
            "raised_until": self._raised_until,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state.

        Raises
        ------
        CheckpointMismatchError
            When it is of another detector, or of another version of River.
        """
        match state:
            case {
                "detector": [str(name), str(params)],
                "state": dict(plain),
                "detected": bool(detected),
                "drifts": list(drifts),
                "raised_until": None | int() as raised_until,
            }:
                if [name, params] != [type(self.detector).__name__, self._params]:
                    raise CheckpointMismatchError(
                        f"the checkpoint is of the detector {name} {params:.200}, this is a "
                        f"{type(self.detector).__name__} {self._params:.200}"
                    )
                from_plain(self.detector, plain, self._packages)
                self._detected, self._raised_until = detected, raised_until
                self.drifts = deque(map(int, drifts), maxlen=_REMEMBERED)
            case _:
                raise CheckpointMismatchError(f"not the state of a DriftMonitor: {state!r:.80}")


def _error(y: Any, prediction: Any) -> float:
    if isinstance(prediction, dict):
        return bool(max(prediction, key=prediction.__getitem__) != y)
    return abs(float(prediction) - float(y))
