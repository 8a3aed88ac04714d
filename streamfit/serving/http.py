"""uvicorn, with bounds on what a connection may cost: slow, silent or many clients."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["http_server"]

_MAX_CONNECTIONS = 128  # each is a file descriptor of the training process
_quiet = logging.getLogger(f"{__name__}.requests")  # a line for each broken request is a storm
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def http_server(app: Any, timeout: float, stop_seconds: int) -> uvicorn.Server:
    """Make the server of an ASGI application.

    Parameters
    ----------
    app
        The application.
    timeout
        Seconds after which a connection that brings no request, or takes no answer, is closed;
        within twice as many it is gone.
    stop_seconds
        What answers may still take when the server stops.
    """

    class Patient(H11Protocol):
        """A connection that is looked at every `timeout` seconds."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.logger = self.access_logger = _quiet
            self.access_log = False  # a request may hold a token
            self._waiting_after: object = self  # the request after which it brought nothing
            self._unsent = 0
            self._next_look = self.loop.call_later(timeout, self._look)
            if len(self.connections) > _MAX_CONNECTIONS:
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            self._next_look.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            idle = self.cycle is None or self.cycle.response_complete
            unsent = self.transport.get_write_buffer_size()
            if (idle and self._waiting_after is self.cycle) or 0 < self._unsent <= unsent:
                self.transport.abort()
                return
            self._waiting_after = self.cycle if idle else self
            self._unsent = unsent
            self._next_look = self.loop.call_later(timeout, self._look)

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=Patient,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=stop_seconds,
        )
    )
