"""What cannot work is refused at once, in one line that says what to do."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import drift, linear_model

import streamfit as sf
from connectors import CSVSource, Windows
from streamfit import cli
from streamfit.distributed import RayTrainer, ShareTrainer
from streamfit.errors import CheckpointMismatchError, ConfigurationError
from streamfit.shards import deal
from streamfit.sources import SourceList

LOCAL: dict[str, Any] = {"mode": "local", "sync_every": 3}
MODES: list[dict[str, Any]] = [LOCAL, {"mode": "synchronous"}]
EACH_MODE = pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode["mode"]))


def rows(n: int = 100) -> sf.ArraySource:
    X = np.random.default_rng(0).normal(size=(n, 3))
    return sf.ArraySource(X, X[:, 0] > 0)


def endless() -> Iterator[Any]:
    for i in itertools.count():
        yield np.array([i % 7, i % 5, i % 3]) / 7, i % 2 == 0


def trainer(source: Any = None, **options: Any) -> ShareTrainer:
    source = rows() if source is None else source
    options = {"workers": 1, **({} if "mode" in options else LOCAL), **options}
    return ShareTrainer(sf.LogisticRegression(), source, **options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"sync_every": "٣s"}, "sync_every: a number of updates, or a time"),
        ({"sync_every": "1e-3s"}, "sync_every: a number of updates, or a time"),
        ({"sync_every": "0.0001s"}, "sync_every must be a finite number >= 0.001"),
        ({"sync_every": "9" * 400 + "s"}, "sync_every must be a finite number"),
        ({"worker_timeout": 1e-9}, r"worker_timeout must be a finite number >= 1\.0"),
        ({"worker_timeout": float("inf")}, "worker_timeout must be a finite number"),
        ({"shares": 10**7}, r"shares must be an integer <= 10,000, not 10000000"),
        ({"workers": 10**7}, r"workers must be an integer <= 10,000, not 10000000"),
        ({"workers": 10**5000}, "workers must be an integer <= 10,000, not <int that cannot"),
        ({"shares": 0}, "shares must be an integer >= 1"),
        ({"shares": True}, "shares must be an integer >= 1"),
        ({"max_restarts": -1}, "max_restarts must be an integer >= 0"),
        ({"callbacks": 1}, "callbacks must be a list of functions of a Progress.*, not 1"),
        ({"callbacks": None}, "callbacks must be a list of functions of a Progress.*, not None"),
        ({"callbacks": print}, "callbacks must be a list of .*, not <built-in function print>"),
        ({"callbacks": [print, 3]}, "callbacks must be functions of .*; 3 is neither"),
        (
            {"callbacks": [sf.DriftMonitor(drift.ADWIN())]},
            "callbacks: a monitor acts between two samples",
        ),
        ({"last_batch": "carry"}, 'last_batch="carry" leaves samples pending'),
    ],
)
def test_arguments(options: dict[str, Any], why: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match=why):
        trainer(**options)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("callbacks", [1, None, print, [3]])
def test_callbacks_of_a_plain_trainer(callbacks: Any) -> None:
    with pytest.raises(ConfigurationError, match="callbacks must be"):
        sf.Trainer(sf.LogisticRegression(), rows(), callbacks=callbacks)


def test_as_many_shares_as_are_allowed_are_dealt_in_no_time() -> None:
    began = time.monotonic()
    partitions = [f"topic:{i}" for i in range(100_000)]
    dealing = deal(partitions, 10_000, {"topic:0": 7})
    assert dealing["topic:0"] == 7
    assert {list(dealing.values()).count(share) for share in (0, 7, 9_999)} == {10}
    assert [dealing[key] for key in partitions[1:10]] == [0, 1, 2, 3, 4, 5, 6, 8, 9]
    assert time.monotonic() - began < 5


# ---- sources that never end


@EACH_MODE
def test_a_live_source_keeps_no_other_from_its_turn(mode: dict[str, Any]) -> None:
    def sources(n: int) -> list[Any]:
        live = sf.IterableSource(endless, live=True)
        return [live, *(rows() for _ in range(n - 1))]

    with pytest.raises(ConfigurationError, match=r"3 sources, some of them live.*shares=3 or more"):
        trainer(sources(3), shares=2, **mode)
    with pytest.raises(ConfigurationError, match=r"2 sources, some of them live"):
        trainer(SourceList(sources(2)), **mode)
    report = trainer(sources(3), shares=3, max_samples=2000, **mode).run()
    assert report.n_samples == 2000
    assert report.position["samples:1"] == report.position["samples:2"] == 100


@EACH_MODE
@pytest.mark.parametrize("busy", [0, 1])
def test_the_last_samples_come_from_whoever_has_them(mode: dict[str, Any], busy: int) -> None:
    ended = threading.Event()

    def silent() -> Iterator[Any]:
        yield from itertools.islice(endless(), 5)
        ended.wait()

    sources = [sf.IterableSource(endless if i == busy else silent, live=True) for i in range(3)]
    if mode is LOCAL:
        mode = {**mode, "sync_every": 100}
    report = trainer(sources, workers=3, max_samples=100, **mode).run()
    ended.set()
    assert report.n_samples == 100
    assert report.position[f"samples:{busy}"] >= 90


@EACH_MODE
def test_a_source_that_joins_a_list_of_live_ones_is_refused(
    mode: dict[str, Any], tmp_path: Path
) -> None:
    def train(n: int) -> sf.TrainingReport:
        sources = [sf.IterableSource(endless, live=True) for _ in range(n)]
        checkpoint = sf.Checkpointer(tmp_path)
        return trainer(sources, workers=n, max_samples=100, checkpoint=checkpoint, **mode).run()

    assert train(2).n_samples == 100
    told = "is of shares=2, which cannot change, and the list holds 3 sources, some of them live"
    with pytest.raises(CheckpointMismatchError, match=told):
        train(3)


def test_a_source_is_no_other_one() -> None:
    source = rows()
    with pytest.raises(ConfigurationError, match="the same object twice"):
        trainer([source, source], workers=2)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            ["a.csv", "b.csv"],
            r"item 0 of the list is of type str, not a source: wrap it in CSVSource\(\.\.\.\)",
        ),
        (
            [rows(), Path("b.csv")],
            "item 1 of the list is of type .*Path, not a source: wrap it in CSV",
        ),
        ([(np.ones(3), True)], r"item 0 .* of type tuple.*: samples in memory are sf\.ArraySource"),
        ([endless(), endless()], r"item 0 .* of type generator.*: wrap the function that makes it"),
        ([endless, endless], r"item 0 .* of type function.*: wrap it in sf\.IterableSource"),
        ([], "a list of sources needs at least one"),
        ("a.csv", "str cannot be split among workers: pass an ArraySource, a KafkaSource, or a li"),
        (
            sf.IterableSource(endless),
            "IterableSource cannot be split among workers: give a list of sources, one file each",
        ),
    ],
    ids=["paths", "path", "samples", "generators", "functions", "empty", "one path", "one source"],
)
@EACH_MODE
def test_what_is_no_source_is_named(source: Any, why: str, mode: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=why):
        trainer(source, workers=2, **mode)


def test_a_single_file_is_told_of_lists(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,1\n")
    source = CSVSource(tmp_path / "a.csv", target="y")
    with pytest.raises(ConfigurationError, match="CSVSource .*: give a list of sources, one file"):
        trainer(source, workers=2)


def test_windows_are_told_of_the_other_trainer() -> None:
    source = Windows(rows(), 3, 1)
    for given in (source, [source]):
        with pytest.raises(ConfigurationError, match="keeps a state .* read it with sf.Trainer"):
            trainer(given, workers=2)
    with pytest.raises(ConfigurationError, match="item 1 .*SourceList .*: pass it alone"):
        trainer([rows(), SourceList([rows()])], workers=2)


def test_other_models_are_not_sent_to_adapters() -> None:
    models: list[Any] = [
        linear_model.LogisticRegression(),
        sf.adapters.RiverLearner(linear_model.LogisticRegression()),
        "model",
    ]
    for model in models:
        with pytest.raises(ConfigurationError, match="not .*are trained by sf.Trainer") as refused:
            ShareTrainer(model, rows(), workers=2)
        assert "sf.adapters" not in str(refused.value)
        assert f"{type(model).__name__};" in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"pass an instance, LogisticRegression\(\)"):
        ShareTrainer(sf.LogisticRegression, rows(), workers=2)  # type: ignore[arg-type]


def test_wrong_arguments_are_those_of_the_class_that_was_called() -> None:
    make: Any = RayTrainer
    for options in ({}, {"workers": 2, "foo": 3}):
        with pytest.raises(TypeError, match=r"^RayTrainer\.__init__\(\) .*'(workers|foo)'"):
            make(sf.LogisticRegression(), rows(), **options)


def test_the_arguments_are_those_of_the_classes_below() -> None:
    names = set(inspect.signature(RayTrainer).parameters)
    for kind in (sf.Trainer, ShareTrainer):
        its = dict(inspect.signature(kind).parameters)
        its.pop("options", None)
        assert its.keys() <= names
        names -= its.keys() - {"model", "source"}
        for name, parameter in its.items():
            ours = inspect.signature(RayTrainer).parameters[name]
            assert (ours.kind, ours.default) == (parameter.kind, parameter.default)
    assert names == {"model", "source"}


# ---- workers that have nothing to do


def idle(caplog: pytest.LogCaptureFixture, source: Any = None, **options: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="streamfit"):
        trainer(source, **options).run()
    return [text for text in caplog.messages if text.startswith("event=workers_idle")]


@EACH_MODE
def test_idle_workers_are_told_of(
    mode: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert idle(caplog, workers=2, **mode) == []
    assert idle(caplog, workers=1, shares=2, **mode) == []
    assert idle(caplog, [rows(), rows()], workers=2, shares=5, **mode) == []
    (told,) = idle(caplog, workers=2, shares=1, **mode)
    assert told == (
        'event=workers_idle workers=2 shares=1 message="take no more workers than shares"'
    )
    (told,) = idle(caplog, [rows()], workers=2, **mode)
    assert told.startswith("event=workers_idle workers=2 shares=2 partitions=1 message=")
    checkpoint = {"checkpoint": sf.Checkpointer(tmp_path)}
    assert idle(caplog, workers=2, max_samples=50, **checkpoint, **mode) == []
    (told,) = idle(caplog, workers=3, **checkpoint, **mode)
    assert told.startswith("event=workers_idle workers=3 shares=2 message=")
    assert "part of the checkpoint and cannot change" in told


@EACH_MODE
def test_a_checkpoint_shows_its_shares(
    mode: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(workers=1, shares=3, checkpoint=sf.Checkpointer(tmp_path), **mode).run()
    assert cli.main(["inspect", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["mode"], found["shares"]) == (mode["mode"], 3)
    assert cli.main(["inspect", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["mode", mode["mode"]] in lines
    assert ["shares", "3"] in lines
