from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamfit.errors import MissingDependencyError, UnsupportedError
from streamfit.testing import LocalKafka, _kafka_jars


def test_data_and_address_outlive_stop_and_kill(kafka):
    if kafka.external:
        pytest.skip("STREAMFIT_KAFKA names a broker that cannot be stopped from here")
    with LocalKafka() as broker:
        address = broker.bootstrap_servers
        broker.create_topic("kept", partitions=2)
        broker.add_partitions("kept", 3)
        folder = broker._folder
        broker.stop()
        broker.start()
        broker.kill()
        broker.start()
        assert broker.bootstrap_servers == address
        with broker._admin() as admin:
            (topic,) = admin.describe_topics(["kept"])
        assert len(topic["partitions"]) == 3
    assert not folder.exists()
    broker.close()


OWNER = """
from streamfit.testing import LocalKafka
broker = LocalKafka()
broker.start()
print(broker._process.pid, broker._folder, flush=True)
input()
"""


@pytest.mark.parametrize("sent", [None, signal.SIGKILL], ids=["exit", "kill -9"])
def test_broker_does_not_outlive_its_owner(kafka, sent):
    if kafka.external:
        pytest.skip("STREAMFIT_KAFKA names a broker that cannot be stopped from here")
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        pid, folder = owner.stdout.readline().split()
        if sent is not None:
            owner.send_signal(sent)
        owner.communicate("\n")
    deadline = time.monotonic() + 10
    while Path(folder).exists() or _runs(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # a dead process that nobody has waited for is dead
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_external_broker(monkeypatch):
    monkeypatch.setenv("STREAMFIT_KAFKA", "localhost:9092")
    assert LocalKafka.unavailable() is None
    with LocalKafka() as broker:
        assert broker.external
        assert broker.bootstrap_servers == "localhost:9092"
        for action in (broker.start, broker.stop, broker.kill):
            with pytest.raises(UnsupportedError, match="STREAMFIT_KAFKA"):
                action()


def test_missing_programs_are_named(monkeypatch, tmp_path):
    monkeypatch.delenv("STREAMFIT_KAFKA", raising=False)
    monkeypatch.setenv("STREAMFIT_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    _kafka_jars.find_java.cache_clear()
    missing = LocalKafka.unavailable()
    assert "Java 17" in missing
    assert "STREAMFIT_KAFKA=host:port" in missing
    assert "\n" not in missing
    with pytest.raises(MissingDependencyError, match="Maven"):
        _kafka_jars.find_jars()
