"""Training runs on a topic whose weights tell how often each record counted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import streamfit as sf
from connectors import JSONDecoder, KafkaSource
from streamfit.testing import LocalKafka


def record(name: str) -> bytes:
    """A record with one feature, its own."""
    return json.dumps({name: 1.0, "y": 1.0}).encode()


def counting_model() -> sf.LinearRegression:
    # From 0 half way towards 1: applied once a weight is 1/2, twice 3/4 or, in one batch, 1.
    return sf.LinearRegression(
        sf.optim.SGD(0.5),
        loss=sf.losses.HalfSquared(),
        batch_size=7,
        reduction="sum",
        fit_intercept=False,
    )


def source_of(kafka: LocalKafka | None, topic: str, client: str, **options: Any) -> KafkaSource:
    if kafka is not None:
        options = {"bootstrap_servers": kafka.bootstrap_servers, **options}
    options = {"stop_at_end": True, **options}
    return KafkaSource(topic, decoder=JSONDecoder("y"), client=client, **options)


def train(source: Any, state: Path, model: Any = None, **options: Any) -> sf.TrainingReport:
    """Train, or go on training, with a checkpoint now and then."""
    checkpoint = sf.Checkpointer(state, every_updates=20)
    return sf.Trainer(model or counting_model(), source, checkpoint=checkpoint, **options).run()


def check(kafka: LocalKafka, topic: str, state: Path, names: Iterable[str], **options: Any) -> None:
    """Check L, that each name was applied once and nothing else was, and W, by replay."""
    with sf.Checkpointer(state) as checkpointer:
        saved = checkpointer.latest()
    assert saved is not None
    model = counting_model()
    model.load_state_dict(saved.model)
    weights = model.weights
    assert set(weights) == set(names)
    assert set(weights.values()) <= {0.5}
    found = sf.journal.verify(state, source_of(kafka, topic, "confluent-kafka", **options))
    assert found.equal, str(found)


class Running:
    """A live run on a thread, to which things are done meanwhile."""

    def __init__(self, source: KafkaSource, state: Path, n: int | None = None, **options: Any):
        self.report: sf.TrainingReport | None = None
        self.error: BaseException | None = None
        self.n_samples = 0
        self._source = source
        options = {"max_samples": n, "callbacks": [self._tell], **options}
        self._thread = threading.Thread(target=self._run, args=(state, options), daemon=True)
        self._thread.start()

    def _tell(self, progress: sf.Progress) -> None:
        self.n_samples = progress.n_samples

    def _run(self, state: Path, options: dict[str, Any]) -> None:
        try:
            self.report = train(self._source, state, **options)
        except BaseException as error:
            self.error = error

    def until(self, n: int, seconds: float = 60) -> None:
        """Wait until `n` samples are in."""
        wait_for(lambda: self.n_samples >= n or self.error is not None, seconds)
        assert self.error is None, repr(self.error)

    def end(self, seconds: float = 60) -> sf.TrainingReport:
        """Wait for the run to end well."""
        self._thread.join(seconds)
        assert self.error is None, repr(self.error)
        assert self.report is not None, f"not at its end: {self.n_samples} samples"
        return self.report

    def failure(self, seconds: float = 60) -> BaseException:
        """Wait for the run to end badly."""
        self._thread.join(seconds)
        assert self.error is not None, f"no error, {self.n_samples} samples, {self.report}"
        return self.error


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
