from __future__ import annotations

import logging
import math
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from river import metrics, utils

import streamfit as sf
from streamfit.checkpoint import Checkpoint
from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    SourceError,
    UpdateRefusedWarning,
)
from streamfit.testing.sources import SplitSource
from streamfit.types import Block

SAMPLES = [({"x": float(i % 3), "z": 1.0 / (1 + i)}, i % 3 == 1) for i in range(500)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"last_batch": "keep"}, "last_batch"),
        ({"max_wait": -1}, "max_wait"),
        ({"max_wait": math.nan}, "max_wait"),
        ({"on_bad_sample": "ignore"}, "on_bad_sample"),
        ({"max_samples": -1}, "max_samples"),
        ({"max_samples": True}, "max_samples"),
        ({"callbacks": [3]}, "callbacks"),
        ({"progress": 1}, "progress"),
        ({"checkpoint": "state/"}, "checkpoint"),
        ({"metrics": [3]}, "metrics"),
        ({"metrics": [metrics.MAE()]}, "MAE does not work with LogisticRegression"),
        ({"source": 3}, "source"),
        ({"source": (s for s in SAMPLES), "epochs": 2}, "only once"),
        ({"model": "logistic"}, "model"),
    ],
)
def test_arguments_are_refused_when_the_trainer_is_made(
    arguments: dict[str, Any], message: str
) -> None:
    call = {"model": sf.LogisticRegression(), "source": SAMPLES, **arguments}
    with pytest.raises(ConfigurationError, match=message):
        sf.Trainer(call.pop("model"), call.pop("source"), **call)


def test_metrics_are_those_of_predicting_before_learning() -> None:
    model = sf.LogisticRegression(sf.optim.SGD(0.3), batch_size=7)
    expected = [metrics.LogLoss(), metrics.Accuracy(), metrics.ROCAUC()]
    for x, y in SAMPLES:
        p = model.predict_proba_one(x)
        for metric in expected:
            metric.update(y, p[True] > p[False] if metric.requires_labels else p)
        model.learn_one(x, y)
    found = [metrics.LogLoss(), metrics.Accuracy(), metrics.ROCAUC()]
    rolling = utils.Rolling(metrics.Accuracy, window_size=50)
    report = sf.Trainer(
        sf.LogisticRegression(sf.optim.SGD(0.3), batch_size=7), SAMPLES, metrics=[*found, rolling]
    ).run()
    for metric, wanted in zip(found, expected, strict=True):
        assert metric.get() == wanted.get()
    assert report.metrics["LogLoss"].get() == pytest.approx(report.progressive_loss, rel=1e-12)
    assert 0.0 < rolling.get() <= 1.0
    assert "progressive loss" in str(report)


def test_regression_metrics_with_weights() -> None:
    metric = metrics.MAE()
    sf.Trainer(
        sf.LinearRegression(sf.optim.SGD(0.0001)),
        [([1.0], 2.0, 3.0), ([1.0], 4.0, 1.0)],
        metrics=metric,
    ).run()
    assert metric.get() == pytest.approx((3 * 2 + 4) / 4, rel=1e-2)


def test_max_samples_ends_the_stream_and_leaves_the_rest() -> None:
    iterator = iter(SAMPLES)
    model = sf.LogisticRegression(batch_size=32)
    report = sf.Trainer(model, iterator, max_samples=100).run()
    assert (report.n_samples, report.n_updates, report.n_pending) == (100, 4, 0)
    assert next(iterator) is SAMPLES[100]
    assert sf.Trainer(model, SAMPLES, max_samples=0).run().n_samples == 0


def test_max_samples_counts_those_before_a_resume(tmp_path: Path) -> None:
    def train(limit: int) -> sf.TrainingReport:
        model = sf.LogisticRegression(batch_size=10)
        return sf.Trainer(
            model, SAMPLES, checkpoint=sf.Checkpointer(tmp_path), max_samples=limit
        ).run()

    assert train(100).resumed_at is None
    assert train(100).n_samples == 100
    report = train(250)
    assert (report.resumed_at, report.n_samples, report.n_updates) == (100, 250, 25)
    whole = sf.LogisticRegression(batch_size=10)
    assert report.digest == sf.Trainer(whole, SAMPLES, max_samples=250).run().digest


def test_max_wait_applies_a_partial_micro_batch_of_a_live_stream() -> None:
    updates: list[tuple[int, int]] = []

    def stream() -> Iterator[Any]:
        yield from SAMPLES[:5]
        deadline = time.monotonic() + 20
        while model.n_updates == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        updates.append((model.n_updates, model.n_pending))
        yield from SAMPLES[5:8]

    model = sf.LogisticRegression(batch_size=100)
    report = sf.Trainer(model, stream, max_wait=0.2).run()
    assert updates == [(1, 0)]
    assert (report.n_samples, report.n_updates) == (8, 2)


def test_without_max_wait_a_partial_micro_batch_waits() -> None:
    model = sf.LogisticRegression(batch_size=100)
    report = sf.Trainer(model, SAMPLES[:50], last_batch="carry").run()
    assert (report.n_updates, report.n_pending) == (0, 50)


def test_skipped_samples_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    samples = [*SAMPLES[:10], ({"x": math.nan, "z": 0.0}, True), "nonsense", *SAMPLES[10:20]]
    with caplog.at_level(logging.WARNING, logger="streamfit"):
        report = sf.Trainer(sf.LogisticRegression(), samples, on_bad_sample="skip").run()
    assert (report.n_samples, report.n_bad, report.position) == (20, 2, {"samples:0": 22})
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split()[:4] for line in lines] == [
        ["event=bad_samples", "n=1", "total=1", "error=BadSampleError"],
        ["event=bad_samples", "n=1", "total=2", "error=BadSampleError"],
    ]
    assert "feature 'x': value nan is not finite" in lines[0]
    assert "offset 10" in lines[0]
    assert "offset 11" in lines[1]


def test_a_bad_sample_halts_and_the_run_can_go_on_past_it(tmp_path: Path) -> None:
    samples = [*SAMPLES[:10], ({"x": "far"}, True), *SAMPLES[10:20]]

    def train(on_bad_sample: str) -> sf.TrainingReport:
        return sf.Trainer(
            sf.LogisticRegression(batch_size=4),
            samples,
            checkpoint=sf.Checkpointer(tmp_path),
            on_bad_sample=on_bad_sample,
        ).run()

    for _ in range(2):  # halting again changes nothing
        with pytest.raises(BadSampleError, match="offset 10"):
            train("raise")
    report = train("skip")
    assert (report.resumed_at, report.n_samples, report.n_bad) == (10, 20, 1)
    model = sf.LogisticRegression(batch_size=4)
    assert report.digest == sf.Trainer(model, SAMPLES[:20]).run().digest


def test_a_checkpoint_without_a_run_is_refused(tmp_path: Path) -> None:
    model = sf.LogisticRegression()
    with sf.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(
            Checkpoint(model.state_dict(), model.get_config(), {"samples:0": 0}, {"epoch": "x"})
        )
    with pytest.raises(CheckpointMismatchError, match="not written by a Trainer"):
        sf.Trainer(model, SAMPLES, checkpoint=sf.Checkpointer(tmp_path)).run()


def test_no_temporary_state_is_left_when_a_run_is_refused(tmp_path: Path) -> None:
    """The lock is released and signal handlers are back, whatever happens."""
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(BadSampleError):
        sf.Trainer(sf.LogisticRegression(), ["x"], checkpoint=sf.Checkpointer(tmp_path)).run()
    assert signal.getsignal(signal.SIGTERM) is before
    with sf.Checkpointer(tmp_path):
        pass


def test_the_source_is_closed() -> None:
    source = SplitSource(np.eye(3), np.zeros(3))
    sf.Trainer(sf.LogisticRegression(), source).run()
    assert source.closed


def test_a_run_in_a_thread_works() -> None:
    import threading

    reports: list[sf.TrainingReport] = []
    thread = threading.Thread(
        target=lambda: reports.append(sf.Trainer(sf.LogisticRegression(), SAMPLES).run())
    )
    thread.start()
    thread.join(30)
    assert reports[0].n_samples == 500


def test_progress_is_told_after_each_block() -> None:
    told: list[sf.Progress] = []
    source = SplitSource(*map(list, zip(*SAMPLES, strict=True)), cuts=[10, 10, 300])
    sf.Trainer(sf.LogisticRegression(batch_size=32), source, callbacks=[told.append]).run()
    assert [progress.n_samples for progress in told] == [10, 300, 500]
    assert told[0].position == {"split:7": 10}
    assert told[0].n_pending == 10
    assert told[0].lag() is None
    lags: list[int | None] = []
    array = sf.ArraySource(np.eye(3), np.zeros(3))
    sf.Trainer(sf.LogisticRegression(), array, callbacks=[lambda p: lags.append(p.lag())]).run()
    assert lags == [0]


def test_the_progress_bar_shows_only_on_a_terminal() -> None:
    from io import StringIO

    from rich.console import Console

    from streamfit.terminal import progress_bar

    with progress_bar(10, Console(file=StringIO())) as show:
        assert show is None
    screen = StringIO()
    with progress_bar(500, Console(file=screen, force_terminal=True, width=120)) as show:
        assert show is not None
        sf.Trainer(sf.LogisticRegression(), SAMPLES, callbacks=[show]).run()
    assert "500/500" in screen.getvalue()
    assert "loss 0." in screen.getvalue()
    sf.Trainer(sf.LogisticRegression(), SAMPLES, progress=True).run()


class Blocks:
    """A source of given blocks."""

    def __init__(self, *blocks: Block, live: bool = False) -> None:
        self.blocks = blocks
        self.live = live

    def __iter__(self) -> Iterator[Block]:
        yield from self.blocks

    def position(self) -> dict[str, int]:
        return {"mine:0": 0}

    def seek(self, position: dict[str, int]) -> None: ...

    def close(self) -> None: ...


X4, Y4 = [{"a": 1.0}] * 4, [True] * 4


@pytest.mark.parametrize(
    "block",
    [
        Block(x=X4, y=Y4, source="mine"),
        Block(x=X4[:3], y=Y4, source="mine", offsets=range(4)),
        Block(x=X4, y=Y4[:3], source="mine", offsets=range(4)),
        Block(x=X4, y=Y4, w=[1.0], source="mine", offsets=range(4)),
        Block(x=np.eye(4), y=np.ones(4), source="mine", offsets=range(3)),
    ],
)
def test_a_block_that_does_not_fit_together_is_refused_whole(block: Block, tmp_path: Path) -> None:
    model = sf.LogisticRegression()
    with pytest.raises(SourceError, match="source 'mine'"):
        sf.Trainer(model, Blocks(block), checkpoint=sf.Checkpointer(tmp_path)).run()
    saved = sf.Checkpointer(tmp_path).latest()
    assert saved is not None
    assert (model.n_samples, saved.model["n_samples"], saved.position) == (0, 0, {"mine:0": 0})


class BadFloat:
    def __float__(self) -> float:
        raise RuntimeError("no number")


class BadMetric:
    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.n = 0

    def update(self, *_: object) -> None:
        self.n += 1
        if self.n == 7 and self.error is not None:
            raise self.error

    def get(self) -> float:
        return 0.0


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("kind", ["metric", "bad metric", "float", "warning"])
def test_a_failure_saves_a_position_that_fits_the_model(
    kind: str, batch_size: int, tmp_path: Path
) -> None:
    samples: list[Any] = list(SAMPLES[:20])
    error: type[Exception] = RuntimeError
    options: dict[str, Any] = {}
    if kind == "metric":
        options["metrics"] = BadMetric(RuntimeError("metric"))
    elif kind == "bad metric":
        options["metrics"], error = BadMetric(BadSampleError("metric")), BadSampleError
    elif kind == "float":
        samples[9] = ({"x": BadFloat()}, True)
    else:
        samples[9:11] = [({"x": 1e308}, label, 1e308) for label in (True, False)]
        error = UpdateRefusedWarning
    model = sf.LogisticRegression(sf.optim.SGD(1e6), batch_size=batch_size)
    trainer = sf.Trainer(
        model, samples, checkpoint=sf.Checkpointer(tmp_path), on_bad_sample="skip", **options
    )
    with warnings.catch_warnings(action="error"), pytest.raises(error):
        trainer.run()
    saved = sf.Checkpointer(tmp_path).latest()
    assert saved is not None
    assert saved.trainer["n_bad"] == 0
    assert saved.model["n_samples"] == model.n_samples >= 7
    assert saved.position == {"samples:0": model.n_samples}


def test_a_block_full_of_bad_records_is_linear() -> None:
    n = 20_000
    errors = {i: BadSampleError("garbage") for i in range(n)}
    block = Block(x=[None] * n, y=[None] * n, source="mine", offsets=range(n), errors=errors)
    logging.getLogger("streamfit").setLevel(logging.ERROR)
    try:
        began = time.process_time()
        report = sf.Trainer(sf.LogisticRegression(), Blocks(block), on_bad_sample="skip").run()
        seconds = time.process_time() - began
    finally:
        logging.getLogger("streamfit").setLevel(logging.NOTSET)
    assert (report.n_bad, report.position) == (n, {"mine:0": n})
    assert seconds < 5


def test_another_number_of_epochs_on_one_directory(tmp_path: Path) -> None:
    def train(epochs: int, n: int = 10) -> sf.TrainingReport:
        return sf.Trainer(
            sf.LogisticRegression(batch_size=4),
            SAMPLES[:n],
            epochs=epochs,
            checkpoint=sf.Checkpointer(tmp_path),
        ).run()

    reports = [train(epochs) for epochs in (3, 1, 3, 2, 5)]
    assert [report.n_samples for report in reports] == [30, 30, 30, 30, 50]
    assert [report.n_epochs for report in reports] == [3, 3, 3, 3, 5]
    assert len({report.digest for report in reports[:4]}) == 1
    straight = sf.Trainer(sf.LogisticRegression(batch_size=4), SAMPLES[:10], epochs=5).run()
    assert reports[-1].digest == straight.digest
    grown = train(5, 12)  # a source that grew: the last epoch goes on
    assert (grown.n_samples, grown.n_epochs) == (52, 5)


def test_numpy_offsets_can_be_saved(tmp_path: Path) -> None:
    errors = {3: BadSampleError("garbage")}
    block = Block(x=X4, y=Y4, source="mine", offsets=np.arange(4), errors=errors)  # type: ignore[arg-type]
    report = sf.Trainer(
        sf.LogisticRegression(),
        Blocks(block),
        checkpoint=sf.Checkpointer(tmp_path),
        on_bad_sample="skip",
    ).run()
    assert report.position == {"mine:0": 4}
    assert type(report.position["mine:0"]) is int


def test_listeners_hear_of_an_update_on_a_quiet_stream() -> None:
    told: list[int] = []
    empty = Block(x=[], y=[], source="mine")

    class Quiet(Blocks):
        def __iter__(self) -> Iterator[Block]:
            yield Block(x=X4, y=Y4, source="mine", offsets=range(4))
            for _ in range(3):
                time.sleep(0.1)
                yield empty

    sf.Trainer(
        sf.LogisticRegression(batch_size=100),
        Quiet(live=True),
        max_wait=0.05,
        callbacks=[lambda progress: told.append(progress.n_updates)],
    ).run()
    assert told == [0, 1]


def test_a_report_prints_any_metric() -> None:
    report = sf.Trainer(
        sf.LogisticRegression(),
        SAMPLES[:50],
        metrics=[
            metrics.Accuracy() + metrics.ROCAUC(),
            metrics.ConfusionMatrix(),
            metrics.ClassificationReport(),
        ],
    ).run()
    assert list(report.metrics) == [
        "Accuracy",
        "ROCAUC",
        "ConfusionMatrix",
        "ClassificationReport",
    ]
    assert "ROCAUC" in str(report)
    assert "Precision" in str(report)
    both = sf.Trainer(
        sf.LogisticRegression(), SAMPLES[:50], metrics=metrics.Accuracy() + metrics.ROCAUC()
    ).run()
    assert both.metrics["Accuracy"].get() == report.metrics["Accuracy"].get()


@pytest.mark.parametrize("given", [metrics.Accuracy, [metrics.Accuracy]])
def test_a_metric_class_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Accuracy\(\), not the class"):
        sf.Trainer(sf.LogisticRegression(), SAMPLES, metrics=given)


def test_a_failed_run_ends_the_thread_of_a_live_source() -> None:
    def fail(_: object) -> None:
        raise OSError("callback")

    source = sf.IterableSource(lambda: iter(SAMPLES * 100), live=True)
    try:
        sf.Trainer(sf.LogisticRegression(), source, callbacks=[fail]).run()
    except OSError:  # while the traceback holds on to every frame
        deadline = time.monotonic() + 5
        while any(t.name == "streamfit-source" for t in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    else:
        pytest.fail("the callback did not raise")


def test_max_samples_leaves_the_source_as_it_was() -> None:
    source = sf.IterableSource(SAMPLES)
    before = source.max_block
    sf.Trainer(sf.LogisticRegression(), source, max_samples=3).run()
    assert source.max_block == before


def test_a_data_frame_is_refused_as_a_source() -> None:
    frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
    with pytest.raises(ConfigurationError, match="ArraySource"):
        sf.Trainer(sf.LogisticRegression(), frame)


def test_hostile_items_do_not_end_a_run_that_skips() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    items: list[Any] = [*SAMPLES[:5], 10**5000, Silent(), [Silent()], *SAMPLES[5:10]]
    report = sf.Trainer(sf.LogisticRegression(), items, on_bad_sample="skip").run()
    assert (report.n_samples, report.n_bad) == (10, 3)


def test_a_bad_sample_error_is_short_whatever_the_feature() -> None:
    assert len(str(BadSampleError("value is nan", feature="a" * 900_000))) < 200
    assert "value is nan" in str(BadSampleError("value is nan", feature=10**5000))


class Quiet:
    """A live source of one sample and then of silence."""

    live = True

    def __init__(self, starts_at_end: bool = False, crash: bool = False) -> None:
        self.starts_at_end, self.crash, self.next = starts_at_end, crash, 7

    def __iter__(self) -> Iterator[Block]:
        if self.crash:
            raise KeyboardInterrupt
        self.next += 1
        yield Block(x=[{"a": 1.0}], y=[1.0], source="quiet", offsets=range(7, 8))
        for _ in range(20):
            time.sleep(0.002)
            yield Block(x=[], y=[], source="quiet")

    def position(self) -> dict[str, int]:
        return {"quiet:0": self.next}

    def seek(self, position: dict[str, int]) -> None:
        self.next = position["quiet:0"]

    def close(self) -> None:
        pass


def test_a_quiet_time_does_not_fill_the_directory_with_one_moment(tmp_path: Path) -> None:
    checkpoint = sf.Checkpointer(tmp_path, every_seconds=0.001, keep=50)
    sf.Trainer(sf.LinearRegression(), Quiet(), checkpoint=checkpoint).run()
    assert len(checkpoint.list()) <= 3  # at the sample, and at the end of the run


def test_where_the_end_was_outlives_a_crash_before_the_first_sample(tmp_path: Path) -> None:
    checkpoint = sf.Checkpointer(tmp_path)
    source = Quiet(starts_at_end=True, crash=True)
    with pytest.raises(KeyboardInterrupt):
        sf.Trainer(sf.LinearRegression(), source, checkpoint=checkpoint).run()
    saved = checkpoint.latest()
    assert saved is not None
    assert saved.position == {"quiet:0": 7}
