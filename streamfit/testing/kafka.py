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
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={advertised}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
inter.broker.listener.name=BROKER
listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT
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

TLS = """\
ssl.keystore.type=PEM
ssl.keystore.location={certificate}
"""

LOGIN = "org.apache.kafka.common.security"
SASL = """\
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.{listener}.plain.sasl.jaas.config={login}.plain.PlainLoginModule required {users};
listener.name.{listener}.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.{listener}.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
"""

# The shell reads until the pipe from this process closes, which it does even after `kill -9`.
WATCHER = 'read _; kill -9 "$1"; rm -rf "$2"'


class LocalKafka:
    """A broker on free ports of 127.0.0.1 that lives no longer than this process.

    With `STREAMFIT_KAFKA=host:port` in the environment it stands for that broker instead, which
    can then not be started, stopped or killed from here; options that are given here ask for a
    broker of our own all the same.

    Parameters
    ----------
    users
        Passwords by name, for PLAIN and SCRAM: adds the listener `SASL_PLAINTEXT`.
    certificate
        PEM file with the broker's private key (PKCS #8), its certificate and those that signed
        it: adds the listener `SSL`, and with `users` also `SASL_SSL`.

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

    def __init__(
        self, *, users: Mapping[str, str] | None = None, certificate: Path | None = None
    ) -> None:
        self._users = dict(users or {})
        self._certificate = certificate
        plain = not users and certificate is None
        self._proxy_port = 0
        self._external = os.environ.get("STREAMFIT_KAFKA") if plain else None
        self._listeners: dict[str, str] = {}
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

    def listener(self, name: str) -> str:
        """Return the address of another listener: `SASL_PLAINTEXT`, `SSL`, `SASL_SSL`, `PROXIED`.

        `PROXIED` speaks SASL_PLAINTEXT when there are `users`. Its clients are told to go on at
        `proxy_port`, where nobody listens before a
        `Proxy(kafka.listener("PROXIED"), kafka.proxy_port)` does.
        """
        if name not in self._listeners:
            raise UnsupportedError(f"{self!r} has no listener {name}")
        return self._listeners[name]

    @property
    def proxy_port(self) -> int:
        """Port of 127.0.0.1 that clients of the listener `PROXIED` are sent to."""
        return self._proxy_port

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
        protocols = {"BROKER": "PLAINTEXT", "PROXIED": "PLAINTEXT"}
        if self._users:
            protocols |= dict.fromkeys(["PROXIED", "SASL_PLAINTEXT"], "SASL_PLAINTEXT")
        if self._certificate:
            protocols |= {name: name for name in (["SSL", "SASL_SSL"] if self._users else ["SSL"])}
        controller, self._proxy_port, *ports = _free_ports(2 + len(protocols))
        self._listeners = {
            name: f"127.0.0.1:{port}" for name, port in zip(protocols, ports, strict=True)
        }
        advertised = {**self._listeners, "PROXIED": f"127.0.0.1:{self._proxy_port}"}
        text = PROPERTIES.format(
            controller=controller,
            data=folder / "data",
            listeners=_joined(self._listeners, "://"),
            advertised=_joined(advertised, "://"),
            protocols=_joined(protocols, ":"),
        )
        if self._certificate:
            text += TLS.format(certificate=self._certificate)
        users = " ".join(f'user_{name}="{password}"' for name, password in self._users.items())
        for name, protocol in protocols.items():
            if protocol.startswith("SASL"):
                text += SASL.format(listener=name.lower(), login=LOGIN, users=users)
        settings = folder / "server.properties"
        settings.write_text(text)
        tool = ["kafka.tools.StorageTool", "format", "-t", "streamfit-local-kafka0", "-c"]
        scram = [
            f"{mechanism}=[name={name},password={password}]"
            for name, password in self._users.items()
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
        ]
        tool += [str(settings), *(part for user in scram for part in ("--add-scram", user))]
        done = subprocess.run([*java, *tool], capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(folder)
            raise StreamfitError(f"Kafka could not format its store: {done.stdout}{done.stderr}")
        self._address = self._listeners["BROKER"]
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


def _joined(values: Mapping[str, str], by: str) -> str:
    return ",".join(f"{name}{by}{value}" for name, value in values.items())


def _free_ports(n: int) -> list[int]:
    """Find ports below those the system hands to outgoing connections.

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
        if len(found) == n:
            return found
    raise StreamfitError("no free port on 127.0.0.1 between 20000 and 32000")


_alive: weakref.WeakSet[LocalKafka] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for broker in list(_alive):
        broker.close()
