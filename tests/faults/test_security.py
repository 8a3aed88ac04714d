"""Who may read from the broker, and which broker we read from: on the real one, by both clients."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from kafka.admin import UserScramCredentialUpsertion

import streamfit as sf
from connectors import JSONDecoder, KafkaSource, Security
from connectors.describe import source_from_config, source_from_url
from streamfit.errors import AuthenticationError, ConfigurationError
from streamfit.testing import LocalKafka, Proxy

PASSWORD = "hunter2-correct-horse"
WRONG = "swordfish-wrong"
numbers = itertools.count()


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def make_authority(folder: Path, name: str) -> Path:
    """Make a certificate authority; return its certificate, beside which lies its key."""
    ca = folder / f"{name}.crt"
    openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", f"/CN={name}",
        "-keyout", ca.with_suffix(".key"), "-out", ca,
    )  # fmt: skip
    return ca


def make_certificate(folder: Path, ca: Path, host: str) -> Path:
    """Make a certificate for `host`: one PEM file with key and chain, as the broker wants it."""
    key, request, certificate, extension = (
        folder / f"{host}.{x}" for x in ("key", "csr", "c", "e")
    )
    kind = "IP" if host[0].isdigit() else "DNS"
    extension.write_text(f"subjectAltName={kind}:{host}\n")
    openssl("genpkey", "-algorithm", "RSA", "-out", key)
    openssl("req", "-new", "-key", key, "-subj", f"/CN={host}", "-out", request)
    openssl(
        "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca.with_suffix(".key"),
        "-CAcreateserial", "-days", 2, "-extfile", extension, "-out", certificate,
    )  # fmt: skip
    whole = folder / f"{host}.pem"
    whole.write_text(key.read_text() + certificate.read_text() + ca.read_text())
    return whole


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("ca"), "streamfit-test")


@pytest.fixture(scope="module")
def broker(kafka: LocalKafka, authority: Path) -> Iterator[LocalKafka]:
    """A broker that asks for names and passwords, with a certificate for 127.0.0.1 only."""
    certificate = make_certificate(authority.parent, authority, "127.0.0.1")
    with LocalKafka(users={"trainer": PASSWORD}, certificate=certificate) as secured:
        yield secured


@pytest.fixture
def topic(broker: LocalKafka) -> str:
    name = f"secret-{next(numbers)}"
    broker.create_topic(name)
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for i in range(100):
        producer.produce(name, json.dumps({"y": i % 2, "x": i}))
    assert producer.flush(30) == 0
    return name


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    monkeypatch.setenv("WRONG_PASSWORD", WRONG)


def source_of(topic: str, servers: str, client: str, security: Security | None) -> KafkaSource:
    return KafkaSource(
        topic,
        bootstrap_servers=servers,
        decoder=JSONDecoder("y"),
        client=client,
        security=security,
        stop_at_end=True,
    )


@pytest.mark.parametrize("mechanism", [None, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("tls", [True, False])
def test_sasl_and_tls(broker, topic, client, authority, mechanism, tls, tmp_path):
    if mechanism is None and not tls:
        pytest.skip("no security at all: the rest of the tests")
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    security = Security(
        mechanism,
        None if mechanism is None else "trainer",
        password_file=None if mechanism is None else file,
        tls=tls,
        ca_file=authority if tls else None,
    )
    source = source_of(topic, broker.listener(security.protocol), client, security)
    assert sum(map(len, source)) == 100
    letters = source.dead_letters(topic)
    letters.send(b"{}", b"key", [])
    letters.flush(10)
    letters.close()
    again = source_from_config(json.loads(json.dumps(source.get_config())))
    assert sum(map(len, again)) == 101


def wrong(case: str, authority: Path, tmp_path: Path) -> tuple[str, Security]:
    if case == "wrong_password":
        return "127.0.0.1", Security("PLAIN", "trainer", password_env="WRONG_PASSWORD", tls=False)
    if case == "wrong_password_scram":
        return "127.0.0.1", Security(
            "SCRAM-SHA-512", "trainer", password_env="WRONG_PASSWORD", ca_file=authority
        )
    if case == "wrong_name":
        return "127.0.0.1", Security(
            "SCRAM-SHA-256", "nobody", password_env="KAFKA_PASSWORD", tls=False
        )
    if case == "wrong_hostname":
        return "localhost", Security(ca_file=authority)
    return "127.0.0.1", Security(ca_file=make_authority(tmp_path, "somebody-else"))


@pytest.mark.parametrize(
    "case",
    ["wrong_password", "wrong_password_scram", "wrong_name", "wrong_ca", "wrong_hostname"],
)
def test_refused_clearly_and_once(broker, topic, client, authority, case, tmp_path, caplog, capfd):
    """A typed error within seconds, from a handful of connections, that keeps the secret."""
    host, security = wrong(case, authority, tmp_path)
    with Proxy(broker.listener(security.protocol)) as proxy, caplog.at_level(logging.DEBUG):
        servers = f"{host}:{proxy.address.rpartition(':')[2]}"
        source = source_of(topic, servers, client, security)
        began = time.monotonic()
        for attempt in (source.position, source.dead_letters("letters").flush):
            if attempt != source.position:
                attempt.__self__.send(b"", None, [])
            with pytest.raises(AuthenticationError) as caught:
                attempt(*([] if attempt == source.position else [10]))
            assert topic in str(caught.value) or "letters" in str(caught.value)
        assert time.monotonic() - began < 10
        assert proxy.n_connections <= 6
        time.sleep(1.5)  # and nothing goes on knocking behind our back
        assert proxy.n_connections <= 6
    told = f"{caught.value!r} {source!r} {vars(source)} {caplog.text} {capfd.readouterr()}"
    assert WRONG not in told
    assert PASSWORD not in told


def change_password(broker: LocalKafka, password: str) -> None:
    with broker._admin() as admin:
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("trainer", "SCRAM-SHA-256", password.encode(), 4096)]
        )


def train(source: KafkaSource, state: Path, n: int | None = None) -> sf.TrainingReport:
    model = sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=7)
    checkpoint = sf.Checkpointer(state, every_updates=1)
    return sf.Trainer(model, source, checkpoint=checkpoint, max_samples=n).run()


def test_authentication_error_burst(broker, topic, client, tmp_path):
    """The broker refuses us for a while: the run ends, no offset is reset, none is lost."""
    security = Security("SCRAM-SHA-256", "trainer", password_env="KAFKA_PASSWORD", tls=False)
    state = tmp_path / "state"
    with Proxy(broker.listener("PROXIED"), broker.proxy_port) as proxy:
        source = source_of(topic, proxy.address, client, security)
        source.stop_at_end = False
        source._feed.check_seconds = source._feed.reopen_seconds = 0.5
        failures: list[BaseException] = []

        def run() -> None:
            try:
                train(source, state)
            except BaseException as error:
                failures.append(error)

        trainer = threading.Thread(target=run, daemon=True)
        trainer.start()
        while source._feed.next != {0: 100}:
            time.sleep(0.05)
        change_password(broker, WRONG)
        try:
            proxy.reset()
            trainer.join(30)
            assert [type(error) for error in failures] == [AuthenticationError]
            for _ in range(3):
                with pytest.raises(AuthenticationError):
                    train(source_of(topic, proxy.address, client, security), state)
        finally:
            change_password(broker, PASSWORD)
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        for i in range(50):
            producer.produce(topic, json.dumps({"y": i % 2, "x": i}))
        assert producer.flush(30) == 0
        deadline = time.monotonic() + 20
        while True:  # the new password takes a moment to reach every part of the broker
            try:
                report = train(source_of(topic, proxy.address, client, security), state)
                break
            except AuthenticationError:
                assert time.monotonic() < deadline
        assert (report.resumed_at, report.n_samples) == (100, 150)
        assert report.position == {f"{topic}:0": 150}
        again = source_of(topic, proxy.address, client, security)
        assert sf.journal.verify(state, again).equal
    for file in state.iterdir():
        assert PASSWORD.encode() not in file.read_bytes()
        assert WRONG.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"tls": False}, "neither"),
        ({"tls": "yes"}, "tls must be"),
        ({"username": "a"}, "needs a mechanism"),
        ({"mechanism": "GSSAPI"}, "mechanism must be one of"),
        ({"mechanism": "PLAIN", "password_env": "KAFKA_PASSWORD"}, "needs a username"),
        ({"mechanism": "PLAIN", "username": "a"}, "password_env or password_file"),
        (
            {"mechanism": "PLAIN", "username": "a", "password_env": "A", "password_file": "b"},
            "not both",
        ),
        ({"mechanism": "PLAIN", "username": "a", "password_env": "NO_SUCH"}, "NO_SUCH holds no"),
        ({"mechanism": "PLAIN", "username": "a", "password_file": "/no"}, "cannot read.*No such"),
        ({"ca_file": "/no/such/file"}, "no ca_file"),
        ({"mechanism": "PLAIN", "ca_file": "/x", "tls": False, "username": "a"}, "password_env"),
    ],
)
def test_arguments_that_do_not_fit(arguments, told):
    with pytest.raises(ConfigurationError, match=told):
        Security(**arguments)


def test_secrets_are_not_quoted(tmp_path):
    file = tmp_path / "password"
    file.write_bytes(b"\xff" + PASSWORD.encode())
    with pytest.raises(ConfigurationError, match="not UTF-8") as caught:
        Security("PLAIN", "trainer", password_file=file)
    assert PASSWORD not in f"{caught.value!r}"
    good = Security("PLAIN", "trainer", password_env="KAFKA_PASSWORD")
    assert PASSWORD not in f"{good!r} {good.get_config()}"
    url = f"kafka://trainer:{PASSWORD}@127.0.0.1:19/topic?target=y"
    with pytest.raises(ConfigurationError, match="security=") as caught:
        source_from_url(url)
    assert PASSWORD not in str(caught.value)
    with pytest.raises(ConfigurationError, match="must be a Security") as caught:
        source_of("topic", "127.0.0.1:19", "auto", {"password": PASSWORD})
    assert PASSWORD not in str(caught.value)
