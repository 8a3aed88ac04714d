"""What a learner needs of a Keras model; the one module that imports Keras."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from streamfit.adapters._rows import ArraySpec
from streamfit.errors import (
    CheckpointMismatchError,
    ConfigurationError,
    MissingDependencyError,
    UnsupportedError,
    shown,
)
from streamfit.types import FeatureName, FloatArray

try:
    import keras
except ImportError as error:
    raise MissingDependencyError(
        "sf.adapters.KerasLearner needs Keras and the backend that KERAS_BACKEND names: "
        f'pip install "streamfit[keras]" jax ({error})'
    ) from error

__all__ = ["KerasModel"]

_ROWS = 64  # of one forward pass, always that many: each new size is compiled anew

_IGNORED = ("name", "build_config")

Array = npt.NDArray[Any]


class KerasModel:
    """A compiled Keras model with fixed shapes: variables, one step, outputs, losses.

    Parameters
    ----------
    model
        The model.
    features
        Names along the last axis of each input.

    Raises
    ------
    ConfigurationError
        When the model is not compiled, or a shape is not known.
    """

    def __init__(self, model: Any, features: tuple[FeatureName, ...] | None) -> None:
        if not isinstance(model, keras.Model):
            raise ConfigurationError(f"model must be a Keras model, not {shown(model)}")
        if not model.compiled or model.optimizer is None:
            raise ConfigurationError("the Keras model is not compiled: call model.compile first")
        if not getattr(model, "inputs", None) or len(model.outputs) != 1:
            raise ConfigurationError(
                "the Keras model must be Sequential or Functional with known inputs and one "
                "output; give a Sequential model a keras.Input as its first layer"
            )
        self.model = model
        self.inputs = {tensor.name: _spec(tensor, features) for tensor in model.inputs}
        self.output: tuple[int, ...] = tuple(model.outputs[0].shape[1:])
        model.optimizer.build(model.trainable_variables)
        self._loss = _loss_of_each(model.loss)

    # ---- variables

    def variables(self, copied: bool = True) -> dict[str, Array]:
        """Return the variables of model and optimizer, the seeds of dropout included."""
        kinds = {"model": self.model.variables, "optimizer": self.model.optimizer.variables}
        read = np.array if copied else np.asarray
        return {
            f"{kind}_{i:04d}": read(keras.ops.convert_to_numpy(variable.value))
            for kind, variables in kinds.items()
            for i, variable in enumerate(variables)
        }

    def check(self, values: Mapping[str, Any]) -> None:
        """Refuse values that are not of the kinds that `variables` returns."""
        for name, value in self.variables(copied=False).items():
            found = values.get(name)
            kind = (value.shape, value.dtype)
            if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != kind:
                raise CheckpointMismatchError(f"the state's {name} does not fit: {shown(found)}")

    def assign(self, values: Mapping[str, Array]) -> None:
        """Set the variables to what `variables` returned."""
        for i, variable in enumerate(self.model.variables):
            variable.assign(values[f"model_{i:04d}"])
        for i, variable in enumerate(self.model.optimizer.variables):
            variable.assign(values[f"optimizer_{i:04d}"])

    def update(self, x: list[Array], y: Array, w: Array | None) -> bool:
        """Make one step; take it back and return False if a variable becomes non-finite."""
        before = self.variables()
        try:
            self.model.train_on_batch(_as_input(x), y, w)
        except BaseException:
            self.assign(before)
            raise
        finite = all(np.isfinite(v).all() for v in self.variables(copied=False).values())
        if not finite:
            self.assign(before)
        return finite

    def gradients(self, parts: Iterable[tuple[list[Array], Array, Array]]) -> list[FloatArray]:
        """Return the gradient of each part's weighted mean loss; nothing changes by it.

        Layers act as in training, and draw anew for each part. Their penalties are no part of it.

        Parameters
        ----------
        parts
            Rows (an array for each input), labels and weights.
        """
        before = self.variables()
        kept, found = self._probe.optimizer.gradients, []
        try:
            for x, y, w in parts:
                self._probe.train_on_batch(_as_input(x), y, w)
                each = [np.ravel(keras.ops.convert_to_numpy(g.value)) for g in kept]
                found.append(np.concatenate(each).astype(np.float64))
        finally:
            self.assign(before)
        return found

    @cached_property
    def _probe(self) -> Any:
        """The same layers and variables, behind an optimizer that makes no step."""
        probe = _Probe(self.model.inputs, self.model.outputs)
        probe.loss_of_each = self._loss
        optimizer = _KeptGradient()
        optimizer.build(probe.trainable_variables)
        probe.compile(optimizer, run_eagerly=self.model.run_eagerly, auto_scale_loss=False)
        return probe

    @contextmanager
    def learning_rate_times(self, fraction: float) -> Iterator[None]:
        """Let the learning rate be a fraction of itself for a moment."""
        optimizer = self.model.optimizer
        if not isinstance(optimizer.get_config()["learning_rate"], float):
            raise UnsupportedError(
                'last_batch="scale" needs a learning rate that is a number, not a schedule'
            )
        rate = np.array(keras.ops.convert_to_numpy(optimizer.learning_rate.value))
        optimizer.learning_rate = rate * fraction
        try:
            yield
        finally:
            optimizer.learning_rate = rate

    # ---- outputs

    def outputs(self, x: list[Array], batch_size: int | None) -> Array:
        """Return the outputs of rows, from passes of one size."""
        size = min(_ROWS, batch_size or _ROWS)
        parts = []
        for start in range(0, len(x[0]), size):
            chunk = [rows[start : start + size] for rows in x]
            n = len(chunk[0])
            padded = [
                np.concatenate([rows, np.zeros((size - n, *rows.shape[1:]), rows.dtype)])
                for rows in chunk
            ]
            parts.append(np.asarray(self.model.predict_on_batch(_as_input(padded)))[:n])
        return np.concatenate(parts)

    @property
    def has_loss(self) -> bool:
        """Whether the loss of a single sample can be told."""
        return self._loss is not None

    def losses(self, y: Array, outputs: Array) -> npt.NDArray[np.float64]:
        """Return the loss of each sample."""
        y = y.reshape(outputs.shape) if y.size == outputs.size else y
        each = np.asarray(keras.ops.convert_to_numpy(self._loss(y, outputs)), dtype=np.float64)
        losses: npt.NDArray[np.float64] = each.reshape(len(outputs), -1).mean(axis=1)
        return losses

    def probabilities(self, output: Array) -> FloatArray:
        """Return the probability of each class that one output means."""
        options = self.model.loss.get_config() if hasattr(self.model.loss, "get_config") else {}
        logits = bool(options.get("from_logits", False))
        p: FloatArray = output.astype(np.float64).ravel()
        if p.size == 1:  # of the second class; as a logit, against a logit of 0
            p = np.array([0.0 if logits else 1.0 - p[0], p[0]])
        if logits:
            p = np.exp(p - p.max())
            p /= p.sum()
        return p

    @property
    def wants_one_hot(self) -> bool:
        """Whether the loss takes a label as a row of zeros and a one, not as a number."""
        loss = keras.losses.get(self.model.loss)
        name = getattr(getattr(loss, "fn", loss), "__name__", "")
        return self.output not in ((), (1,)) and not name.startswith("sparse_")

    def get_config(self) -> dict[str, Any]:
        """Describe the model. Layers are numbered: Keras names them by how many it has made."""
        names = {layer.name: f"layer {i}" for i, layer in enumerate(self.model.layers)}
        names[self.model.name] = "model"

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {k: plain(v) for k, v in value.items() if k not in _IGNORED}
            if isinstance(value, list):
                return [plain(v) for v in value]
            return names.get(value, value) if isinstance(value, str) else value

        try:
            described = json.loads(self.model.to_json())
            layers = {name: described.get(name) for name in ("class_name", "config")}
            architecture = json.dumps(plain(layers), sort_keys=True)
            compiled = json.loads(json.dumps(plain(self.model.get_compile_config())))
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ConfigurationError(f"the Keras model cannot describe itself: {error}") from None
        return {
            "architecture": hashlib.sha256(architecture.encode()).hexdigest(),
            **{name: compiled.get(name) for name in ("optimizer", "loss", "loss_weights")},
        }


class _Probe(keras.Model):  # type: ignore[misc]
    """A model whose loss is the weighted mean of the samples' losses, whatever the reduction."""

    loss_of_each: Any = None

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:  # fmt: skip
        ops = keras.ops
        output = y_pred[0] if isinstance(y_pred, list) else y_pred
        if math.prod(y.shape[1:]) == math.prod(output.shape[1:]):
            y = ops.reshape(y, ops.shape(output))  # labels of one number, outputs of shape (1,)
        each = self.loss_of_each(y, output)
        each = ops.mean(ops.reshape(each, (ops.shape(each)[0], -1)), axis=1)
        w = ops.cast(sample_weight, each.dtype)
        return ops.sum(w * each) / ops.sum(w)


class _KeptGradient(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Keeps the gradient where others make a step."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)

    def build(self, variables: list[Any]) -> None:
        super().build(variables)
        self.gradients = [self.add_variable_from_reference(v, name="gradient") for v in variables]

    def apply(self, grads: list[Any], trainable_variables: Any = None) -> None:
        for kept, gradient in zip(self.gradients, grads, strict=True):
            dense = keras.ops.convert_to_tensor(gradient)
            self.assign(kept, keras.ops.cast(dense, kept.dtype))


def _as_input(x: list[Array]) -> Any:
    return x[0] if len(x) == 1 else x


def _spec(tensor: Any, features: tuple[FeatureName, ...] | None) -> ArraySpec:
    shape = tuple(tensor.shape[1:])
    if None in shape:
        raise ConfigurationError(
            f"the input {tensor.name!r} has an open shape, {shape}; fix it (to the size of a "
            "window, say), because the samples of a micro-batch are stacked"
        )
    if features is not None and (not shape or shape[-1] != len(features)):
        raise ConfigurationError(
            f"{len(features)} features, the input {tensor.name!r} has the shape {shape}"
        )
    return ArraySpec(shape, str(tensor.dtype), features)


def _loss_of_each(loss: Any) -> Any:
    """Return a loss that is not reduced over the samples; None when there is no single loss."""
    try:
        loss = keras.losses.get(loss)
    except (TypeError, ValueError):
        return None
    function = getattr(loss, "call", loss)
    if not callable(function):
        return None

    class OfEach(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return function(y_true, y_pred)

    return OfEach(reduction=None)
