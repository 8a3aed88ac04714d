"""Everything that the README shows is run."""

from __future__ import annotations

import doctest
import json
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import kafka as kafka_python

import streamfit as sf
from streamfit.testing import LocalKafka

README = Path(__file__).parents[2] / "README.md"


def test_the_sessions_of_the_readme() -> None:
    found = doctest.testfile(str(README), module_relative=False, optionflags=doctest.REPORT_NDIFF)
    assert found.attempted > 20
    assert found.failed == 0


def test_the_kafka_snippet_of_the_readme(kafka: LocalKafka, tmp_path: Path) -> None:
    (script,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        if "KafkaSource(" in block
    )
    topic = f"flights-{uuid.uuid4()}"
    kafka.create_topic(topic)
    producer = kafka_python.KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    for i in range(70):
        producer.send(topic, json.dumps({"delay": i / 70, "late": i > 35}).encode())
    producer.flush()
    producer.close()
    script = script.replace("localhost:9092", kafka.bootstrap_servers)
    script = script.replace('"flights"', f'"{topic}"')
    worker = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    try:
        n_updates = 0
        while n_updates < 3:  # 32, 32, and 6 after a second of waiting
            assert worker.poll() is None
            time.sleep(0.1)
            saved = sf.Checkpointer(tmp_path / "state").latest()
            n_updates = saved.model["n_updates"] if saved else 0
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    saved = sf.Checkpointer(tmp_path / "state").latest()
    assert saved is not None
    assert saved.position == {f"{topic}:0": 70}
    assert (saved.model["n_samples"], saved.model["n_pending"]) == (70, 0)
