"""A real Apache Kafka broker for tests and demos: one JVM in KRaft mode, no container.

::

    with LocalKafka() as kafka:
        kafka.create_topic("clicks", partitions=3)
        KafkaSource("clicks", bootstrap_servers=kafka.bootstrap_servers, ...)
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from streamfit.errors import (
    BrokerUnavailableError,
    MissingDependencyError,
    StreamfitError,
    UnsupportedError,
)
from streamfit.testing._kafka_jars import find_jars, find_java, kafka_version

__all__ = ["LocalKafka"]

START_SECONDS = 60
STOP_SECONDS = 30

# A short start matters more than throughput: compile lightly, collect with one thread.
JVM_OPTIONS = [
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
]

# The short session lets a killed broker come back at once: a controller lets no second broker
# register under the same id while the first may still live.
PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=BROKER://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BROKER://127.0.0.1:{broker}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
inter.broker.listener.name=BROKER
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2500
log.cleaner.backoff.ms=200
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
log.segment.delete.delay.ms=100
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""

# The shell reads until the pipe from this process closes, which it does even after `kill -9`.
WATCHER = 'read _; kill -9 "$1"; rm -rf "$2"'


class LocalKafka:
    """A broker on free ports of 127.0.0.1 that lives no longer than this process.

    With `STREAMFIT_KAFKA=host:port` in the environment it stands for that broker instead, which
    can then not be started, stopped or killed from here.

    Raises
    ------
    MissingDependencyError
        From `start`, when Java or Maven is missing; `unavailable` says it without raising.

    Examples
    --------
    >>> from streamfit.testing import LocalKafka
    >>> with LocalKafka() as kafka:  # doctest: +SKIP
    ...     kafka.create_topic("clicks", partitions=3)
    ...     print(kafka.bootstrap_servers)
    127.0.0.1:21473
    """

    def __init__(self) -> None:
        self._external = os.environ.get("STREAMFIT_KAFKA")
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None
        self._address = self._external or ""
        if not self._external:
            _alive.add(self)

    def __repr__(self) -> str:
        if self._external:
            return f"<broker at {self._external} (STREAMFIT_KAFKA)>"
        return f"<Apache Kafka {kafka_version()} at {self._address or 'no address yet'}>"

    def __enter__(self) -> Self:
        if not self._external:
            self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def bootstrap_servers(self) -> str:
        """Address of the broker, `host:port`; it stays the same through `stop` and `start`."""
        if not self._address:
            raise UnsupportedError("the broker has no address before start()")
        return self._address

    @property
    def external(self) -> bool:
        """Whether this is a broker named by `STREAMFIT_KAFKA`, which cannot be stopped."""
        return self._external is not None

    @staticmethod
    def unavailable() -> str | None:
        """Say in one line what is missing to run a broker, or None when nothing is.

        The first call on a machine downloads Kafka, which takes some seconds.
        """
        if "STREAMFIT_KAFKA" in os.environ:
            return None
        try:
            find_java()
            find_jars()
        except MissingDependencyError as error:
            return str(error)
        return None

    def start(self) -> None:
        """Start the broker, or start it again with the data and the address it had."""
        self._refuse_external("start")
        if self._process is not None:
            return
        jars = find_jars() / "*"
        java = [find_java(), *JVM_OPTIONS, "-cp", str(jars)]
        if self._folder is None:
            self._folder = self._format(java)
        log = self._folder / "broker.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*java, "kafka.Kafka", str(self._folder / "server.properties")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the test run, which then stops the broker
            )
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", WATCHER, "sh", str(self._process.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._wait_until_ready(log)
        except BaseException:
            self._end(kill=True)
            raise

    def stop(self) -> None:
        """Stop the broker in good order (SIGTERM); its data stay."""
        self._refuse_external("stop")
        self._end(kill=False)

    def kill(self) -> None:
        """End the broker at once (SIGKILL); what it had written stays."""
        self._refuse_external("kill")
        self._end(kill=True)

    def close(self) -> None:
        """End the broker and remove its data; calling it again does nothing."""
        if self._external:
            return
        self._end(kill=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
            self._address = ""

    def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, str] | None = None
    ) -> None:
        """Create a topic and wait until the broker serves it."""
        with self._admin() as admin:
            topic = {"num_partitions": partitions, "replication_factor": 1}
            admin.create_topics({name: {**topic, "configs": dict(config or {})}})
            admin.wait_for_topics([name])

    def delete_topic(self, name: str) -> None:
        """Delete a topic and all it holds."""
        with self._admin() as admin:
            admin.delete_topics([name])

    def add_partitions(self, name: str, total: int) -> None:
        """Raise the number of partitions of a topic to `total`."""
        with self._admin() as admin:
            admin.create_partitions({name: total})

    def delete_records(self, name: str, before: Mapping[int, int]) -> None:
        """Drop the records of each partition before an offset, as retention would."""
        from kafka import TopicPartition

        with self._admin() as admin:
            admin.delete_records({TopicPartition(name, p): n for p, n in before.items()})

    def _admin(self) -> Any:
        from kafka import KafkaAdminClient

        return KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)

    def _refuse_external(self, action: str) -> None:
        if self._external:
            raise UnsupportedError(f"cannot {action} the broker named by STREAMFIT_KAFKA")

    def _format(self, java: list[str]) -> Path:
        """Make the folder of a new broker: settings, and a formatted store."""
        folder = Path(tempfile.mkdtemp(prefix="streamfit-kafka-"))
        broker, controller = _free_ports()
        settings = folder / "server.properties"
        settings.write_text(
            PROPERTIES.format(broker=broker, controller=controller, data=folder / "data")
        )
        tool = ["kafka.tools.StorageTool", "format", "-t", "streamfit-local-kafka0", "-c"]
        done = subprocess.run(
            [*java, *tool, str(settings)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            shutil.rmtree(folder)
            raise StreamfitError(f"Kafka could not format its store: {done.stdout}{done.stderr}")
        self._address = f"127.0.0.1:{broker}"
        return folder

    def _wait_until_ready(self, log: Path) -> None:
        from kafka.errors import KafkaError

        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if not _listens(self._address):
                time.sleep(0.05)
                continue
            try:
                with self._admin() as admin:
                    if admin.describe_cluster()["brokers"]:
                        return
            except KafkaError:
                time.sleep(0.05)
        last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        state = "ended" if self._process.poll() is not None else "did not answer in time"
        raise BrokerUnavailableError(f"the broker {state}; its last lines:\n{last_lines}")

    def _end(self, *, kill: bool) -> None:
        # The watcher goes first: it must never fire at a process id that has been given away.
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.communicate()
            self._watcher = None
        if self._process is None:
            return
        if not kill:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                kill = True
        if kill:
            self._process.kill()
        self._process.wait()
        self._process = None


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _free_ports() -> tuple[int, int]:
    """Find two ports below those the system hands to outgoing connections.

    While the broker is down its clients keep knocking, and a knock from an outgoing port that
    happens to equal the broker's would connect to itself and hold the port.
    """
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == 2:
            return found[0], found[1]
    raise StreamfitError("no free port on 127.0.0.1 between 20000 and 32000")


_alive: weakref.WeakSet[LocalKafka] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for broker in list(_alive):
        broker.close()
