"""`streamfit train` and `predict` on a topic of the real broker, with both clients."""

from __future__ import annotations

import json
import time
from pathlib import Path

import kafka as kafka_python
import pytest

from streamfit.cli.app import app
from streamfit.testing import LocalKafka


def test_train_verify_and_predict_on_a_topic(
    kafka: LocalKafka, client: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = f"clicks-{time.time_ns()}"
    kafka.create_topic(topic)
    producer = kafka_python.KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    for i in range(50):
        producer.send(topic, json.dumps({"a": i / 50, "y": int(i > 25)}).encode())
    producer.flush()
    producer.close()
    source, state = f"kafka://{kafka.bootstrap_servers}/{topic}", str(tmp_path / "state")
    options = ["--target", "y", "--client", client, "--stop-at-end"]
    learn = ["train", source, *options, "--batch-size", "8", "--checkpoint", state]
    for resumed_at in (None, 50):
        assert app(learn, standalone_mode=False) in (None, 0)
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (report["n_samples"], report["resumed_at"]) == (50, resumed_at)
    assert app(["verify", state], standalone_mode=False) in (None, 0)
    assert "equal             yes" in capsys.readouterr().out
    assert app(["predict", state, source], standalone_mode=False) in (None, 0)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["id"] for line in lines] == [f"{topic}:0:{i}" for i in range(50)]
