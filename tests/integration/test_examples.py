"""The examples and the demo, run as a user runs them, on fewer flights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamfit.testing import LocalKafka

EXAMPLES = Path(__file__).parents[2] / "examples"

pytest.importorskip("pandas")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if name != "STREAMFIT_KAFKA"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=EXAMPLES.parent,
        env={**ours, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def check_demo(done: subprocess.CompletedProcess[str], n: int) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # noise on a user's screen
    assert "$ kill -9 " in done.stdout
    assert "\nresumed at " in done.stdout
    table = dict(re.findall(r"^(\w[\w ]*?) {2,}(\S+)", done.stdout, re.M))
    assert table["samples"] == f"{n:,}"
    assert table["updates"] == f"{n // 32:,}"
    assert 0 < int(table["resumed at"].replace(",", "")) < n
    assert len(table["stream digest"]) == 64
    assert table["stream digest"] == table["offline digest"]
    assert done.stdout.endswith("\nequal: yes\n")


def test_the_demo_from_an_iterator() -> None:
    done = run("examples/demo.py", "--no-kafka", "--n", "24000")
    check_demo(done, 24_000)
    assert "Kafka" not in done.stdout


def test_the_demo_through_kafka(kafka: LocalKafka) -> None:
    done = run("examples/demo.py", "--n", "24000", STREAMFIT_KAFKA=kafka.bootstrap_servers)
    check_demo(done, 24_000)
    assert "producing 24,000 flights" in done.stdout


def test_without_java_the_demo_says_so_and_takes_the_iterator(tmp_path: Path) -> None:
    done = run("examples/demo.py", "--n", "24000", PATH=str(tmp_path), JAVA_HOME="")
    check_demo(done, 24_000)
    (reason,) = [line for line in done.stdout.splitlines() if line.startswith("no broker")]
    assert "Java" in reason


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import demo

    yield demo
    for name in ("demo", "flights", "kafka_flights"):
        sys.modules.pop(name, None)


def test_one_label_that_differs_is_noticed(
    demo: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = demo.flights

    def one_label_flipped(n: int) -> list[object]:
        samples = list(honest(n))
        x, late = samples[-1]
        return [*samples[:-1], (x, not late)]

    monkeypatch.setattr(demo, "flights", one_label_flipped)
    assert demo.main(["--no-kafka", "--n", "24000"]) == 1
    assert capsys.readouterr().out.endswith("\nequal: no\n")


def test_flights(tmp_path: Path) -> None:
    arguments = ("examples/flights.py", "--n", "3000", "--state", str(tmp_path / "state"))
    first, second = run(*arguments), run(*arguments)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stderr == second.stderr == ""
    assert re.search(r"^samples +3,000$", first.stdout, re.M)
    assert re.search(r"^resumed at +3,000$", second.stdout, re.M)


def test_kafka_flights(kafka: LocalKafka, tmp_path: Path) -> None:
    kafka.create_topic("example-flights")
    there = ("--servers", kafka.bootstrap_servers, "--topic", "example-flights")
    done = run("examples/kafka_flights.py", "produce", "--n", "3000", *there)
    assert (done.returncode, done.stderr) == (0, "")
    done = run("examples/kafka_flights.py", "train", "--stop-at-end", *there)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^samples +3,000$", done.stdout, re.M)


def test_keras_windows(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    arguments = ("examples/keras_windows.py", "--n", "1500", "--state", str(tmp_path / "state"))
    first, second = run(*arguments), run(*arguments)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert re.search(r"^windows +1,473$", first.stdout, re.M)
    assert re.search(r"^updates +148 ", first.stdout, re.M)
    assert re.search(r"^resumed at +1,473$", second.stdout, re.M)
    digest = re.compile(r"^digest +(\w{64})$", re.M)
    assert digest.findall(first.stdout) == digest.findall(second.stdout) != []
    assert re.search(r"^LSTM, as it learns +0\.\d{4} +0\.\d{4}$", first.stdout, re.M)


def test_drift() -> None:
    done = run("examples/drift.py", "--n", "12000")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = re.findall(
        r"^ ([a-z ]+?) {2,}([\d, ]+?) {2,}(.+)%  +(.+)%  +\S+ +(\w+)", done.stdout, re.M
    )
    assert [row[0] for row in rows] == [
        "report",
        "reset the optimizer",
        "raise the learning rate",
    ]
    for _, drifts, _, _, replays in rows:
        assert 5_000 < int(drifts.split()[0].replace(",", "")) < 5_500
        assert replays == "yes"
    errors = [float(row[2]) for row in rows]
    assert max(errors[1:]) < errors[0]  # to do something is better than to look on


def test_monitor() -> None:
    arguments = ("--n", "6000", "--per-second", "1e9", "--address", "127.0.0.1:0")
    done = run("examples/monitor.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^open http://127.0.0.1:\d+/$", done.stdout, re.M)
    assert re.search(r'^ +5,\d\d\d  {"prediction":(true|false),"classes"', done.stdout, re.M)
    assert re.search(r"^samples +5,994$", done.stdout, re.M)
    assert re.search(r"^bad samples +6$", done.stdout, re.M)


def printed(example: str) -> str:
    done = run(f"examples/{example}.py")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_generator_in_ten_lines() -> None:
    found = re.findall(r"^(?:price|rank) +(\S+) +\(truth (\S+)\)$", printed("generator"), re.M)
    assert len(found) == 2
    for weight, truth in found:
        assert abs(float(weight) - float(truth)) < 0.15
    code = (EXAMPLES / "generator.py").read_text().partition('"""\n\n')[2]
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


def test_river_drop_in() -> None:
    rows = re.findall(r"^(.+?) {2,}(\S+)% +(\S+) +\S+$", printed("river_drop_in"), re.M)
    (river, *of_river), (ours, *of_ours), (_, *of_batches) = rows
    assert (river, ours) == ("river", "streamfit")
    assert of_river == of_ours != of_batches


def test_text_hashing() -> None:
    out = printed("text_hashing")
    odds = dict(re.findall(r"^(.+?) {2,}\S+ +(\S+)% JetBlue$", out, re.M))
    assert float(odds["airbus a320"]) > 90
    assert float(odds["boeing 737"]) < 10
    assert float(odds["never seen"]) < 50
    assert re.search(r"^weights +4,096$", out, re.M)


def test_from_vw() -> None:
    pytest.importorskip("vowpalwabbit")
    differences = re.findall(r"^--.+ (\S+)$", printed("from_vw"), re.M)
    assert len(differences) == 3
    assert max(map(float, differences)) < 1e-5
