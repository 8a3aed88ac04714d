"""A configured linear model: its arguments, and its state and configuration out and in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from streamfit._kernels import OPTIMIZERS, FeatureIndex, HashedFeatures, LinearKernel
from streamfit.core import losses, optim, schedules
from streamfit.core.features import check_features, features_config, features_from_config
from streamfit.core.noise import (
    EVERY,
    FOLLOWED,
    GradientNoise,
    NoiseScale,
    check_noise_scale,
    moments_of,
    noise_scale_from_config,
)
from streamfit.core.scaler import StandardScaler, scaler_from_config
from streamfit.core.state import check_state, digest_of, with_fresh_optimizer
from streamfit.core.validation import check_choice, check_flag, check_integer, check_real
from streamfit.errors import CheckpointMismatchError, ConfigurationError, UnsupportedError
from streamfit.types import FeatureName, Label, StateDict

__all__ = ["LinearModel"]

_MUTABLE = ("optimizer", "l2", "intercept_lr", "clip_gradient", "max_weight")
"""What may be changed with samples learned: it leaves the arrays of the state as they are."""


class LinearModel(LinearKernel):
    """Parameters of a linear learner, and what can be saved of it."""

    _losses: ClassVar[tuple[type[losses.Loss], ...]]
    """The losses that fit the learner, the default first."""

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
    ) -> None:
        self._check_arguments(
            optimizer, loss, batch_size, reduction, l2, l1, fit_intercept, intercept_lr,
            clip_gradient, features, scaler, dtype, max_weight, noise_scale,
        )  # fmt: skip
        self._target_name: str | None = None
        self._start(())

    def _check_arguments(
        self,
        optimizer: optim.Optimizer | None,
        loss: losses.Loss | None,
        batch_size: int | schedules.BatchSizeSchedule | None,
        reduction: str,
        l2: float,
        l1: float,
        fit_intercept: bool,
        intercept_lr: float | None,
        clip_gradient: float | None,
        features: FeatureIndex | HashedFeatures | str | None,
        scaler: StandardScaler | None,
        dtype: str,
        max_weight: float | None,
        noise_scale: bool | NoiseScale,
    ) -> None:
        self.optimizer = optim.SGD(0.01) if optimizer is None else optimizer
        known = isinstance(self.optimizer, optim.Optimizer) and hasattr(self.optimizer, "id")
        if not known or self.optimizer.id not in OPTIMIZERS:
            raise ConfigurationError(f"optimizer must be one of sf.optim, not {optimizer!r:.80}")
        self.loss = self._losses[0]() if loss is None else loss
        if not isinstance(self.loss, self._losses):
            names = ", ".join(f"sf.losses.{kind.__name__}" for kind in self._losses)
            raise ConfigurationError(
                f"loss of {type(self).__name__} must be one of {names}, not {loss!r}"
            )
        self.batch_size = (
            batch_size
            if batch_size is None
            or (isinstance(batch_size, schedules.BatchSizeSchedule) and hasattr(batch_size, "id"))
            else check_integer("batch_size", batch_size, minimum=1)
        )
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))
        self.l2 = check_real("l2", l2, minimum=0.0)
        self.l1 = check_real("l1", l1, minimum=0.0)
        if self.l1 > 0.0 and isinstance(self.optimizer, optim.FTRLProximal):
            raise ConfigurationError(
                "l1 of the learner pulls at steps, and FTRLProximal makes none; use its own l1"
            )
        self.fit_intercept = check_flag("fit_intercept", fit_intercept)
        self.intercept_lr = (
            None if intercept_lr is None else check_real("intercept_lr", intercept_lr, minimum=0.0)
        )
        self.clip_gradient = (
            None
            if clip_gradient is None
            else check_real("clip_gradient", clip_gradient, positive=True)
        )
        self.features = check_features(features)
        if scaler is not None and not isinstance(scaler, StandardScaler):
            raise ConfigurationError(f"scaler must be a StandardScaler or None, not {scaler!r:.60}")
        if scaler is not None and isinstance(self.features, HashedFeatures):
            raise ConfigurationError(
                "scaler: subtracting the mean would make every hashed sample dense; scale the "
                "values before they are hashed"
            )
        if scaler is None and isinstance(self.optimizer, optim.Auto) and self.optimizer.scale:
            hashed = isinstance(self.features, HashedFeatures)
            scaler = None if hashed else StandardScaler(bound=1.5)
        self.scaler = scaler
        name = getattr(dtype, "__name__", dtype)  # np.float32 says the same as "float32"
        self.dtype = check_choice("dtype", name, ("float64", "float32"))
        self.max_weight = (
            None if max_weight is None else check_real("max_weight", max_weight, positive=True)
        )
        follows = isinstance(batch_size, schedules.NoiseScaleBatchSize)
        self.noise_scale = check_noise_scale(noise_scale or (follows and FOLLOWED))

    def _start(self, classes: tuple[Label, ...]) -> None:
        """Make the numbers of a fresh model."""
        features = self.features
        self._configure(
            features.copy() if isinstance(features, FeatureIndex) else FeatureIndex(),
            hashing=features if isinstance(features, HashedFeatures) else None,
            classes=classes,
            classes_fixed=bool(classes),
            loss=self.loss.get_config(),
            optimizer=self.optimizer.get_config(),
            schedule=self.optimizer.schedule.get_config(),
            batch_size=self._batch_size_config(),
            mean=self.reduction == "mean",
            l2=self.l2,
            l1=self.l1,
            fit_intercept=self.fit_intercept,
            intercept_lr=self.intercept_lr,
            clip_gradient=self.clip_gradient,
            max_weight=self.max_weight,
            standardize=self.scaler is not None,
            bound=None if self.scaler is None else self.scaler.bound,
            single=self.dtype == "float32",
            noise_scale=None
            if self.noise_scale is None
            else {"decay": self.noise_scale.decay, "every": self.noise_scale.every or EVERY},
        )
        self._is_made = True

    def _batch_size_config(self) -> int | dict[str, Any] | None:
        if isinstance(self.batch_size, schedules.BatchSizeSchedule):
            return self.batch_size.get_config()
        return self.batch_size

    # ---- changing arguments between two samples, as River's `mutate` does

    @property
    def _mutable_attributes(self) -> set[str]:
        return set(_MUTABLE)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _MUTABLE and "_is_made" in vars(self):
            value = self._changed(name, value)
        super().__setattr__(name, value)

    def _changed(self, name: str, value: Any) -> Any:
        """Take a new argument over into the kernel; return it as the constructor would have it."""
        if name == "optimizer":
            value = self._changed_optimizer(value)
        described = value.get_config() if isinstance(value, optim.Optimizer) else value
        new = self.from_config({**self.get_config(), name: described})
        state = self.state_dict()
        weights = state["parameters"]
        weights[..., 1:] *= weights.dtype.type(state["weight_scale"])
        state["weight_scale"] = 1.0
        self._set_options(
            new.optimizer.get_config(),
            new.optimizer.schedule.get_config(),
            new.l2,
            new.intercept_lr,
            new.clip_gradient,
            new.max_weight,
        )
        self.load_state_dict(state)
        return getattr(new, name)

    def _changed_optimizer(self, value: Any) -> optim.Optimizer:
        old = self.optimizer
        if isinstance(value, dict):
            try:
                value = replace(old, **value)
            except TypeError as error:
                raise ConfigurationError(f"optimizer: {error}") from None
        if isinstance(old, optim.FTRLProximal) or type(value) is not type(old):
            raise ConfigurationError(
                f"optimizer: {old!r} may be changed to another of its class, which is not "
                f"FTRLProximal; not to {value!r:.80}"
            )
        if (getattr(old, "momentum", 0.0) > 0.0) != (getattr(value, "momentum", 0.0) > 0.0):
            raise ConfigurationError("optimizer: a momentum of 0 stays 0, for it has no velocity")
        return value

    # ---- the optimizer, between two samples

    def reset_optimizer(self) -> None:
        """Let the optimizer begin anew: its slots and its schedule; weights and pending stay.

        Examples
        --------
        >>> import streamfit as sf
        >>> model = sf.LinearRegression(sf.optim.AdaGrad(0.5))
        >>> for _ in range(100):
        ...     model.learn_one({"x": 1.0}, 1.0)
        >>> model.reset_optimizer()
        >>> model.state_dict()["slot_1"], model.n_updates
        (array([0., 0.]), 100)
        """
        self.load_state_dict(with_fresh_optimizer(self.state_dict(), self.optimizer))

    @property
    def learning_rate_factor(self) -> float:
        """What the learning rate of the optimizer is multiplied by at present, usually 1."""
        return float(self.state().get("lr_factor", 1.0))

    def set_learning_rate_factor(self, factor: float) -> None:
        """Multiply the learning rate by `factor` (not by the one before as well) from now on.

        It is part of the state. The rate of the intercept (`intercept_lr`) is multiplied too.

        Raises
        ------
        UnsupportedError
            For `FTRLProximal`, whose `alpha` is in all that it has summed up.
        """
        factor = check_real("factor", factor, positive=True)
        if isinstance(self.optimizer, optim.FTRLProximal):
            raise UnsupportedError(
                "FTRLProximal has no learning rate that may change: its alpha is in all that it "
                "has summed up; reset_optimizer() it, or take another optimizer"
            )
        state = self.state_dict()
        state.pop("lr_factor", None)
        self.load_state_dict(state if factor == 1.0 else {**state, "lr_factor": factor})

    # ---- what is known

    @property
    def classes(self) -> list[Label] | None:
        """The classes so far, in the order in which they came; None where there are none."""
        return None if self._classes is None else list(self._classes)

    @property
    def gradient_noise(self) -> GradientNoise | None:
        """The measured gradient noise scale; None where `noise_scale` is off."""
        if self.noise_scale is None:
            return None
        state = self.state()
        return moments_of(state["n_measured"], state["noise"]).gradient_noise()

    @property
    def weights(self) -> Any:
        """The weight of each feature; of each hashed column that has one."""
        return self._weights_of(self._values()[1:])

    @property
    def intercept(self) -> Any:
        """The intercept."""
        return float(self._values()[0])

    def _values(self) -> npt.NDArray[Any]:
        """Return intercepts and weights as float64, the scale of the weights multiplied in."""
        state = self.state()
        values: npt.NDArray[Any] = state["parameters"].astype(np.float64)
        values[..., 1:] *= state["weight_scale"]
        return values

    def _weights_of(self, values: npt.NDArray[Any]) -> dict[FeatureName, float]:
        if self.hashing is not None:
            used = np.flatnonzero(values)
            return dict(zip(used.tolist(), values[used].tolist(), strict=True))
        return dict(zip(self.index.names, values.tolist(), strict=True))

    # ---- state

    def state_dict(self) -> StateDict:
        """Return everything that learning depends on, as arrays and JSON-safe values.

        `parameters`, the optimizer's slots and the pending `gradient` have the model's dtype and
        shape (1 + n_features,), the intercept first; with classes (n_classes, 1 + n_features).
        Weights are `weight_scale` times `parameters`.
        """
        names = list(self.index.names) if self.hashing is None else []
        state = {**self.state(), "features": names}
        return state if self._classes is None else {**state, "classes": list(self._classes)}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from `state`, which a learner of the same configuration returned.

        Raises
        ------
        CheckpointMismatchError
            When the state does not fit; nothing has changed then.
        """
        names = state.get("features") if isinstance(state, dict) else None
        if not isinstance(names, list):
            raise CheckpointMismatchError("the state has no list of features")
        known = self.features.names if isinstance(self.features, FeatureIndex) else []
        if names[: len(known)] != known or (self.hashing is not None and names):
            raise CheckpointMismatchError(f"the state's features do not begin with {known!r:.80}")
        try:
            index = self.index.copy(names)
        except ConfigurationError as error:
            raise CheckpointMismatchError(f"the state's features are refused: {error}") from None
        classes = check_state(self, state)
        self._load_state(state, index, classes)

    def digest(self) -> str:
        """Return the SHA-256 of parameters, optimizer state, counters and pending sums.

        Two learners with equal digests hold the same numbers, bit for bit (0.0 and -0.0 are
        the same number). Names of features and classes do not enter, nor does the configuration.
        """
        return digest_of(self.state())

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments in JSON-safe form."""
        return {
            "id": type(self).__name__,
            "optimizer": self.optimizer.get_config(),
            "loss": self.loss.get_config(),
            "batch_size": self._batch_size_config(),
            "reduction": self.reduction,
            "l2": self.l2,
            "l1": self.l1,
            "fit_intercept": self.fit_intercept,
            "intercept_lr": self.intercept_lr,
            "clip_gradient": self.clip_gradient,
            "features": features_config(self.features),
            "scaler": None if self.scaler is None else self.scaler.get_config(),
            "dtype": self.dtype,
            "max_weight": self.max_weight,
            "noise_scale": None if self.noise_scale is None else self.noise_scale.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a fresh learner from what `get_config` returned.

        Raises
        ------
        ConfigurationError
            When the configuration is another class's or holds unknown entries.
        """
        if not isinstance(config, dict):
            raise ConfigurationError(f"not a configuration of {cls.__name__}: {config!r:.80}")
        options = dict(config)
        kind = options.pop("id", None)
        if kind != cls.__name__:
            raise ConfigurationError(f"the configuration is of {kind!r}, not {cls.__name__}")
        try:
            options["optimizer"] = optim.from_config(options["optimizer"])
            options["loss"] = losses.from_config(options["loss"])
            options["batch_size"] = schedules.batch_size_from_config(options["batch_size"])
            options["features"] = features_from_config(options["features"])
            options["scaler"] = scaler_from_config(options["scaler"])
            options["noise_scale"] = noise_scale_from_config(options.get("noise_scale"))
            return cls(**options)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"not a configuration of {cls.__name__}: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.get_config(), self.state_dict())


def _rebuild(kind: type[LinearModel], config: dict[str, Any], state: dict[str, Any]) -> LinearModel:
    """Make a copy of a learner (for `copy.deepcopy` and pickle)."""
    learner = kind.from_config(config)
    learner.load_state_dict(state)
    return learner
