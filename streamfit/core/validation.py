"""Checks of constructor arguments, shared by learners, losses and optimizers."""

from __future__ import annotations

import math
import numbers

from streamfit.errors import ConfigurationError, shown

__all__ = ["check_choice", "check_flag", "check_integer", "check_real"]


def check_real(
    name: str,
    value: object,
    *,
    minimum: float = -math.inf,
    below: float = math.inf,
    positive: bool = False,
) -> float:
    """Return `value` as a finite float in [minimum, below), or > 0 with `positive`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigurationError(f"{name} must be a number, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < minimum or number >= below:
        bounds = f" >= {minimum}" if minimum > -math.inf else ""
        bounds += f" and < {below}" if below < math.inf else ""
        raise ConfigurationError(f"{name} must be a finite number{bounds}, not {value!r}")
    if positive and number <= 0:
        raise ConfigurationError(f"{name} must be > 0, not {value!r}")
    return number


def check_integer(name: str, value: object, *, minimum: int, maximum: int = 2**63 - 1) -> int:
    """Return `value` as an int in [minimum, maximum], which a 64-bit register holds."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ConfigurationError(f"{name} must be an integer >= {minimum}, not {value!r}")
    if maximum < 2**63 - 1 and int(value) > maximum:
        raise ConfigurationError(f"{name} must be an integer <= {maximum:,}, not {shown(value)}")
    if int(value) >= 2**63:
        raise ConfigurationError(f"{name} must be an integer < 2**63")
    return int(value)


def check_flag(name: str, value: object) -> bool:
    """Return `value`, which must be True or False."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")
    return value


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Return `value`, which must be one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ConfigurationError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value
