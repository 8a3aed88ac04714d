"""A network that misbehaves: a TCP proxy on the loopback that delays, limits and cuts."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Self

__all__ = ["Proxy"]

_CHUNK = 1 << 16
_TICK = 0.02


class Proxy:
    """Passes bytes between clients and a server, as well as it is told to.

    The attributes may be changed while it runs.

    Parameters
    ----------
    target
        Address of the server, `"host:port"`.
    port
        Port on 127.0.0.1 to listen on; 0 takes a free one.

    Attributes
    ----------
    latency : float
        Seconds that each piece is held back.
    bytes_per_second : float or None
        Most that is passed on a connection and second, in each direction.
    cut_after : int or None
        Bytes after which a connection is reset, in each direction; mid-message, as it comes.
    silent : bool
        Pass nothing, and say nothing: connections stay open, as behind a lost route.
    refuse : bool
        Reset new connections at once.
    n_connections : int
        Connections accepted so far.

    Examples
    --------
    >>> import socket
    >>> from streamfit.testing import Proxy
    >>> with socket.create_server(("127.0.0.1", 0)) as server:
    ...     with Proxy(f"127.0.0.1:{server.getsockname()[1]}") as proxy:
    ...         host, port = proxy.address.split(":")
    ...         with socket.create_connection((host, int(port))) as client:
    ...             client.sendall(b"hello")
    ...             connection, _ = server.accept()
    ...             connection.recv(5), proxy.n_connections, connection.close()
    (b'hello', 1, None)
    """

    def __init__(self, target: str, port: int = 0) -> None:
        host, _, target_port = target.rpartition(":")
        self._target = (host, int(target_port))
        self._port = port
        self.latency = 0.0
        self.bytes_per_second: float | None = None
        self.cut_after: int | None = None
        self.silent = False
        self.refuse = False
        self.n_connections = 0
        self._server: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = socket.create_server(("127.0.0.1", self._port))
        self._port = self._server.getsockname()[1]
        self._start(self._accept, self._server)
        return self

    def __exit__(self, *exc_info: object) -> None:
        server, self._server = self._server, None
        if server is not None:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # which wakes the thread that accepts
            server.close()
        self.reset()
        for thread in self._threads:
            thread.join()

    @property
    def address(self) -> str:
        """Address to connect to, `host:port`."""
        return f"127.0.0.1:{self._port}"

    def reset(self) -> None:
        """Reset every connection there is (RST, so that what is under way is lost)."""
        with self._lock:
            for connection in self._open:
                _reset(connection)
            self._open.clear()

    def _start(self, run: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        thread.start()
        with self._lock:
            self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        return thread

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:  # closed
                return
            self.n_connections += 1
            try:
                if self.refuse:
                    raise ConnectionRefusedError
                upstream = socket.create_connection(self._target)
            except OSError:
                _reset(client)
                continue
            with self._lock:
                self._open |= {client, upstream}
            self._start(self._serve, client, upstream)

    def _serve(self, client: socket.socket, upstream: socket.socket) -> None:
        answers = self._start(self._pass_on, upstream, client)
        self._pass_on(client, upstream)
        answers.join()
        with self._lock:
            self._open -= {client, upstream}
        client.close()
        upstream.close()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        passed = 0
        try:
            while data := source.recv(_CHUNK):
                time.sleep(self.latency)
                while self.silent and self._server is not None:
                    time.sleep(_TICK)
                if self.cut_after is not None and passed + len(data) > self.cut_after:
                    sink.sendall(data[: max(0, self.cut_after - passed)])
                    raise ConnectionResetError
                step = self._step(len(data))
                for start in range(0, len(data), step):
                    sink.sendall(data[start : start + step])
                    if self.bytes_per_second is not None:
                        time.sleep(step / self.bytes_per_second)
                passed += len(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # either end is gone, or is to go
            _reset(source)
            _reset(sink)

    def _step(self, n: int) -> int:
        return n if self.bytes_per_second is None else max(1, int(self.bytes_per_second * _TICK))


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RD)  # wakes a thread that reads from it
    connection.close()
