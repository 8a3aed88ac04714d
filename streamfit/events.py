"""Log lines for people and programs: `event=name key=value ...`, one line an event.

What may happen to every sample is never told one by one; see `Repeated`. docs/operations.md lists
the events and what to do about each.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping

__all__ = ["Repeated", "event"]

_BARE = re.compile(r"[\w.:/@%+-]+", re.ASCII)
_MAX_CHARACTERS = 500


def event(name: str, /, **fields: object) -> str:
    r"""Return one log line.

    Values with anything but letters, digits and `. : / @ % + -` in them are quoted as JSON
    strings, so that a line stays one line whatever a message holds.

    Examples
    --------
    >>> from streamfit.events import event
    >>> print(event("resumed", samples=1200, position={"clicks:0": 1234}))
    event=resumed samples=1200 position="clicks:0=1234"
    >>> print(event("halted", message="no such file:\n'x'"))
    event=halted message="no such file:\n'x'"
    """
    return " ".join([f"event={name}", *(f"{key}={_told(value)}" for key, value in fields.items())])


def _told(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        value = ",".join(f"{key}={item}" for key, item in value.items())
    text = str(value)
    if len(text) > _MAX_CHARACTERS:
        text = f"{text[: _MAX_CHARACTERS - 3]}..."
    return text if _BARE.fullmatch(text) else json.dumps(text)


class Repeated:
    """An event that may come in a storm: told when it first comes, then summed up.

    A line says how often the event came since the line before (`n`) and in all (`total`), and
    what the last one was.

    Parameters
    ----------
    log
        Where to write, as a warning.
    name
        The event.
    seconds
        Time between two lines at least.

    Examples
    --------
    >>> import logging
    >>> from streamfit.events import Repeated
    >>> bad = Repeated(logging.getLogger("example"), "bad_samples")
    >>> for offset in range(1000):
    ...     bad.happened(offset=offset)
    >>> bad.close()  # two lines: n=1 total=1 offset=0, and n=999 total=1000 offset=999
    """

    def __init__(self, log: logging.Logger, name: str, seconds: float = 10.0) -> None:
        self.total = 0
        self._log = log
        self._name = name
        self._seconds = seconds
        self._told = 0
        self._next = 0.0
        self._fields: dict[str, object] = {}

    def happened(self, n: int = 1, **fields: object) -> None:
        """Count `n` of them, and tell if none was told for a while."""
        self.total += n
        self._fields = fields
        if time.monotonic() >= self._next:
            self.close()

    def close(self) -> None:
        """Tell what has not been told yet."""
        if self.total > self._told:
            n = self.total - self._told
            self._log.warning(event(self._name, n=n, total=self.total, **self._fields))
            self._told = self.total
            self._next = time.monotonic() + self._seconds
