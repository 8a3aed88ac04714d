"""Threads, file descriptors and memory stay flat, whatever the broker does, with both clients."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors import KafkaSource
from streamfit.errors import SourceError
from streamfit.testing import LocalKafka

sys.path.insert(0, str(Path(__file__).parent))
from broker_runs import record, source_of
from topics import new_topic, produce


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def settles(measure: Callable[[], int], limit: int) -> bool:
    """Say whether it falls to a limit within a moment: libraries end their threads by and by."""
    gc.collect()  # kafka-python leaves the sockets of refused connections to it
    deadline = time.monotonic() + 5
    while measure() > limit and time.monotonic() < deadline:
        time.sleep(0.05)
    return measure() <= limit


def reconnect(source: KafkaSource, topic: str) -> None:
    source.seek({f"{topic}:0": 0})
    assert sum(map(len, source)) == 200
    source.close()


def test_reconnecting_leaks_nothing(kafka: LocalKafka, client: str) -> None:
    topic = new_topic(kafka)
    produce(kafka, topic, [(0, record(f"r{i % 10}")) for i in range(200)])
    source = source_of(kafka, topic, client, group_id=f"leak-{topic}")
    for _ in range(5):
        reconnect(source, topic)
    before = threads(), descriptors(), megabytes()
    for _ in range(20):
        reconnect(source, topic)
    assert settles(threads, before[0])
    assert settles(descriptors, before[1])
    assert megabytes() - before[2] < 8


def test_failing_to_connect_leaks_nothing(kafka: LocalKafka, client: str) -> None:
    source = source_of(kafka, "any", client, bootstrap_servers="127.0.0.1:19")
    source._feed.connect_seconds = 0.2
    letters = source.dead_letters("letters")
    letters.send(b"", b"", [])

    def attempt() -> None:
        with pytest.raises(SourceError):
            source.position()
        with pytest.raises(SourceError):
            letters.flush(0.2)

    attempt()
    before = threads(), descriptors()
    for _ in range(5):
        attempt()
    assert settles(threads, before[0])
    assert settles(descriptors, before[1])


def test_polling_leaks_nothing(kafka: LocalKafka, client: str) -> None:
    topic = new_topic(kafka)
    source = source_of(kafka, topic, client, stop_at_end=False)
    source._feed.poll_seconds, source._feed.check_seconds = 0.001, 0.3
    blocks = iter(source)
    for _ in range(300):
        next(blocks)
    before = threads(), descriptors(), megabytes()
    for _ in range(800):
        next(blocks)
    assert settles(threads, before[0])
    assert settles(descriptors, before[1])
    assert megabytes() - before[2] < 8
    source.close()


SLOW_READER = """
import json, sys, time
from connectors import JSONDecoder, KafkaSource


def megabytes():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


servers, topic, client = sys.argv[1:]
source = KafkaSource(
    topic, bootstrap_servers=servers, decoder=JSONDecoder("y"), client=client, stop_at_end=True
)
source.position()
before, n = megabytes(), 0
for block in source:
    if n == 0 and len(block):
        time.sleep(2)
        paused = megabytes() - before
    n += len(block)
print(json.dumps({"paused": paused, "n": n}))
"""


def test_a_slow_reader_holds_the_fetching_back(kafka: LocalKafka, client: str) -> None:
    """What nobody takes yet stays at the broker: 150 MB of records do not fill the memory."""
    topic = new_topic(kafka, partitions=3)
    value = json.dumps({"y": 1, "x": 1, "pad": "x" * 500_000}).encode()
    for partition in range(3):
        produce(kafka, topic, [(partition, value)] * 100)
    done = subprocess.run(
        [sys.executable, "-c", SLOW_READER, kafka.bootstrap_servers, topic, client],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["n"] == 300
    assert found["paused"] < 100
