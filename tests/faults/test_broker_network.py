"""Faults 19, 20, 29, 30: brokers and networks that come and go, with both clients."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import kafka as kafka_python
import pytest

import streamfit as sf
from streamfit.errors import BrokerUnavailableError, SourceError
from streamfit.testing import LocalKafka, Proxy

sys.path.insert(0, str(Path(__file__).parent))
from broker_runs import Running, check, counting_model, record, source_of, train
from topics import everything, new_topic, produce

CLIENTS = ["kafka-python", "confluent-kafka"]


def write(kafka: LocalKafka, topic: str, start: int, stop: int) -> None:
    # With idempotence on, as it is by default: else a retry may write twice, or in another order.
    produce(kafka, topic, [(0, record(f"r{i}")) for i in range(start, stop)])


def names(n: int) -> list[str]:
    return [f"r{i}" for i in range(n)]


def test_broker_restart_x5(
    kafka: LocalKafka, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stopped and killed in turn, under both clients at once."""
    if kafka.external:
        pytest.skip("STREAMFIT_KAFKA names a broker that cannot be stopped from here")
    topic = new_topic(kafka)
    runs = []
    for client in CLIENTS:
        source = source_of(kafka, topic, client, stop_at_end=False, group_id=f"restart-{client}")
        source._feed.check_seconds = 0.5
        runs.append(Running(source, tmp_path / client, 1200))
    for i in range(5):
        write(kafka, topic, 200 * i, 200 * i + 200)
        if i == 0:
            for run in runs:
                run.until(1)
        kafka.stop() if i % 2 else kafka.kill()
        time.sleep(1)
        kafka.start()
    write(kafka, topic, 1000, 1200)
    for run in runs:
        run.end()
    for client in CLIENTS:
        check(kafka, topic, tmp_path / client, names(1200))
    assert sum("event=broker_away" in r.getMessage() for r in caplog.records) <= 20


@pytest.fixture
def proxy(kafka: LocalKafka) -> Iterator[Proxy]:
    if kafka.external:
        pytest.skip("STREAMFIT_KAFKA names a broker that has no listener for a proxy")
    with Proxy(kafka.listener("PROXIED"), kafka.proxy_port) as found:
        yield found


def connected(
    kafka: LocalKafka, proxy: Proxy, client: str, state: Path, n: int, **options: Any
) -> Any:
    topic = new_topic(kafka)
    source = source_of(kafka, topic, client, bootstrap_servers=proxy.address, stop_at_end=False)
    source._feed.check_seconds = source._feed.reopen_seconds = 0.5
    return topic, Running(source, state, n, **options)


def test_connection_reset(kafka: LocalKafka, proxy: Proxy, client: str, tmp_path: Path) -> None:
    """Every connection is reset, again and again, and some in the middle of a message."""
    topic, run = connected(kafka, proxy, client, tmp_path, 3000)
    for i in range(6):
        write(kafka, topic, 500 * i, 500 * i + 500)
        run.until(500 * i + 1)
        proxy.cut_after = 40_000 if i % 2 else None
        proxy.reset()
    proxy.cut_after = None
    assert run.end().n_samples == 3000
    check(kafka, topic, tmp_path, names(3000))


def test_connection_limit(kafka: LocalKafka, proxy: Proxy, client: str, tmp_path: Path) -> None:
    proxy.bytes_per_second = 100_000.0
    topic, run = connected(kafka, proxy, client, tmp_path, 2000)
    began = time.monotonic()
    write(kafka, topic, 0, 5_000)
    run.end()
    assert time.monotonic() - began > 0.3  # it was slow indeed
    check(kafka, topic, tmp_path, names(2000))


def test_connection_timeout(kafka: LocalKafka, proxy: Proxy, client: str, tmp_path: Path) -> None:
    """The network swallows everything for a while, and keeps the connections open."""
    topic, run = connected(kafka, proxy, client, tmp_path, 1000)
    write(kafka, topic, 0, 500)
    run.until(500)
    proxy.silent = True
    write(kafka, topic, 500, 1000)
    time.sleep(4)
    assert run.n_samples == 500
    assert run.error is None
    proxy.silent = False
    run.end()
    check(kafka, topic, tmp_path, names(1000))


def test_connection_timeout_at_the_start(
    kafka: LocalKafka, proxy: Proxy, client: str, tmp_path: Path
) -> None:
    """Nobody answers from the beginning: an error in bounded time, and nothing is saved."""
    topic = new_topic(kafka)
    proxy.silent = True
    source = source_of(kafka, topic, client, bootstrap_servers=proxy.address)
    source._feed.connect_seconds = 1.0
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        train(source, tmp_path)
    assert time.monotonic() - began < 10
    assert not list(tmp_path.glob("*.safetensors"))


def test_connection_latency(kafka: LocalKafka, proxy: Proxy, client: str, tmp_path: Path) -> None:
    """Each answer takes a third of a second; dead letters have a connection to be made as well."""
    proxy.latency = 0.15
    refused = new_topic(kafka)
    letters = sf.DeadLetters(refused)
    topic, run = connected(kafka, proxy, client, tmp_path, 600, on_bad_sample=letters)
    for i in range(3):
        write(kafka, topic, 200 * i, 200 * i + 200)
        produce(kafka, topic, [(0, b"garbage")])
        run.until(200 * i + 1)
    run.end()
    check(kafka, topic, tmp_path, names(600))
    assert len(everything(kafka, refused)) >= 2


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x7f\xff\xff\xff" + b"x" * 5000, b"\xff" * 5000, b""],
    ids=["http", "giant", "negative", "nothing"],
)
def test_not_a_broker(client: str, answer: bytes, tmp_path: Path) -> None:
    """Something else listens there: an error in bounded time, whatever it says."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        source = source_of(None, "any", client, bootstrap_servers=address)
        source._feed.connect_seconds = 1.0
        began = time.monotonic()
        with pytest.raises(SourceError, match="any"):
            train(source, tmp_path)
        assert time.monotonic() - began < 10
        server.shutdown(socket.SHUT_RDWR)


class _Deaf:
    """A client that was never told what to fetch."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def assign(self, offsets: dict[int, int]) -> None:
        pass

    def positions(self) -> dict[int, int]:
        return {}


def test_leader_change_idle(
    kafka: LocalKafka, client: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A consumer that has lag but gets nothing, as after some changes of leader, is replaced."""
    topic = new_topic(kafka)
    source = source_of(kafka, topic, client, stop_at_end=False)
    source._feed.check_seconds, source._feed.stall_seconds = 0.3, 1.0
    opened, n_opened = source._feed._open_client, 0

    def open_client(timeout: float) -> Any:
        nonlocal n_opened
        n_opened += 1
        return _Deaf(opened(timeout)) if n_opened == 1 else opened(timeout)

    source._feed._open_client = open_client
    write(kafka, topic, 0, 100)
    run = Running(source, tmp_path, 100)
    run.end(20)
    assert n_opened == 2
    assert "event=stalled" in caplog.text
    check(kafka, topic, tmp_path, names(100))


def test_slow_update(
    kafka: LocalKafka, client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates that outlast `max.poll.interval` again and again evict nobody and lose nothing."""
    from connectors.kafka import confluent
    from connectors.kafka import kafka_python as python

    def impatient(settings: dict[str, Any]) -> Any:
        limits = {"max.poll.interval.ms": 1000, "session.timeout.ms": 1000}
        return confluent_kafka.Consumer({**settings, **limits, "heartbeat.interval.ms": 300})

    class Impatient(kafka_python.KafkaConsumer):
        def __init__(self, **settings: Any) -> None:
            limits = {"max_poll_interval_ms": 1000, "session_timeout_ms": 1000}
            super().__init__(**settings, **limits, heartbeat_interval_ms=300)

    monkeypatch.setattr(confluent, "Consumer", impatient)
    monkeypatch.setattr(python, "KafkaConsumer", Impatient)
    topic = new_topic(kafka)
    write(kafka, topic, 0, 12_000)
    source = source_of(kafka, topic, client, group_id=f"slow-{topic}")
    slept = []

    def sleep(progress: Any) -> None:
        if len(slept) < 3 and progress.n_samples > 3000 * len(slept):
            slept.append(progress.n_samples)
            time.sleep(2.5)

    report = train(source, tmp_path, counting_model(), callbacks=[sleep])
    assert len(slept) == 3
    assert report.n_samples == 12_000
    check(kafka, topic, tmp_path, names(12_000))


CONNECTING = """
import sys
import streamfit as sf
from connectors import JSONDecoder, KafkaSource
servers, client, state = sys.argv[1:]
decoder = JSONDecoder("y")
source = KafkaSource("t", bootstrap_servers=servers, decoder=decoder, client=client)
trainer = sf.Trainer(sf.LinearRegression(), source, checkpoint=sf.Checkpointer(state))
print("connecting", flush=True)
with sf.exit_codes():
    print(trainer.run().stopped_by, flush=True)
"""


def test_sigterm_while_it_first_connects(client: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-c", CONNECTING, server, client, str(tmp_path)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "connecting\n"
        time.sleep(1)
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.stdout.read() == "SIGTERM\n"
        assert worker.wait(30) == 0
        assert time.monotonic() - began < 10
