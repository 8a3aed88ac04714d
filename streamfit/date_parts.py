"""Parts of a date as numbers; the one transformer that neither River nor scikit-learn has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from river import base

from streamfit.core.validation import check_choice
from streamfit.errors import BadSampleError, ConfigurationError, shown
from streamfit.types import FeatureName

__all__ = ["DateParts"]

_PARTS: dict[str, Callable[[datetime], int]] = {
    "year": lambda t: t.year,
    "month": lambda t: t.month,
    "day": lambda t: t.day,
    "weekday": lambda t: t.weekday(),
    "hour": lambda t: t.hour,
    "minute": lambda t: t.minute,
    "second": lambda t: t.second,
    "weekend": lambda t: int(t.weekday() >= 5),
}


class DateParts(base.Transformer):
    """Replace a date by parts of it, as numbers; a River transformer.

    Parameters
    ----------
    on
        The feature: a text in ISO 8601, a `datetime`, or a number, which is seconds since 1970 in
        UTC. A text without an offset is taken as it stands, one with an offset too.
    parts
        Of `"year"`, `"month"`, `"day"`, `"weekday"` (Monday is 0), `"weekend"`, `"hour"`,
        `"minute"` and `"second"`. To make categories of them, let a one-hot encoder follow.

    Examples
    --------
    >>> import streamfit as sf
    >>> parts = sf.DateParts(on="time", parts=["weekday", "hour"])
    >>> parts.transform_one({"time": "2013-01-05T17:45:00", "delay": 3.0})
    {'delay': 3.0, 'time_weekday': 5, 'time_hour': 17}
    """

    def __init__(
        self, on: FeatureName, parts: Iterable[str] = ("month", "weekday", "hour")
    ) -> None:
        self.on = on
        if isinstance(parts, str):
            raise ConfigurationError(f"parts must be several names, not {parts!r}")
        self.parts = [check_choice("parts", part, tuple(_PARTS)) for part in parts]

    def transform_one(self, x: dict[Any, Any]) -> dict[Any, Any]:
        """Return the sample with the parts in the place of the date.

        Raises
        ------
        BadSampleError
            When there is no date, or what is there is none.
        """
        rest = {name: value for name, value in x.items() if name != self.on}
        time = self._time(x.get(self.on))
        return {**rest, **{f"{self.on}_{part}": _PARTS[part](time) for part in self.parts}}

    def _time(self, value: Any) -> datetime:
        try:
            if isinstance(value, datetime):
                return value
            if isinstance(value, str):
                return datetime.fromisoformat(value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return datetime.fromtimestamp(value, UTC)
        except (ValueError, OverflowError, OSError):
            pass
        raise BadSampleError(f"{shown(value)} is no date", feature=self.on)
