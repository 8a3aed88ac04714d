"""What rages during a soak: a steady producer, workers that are killed, a broker that goes away."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import kafka as kafka_python
from kafka.errors import KafkaError

from streamfit.errors import BrokerUnavailableError, DeadLetterError
from streamfit.testing import LocalKafka

WORKER = Path(__file__).with_name("soak_worker.py")
PARTITIONS = 3
FAR = 1e12
GRACE_SECONDS = 60

log = logging.getLogger("soak")

BAD = {
    "tombstone": None,
    "not UTF-8": b"\xff\xfe{",
    "truncated JSON": b'{"u": 1.0, "y": ',
    "NaN": b'{"u": NaN, "c0": NaN, "y": true, "far": 1e12}',
    "missing label": b'{"u": 1.0, "c0": 1.0}',
    "retyped feature": b'{"u": "x", "c0": "x", "y": true, "far": 1e12}',
    "deep JSON": b"[" * 5000,
}


class Producer(threading.Thread):
    """Writes samples at a fixed rate, and bad records among them.

    What the topic holds in the end is the truth, so a record that was lost or doubled while the
    broker was away does not matter. A header says what a record is.
    """

    def __init__(self, servers: str, topic: str, n_counters: int, rate: float, seed: int) -> None:
        super().__init__(name="producer", daemon=True)
        self.stop = threading.Event()
        self._servers, self._topic, self._n_counters = servers, topic, n_counters
        self._rate, self._random = rate, random.Random(seed)

    def run(self) -> None:
        began, sent = time.monotonic(), 0
        producer: Any = None
        while not self.stop.wait(0.05):
            try:
                if producer is None:
                    producer = kafka_python.KafkaProducer(
                        bootstrap_servers=self._servers, linger_ms=10, max_block_ms=2000
                    )
                while sent < (time.monotonic() - began) * self._rate and not self.stop.is_set():
                    producer.send(self._topic, partition=sent % PARTITIONS, **self._record(sent))
                    sent += 1
            except KafkaError as error:
                log.info("producer: %r", error)
                if producer is not None:
                    producer.close(timeout=0.1)
                producer = None
                began = time.monotonic() - sent / self._rate
        if producer is not None:
            producer.flush(timeout=30)
            producer.close(timeout=1)

    def _record(self, i: int) -> dict[str, Any]:
        if self._random.random() < 0.01:
            kind = self._random.choice(list(BAD))
            return {"value": BAD[kind], "key": b"bad", "headers": [("bad", kind.encode())]}
        u, v = self._random.gauss(0, 1), self._random.gauss(0, 1)
        value = {"u": u, "v": v, "y": u + v > 0, f"c{i % self._n_counters}": 1.0, "far": FAR}
        return {"value": json.dumps(value).encode(), "headers": [("good", b"")]}


class Worker:
    """A training process, its directory and what it prints."""

    def __init__(self, folder: Path, kind: str, client: str, topic: str, letters: str) -> None:
        self.name, self.kind, self.client, self.letters = folder.name, kind, client, letters
        self.state = folder / "state"
        folder.mkdir(parents=True)
        self._log: TextIO = (folder / "log").open("a")
        self._options = ["--kind", kind, "--client", client, "--topic", topic, "--letters", letters]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, servers: str, *options: str) -> None:
        command = [sys.executable, str(WORKER), str(self.state), *self._options]
        self._process = subprocess.Popen(
            [*command, "--servers", servers, *options], stdout=self._log, stderr=self._log
        )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ended(self) -> int | None:
        """Return the exit code, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    def usage(self) -> tuple[float, int, int]:
        """Return resident MB, threads and open files."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        threads = len(os.listdir(f"/proc/{self.pid}/task"))  # noqa: PTH208
        files = len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, threads, files


class Storm:
    """Injects faults, one after the other, and counts those that were survived."""

    def __init__(self, broker: LocalKafka, workers: list[Worker], seed: int) -> None:
        self.survived: Counter[str] = Counter()
        self.failures: list[str] = []
        self._broker, self._workers = broker, workers
        self._random = random.Random(seed)

    def strike(self, fault: str) -> None:
        """Inject one fault and set everything going again."""
        worker = self._random.choice(self._workers)
        log.info("%s", fault if fault.startswith("broker") else f"{fault} {worker.name}")
        if fault == "kill -9":
            self._restart(worker, signal.SIGKILL)
        elif fault == "SIGTERM":
            self._restart(worker, signal.SIGTERM)
        elif fault == "SIGSTOP":
            worker.send(signal.SIGSTOP)
            time.sleep(self._random.uniform(0.5, 3.0))
            worker.send(signal.SIGCONT)
        else:
            self._broker.stop() if fault == "broker restart" else self._broker.kill()
            time.sleep(self._random.uniform(0.0, 3.0))
            self._restart(worker, signal.SIGKILL)
            self.survived["kill -9 while the broker is away"] += 1
            time.sleep(self._random.uniform(0.0, 3.0))
            self._broker.start()
        self.survived[fault] += 1

    def look_after(self, *workers: Worker) -> None:
        """Start again what has ended by itself; only an absent broker is an excuse."""
        for worker in workers:
            code = worker.ended()
            if code is not None:
                self._judge(worker, code, {BrokerUnavailableError.exit_code})
                worker.start(self._broker.bootstrap_servers)

    def _restart(self, worker: Worker, number: signal.Signals) -> None:
        self.end(worker, number)
        worker.start(self._broker.bootstrap_servers)

    def end(self, worker: Worker, number: signal.Signals) -> None:
        """End a worker with a signal."""
        worker.send(number)
        try:
            code = worker.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self.failures.append(f"{worker.name} did not end on {number.name}")
            worker.send(signal.SIGKILL)
            code = worker.wait(GRACE_SECONDS)
        # it may get the signal before Python listens to it, or as dead letters wait for the broker
        away = {BrokerUnavailableError.exit_code, DeadLetterError.exit_code}
        self._judge(worker, code, {0, -number, *away})

    def _judge(self, worker: Worker, code: int, allowed: set[int]) -> None:
        if code not in allowed:
            self.failures.append(f"{worker.name} ended with exit code {code}")
        elif code > 0:
            self.survived[f"exit {code} as the broker was away, started again"] += 1
