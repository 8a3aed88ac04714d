"""What may be done to a model between two samples, by name: the actions of the journal.

An action calls the learner's method of that name, with the action's parameters as keyword
arguments. It must be a function of model and parameters alone, for a replay does it again.
`drift` does nothing: it says in the journal that and why something may follow. So does
`batch_size`: the size that a schedule had arrived at, which a replay arrives at by itself.

`shares` says that from here on several shares train, which partition belongs to which of them, and
how they are put together; `average`, that the models of all shares are averaged here. They are
done by `streamfit.verification`, for they are about more than one model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamfit.errors import CheckpointMismatchError, ConfigurationError
from streamfit.types import Action, Learner

__all__ = ["ACTIONS", "apply", "check_able"]

ACTIONS = (
    *("drift", "reset_optimizer", "set_learning_rate_factor", "batch_size"),
    *("shares", "average"),
)
"""The names; only append. Two are methods of a learner, `reset_optimizer` and the one after it."""
_TOLD = ("drift", "batch_size", "shares", "average")


def apply(action: Action, model: Learner) -> None:
    """Do it.

    Raises
    ------
    CheckpointMismatchError
        When there is no such action, or the model refuses it: the journal of another version.

    Examples
    --------
    >>> import streamfit as sf
    >>> from streamfit.actions import apply
    >>> model = sf.LinearRegression(sf.optim.SGD(0.1))
    >>> apply(sf.types.Action("set_learning_rate_factor", {"factor": 5.0}), model)
    >>> model.learning_rate_factor
    5.0
    """
    method = None if action.name in _TOLD else _method(action.name, model)
    if method is not None:
        try:
            method(**action.parameters)
        except TypeError as error:
            raise CheckpointMismatchError(f"the action {action} is refused: {error}") from error


def check_able(name: str, model: Learner) -> None:
    """Raise `ConfigurationError` unless the model can do what is named."""
    try:
        _method(name, model)
    except CheckpointMismatchError as error:
        raise ConfigurationError(str(error)) from None


def _method(name: str, model: Learner) -> Callable[..., Any]:
    method: Callable[..., Any] | None = getattr(model, name, None) if name in ACTIONS else None
    if method is None or not callable(method):
        raise CheckpointMismatchError(f"a {type(model).__name__} cannot {name}")
    return method
