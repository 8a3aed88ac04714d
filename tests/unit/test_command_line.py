"""`streamfit train` and `streamfit run`: one description, two ways of writing it."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamfit as sf
from connectors import open_source
from streamfit import cli
from streamfit.cli import flags, pipeline, registries, toml_file
from streamfit.cli.app import app
from streamfit.cli.pipeline import Pipeline
from streamfit.cli.train import train
from streamfit.cli.values import (
    Choice,
    ChoiceKind,
    ChoicesKind,
    FlagKind,
    IntegerKind,
    LabelsKind,
    NamesKind,
    NumberKind,
    TextKind,
)

OWN_FLAGS = {"toml", "json", "every", "log_level"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = [f"{a:.6f},{b:.6f},{int(a > b)}" for a, b in rng.normal(size=(300, 2))]
    path = tmp_path / "clicks.csv"
    path.write_text("\n".join(["a,b,y", *rows, ""]))
    return path


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return line


# ---- flags and keys are the same


def test_every_key_has_its_flag_and_every_flag_its_key() -> None:
    keys = {(section, item.name) for section, item, _ in pipeline.options()}
    parameters = set(inspect.signature(train).parameters) - OWN_FLAGS
    assert {tuple(name.split("__")) for name in parameters} == keys
    named = [flags.flag_of(*key) for key in keys]
    assert len(set(named)) == len(named)
    assert all(name.startswith("--") or name == "SOURCE" for name in named)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"streamfit {sf.__version__}\n"


def test_the_help_names_every_flag_and_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").replace(".", " ").replace(":", " ").split()
    for section, item, option in pipeline.options():
        assert flags.flag_of(section, item.name) in words
        assert option.help
    for registry in ("optimizers", "losses", "schedules", "batch_sizes", "metrics"):
        assert set(registries.REGISTRIES[registry]()) <= set(words)


@pytest.mark.parametrize(
    ("section", "constructor"),
    [
        ("model", sf.LogisticRegression),
        ("training", sf.Trainer),
        ("bad_samples", sf.Trainer),
        ("checkpoint", sf.Checkpointer),
    ],
)
def test_defaults_are_those_of_the_library(section: str, constructor: Any) -> None:
    parameters = inspect.signature(constructor).parameters
    compared = 0
    for its_section, item, _ in pipeline.options():
        if its_section == section and item.name in parameters:
            default = parameters[item.name].default
            ours = item.default
            if isinstance(ours, Choice):
                made = registries.make(option_registry(section, item.name), ours)
                assert made == (sf.optim.SGD() if default is None else default)
            else:
                assert ours == default, item.name
            compared += 1
    assert compared >= 3


def option_registry(section: str, name: str) -> str:
    (found,) = [o for s, item, o in pipeline.options() if (s, item.name) == (section, name)]
    assert found.registry is not None
    return found.registry


words = st.text("abcdefgh_", min_size=1, max_size=8).filter(lambda text: text.strip("_"))
numbers = st.integers(-9, 10**6) | st.floats(-1e6, 1e6, allow_nan=False)
choices = st.builds(Choice, words, st.dictionaries(words, numbers | st.booleans(), max_size=2))


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    if isinstance(kind, ChoiceKind):
        of_number = {None: st.nothing(), int: st.integers(1, 99), float: st.floats(0.1, 9)}
        return choices | of_number[kind.number]
    by_kind: dict[type, st.SearchStrategy[Any]] = {
        TextKind: st.text(
            st.characters(codec="ascii", min_codepoint=32), min_size=1, max_size=9
        ).filter(lambda text: not text.startswith("-")),
        IntegerKind: st.integers(-5, 10**9),
        NumberKind: st.floats(-1e9, 1e9, allow_nan=False),
        FlagKind: st.booleans(),
        NamesKind: st.lists(words, min_size=1, max_size=3).map(tuple),
        LabelsKind: st.lists(words | st.integers(0, 9), min_size=1, max_size=3).map(tuple),
        ChoicesKind: st.lists(choices, min_size=1, max_size=2).map(tuple),
    }
    return by_kind[type(kind)]


pipelines = st.fixed_dictionaries(
    {("source", "location"): values_of(TextKind())},
    optional={
        (section, item.name): values_of(option.kind)
        for section, item, option in pipeline.options()
        if item.name != "location"
    },
).map(Pipeline.of_values)


def flag_arguments(described: Pipeline) -> dict[str, Any]:
    """Return what Typer would hand on for the flags that say the same."""
    found: dict[str, Any] = {}
    for section, name, value in described.given():
        if isinstance(value, tuple):
            texts = [str(item) for item in value]
            found[f"{section}__{name}"] = texts if name == "metrics" else ",".join(texts)
        else:
            found[f"{section}__{name}"] = value if isinstance(value, bool) else str(value)
    return found


@settings(max_examples=30)
@given(described=pipelines)
def test_a_pipeline_survives_toml_and_flags(
    tmp_path_factory: pytest.TempPathFactory, described: Pipeline
) -> None:
    path = tmp_path_factory.getbasetemp() / "pipeline.toml"
    path.write_text(toml_file.write(described))
    assert toml_file.read(path) == described
    assert flags.from_flags(flag_arguments(described)) == described


# ---- they train what they say


def test_flags_a_file_and_python_end_with_the_same_bits(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("train", str(data), "--target", "y", "--batch-size", "32", "--epochs", "2"),
        *("--optimizer", "sgd:momentum=0.9", "--lr", "inverse_scaling:lr=0.5,power=0.25"),
        *("--loss", "hinge:threshold=0.5", "--l2", "0.01", "--scaler", "standard"),
        *("--last-batch", "carry", "--metric", "Accuracy", "--max-samples", "500"),
    ]
    assert cli.main(arguments) == 0
    by_flags = last_line(capsys)
    assert cli.main([*arguments, "--toml"]) == 0
    path = tmp_path / "pipeline.toml"
    path.write_text(capsys.readouterr().out)
    assert cli.main(["run", str(path)]) == 0
    by_file = last_line(capsys)
    model = sf.LogisticRegression(
        sf.optim.SGD(sf.schedules.InverseScaling(0.5, power=0.25), momentum=0.9),
        loss=sf.losses.Hinge(threshold=0.5),
        batch_size=32,
        l2=0.01,
        scaler=sf.StandardScaler(),
    )
    report = sf.Trainer(
        model, open_source(f"{data}?target=y"), epochs=2, last_batch="carry", max_samples=500
    ).run()
    assert by_flags["digest"] == by_file["digest"] == report.digest
    assert by_flags["n_samples"] == 500
    assert by_flags["metrics"] == by_file["metrics"] != {}


@pytest.mark.parametrize(
    ("arguments", "model"),
    [
        ("--model linear --loss quantile:alpha=0.9 --dtype float32",
         sf.LinearRegression(loss=sf.losses.Quantile(0.9), dtype="float32")),
        ("--model softmax --classes 0,1 --batch-size full --no-fit-intercept",
         sf.SoftmaxRegression(classes=[0, 1], batch_size=None, fit_intercept=False)),
        ("--feature-index hashed:bits=10 --optimizer ftrl_proximal:alpha=0.1,l1=0.01",
         sf.LogisticRegression(sf.optim.FTRLProximal(0.1, l1=0.01),
                               features=sf.HashedFeatures(bits=10))),
        ("--feature-index grow:maximum=2 --batch-size milestones:initial=8,milestones=[[5,32]]",
         sf.LogisticRegression(features=sf.FeatureIndex(maximum=2),
                               batch_size=sf.schedules.MilestoneBatchSize(8, [(5, 32)]))),
        ("--clip-gradient 0.5 --intercept-lr 0.1 --l1 0.001 --reduction sum --max-weight 50",
         sf.LogisticRegression(clip_gradient=0.5, intercept_lr=0.1, l1=0.001, reduction="sum",
                               max_weight=50)),
    ],
    ids=["linear", "softmax", "hashed", "growing batches", "clipping"],
)  # fmt: skip
def test_the_options_of_a_model(
    data: Path, arguments: str, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(data), "--target", "y", *arguments.split()]) == 0
    report = sf.Trainer(model, open_source(f"{data}?target=y")).run()
    assert last_line(capsys)["digest"] == report.digest


def test_weights_and_features_are_columns(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--target", "y", "--weight", "b", "--features", "a"]
    assert cli.main(["train", str(data), *arguments, "--on-bad-sample", "skip"]) == 0
    found = last_line(capsys)
    source = open_source(str(data), target="y", weight="b", features=["a"])
    report = sf.Trainer(sf.LogisticRegression(), source, on_bad_sample="skip").run()
    assert found["digest"] == report.digest
    assert found["n_bad"] == report.n_bad > 0  # negative weights


def test_bad_samples_are_put_aside_until_they_are_too_many(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.write_text(data.read_text() + "1,x,1\n1,2,1\n")
    letters = tmp_path / "bad.jsonl"
    arguments = ["train", str(data), "--target", "y"]
    assert cli.main(arguments) == 10
    assert "feature 'b'" in capsys.readouterr().err
    assert cli.main([*arguments, "--on-bad-sample", f"dead_letters:path={letters}"]) == 0
    assert last_line(capsys)["n_bad"] == 1
    assert json.loads(letters.read_text())["offset"] == 300
    limit = ["--max-bad-ratio", "0.001", "--bad-window", "100"]
    assert cli.main([*arguments, "--on-bad-sample", "skip", *limit]) == 11


# ---- errors point at what is wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--optimizer adma", "--optimizer: there is no 'adma'; did you mean adam?"),
        ("--optimizer sgd:momentun=1",
         "--optimizer: sgd has no option 'momentun'; did you mean momentum?"),
        ("--optimizer sgd:momentum", "--optimizer: 'momentum' is not option=value"),
        ("--optimizer adadelta --lr 0.1", "--lr: adadelta has no option 'lr'"),
        ("--optimizer sgd:lr=1 --lr 0.1", "--lr: it is there twice"),
        ("--lr 0", "--lr: must be > 0, not 0.0"),
        ("--lr step:lr=0.1", "--lr: step: "),
        ("--batch-size 0", "--batch-size: must be an integer >= 1, not 0"),
        ("--batch-size many", "--batch-size: there is no 'many'"),
        ("--l1 x", "--l1: expected a number, not 'x'"),
        ("--l2 -1", "--l2: must be a finite number >= 0.0, not -1.0"),
        ("--loss squared", "--loss: loss of LogisticRegression must be one of sf.losses.Log"),
        ("--model trees", "--model: there is no 'trees'; known: linear, logistic, softmax"),
        ("--model logistic:l2=1", "--model: logistic takes no options here"),
        ("--classes a,b", "--classes: only softmax has them"),
        ("--metric Acuracy", "--metric: there is no 'Acuracy'; did you mean Accuracy?"),
        ("--metric MAE", "--metric: MAE does not work with LogisticRegression"),
        ("--metric LogLoss:rolling=0", "--metric: rolling must be an integer >= 1"),
        ("--target why", "--target: "),
        ("--features a,c", "--features: "),
        ("--client confluent-kafka", "--client: it is Kafka's, and "),
        ("--max-samples -1", "--max-samples: must be an integer >= 0"),
        ("--max-bad-ratio 2", "--max-bad-ratio: must be a finite number"),
        ("--every-updates 3", "--checkpoint: there is none to save to"),
        ("--checkpoint st --keep 0", "--keep: must be an integer of at least 1"),
        ("--on-bad-sample dead_letters:topic=refused", "[bad_samples]: DeadLetters('refused')"),
        ("--log-level loud", "--log-level must be one of"),
    ],
)  # fmt: skip
def test_a_refused_flag_is_named(
    data: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", str(data), "--target", "y", *arguments.split()]) == 2
    assert capsys.readouterr().err.startswith(f"streamfit: {message}")


def test_a_source_that_is_none_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "clicks.cvs", "--target", "y"]) == 2
    assert capsys.readouterr().err.startswith("streamfit: SOURCE: 'clicks.cvs' is no source")
    assert cli.main(["train", str(data)]) == 2
    assert "--target: " in capsys.readouterr().err
    assert cli.main(["train", str(data.with_name("none.csv")), "--target", "y"]) == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model]\nbach_size = 3", "{file}:4: [model] has no key 'bach_size'; did you mean batch_"),
        ("[modle]\nl1 = 3", "{file}:3: there is no section [modle]; did you mean model?"),
        ("[model]\nl1 = 0\nepochs = 3", "{file}:5: [model] has no key 'epochs'; it belongs into ["),
        ("[model]\nl1 = 0\nl2 = 'a'", "{file}:5: model.l2: expected a number, not 'a'"),
        ("[model]\n\nbatch_size = 0", "{file}:5: model.batch_size: must be an integer >= 1"),
        ("[model]\noptimizer = {kind = 'sgd', momentun = 1}",
         "{file}:4: model.optimizer: sgd has no option 'momentun'; did you mean momentum?"),
        ("[model.optimizer]\nkind = 'sgd'\nlr = -1", "{file}:3: model.optimizer: lr must be > 0"),
        ("[model]\nlr = {lr = 1}", "{file}:4: model.lr: expected a name such as"),
        ("[training]\nmetrics = 'LogLoss'", "{file}:4: training.metrics: expected a list"),
        ("[checkpoint]\ndirectory = 3", "{file}:4: checkpoint.directory: expected text, not 3"),
        ("[model]\nl1 = 1\n[model]\n", "{file} is not TOML: "),
        ("[model]\nfit_intercept = 1", "{file}:4: model.fit_intercept: expected true or false"),
    ],
)  # fmt: skip
def test_an_error_in_a_file_names_line_and_key(
    data: Path, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(f'source.location = "{data}"\nsource.target = "y"\n{text}\n')
    assert cli.main(["run", str(path), "--check"]) == 2
    assert capsys.readouterr().err.startswith(f"streamfit: {message.format(file=path)}")


def test_a_file_can_be_checked_without_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pipeline.toml"
    path.write_text(
        f'[source]\nlocation = "{data}"\ntarget = "y"\n[checkpoint]\n'
        f'directory = "{tmp_path / "state"}"\n'
    )
    assert cli.main(["run", str(path), "--check"]) == 0
    assert capsys.readouterr().out == f"{path} is valid\n"
    assert not (tmp_path / "state").exists()
    assert cli.main(["run", str(tmp_path / "none.toml")]) == 2


# ---- what a shell sees


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("streamfit tr", ["train"]),
        ("streamfit train --batch", ["--batch-size"]),
        ("streamfit train --optimizer ada", ["adadelta", "adagrad", "adam", "adamw"]),
    ],
    ids=["command", "flag", "value"],
)
def test_completion_knows_commands_flags_and_values(
    line: str,
    completed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_STREAMFIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    with pytest.raises(SystemExit):
        app(prog_name="streamfit")
    assert capsys.readouterr().out.split() == completed


def test_a_terminal_gets_a_bar_and_a_table(data: Path) -> None:
    import pty

    controller, terminal = pty.openpty()
    done = subprocess.Popen(
        [sys.executable, "-m", "streamfit", "train", str(data), "--target", "y"],
        stdout=terminal, stderr=terminal, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(terminal)
    seen = b""
    try:
        while piece := os.read(controller, 4096):
            seen += piece
    except OSError:  # the other side is closed
        pass
    assert done.wait(60) == 0
    assert "━".encode() in seen
    assert b"progressive loss" in seen
    assert b"{" not in seen


def test_killed_and_started_again_the_command_ends_with_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "clicks.csv"
    rows = [f"{a:.6f},{b:.6f},{int(a > b)}" for a, b in rng.normal(size=(30_000, 2))]
    path.write_text("\n".join(["a,b,y", *rows, ""]))
    command = ["train", str(path), "--target", "y", "--batch-size", "7"]
    state = ["--checkpoint", str(tmp_path / "state"), "--every-updates", "700"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "streamfit", *command, *state, "--every", "0.001"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdout is not None
    for line in worker.stdout:
        if json.loads(line)["n_samples"] > 9_000:
            worker.kill()
            break
    worker.stdout.close()
    assert worker.wait(60) == -9
    assert cli.main([*command, *state]) == 0
    resumed = last_line(capsys)
    assert cli.main(command) == 0
    assert 0 < resumed["resumed_at"] < 30_000
    assert resumed["digest"] == last_line(capsys)["digest"]
