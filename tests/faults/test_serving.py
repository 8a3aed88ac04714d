"""Clients that mean harm, or are only slow: 4xx or a time-out, and training goes on as if alone.

Each test attacks a run that is under way; at its end the model is bitwise what the same samples
make of it with nobody looking.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import streamfit as sf

TOKEN = "a-token-that-nobody-knows"
TIMEOUT = 0.4
CLIENT = httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0))
HEADERS = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}


def sample(i: int) -> tuple[dict[str, float], bool]:
    return {"a": (i % 17) / 17, "b": (i % 5) / 5}, i % 3 == 0


def new_model() -> sf.LogisticRegression:
    return sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=7)


class Training:
    """A run in a thread, and the way to ask it."""

    def __init__(self, **options: Any) -> None:
        self.monitor = sf.WebMonitor(
            "127.0.0.1:0", every_seconds=0.02, **{"timeout": TIMEOUT, "token": TOKEN, **options}
        )
        self.model = new_model()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        wait_for(lambda: self.monitor.board.snapshot.n_samples > 0)
        self.port = int(self.monitor.url.rpartition(":")[2].strip("/"))

    def _samples(self) -> Iterator[tuple[dict[str, float], bool]]:
        i = 0
        while not self._end.is_set():
            yield sample(i)
            i += 1
            if i % 256 == 0:
                time.sleep(0.01)

    def _run(self) -> None:
        self.report = sf.Trainer(self.model, self._samples(), monitor=self.monitor).run()

    def post(self, body: bytes | str, headers: dict[str, str] = HEADERS) -> httpx.Response:
        return CLIENT.post(self.monitor.url + "predict", content=body, headers=headers, timeout=10)

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        client.settimeout(10)
        return client

    def finish(self) -> None:
        """End the run; it must have learned what it would have without us."""
        learned = self.monitor.board.snapshot.n_samples
        wait_for(lambda: self.monitor.board.snapshot.n_samples > learned)  # it still goes on
        self._end.set()
        began = time.monotonic()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert time.monotonic() - began < 5
        alone = new_model()
        for i in range(self.report.n_samples):
            alone.learn_one(*sample(i))
        alone.flush()
        assert self.report.digest == alone.digest()

    def close(self) -> None:
        self._end.set()
        self._thread.join(30)


def wait_for(happened: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def training() -> Iterator[Training]:
    run = Training()
    yield run
    run.close()


@pytest.mark.parametrize(
    ("body", "status", "feature"),
    [
        ('{"a": NaN}', 400, None),
        ('{"a": -Infinity}', 400, None),
        ('{"a": 1e999}', 422, "a"),
        ('{"never seen": 1e999}', 422, "never seen"),
        ("[1.0, 1e999]", 422, "b"),
        ('[{"a": 1}, {"a": 1, "b": null}]', 422, "b"),
        ('{"a": "<script>"}', 422, "a"),
        ('{"a": [1]}', 422, "a"),
        ('{"a": {"b": 1}}', 422, "a"),
        ("[1.0]", 422, None),
        ('{"a": 1' + 400 * "0" + "}", 422, "a"),
        ('{"a": 1' + 5000 * "0" + "}", 400, None),
        (200_000 * "[", 400, None),
        (200_000 * '{"a":', 400, None),
        ("[" * 50_000 + "]" * 50_000, 400, None),
        ('{"a": 1', 400, None),
        (b'{"a\xff": 1}', 400, None),
        ("", 400, None),
        ("[]", 400, None),
        ("null", 400, None),
        ('"a"', 400, None),
        ("[{}, 1]", 400, None),
        ("[" + ",".join(["{}"] * 10_001) + "]", 400, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_refused_body(
    body: str | bytes, status: int, feature: str | None, shared: Training
) -> None:
    answer = shared.post(body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]
    assert answer.json()["feature"] == feature


@pytest.fixture(scope="module")
def shared() -> Iterator[Training]:
    """One run for all bodies; what it learned is looked at when all were refused."""
    run = Training(timeout=5)
    try:
        yield run
        run.finish()
    finally:
        run.close()


def test_predict_nan(training: Training) -> None:
    for body, name in (('{"a": NaN}', None), ('{"a": 1e999}', "a"), ('[{"b": 1e999}]', "b")):
        answer = training.post(body)
        assert answer.status_code in (400, 422)
        assert answer.json()["feature"] == name
    assert training.post('{"a": 1e308, "b": 1e308}').status_code in (200, 422)  # never a NaN
    training.finish()
    assert all(map(math.isfinite, training.model.weights.values()))


def test_predict_huge_body(training: Training) -> None:
    answer = training.post(b" " * ((1 << 20) + 1))
    assert answer.status_code == 413
    with training.connect() as client:  # one that does not say how long it will be
        client.sendall(
            f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            for _ in range(64):
                client.sendall(chunk)
        except OSError:
            pass  # it stopped listening
        else:
            assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    with training.connect() as client:  # one that says it will be without end
        client.sendall(
            f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {10**15}\r\n\r\n".encode()
        )
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    training.finish()


def test_predict_slow_client(training: Training) -> None:
    """Whoever sends nothing, or a byte now and then, is shut out; others are answered meanwhile."""
    silent, dripping, half, deaf = (training.connect() for _ in range(4))
    half.sendall(
        f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"a":'.encode()
    )
    for _ in range(3):  # asks for a megabyte, several times, and reads nothing
        deaf.sendall(
            f"GET /static/Chart.bundle.js HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
    began = time.monotonic()

    def drip() -> None:
        with contextlib.suppress(ConnectionError):
            while True:  # until it is shut out
                dripping.sendall(b"G")
                time.sleep(0.05)

    dripper = threading.Thread(target=drip)
    dripper.start()
    assert training.post('{"a": 1}').status_code == 200
    assert half.recv(1000).startswith(b"HTTP/1.1 408 ")
    with contextlib.suppress(ConnectionResetError):
        assert silent.recv(1) == b""
    dripper.join(20)
    assert not dripper.is_alive()
    assert time.monotonic() - began < 10 * TIMEOUT + 2
    wait_for(lambda: not training.monitor.connections(), 10 * TIMEOUT + 5)
    for client in (silent, dripping, half, deaf):
        client.close()
    training.finish()


def test_predict_no_token(
    training: Training, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    for client in ("httpx", "httpcore"):  # which are no part of the server
        caplog.set_level(logging.WARNING, client)
    url = training.monitor.url
    json_only = {"content-type": "application/json"}
    for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        assert training.post('{"a": 1}', {**json_only, **given}).status_code == 401
        for path in ("", "metrics", "history", "events", "static/page.js"):
            assert CLIENT.get(url + path, headers=given).status_code == 401
    assert CLIENT.get(url, params={"token": TOKEN[:-1]}).status_code == 401
    assert CLIENT.get(url + "healthz").status_code == 200  # says nothing but that it is there
    answer = CLIENT.get(url, params={"token": TOKEN})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    jar = {"cookie": cookie.partition(";")[0]}
    page = CLIENT.get(url, headers=jar)
    assert page.status_code == 200
    assert training.post('{"a": 1}', {**json_only, **jar}).status_code == 401  # only for looking
    assert training.post('{"a": 1}').status_code == 200
    said = page.text + str(answer.headers) + repr(training.monitor) + caplog.text
    training.finish()
    assert TOKEN not in said + caplog.text + "".join(capfd.readouterr())


def test_predict_is_of_one_moment(training: Training) -> None:
    """An answer names the number of samples learned, and is bitwise that model's."""
    asked = [sample(i)[0] for i in range(5)]
    answers = []
    while len({answer["model"]["n_samples"] for answer in answers}) < 5:
        answers.append(training.post(json.dumps(asked)).json())
    training.finish()
    model, n = new_model(), 0
    for answer in answers:
        while n < answer["model"]["n_samples"]:
            model.learn_one(*sample(n))
            n += 1
        assert answer["model"]["n_updates"] == model.n_updates
        for x, told in zip(asked, answer["predictions"], strict=True):
            assert told["prediction"] == model.predict_one(x)
            assert dict(zip(told["classes"], told["probabilities"], strict=True)) == (
                model.predict_proba_one(x)
            )


def test_killed_client(training: Training) -> None:
    for _ in range(5):
        client = training.connect()
        client.sendall(
            f"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        assert client.recv(10) == b"HTTP/1.1 2"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # with a reset, as a killed process's machine would
    wait_for(lambda: not training.monitor.connections())
    training.finish()


def test_many_connections(training: Training) -> None:
    """They cannot take the file descriptors that the trainer needs."""
    clients = [training.connect() for _ in range(300)]
    time.sleep(0.1)
    assert training.monitor.connections() <= 128
    wait_for(lambda: not training.monitor.connections(), 10 * TIMEOUT + 5)
    assert training.post('{"a": 1}').status_code == 200
    for client in clients:
        client.close()
    training.finish()


def test_ends_with_open_streams(training: Training) -> None:
    events: list[dict[str, Any]] = []

    def watch() -> None:
        url = training.monitor.url + "events"
        with CLIENT.stream("GET", url, headers=HEADERS, timeout=20) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    events.append(json.loads(line[6:]))

    watchers = [threading.Thread(target=watch) for _ in range(3)]
    for watcher in watchers:
        watcher.start()
    wait_for(lambda: len(events) > 6)
    training.finish()  # within seconds
    for watcher in watchers:
        watcher.join(10)
        assert not watcher.is_alive()
    assert [event["status"] for event in events].count("finished") == 3


def test_other_names_and_forms(training: Training) -> None:
    """What a page of another site could make a browser send."""
    form = {**HEADERS, "content-type": "text/plain"}
    assert training.post('{"a": 1}', form).status_code == 415
    open_run = Training(token=None)
    try:
        url = open_run.monitor.url
        assert CLIENT.get(url, headers={"host": "rebound.example"}).status_code == 421
        assert CLIENT.get(url, headers={"host": "localhost:1"}).status_code == 200
        headers = CLIENT.get(url).headers
        assert "access-control-allow-origin" not in headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert "http" not in headers["content-security-policy"]
        open_run.finish()
    finally:
        open_run.close()
    training.finish()
