"""Which part of an object cannot be sent to another process: pickling says what, but not where."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from streamfit.errors import shown

__all__ = ["why_not_sendable"]

_MAX_DEPTH = 12


def why_not_sendable(name: str, value: object, dumps: Callable[[Any], object]) -> str:
    """Say in one line which part of a value cannot be pickled, and what to do.

    Parameters
    ----------
    name
        What the value is called in the message.
    value
        What cannot be pickled.
    dumps
        Pickles; raises anything.

    Examples
    --------
    >>> import pickle
    >>> from streamfit.distributed._sendable import why_not_sendable
    >>> numbers = {"squares": [1, (i * i for i in range(3))]}
    >>> why_not_sendable("numbers", numbers, pickle.dumps)  # doctest: +ELLIPSIS
    "numbers cannot be sent to a worker: numbers['squares'][1] is a generator (...); pass the ..."
    """
    path, part, error = name, value, _failure(value, dumps)
    seen = {id(value)}
    for _ in range(_MAX_DEPTH):
        for step, child in _parts(part):
            if id(child) not in seen and (failed := _failure(child, dumps)) is not None:
                seen.add(id(child))
                path, part, error = path + step, child, failed
                break
        else:
            break
    kind = type(part).__name__
    if isinstance(part, types.GeneratorType):
        advice = "pass the function that makes it, not the generator"
    else:
        advice = "let whatever reads the samples make it when it begins, in the worker"
    reason = str(error).partition("\n")[0]
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    return (
        f"{name} cannot be sent to a worker: {path} is {article} {kind} "
        f"({type(error).__name__}: {reason:.100}); {advice}"
    )


def _failure(value: object, dumps: Callable[[Any], object]) -> Exception | None:
    try:
        dumps(value)
    except Exception as error:  # whatever a `__reduce__` raises
        return error
    return None


def _parts(value: Any) -> Iterator[tuple[str, object]]:
    """Yield what a value is pickled with, and how to get there from it."""
    if isinstance(value, Mapping):
        yield from ((f"[{shown(key, 40)}]", child) for key, child in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{i}]", child) for i, child in enumerate(value))
    elif isinstance(value, types.FunctionType):
        code = value.__code__
        for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
            yield f", whose {name}", cell.cell_contents
        for name in code.co_names:
            if name in value.__globals__:
                yield f", whose {name}", value.__globals__[name]
        yield from ((", whose default", child) for child in value.__defaults__ or ())
    elif isinstance(value, types.MethodType):
        yield ", whose self", value.__self__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    else:
        yield from ((f".{name}", child) for name, child in getattr(value, "__dict__", {}).items())
