"""The web server: an address, a thread, and patience that ends."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

from streamfit.core.validation import check_integer, check_real
from streamfit.errors import ConfigurationError, MissingDependencyError, ServingError
from streamfit.events import event
from streamfit.serving.address import Address
from streamfit.serving.board import Board

__all__ = ["Server"]

_log = logging.getLogger(__name__)

_MIN_TOKEN = 16
_STOP_SECONDS = 1.0  # what answers may still take when the server closes


class Server:
    """Shows a board over HTTP, in a thread of its own.

    Parameters
    ----------
    board
        What is shown.
    address, token, max_body_bytes, timeout
        See `WebMonitor`.

    Raises
    ------
    ConfigurationError
        When an argument is refused.
    MissingDependencyError
        Without the `serve` extra.
    """

    def __init__(
        self, board: Board, address: str, *, token: str | None, max_body_bytes: int, timeout: float
    ) -> None:
        self.address = Address.parse(address)
        self.token = _check_token(token)
        if self.token is None and not self.address.is_local:
            raise ConfigurationError(
                f"{self.address} can be reached from other machines: give a token, or listen on "
                "127.0.0.1"
            )
        self.max_body_bytes = check_integer("max_body_bytes", max_body_bytes, minimum=1)
        self.timeout = check_real("timeout", timeout, positive=True)
        self.board = board
        self.closing = False
        self._thread: threading.Thread | None = None
        _check_installed()

    @property
    def url(self) -> str:
        """Where the page is; the port is known once the server listens."""
        return f"http://{self.address}/"

    def connections(self) -> int:
        """Count the clients that are connected."""
        return 0 if self._thread is None else len(self._server.server_state.connections)

    def open(self) -> None:
        """Listen, and answer in a thread.

        Raises
        ------
        ServingError
            When the address cannot be listened on.
        """
        from streamfit.serving.application import application
        from streamfit.serving.http import http_server

        listener = self._listen()
        self.address = Address(self.address.host, listener.getsockname()[1])
        self.closing = False
        server = http_server(application(self), self.timeout, stop_seconds=int(_STOP_SECONDS))
        self._server = server
        # One, so that predicting takes at most one core from training; requests wait in line.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="streamfit-predict")

        def serve() -> None:
            try:
                asyncio.run(server.serve(sockets=[listener]))
            finally:
                listener.close()

        self._thread = threading.Thread(target=serve, name="streamfit-server", daemon=True)
        self._thread.start()
        _log.info(event("serving", url=self.url))

    def close(self) -> None:
        """Answer what was asked, end the streams of events, stop; it takes a second or two."""
        if self._thread is None:
            return
        self.closing = True
        self._server.should_exit = True
        self._thread.join(5 * _STOP_SECONDS)
        self.worker.shutdown(wait=False, cancel_futures=True)
        if self._thread.is_alive():
            _log.warning(event("server_hangs", url=self.url))
        self._thread = None

    def _listen(self) -> socket.socket:
        host, port = self.address.host, self.address.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # a port in use is refused all the same
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            listener.close()
            raise ServingError(
                f"cannot listen on {self.address}: {error.strerror or error}; choose another "
                "port, or port 0 for any that is free"
            ) from error
        return listener


def _check_token(token: str | None) -> str | None:
    if token is None:
        return None
    fits = isinstance(token, str) and len(token) >= _MIN_TOKEN
    if not fits or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError(  # which must not say what it is
            f"token must be at least {_MIN_TOKEN} printable ASCII characters without spaces; "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return token


def _check_installed() -> None:
    for package in ("starlette", "uvicorn", "prometheus_client", "chartkick"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(f"serving needs {package}: pip install 'streamfit[serve]'")
