"""The web application: what each address answers."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamfit.errors import BadSampleError, UnsupportedError
from streamfit.events import Repeated
from streamfit.serving.board import Board
from streamfit.serving.guard import SECURITY_HEADERS, Guard
from streamfit.serving.history import Point
from streamfit.serving.prometheus import CONTENT_TYPE, Metrics
from streamfit.serving.requests import answer, read_samples

if TYPE_CHECKING:
    from streamfit.serving.server import Server

__all__ = ["application"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_STATIC = Path(__file__).with_name("static")
_LOOK_SECONDS = 0.2  # from one look at the board to the next, while somebody watches
_HEARTBEAT_SECONDS = 15.0  # a client that is gone is noticed when something is sent to it


def application(server: Server) -> ASGIApp:
    """Make the application of a server."""
    pages = _Pages(server)
    get = [
        ("/", pages.page),
        ("/events", pages.events),
        ("/history", pages.history),
        ("/healthz", pages.healthz),
        ("/metrics", pages.metrics),
        ("/static/{name}", pages.static),
    ]
    return Starlette(
        routes=[
            *(Route(path, endpoint, methods=["GET"]) for path, endpoint in get),
            Route("/predict", pages.predict, methods=["POST"]),
        ],
        middleware=[
            Middleware(_Guarded, guard=Guard(server.address, server.token)),
            Middleware(GZipMiddleware, minimum_size=1000),
        ],
        exception_handlers={HTTPException: _refusal, Exception: _failure},
    )


class _Guarded:
    """Asks the guard before anything else, and adds the headers to every answer."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in SECURITY_HEADERS.items()
                        if name.encode() not in there
                    ),
                ]
            await send(message)

        refusal = self._judge(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _judge(self, request: Request) -> Response | None:
        guard, path = self._guard, request.url.path
        if not guard.knows_host(request.headers.get("host", "")):
            return _error(421, "this server does not go by that name")
        if path == "/healthz" or guard.lets_in(request.headers, request.cookies, request.method):
            return None
        if path == "/" and guard.is_token(request.query_params.get("token", "")):
            response = RedirectResponse("/", status_code=303)
            response.set_cookie(guard.cookie_name, guard.cookie, httponly=True, samesite="strict")
            return response
        return _error(
            401,
            "a token is needed: 'Authorization: Bearer TOKEN', or in a browser /?token=TOKEN",
            {"www-authenticate": "Bearer"},
        )


class _Pages:
    """The answers, from what is on the board at the moment."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._board: Board = server.board
        self._metrics = Metrics(server.board)
        self._event: tuple[int, bytes] = (-1, b"")

    # ---- looking

    async def page(self, request: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        files = {path.name: path for path in (*_STATIC.iterdir(), _chart_library())}
        if name not in files:
            raise HTTPException(404)
        return FileResponse(files[name], headers={"cache-control": "no-cache"})

    async def healthz(self, request: Request) -> Response:
        shown = self._board.snapshot
        healthy = shown.status in ("training", "serving", "finished", "stopped")
        return JSONResponse(
            {"status": shown.status, "seconds_since_publication": time.time() - shown.time},
            status_code=200 if healthy else 503,
        )

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def history(self, request: Request) -> Response:
        board = self._board
        return _json(
            {
                "number": board.snapshot.number,
                "history": [_row(point) for point in board.history],
                "recent": [_row(point) for point in board.recent],
            }
        )

    async def events(self, request: Request) -> Response:
        return StreamingResponse(self._watch(), media_type="text/event-stream")

    async def _watch(self) -> AsyncIterator[bytes]:
        """Yield the newest snapshot whenever there is one; a slow reader misses some."""
        seen, told = -1, time.monotonic()
        while True:
            closing = self._server.closing
            if self._board.snapshot.number != seen:
                seen, content = await self._newest_event()
                yield content
                told = time.monotonic()
            elif time.monotonic() - told > _HEARTBEAT_SECONDS:
                yield b": still here\n\n"
                told = time.monotonic()
            if closing:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _newest_event(self) -> tuple[int, bytes]:
        """Make it once for all who watch."""
        if self._event[0] != self._board.snapshot.number:
            work = asyncio.get_running_loop().run_in_executor(self._server.worker, self._make_event)
            self._event = await work
        return self._event

    def _make_event(self) -> tuple[int, bytes]:
        board, shown = self._board, self._board.snapshot
        model, recent = board.model, board.recent
        told = {
            **asdict(shown),
            "point": _row(recent[-1]) if recent else None,
            "weights": None if model is None else model.largest_weights(),
            "now": time.time(),
        }
        return shown.number, b"id: %d\ndata: %s\n\n" % (shown.number, _dumps(told))

    # ---- predicting

    async def predict(self, request: Request) -> Response:
        began = time.perf_counter()
        try:
            response = await self._answer(request)
        except HTTPException as error:
            self._metrics.requests.labels(str(error.status_code)).inc()
            raise
        self._metrics.requests.labels(str(response.status_code)).inc()
        self._metrics.seconds.observe(time.perf_counter() - began)
        return response

    async def _answer(self, request: Request) -> Response:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # which a form on another site cannot send
            raise HTTPException(415, "send content-type: application/json")
        body = await self._in_time(408, "the body did not arrive in time", self._body(request))
        model = self._board.model
        if model is None:
            code = 503 if self._board.snapshot.status == "starting" else 501
            raise HTTPException(code, f"there is no model to predict with: {self._board.no_model}")

        def work() -> Response:
            samples, many = read_samples(body)
            told = answer(model, samples, many)
            self._metrics.predictions.inc(len(samples))
            return _json(told)

        future = asyncio.get_running_loop().run_in_executor(self._server.worker, work)
        try:
            return await self._in_time(503, "the model is too busy to answer in time", future)
        except BadSampleError as error:
            return JSONResponse(
                {
                    "error": error.reason,
                    "feature": None if error.feature is None else str(error.feature)[:200],
                    "sample": error.offset,
                },
                status_code=400 if error.source is None else 422,
            )
        except UnsupportedError as error:
            raise HTTPException(501, str(error)) from None

    async def _in_time(self, status: int, otherwise: str, work: Awaitable[T]) -> T:
        try:
            return await asyncio.wait_for(work, self._server.timeout)
        except TimeoutError:
            raise HTTPException(status, otherwise, {"connection": "close"}) from None

    async def _body(self, request: Request) -> bytes:
        limit = self._server.max_body_bytes
        too_large = HTTPException(
            413, f"the body is longer than {limit} bytes", {"connection": "close"}
        )
        declared = request.headers.get("content-length", "0")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
            raise too_large
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
        except ClientDisconnect:
            raise HTTPException(400, "the client went away") from None
        return bytes(body)


def _chart_library() -> Path:
    """Return Chart.js, which comes in a package of ours on PyPI; that is not imported."""
    package = importlib.util.find_spec("chartkick")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "django" / "static" / "chartkick" / "Chart.bundle.js"


def _row(point: Point) -> list[Any]:
    """Return what the page draws of a point."""
    return [
        point.end,
        point.loss,
        point.progressive_loss,
        point.samples_per_second,
        point.lag,
        point.metrics,
    ]


def _dumps(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _json(value: Any) -> Response:
    return Response(_dumps(value), media_type="application/json")


def _error(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": text}, status_code=status, headers=headers)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, dict(error.headers or {}))


_failed = Repeated(_log, "request_failed")


async def _failure(request: Request, error: Exception) -> Response:
    _failed.happened(path=request.url.path, error=type(error).__name__, message=error)
    return _error(500, "the server failed; its log says why")
