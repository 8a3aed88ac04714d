"""How often something is done that must not cost much of the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Pace"]


class Pace:
    """Says when it is time again for something, by what it cost the last time.

    Parameters
    ----------
    every
        Seconds from one time to the next, at least.
    share
        The share of all time that it may take: what took a second is done every hundred at 0.01.

    Examples
    --------
    >>> from streamfit.serving.pace import Pace
    >>> pace = Pace(every=60.0)
    >>> pace.due()
    True
    >>> with pace.timed():
    ...     pass
    >>> pace.due()
    False
    """

    def __init__(self, every: float, share: float = 0.01) -> None:
        self._every = every
        self._share = share
        self._next = 0.0

    def due(self) -> bool:
        """Say whether it is time."""
        return time.monotonic() >= self._next

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Do it, and count the time until the next from here."""
        began = time.monotonic()
        try:
            yield
        finally:
            now = time.monotonic()
            self._next = now + max(self._every, (now - began) / self._share)
