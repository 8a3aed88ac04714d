"""What a monitor publishes, and what it refuses."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from river import metrics, tree

import streamfit as sf
from streamfit.errors import ConfigurationError, MissingDependencyError, ServingError
from streamfit.serving import StateServer
from streamfit.serving.frozen import FrozenModel
from streamfit.serving.history import History, Point
from streamfit.serving.prometheus import Metrics

CLIENT = httpx.Client(verify=False, limits=httpx.Limits(max_keepalive_connections=0))
SAMPLES = [({"a": i % 7, "b": i % 3}, i % 2 == 0) for i in range(3000)]


def get(url: str) -> httpx.Response:
    return CLIENT.get(url)


def test_a_long_history_is_short_and_complete() -> None:
    history = History()
    for i in range(100_000):
        history.add(Point(i, i + 1, 3, 2.0 * i, 1.0, None, {}, i % 1000))
    assert 256 <= len(history.points) <= 512
    assert len(history.recent) == 600
    assert sum(point.samples for point in history.points) == 300_000
    assert sum(point.loss_sum for point in history.points) == 99_999 * 100_000
    assert all(
        first.end == second.begin
        for first, second in zip(history.points, history.points[1:], strict=False)
    )
    assert max(point.lag or 0 for point in history.points) == 999  # a peak is not averaged away


@pytest.mark.parametrize("address", ["8765", "127.0.0.1:", ":8765", "127.0.0.1:99999", "a:b", 8765])
def test_no_address(address: Any) -> None:
    with pytest.raises(ConfigurationError, match="'host:port'|monitor must be"):
        sf.Trainer(sf.LogisticRegression(), SAMPLES, monitor=address)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80", "example.org:80"])
def test_a_public_address_needs_a_token(address: str) -> None:
    with pytest.raises(ConfigurationError, match="give a token"):
        sf.WebMonitor(address)
    assert "secret" not in repr(sf.WebMonitor(address, token="a-secret-of-24-letters--"))


@pytest.mark.parametrize("token", ["", "short", "with space in it, too", "ünïcödeünïcödeü", 7])
def test_no_token(token: Any) -> None:
    with pytest.raises(ConfigurationError, match="at least 16") as caught:
        sf.WebMonitor(token=token)
    assert not token or str(token) not in str(caught.value).replace("16", "")


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"every_seconds": -1}, {"max_body_bytes": 0}, {"timeout": "1"}]
)
def test_other_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        sf.WebMonitor(**options)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else real(name)
    )
    with pytest.raises(MissingDependencyError, match=r"uvicorn: pip install 'streamfit\[serve\]'"):
        sf.WebMonitor()


def test_a_port_in_use_ends_the_run_before_it_begins() -> None:
    pulled = []

    def samples() -> Iterator[Any]:
        pulled.append(1)
        yield from SAMPLES

    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        model = sf.LogisticRegression()
        with pytest.raises(ServingError, match=f"cannot listen on {address}.*port 0"):
            sf.Trainer(model, samples, monitor=address).run()
    assert not pulled
    assert model.n_samples == 0


def test_what_a_run_publishes(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    monitor = sf.WebMonitor("127.0.0.1:0", every_seconds=1e-9)
    samples: list[Any] = [*SAMPLES, ({"a": "<b>"}, True)] * 2

    def look(progress: sf.Progress) -> None:
        if progress.n_samples > 5000 and not seen:
            seen["health"] = get(monitor.url + "healthz")
            seen["metrics"] = get(monitor.url + "metrics").text
            seen["history"] = get(monitor.url + "history").json()

    report = sf.Trainer(
        sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=8),
        sf.IterableSource(samples),
        metrics=[metrics.LogLoss(), metrics.ConfusionMatrix()],
        checkpoint=sf.Checkpointer(tmp_path, every_updates=100),
        on_bad_sample="skip",
        callbacks=[look],
        monitor=monitor,
    ).run()
    shown = monitor.board.snapshot
    assert (shown.status, shown.model) == ("finished", "LogisticRegression")
    for name in ("n_samples", "n_updates", "n_bad", "n_pending", "position", "progressive_loss"):
        assert getattr(shown, name) == getattr(report, name)
    assert shown.metrics == {"LogLoss": report.metrics["LogLoss"].get()}  # a matrix is no number
    assert [(bad.offset, bad.feature, bad.error) for bad in shown.bad] == [
        (6001, "a", "BadSampleError"),
        (3000, "a", "BadSampleError"),
    ]
    assert "not a number" in shown.bad[0].reason
    newest = shown.checkpoints[0]
    assert newest.number == shown.n_checkpoints > 5
    assert newest.n_samples == report.n_samples
    history = monitor.board.history
    assert sum(point.samples for point in history) == report.n_samples
    assert sum(point.loss_sum for point in history) / sum(
        point.loss_weight for point in history
    ) == pytest.approx(report.progressive_loss)
    assert seen["health"].status_code == 200
    assert seen["health"].json()["status"] == "training"
    number = int(re.findall(r"^streamfit_samples_total (\d+)", seen["metrics"], re.M)[0])
    published = {0, *itertools.accumulate(point.samples for point in history)}
    assert number in published - {report.n_samples}  # the clock says which of them
    assert len(seen["history"]["recent"]) == seen["history"]["number"]
    with pytest.raises(httpx.ConnectError):
        get(monitor.url)  # it ended with the run


def test_a_monitor_does_not_change_what_is_learned_and_costs_little() -> None:
    digests = set()
    for monitor in (None, sf.WebMonitor("127.0.0.1:0", every_seconds=1e-9)):
        model = sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=7)
        digests.add(sf.Trainer(model, SAMPLES, monitor=monitor).run().digest)
    assert len(digests) == 1
    # copying millions of weights takes a hundredth of the time, not a share of each second
    rows = np.ones((40_000, 2))
    model = sf.LogisticRegression(features=sf.HashedFeatures(22))
    monitor = sf.WebMonitor("127.0.0.1:0", every_seconds=1e-9)
    copies: list[FrozenModel] = []

    def look(progress: sf.Progress) -> None:
        if monitor.board.model is not None and monitor.board.model not in copies[-1:]:
            copies.append(monitor.board.model)

    source = sf.ArraySource(rows, rows[:, 0] > 0)
    sf.Trainer(model, source, monitor=monitor, callbacks=[look]).run()
    assert 1 <= len(copies) <= 5  # of forty looks


def test_a_metric_that_raises_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Moody(metrics.LogLoss):  # type: ignore[misc]
        def get(self) -> float:
            raise ZeroDivisionError("nothing yet")

    monitor = sf.WebMonitor("127.0.0.1:0")
    report = sf.Trainer(sf.LogisticRegression(), SAMPLES, metrics=[Moody()], monitor=monitor).run()
    assert report.n_samples == len(SAMPLES)
    assert "event=monitor_failed" in caplog.text
    assert "nothing yet" in caplog.text


def test_a_failure_is_shown_and_raised() -> None:
    def samples() -> Iterator[Any]:
        yield from SAMPLES
        raise RuntimeError("the sky fell")

    monitor = sf.WebMonitor("127.0.0.1:0")
    with pytest.raises(RuntimeError, match="the sky fell"):
        sf.Trainer(sf.LogisticRegression(), samples, monitor=monitor).run()
    assert monitor.board.snapshot.status == "failed"
    with pytest.raises(httpx.ConnectError):
        get(monitor.url)


def test_predictions_of_other_learners() -> None:
    regression = sf.LinearRegression()
    regression.learn_one({"a": 1.0}, 2.0)
    told = FrozenModel(regression).predict([{"a": 2.0}, {}])
    assert [prediction.value for prediction in told] == [
        regression.predict_one({"a": 2.0}),
        regression.predict_one({}),
    ]
    softmax = sf.SoftmaxRegression()
    assert FrozenModel(softmax).predict([{"a": 2.0}])[0].value is None
    softmax.learn_one({"a": 1.0}, 3)
    softmax.learn_one({"a": 3.0}, "q")
    frozen = FrozenModel(softmax)
    assert frozen.predict([{"a": 2.0}])[0].probabilities == softmax.predict_proba_one({"a": 2.0})
    assert {name for name, _ in frozen.largest_weights() or ()} == {"3: a", "q: a"}
    learner = sf.adapters.RiverLearner(tree.HoeffdingTreeClassifier())
    learner.learn_one({"a": 1.0}, "low")
    frozen = FrozenModel(learner)
    learner.learn_one({"a": 1.0}, "high")
    assert frozen.n_samples == 1
    assert frozen.predict([{"a": 2.0}])[0].value == "low"
    assert frozen.largest_weights() is None


def test_the_largest_weights() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 50)), rng.integers(2, size=200)
    for features in (None, sf.HashedFeatures(12)):
        model = sf.LogisticRegression(sf.optim.SGD(0.1), l2=0.01, features=features)
        model.learn_many(X, y)
        largest = sorted(model.weights.items(), key=lambda item: -abs(item[1]))[:20]
        assert FrozenModel(model).largest_weights(20) == [(str(k), w) for k, w in largest]
    assert FrozenModel(sf.LogisticRegression()).largest_weights() == []


def test_every_metric_of_prometheus_is_documented() -> None:
    text = (Path(sf.__file__).parents[1] / "docs" / "operations.md").read_text()
    section = text.split("\n## Prometheus\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)(?:\{\w+\})?` \| (\w+) \|", section, re.M)
    monitor = sf.WebMonitor("127.0.0.1:0")
    monitor.board.snapshot = type(monitor.board.snapshot)(
        number=1, time=0.0, began=0.0, status="training", progressive_loss=1.0, recent_loss=1.0,
        metrics={"LogLoss": 1.0}, position={"a:0": 1}, lag={"a:0": 1},
        checkpoints=(sf_checkpoint(),),
    )  # fmt: skip
    exported = Metrics(monitor.board)
    exported.requests.labels("200").inc()
    types = re.findall(r"^# TYPE (streamfit_\w+) (\w+)$", exported.text().decode(), re.M)
    assert {name: kind for name, kind in types if not name.endswith("_created")} == dict(rows)


def sf_checkpoint() -> Any:
    from streamfit.serving.board import SavedCheckpoint

    return SavedCheckpoint(1, 0.0, 1, 0.1)


def saved(state: Path, n: int) -> sf.TrainingReport:
    model = sf.LogisticRegression(sf.optim.SGD(0.01), batch_size=8)
    source = sf.IterableSource(SAMPLES)
    return sf.Trainer(model, source, checkpoint=sf.Checkpointer(state), max_samples=n).run()


def test_a_state_directory_is_served_and_followed(tmp_path: Path) -> None:
    with (
        pytest.raises(sf.errors.CheckpointError, match="no checkpoint"),
        StateServer(tmp_path, "127.0.0.1:0"),
    ):
        pass
    first = saved(tmp_path, 1000)
    with StateServer(tmp_path, "127.0.0.1:0") as server:
        answer = CLIENT.post(server.url + "predict", json={"a": 3, "b": 1}).json()
        assert answer["model"]["n_samples"] == first.n_samples == 1000
        second = saved(tmp_path, 2500)  # somebody else goes on training meanwhile
        server.look()
        answer = CLIENT.post(server.url + "predict", json={"a": 3, "b": 1}).json()
        assert answer["model"]["n_samples"] == second.n_samples == 2500
        shown = server.board.snapshot
        assert shown.progressive_loss == pytest.approx(second.progressive_loss)
        newest = sorted(tmp_path.glob("checkpoint-*"))[-1]
        newest.with_name("checkpoint-99999999.safetensors").write_bytes(b"rubbish")
        server.look()  # a damaged one is passed over
        assert server.board.snapshot.n_samples == 2500
        assert get(server.url + "healthz").json()["status"] == "serving"


def test_the_command(tmp_path: Path) -> None:
    saved(tmp_path, 1000)
    command = [sys.executable, "-m", "streamfit", "serve", str(tmp_path), "--address"]
    environment = {**os.environ, "STREAMFIT_TOKEN": "a-token-of-the-environment"}
    with subprocess.Popen(
        [*command, "127.0.0.1:0"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert get(url + "healthz").status_code == 200
        assert get(url + "metrics").status_code == 401
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert process.wait(10) == 0
        assert time.monotonic() - began < 5
    refused = subprocess.run(
        [*command, "0.0.0.0:0"], capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == 2
    assert "give a token" in refused.stderr
