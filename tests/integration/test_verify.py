"""`streamfit verify` as a user runs it: another process, a real broker, a trainer killed by -9."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import uuid
from pathlib import Path

import kafka as kafka_python
import pytest

import streamfit as sf
from connectors import CSVSource
from streamfit.testing import LocalKafka

WORKER = Path(__file__).parents[1] / "faults" / "worker.py"
N, BAD, CHANGED = 6000, 3000, 4321


def verify(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamfit", "verify", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def produce(kafka: LocalKafka, records: list[bytes]) -> str:
    """Write records to a new topic of three partitions, in turns of 100."""
    topic = f"verify-{uuid.uuid4()}"
    kafka.create_topic(topic, partitions=3)
    producer = kafka_python.KafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers,
        linger_ms=20,
        max_in_flight_requests_per_connection=1,
    )
    for i, record in enumerate(records):
        producer.send(topic, record, partition=i // 100 % 3)
    producer.flush()
    producer.close()
    return topic


def train_and_kill(kafka: LocalKafka, topic: str, client: str, state: Path) -> None:
    """Kill the trainer twice at a random moment, and then let it end."""
    rng = random.Random(7)
    command = [sys.executable, str(WORKER), str(state), "--topic", topic, "--client", client]
    command += ["--bootstrap-servers", kafka.bootstrap_servers, "--every-updates", "40", "--led"]
    for kill_at in (1500, 3500, None):
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert worker.stdin is not None
        assert worker.stdout is not None
        for line in worker.stdout:
            told = line.split()
            if told[0] != "samples":
                continue
            if kill_at is not None and int(told[1]) >= kill_at:
                time.sleep(rng.random() * 0.003)
                worker.kill()
                break
            worker.stdin.write("go\n")
            worker.stdin.flush()
        worker.stdout.close()
        worker.stdin.close()
        assert worker.wait(60) == (0 if kill_at is None else -9)


def test_verify_after_kill9(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    rng = random.Random(1)
    records = [
        json.dumps({"a": rng.gauss(0, 1), "b": rng.gauss(0, 1), "y": rng.random() > 0.5}).encode()
        for _ in range(N)
    ]
    records[BAD] = b'{"a": '
    topic = produce(kafka, records)
    train_and_kill(kafka, topic, client, tmp_path)

    url = f"kafka://{kafka.bootstrap_servers}/{topic}?target=y&client={client}"
    for found in (verify(tmp_path, "--source", url), verify(tmp_path)):
        assert found.returncode == 0, found.stdout + found.stderr
        assert "equal             yes" in found.stdout
        assert f"samples           {N - 1:,}" in found.stdout

    changed = json.loads(records[CHANGED])
    records[CHANGED] = json.dumps({**changed, "a": changed["a"] + 1e-6}).encode()
    url = url.replace(topic, produce(kafka, records))
    found = verify(tmp_path, "--source", url)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "equal             no" in found.stdout
    assert f"first difference  source '{topic}', partition " in found.stdout
    # The segments it names begin no later than the changed record and end after it.
    difference = sf.journal.verify(tmp_path, _source(url)).first_difference
    assert difference is not None
    partition, offset = CHANGED // 100 % 3, CHANGED // 300 * 100 + CHANGED % 100
    segments = [e for e in sf.journal.entries(tmp_path) if isinstance(e, sf.journal.Segment)]
    assert difference.first is not None
    assert difference.last is not None
    named = segments[segments.index(difference.first) : segments.index(difference.last) + 1]
    assert any(s.partition == partition and s.start <= offset < s.stop for s in named)


def _source(url: str) -> sf.types.Source:
    from connectors.describe import source_from_url

    return source_from_url(url)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    path.write_text("a,y\n" + "".join(f"{i / 100},{i % 2}\n" for i in range(100)))
    return path


def test_verify_a_file(data: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    checkpoint = sf.Checkpointer(state)
    sf.Trainer(sf.LogisticRegression(), CSVSource(data, "y"), checkpoint=checkpoint).run()
    found = verify(state)
    assert (found.returncode, found.stderr) == (0, "")
    data.write_text(data.read_text().replace("\n0.5,0", "\n0.5,1"))
    found = verify(state)
    assert found.returncode == 1
    assert "source 'data.csv', partition 0, 0 to 100" in found.stdout
    data.write_text("a,y\n0.0,0\n")
    found = verify(state, "--source", f"{data}?target=y")
    assert found.returncode == 1
    assert "100 samples were learned, the source has 1" in found.stdout


def test_what_cannot_be_verified_says_why(data: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    found = verify(state)
    assert found.returncode == 2
    assert "no checkpoint" in found.stderr
    samples = [({"a": 1.0}, True)] * 20
    sf.Trainer(sf.LogisticRegression(), samples, checkpoint=sf.Checkpointer(state)).run()
    found = verify(state)
    assert found.returncode == 2
    assert "--source" in found.stderr
    assert "streamfit.journal.verify" in found.stderr
    assert verify(state, "--source", f"{data}?target=z").returncode == 2
    assert verify(state, "--source", f"{tmp_path}/none.csv?target=y").returncode == 2
    (journal,) = state.glob("journal-*.bin")
    journal.write_bytes(journal.read_bytes()[:-1])
    found = verify(state, "--source", f"{data}?target=y")
    assert found.returncode == 2
    assert "is corrupt" in found.stderr
