"""An object's state as plain JSON, and back into an object of the same class: no pickle.

Objects are taken apart as pickle does it, but what may come out again is a short list: numbers,
texts, bytes, containers, random generators, methods of the object itself, and instances of
classes in the packages that the caller names. Reading calls nothing else, whatever a file says.
"""

from __future__ import annotations

import base64
import copyreg
import importlib
import random
import types
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from streamfit.errors import CheckpointMismatchError, UnsupportedError

__all__ = ["from_plain", "to_plain"]

_CONTAINERS: dict[str, type[Any]] = {kind.__name__: kind for kind in (list, tuple, set, deque)}

_Seen: TypeAlias = dict[int, tuple[int, Any]]
"""The number of each object by its id, with the object, so that its id is not used again."""


def to_plain(root: Any, packages: Sequence[str]) -> Any:
    """Return the attributes of `root`, JSON-safe.

    Parameters
    ----------
    root
        The object.
    packages
        Where the classes of what it consists of may come from.

    Raises
    ------
    UnsupportedError
        When it holds something else.

    Examples
    --------
    >>> from river import drift
    >>> from streamfit._plain_state import from_plain, to_plain
    >>> detector, other = drift.PageHinkley(), drift.PageHinkley()
    >>> detector.update(1.0)
    >>> from_plain(other, to_plain(detector, ["river"]), ["river"])
    >>> vars(other)["_x_mean"].get()
    1.0
    """
    seen = {id(root): (0, root)}
    return {name: _plain(value, root, packages, seen) for name, value in vars(root).items()}


def _plain(  # noqa: PLR0911 (a case each)
    value: Any, root: Any, packages: Sequence[str], seen: _Seen
) -> Any:
    def inside(part: Any) -> Any:
        return _plain(part, root, packages, seen)

    kind = type(value)
    if isinstance(value, np.generic):
        return inside(value.item())
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode("ascii")}
    if kind is types.MethodType and value.__self__ is root:
        return {"method": value.__name__}
    if id(value) in seen:
        return {"again": seen[id(value)][0]}
    if kind is not tuple:
        seen[id(value)] = (len(seen), value)
    if kind is dict:
        return {"dict": [[inside(key), inside(item)] for key, item in value.items()]}
    if kind.__name__ in _CONTAINERS and kind is _CONTAINERS[kind.__name__]:
        parts = {kind.__name__: [inside(item) for item in value]}
        return {**parts, "maxlen": value.maxlen} if kind is deque else parts
    if kind is random.Random:
        return {"random": inside(value.getstate())}
    if _is_allowed(kind.__module__, packages):
        made_by, arguments, state, *more = (*value.__reduce_ex__(4), None, None, None)[:5]
        if made_by is copyreg.__newobj__ and more == [None, None]:  # type: ignore[attr-defined]
            return {
                "object": [kind.__module__, kind.__qualname__],
                "arguments": [inside(argument) for argument in arguments[1:]],
                "state": inside(state),
            }
    raise UnsupportedError(
        f"a {type(root).__name__} cannot be saved without pickle: it holds a {kind.__qualname__}"
    )


def from_plain(root: Any, state: Any, packages: Sequence[str]) -> None:
    """Give `root` the attributes that `to_plain` returned of another object of its class.

    Raises
    ------
    CheckpointMismatchError
        When that is not what `state` is; nothing has changed then.
    """
    seen: list[Any] = [root]
    try:
        attributes = {
            name: _value(value, root, packages, seen) for name, value in dict(state).items()
        }
        if attributes.keys() != vars(root).keys():
            raise ValueError(f"it has {sorted(attributes)}, not {sorted(vars(root))}")
    except Exception as error:  # whatever a class makes of a state that is not its own
        raise CheckpointMismatchError(
            f"not the state of a {type(root).__name__} of this version: {error}"
        ) from error
    vars(root).update(attributes)


def _value(  # noqa: PLR0911, PLR0912 (a case each)
    plain: Any, root: Any, packages: Sequence[str], seen: list[Any]
) -> Any:
    def inside(part: Any) -> Any:
        return _value(part, root, packages, seen)

    def new(empty: Any) -> Any:  # numbered before what is in it, as `_plain` does
        seen.append(empty)
        return empty

    match plain:
        case None | bool() | int() | float() | str():
            return plain
        case {"bytes": text}:
            return base64.b64decode(text, validate=True)
        case {"method": str(name)} if not name.startswith("__"):
            return types.MethodType(getattr(type(root), name), root)
        case {"again": int(k)}:
            return seen[k]
        case {"dict": entries}:
            made = new({})
            made.update((inside(key), inside(item)) for key, item in entries)
            return made
        case {"list": items}:
            made = new([])
            made.extend(map(inside, items))
            return made
        case {"tuple": items}:
            return tuple(map(inside, items))
        case {"set": items}:
            made = new(set())
            made.update(map(inside, items))
            return made
        case {"deque": items, "maxlen": maxlen}:
            made = new(deque(maxlen=maxlen))
            made.extend(map(inside, items))
            return made
        case {"random": value}:
            made = new(random.Random())
            made.setstate(inside(value))
            return made
        case {"object": [str(module), str(name)], "arguments": arguments, "state": value}:
            if not _is_allowed(module, packages):
                raise ValueError(f"{module} is not in {packages}")
            kind = getattr(importlib.import_module(module), name)
            if not isinstance(kind, type) or kind.__module__ != module:
                raise ValueError(f"{module}.{name} is no class of that module")
            k = len(seen)
            seen.append(None)
            made = seen[k] = kind.__new__(kind, *map(inside, arguments))
            _set_state(made, inside(value))
            return made
    raise ValueError(f"{plain!r:.80} is no plain value")


def _set_state(made: Any, state: Any) -> None:
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if hasattr(made, "__setstate__"):
        try:
            made.__setstate__(state)
        except BaseException as error:
            if type(error).__name__ != "PanicException":
                raise
            raise ValueError(str(error)) from None  # Rust's, which no `except Exception` catches
    elif state is not None:
        made.__dict__.update(attributes or {})
        for name, value in (slots or {}).items():
            setattr(made, name, value)


def _is_allowed(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
