"""SIGTERM and Ctrl-C as a request to stop, not as an accident."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["StopRequest", "Stopped"]


class Stopped(BaseException):
    """Raised inside a wait that only the next sample would end."""


class StopRequest:
    """Notices SIGTERM and SIGINT for as long as its `installed` context lasts.

    The first signal sets `signal_name`, and the run ends at the next safe place. If at that moment
    the run is inside `waiting`, where it would not notice, `Stopped` is raised there. A
    second signal raises KeyboardInterrupt at once, as if nobody had listened.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._interruptible = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to the signals; does nothing outside the main thread, where Python cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in before:
            signal.signal(number, self._notice)
        try:
            yield
        finally:
            for number, handler in before.items():
                # None: a handler that was not installed from Python and cannot be put back
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark a wait for a source that never looks up."""
        self._interruptible = True
        try:
            if self.signal_name is not None:
                raise Stopped
            yield
        finally:
            self._interruptible = False

    def _notice(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name is not None:
            raise KeyboardInterrupt(f"second signal, {signal.Signals(number).name}")
        self.signal_name = signal.Signals(number).name
        if self._interruptible:
            raise Stopped
