"""Which fields of a record are the label, the weight and the features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamfit.errors import ConfigurationError, DecodeError

__all__ = ["Fields", "bound", "kind_of"]


class Fields:
    """The roles of a record's fields, as every decoder takes them.

    Parameters
    ----------
    target
        The label: a number, a boolean, or a string (a class name).
    weight
        The sample's weight, if there is one.
    features
        The fields to keep; None: all the others.
    labelled
        False: for predicting. Label and weight are left out of the features, if they are there,
        and not looked at; `target` may then be None.
    """

    def __init__(
        self,
        target: str | None,
        weight: str | None = None,
        features: Iterable[str] | None = None,
        labelled: bool = True,
    ) -> None:
        self.target = "" if target is None and not labelled else _field_name("target", target)
        self.labelled = labelled
        self.weight = None if weight is None else _field_name("weight", weight)
        self.features = None if features is None else _feature_names(features)
        used = [self.target, *([] if weight is None else [weight]), *(self.features or ())]
        if len(used) != len(set(used)):
            raise ConfigurationError("target, weight and features must all be different fields")

    def __str__(self) -> str:
        return f"{self.target!r}, weight={self.weight!r}, features={self.features!r}"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, JSON-safe."""
        features = None if self.features is None else list(self.features)
        unlabelled = {} if self.labelled else {"labelled": False}
        return {"target": self.target, "weight": self.weight, "features": features, **unlabelled}

    def split(self, x: dict[str, Any]) -> tuple[dict[str, Any], Any, float | None]:
        """Take a record apart into `(x, y, w)`; the dict becomes that of the features."""
        if self.labelled:
            y = _pop(x, "target", self.target, (int, float, str))
            w = None if self.weight is None else _pop(x, "weight", self.weight, (int, float))
        else:
            y = w = None
            x.pop(self.target, None)
            x.pop(self.weight or "", None)
        if self.features is not None:
            x = {name: x[name] for name in self.features if name in x}
        return x, y, w


def _pop(x: dict[str, Any], role: str, name: str, kinds: tuple[type, ...]) -> Any:
    try:
        value = x.pop(name)
    except KeyError:
        raise DecodeError(f"{role} {name!r} is missing") from None
    if not isinstance(value, kinds):
        raise DecodeError(f"{role} {name!r} is {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """Say what a decoded value is."""
    kinds = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return kinds.get(type(value), "a number")


def _field_name(argument: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{argument} must be the name of a field, not {name!r}")
    return name


def _feature_names(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ConfigurationError(f"features must be several names of fields, not {names!r}")
    return tuple(_field_name("features", name) for name in names)


def bound(argument: str, value: object) -> int:
    """Return a bound of a decoder's, checked."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{argument} must be an integer >= 1, not {value!r}")
    return value
