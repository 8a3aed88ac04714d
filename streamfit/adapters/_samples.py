"""Samples as what a Keras model takes: an array for each input, and the label for its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from streamfit.adapters._rows import MicroBatch, as_label, as_weight
from streamfit.errors import BadSampleError, shown
from streamfit.types import Block, FeatureName

if TYPE_CHECKING:
    from streamfit.adapters._keras_model import KerasModel

__all__ = ["SampleReader"]


class SampleReader:
    """Reads samples for a model.

    Parameters
    ----------
    keras
        The model: its inputs, its output, and what its loss takes.
    classes
        Labels of a classifier, in the order of the outputs; None: labels are numbers or arrays.
    """

    def __init__(self, keras: KerasModel, classes: list[Any] | None) -> None:
        self._keras, self._classes = keras, classes

    def read(self, x: Any, names: Sequence[FeatureName] | None = None) -> list[npt.NDArray[Any]]:
        """Return an array for each input; `names` are those of the last axis of an array.

        Raises
        ------
        BadSampleError
            When an input does not fit.
        """
        inputs = self._keras.inputs
        if len(inputs) == 1:
            return [spec.read(x, names) for spec in inputs.values()]
        if not isinstance(x, Mapping) or not inputs.keys() <= x.keys():
            raise BadSampleError(f"not a mapping of the model's inputs {list(inputs)}")
        return [spec.read(x[name]) for name, spec in inputs.items()]

    def label(self, y: Any) -> npt.NDArray[Any]:
        """Return the label as the loss takes it.

        Raises
        ------
        BadSampleError
            When it is no label of this model.
        """
        if self._classes is None:
            label, output = as_label(y), self._keras.output
            if label.shape not in ((), output, output[:-1]):
                raise BadSampleError(
                    f"label of shape {label.shape}, the model's output has {output}"
                )
            return np.asarray(label[0]) if label.shape == (1,) else label
        try:
            k = self._classes.index(y)
        except ValueError:
            raise BadSampleError(f"label {shown(y)} is not one of {self._classes}") from None
        if self._keras.wants_one_hot:
            return np.asarray(np.eye(len(self._classes), dtype=np.float32)[k])
        return np.asarray(k)

    def take(self, into: MicroBatch, block: Block, i: int) -> None:
        """Add sample `i` of a block to a micro-batch."""
        x, y = self.read(block.x[i], block.features), self.label(block.y[i])
        into.take(x, y, 1.0 if block.w is None else as_weight(block.w[i]))

    def rows(self, block: Block) -> MicroBatch:
        """Return all samples of a block.

        Raises
        ------
        BadSampleError
            At the first sample that the model does not take.
        """
        rows = MicroBatch(list(self._keras.inputs.values()))
        for i in range(len(block)):
            self.take(rows, block, i)
        return rows
