"""An object's state as plain JSON, and back into an object of the same class: no pickle.

Objects are taken apart as pickle does it, but what may come out again is a short list: numbers,
texts, bytes, containers, random generators, and instances of classes in the packages that the
caller names. Reading calls nothing else, whatever a file says. Functions and classes are no state:
the object that is read into keeps its own.
"""

from __future__ import annotations

import base64
import copyreg
import functools
import importlib
import operator
import random
import re
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from streamfit.errors import CheckpointMismatchError, UnsupportedError

__all__ = ["from_plain", "to_plain"]

_ROWS: dict[str, type[Any]] = {kind.__name__: kind for kind in (list, set, frozenset, deque)}
_MAPPINGS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (dict, Counter, OrderedDict, defaultdict)
}
_KEPT = (
    *(type, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    *(types.MethodDescriptorType, np.ufunc),
    *(functools.partial, operator.itemgetter, operator.attrgetter, re.Pattern),
)

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
    own = vars(root)
    return {name: _plain(own[name], root, packages, seen) for name in _ordered(own)}


def _ordered(names: Iterable[str]) -> list[str]:
    """Return names in the order in which parts are numbered, whatever JSON makes of theirs.

    What a constructor was given comes before what was made of it and kept.
    """
    return sorted(names, key=lambda name: (name.startswith("_"), name))


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
    if isinstance(value, _KEPT):
        return {"kept": True}
    if id(value) in seen:
        return {"again": seen[id(value)][0]}
    if kind is tuple:
        return {"tuple": [inside(item) for item in value]}
    seen[id(value)] = (len(seen), value)
    if kind is _MAPPINGS.get(kind.__name__):
        return {kind.__name__: [[inside(key), inside(item)] for key, item in value.items()]}
    if kind is _ROWS.get(kind.__name__):
        parts = {kind.__name__: [inside(item) for item in value]}
        return {**parts, "maxlen": value.maxlen} if kind is deque else parts
    if kind is random.Random:
        return {"random": inside(value.getstate())}
    if kind is np.ndarray and value.dtype.kind in "fiub":
        content = base64.b64encode(value.tobytes()).decode("ascii")
        return {"array": content, "dtype": value.dtype.str, "shape": list(value.shape)}
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
    own = vars(root)
    seen: list[Any] = [root]
    try:
        if missing := own.keys() - state.keys():  # there may be more: results that were kept
            raise ValueError(f"it lacks {sorted(missing)}")
        attributes = {
            name: _value(state[name], own.get(name), packages, seen) for name in _ordered(state)
        }
    except Exception as error:  # whatever a class makes of a state that is not its own
        raise CheckpointMismatchError(
            f"not the state of a {type(root).__name__} of this version: {error}"
        ) from error
    own.update(attributes)


def _value(  # noqa: PLR0911, PLR0912, PLR0915 (a case each)
    plain: Any, own: Any, packages: Sequence[str], seen: list[Any]
) -> Any:
    """Make a value; `own` is what the object that is read into has in its place, if anything."""

    def inside(part: Any, own: Any = None) -> Any:
        return _value(part, own, packages, seen)

    made: Any
    match plain:
        case None | bool() | int() | float() | str():
            return plain
        case {"bytes": text}:
            return base64.b64decode(text, validate=True)
        case {"kept": True} if isinstance(own, _KEPT):
            return own
        case {"again": int(k)}:
            return seen[k]
        case {"tuple": items}:
            return tuple(map(inside, items, _like(own, items)))
        case {"random": value}:
            made = random.Random()
            seen.append(made)
            made.setstate(inside(value))
            return made
        case {"array": text, "dtype": str(dtype), "shape": shape}:
            content = base64.b64decode(text, validate=True)
            made = np.frombuffer(content, dtype=dtype).reshape(shape).copy()
            seen.append(made)
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
            of_own = getattr(own, "__dict__", None) if type(own) is kind else None
            _set_state(made, inside(value, of_own))
            for attribute, method in (of_own or {}).items():
                if isinstance(method, types.MethodType) and method.__self__ is own:
                    setattr(made, attribute, types.MethodType(method.__func__, made))
            return made
        case {"deque": items, "maxlen": maxlen}:
            made = deque(maxlen=maxlen)
            seen.append(made)
            made.extend(map(inside, items))
            return made
    match list(plain.items()):
        case [("frozenset", items)]:
            k = len(seen)
            seen.append(None)
            seen[k] = frozenset(map(inside, items))
            return seen[k]
        case [(str(name), items)] if name in _ROWS:
            made = _ROWS[name]()
            seen.append(made)
            for item, like in zip(items, _like(own, items), strict=True):
                made.append(inside(item, like)) if name == "list" else made.add(inside(item))
            return made
        case [(str(name), entries)] if name in _MAPPINGS:
            made = _MAPPINGS[name]()
            if name == "defaultdict":
                made.default_factory = own.default_factory
            seen.append(made)
            for entry in entries:
                key = inside(entry[0])
                made[key] = inside(entry[1], own.get(key) if isinstance(own, dict) else None)
            return made
    raise ValueError(f"{plain!r:.80} is no plain value")


def _like(own: Any, items: Sequence[Any]) -> Sequence[Any]:
    same = isinstance(own, list | tuple) and len(own) == len(items)
    return own if same else [None] * len(items)


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
