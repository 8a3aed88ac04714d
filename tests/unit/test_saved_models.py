"""`streamfit predict` and `inspect`: what a checkpoint alone is enough for."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from river import tree

import streamfit as sf
from connectors import AvroDecoder, JSONDecoder, NumpyDecoder, open_source
from streamfit import cli

ROWS = np.random.default_rng(0).normal(size=(200, 2))
SAMPLES = [({"a": float(a), "b": float(b)}, bool(a > b)) for a, b in ROWS]


def write(path: Path, *, labelled: bool) -> Path:
    """Write the samples in the format that the file's name says."""
    records = [{**x, **({"y": int(y)} if labelled else {})} for x, y in SAMPLES]
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            lines = csv.DictWriter(file, list(records[0]))
            lines.writeheader()
            lines.writerows(records)
    elif path.suffix == ".parquet":
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


@pytest.fixture
def state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    return train(tmp_path, capsys)


def train(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Path:
    path, state = write(folder / "train.csv", labelled=True), folder / "state"
    command = ["train", str(path), "--target", "y", "--checkpoint", str(state), *arguments]
    assert cli.main(command) == 0
    capsys.readouterr()
    return state


def twin(**options: Any) -> sf.LogisticRegression:
    """Learn the same in Python."""
    model = sf.LogisticRegression(**options)
    for x, y in SAMPLES:
        model.learn_one(x, y)
    return model


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_predictions_are_those_of_the_model(
    state: Path, suffix: str, labelled: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / f"new{suffix}", labelled=labelled)
    assert cli.main(["predict", str(state), str(path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model = twin()
    assert [line["id"] for line in lines] == [f"{path.name}:0:{i}" for i in range(len(SAMPLES))]
    for line, (x, _) in zip(lines, SAMPLES, strict=True):
        assert line["prediction"] == model.predict_one(x)
        assert line["probability"] == pytest.approx(model.predict_proba_one(x)[True], abs=1e-12)


def test_a_hashed_model_never_hashes_the_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = train(tmp_path, capsys, "--feature-index", "hashed:bits=8")
    answers = []
    for labelled in (True, False):
        path = write(tmp_path / "new.jsonl", labelled=labelled)
        assert cli.main(["predict", str(state), str(path)]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != ""


def test_the_features_are_those_that_were_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = train(tmp_path, capsys, "--features", "b")
    path = write(tmp_path / "new.csv", labelled=False)
    assert cli.main(["predict", str(state), str(path), "--output", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    model = sf.LogisticRegression()
    sf.Trainer(model, open_source(str(tmp_path / "train.csv"), target="y", features=["b"])).run()
    expected = [model.predict_proba_one({"b": x["b"]})[True] for x, _ in SAMPLES]
    assert [float(row["probability"]) for row in rows] == expected


@pytest.mark.parametrize("kind", ["linear", "softmax"])
def test_every_kind_of_model_predicts(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = train(tmp_path, capsys, "--model", kind)
    path = write(tmp_path / "new.csv", labelled=False)
    assert cli.main(["predict", str(state), str(path), "--output", "csv"]) == 0
    (row, *_) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    x = SAMPLES[0][0]
    model: Any = sf.LinearRegression() if kind == "linear" else sf.SoftmaxRegression()
    sf.Trainer(model, open_source(str(tmp_path / "train.csv"), target="y")).run()
    assert float(row["prediction"]) == float(model.predict_one(x))
    if kind == "softmax":
        for label, probability in model.predict_proba_one(x).items():
            assert float(row[f"probability {label}"]) == probability


def test_a_bad_sample_stops_or_is_told_in_its_place(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new.jsonl"
    path.write_text('{"a": 1}\n{"a": "x"}\n{"a"\n{"b": 2}\n')
    assert cli.main(["predict", str(state), str(path)]) == 10
    assert "feature 'a': value 'x' is not a number" in capsys.readouterr().err
    assert cli.main(["predict", str(state), str(path), "--on-bad-sample", "skip"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in line for line in lines] == [False, True, True, False]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_misspelt_feature_is_told(
    state: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"new{suffix}"
    path.write_text("a,bb\n1,2\n" if suffix == ".csv" else '{"a": 1, "bb": 2}\n')
    assert cli.main(["predict", str(state), str(path)]) == 0
    told = capsys.readouterr()
    assert "'bb' in new" in told.err
    assert "'b' was learned" in told.err
    assert len(told.out.splitlines()) == 1
    assert cli.main(["predict", str(state), str(write(path, labelled=False))]) == 0
    assert capsys.readouterr().err == ""


def test_refused_options_of_predict(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", str(state), "x.csv", "--output", "xml"]) == 2
    assert cli.main(["predict", str(state), "x.csv", "--on-bad-sample", "cry"]) == 2
    assert cli.main(["predict", str(state), "none.csv"]) == 20
    assert cli.main(["predict", str(state.with_name("none")), "x.csv"]) == 30
    assert cli.main(["predict", str(state), "x.csv", "--number", "7"]) == 30


def test_inspect_shows_model_place_and_weights(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", str(state), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = twin()
    assert (found["model"], found["samples"], found["updates"]) == ("LogisticRegression", 200, 200)
    assert found["digest"] == model.digest()
    assert {row["feature"]: row["weight"] for row in found["top_weights"]} == model.weights
    sizes = [abs(row["weight"]) for row in found["top_weights"]]
    assert sizes == sorted(sizes, reverse=True)
    assert found["position"] == {"train.csv:0": 200}
    assert cli.main(["inspect", str(state), "--top", "1"]) == 0
    shown = capsys.readouterr().out
    for text in ("LogisticRegression", model.digest(), f"{model.intercept:.6g}"):
        assert text in shown
    assert cli.main(["inspect", str(state.with_name("none"))]) == 30


def test_an_earlier_checkpoint_can_be_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = train(tmp_path, capsys, "--max-samples", "100")
    train(tmp_path, capsys)
    assert cli.main(["inspect", str(state), "--json", "--number", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 100
    assert cli.main(["inspect", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 200
    first = ["predict", str(state), str(tmp_path / "train.csv"), "--number", "1"]
    assert cli.main(first) == 0
    before = capsys.readouterr().out
    assert cli.main(first[:3]) == 0
    assert capsys.readouterr().out != before


def test_a_model_that_is_code_is_refused_but_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = sf.adapters.RiverLearner(tree.HoeffdingTreeClassifier(), allow_pickle=True)
    sf.Trainer(learner, SAMPLES, checkpoint=sf.Checkpointer(tmp_path)).run()
    assert cli.main(["predict", str(tmp_path), "x.csv"]) == 32
    assert "the model is a RiverLearner" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "200" in shown
    assert "load_state_dict" in shown


# ---- the sources and decoders behind it


def test_unlabelled_decoders_leave_label_and_weight_out() -> None:
    record = {"a": 1.0, "y": "what", "w": None}
    decode = JSONDecoder(None, "w", labelled=False)
    assert decode(json.dumps(record).encode()) == ({"a": 1.0, "y": "what"}, None, None)
    decode = JSONDecoder("y", "w", labelled=False)
    assert decode(json.dumps(record).encode()) == ({"a": 1.0}, None, None)
    assert JSONDecoder(**{k: v for k, v in decode.get_config().items() if k != "id"})(
        b'{"a": 2}'
    ) == ({"a": 2}, None, None)
    row = np.array([1.0, 2.0]).tobytes()
    assert NumpyDecoder(["a", "y"], "y", labelled=False)(row) == ({"a": 1.0}, None, None)
    assert NumpyDecoder(["a", "b"], "y", labelled=False)(row)[0] == {"a": 1.0, "b": 2.0}
    fastavro = pytest.importorskip("fastavro")
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "double"}]}
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, {"a": 1.0})
    assert AvroDecoder("y", schema=schema, labelled=False)(stream.getvalue())[0] == {"a": 1.0}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_unlabelled_source_cannot_be_learned_from(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"new{suffix}", labelled=True)
    source = open_source(str(path), target="y", labelled=False)
    with pytest.raises(sf.errors.BadSampleError):
        sf.Trainer(sf.LogisticRegression(), source).run()
    with pytest.raises(sf.errors.ConfigurationError):
        open_source(str(path), target=None)


def test_the_demo_ends_equal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamfit", "demo", "--samples", "24000"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n$ kill -9 " in done.stdout
    resumed = re.search(r"^resumed at ([\d,]+), ended at 24,000:", done.stdout, re.M)
    assert resumed is not None
    assert 0 < int(resumed[1].replace(",", "")) < 24_000
    assert re.search(r"^equal +yes$", done.stdout, re.M)
    assert '"id": "readings.csv:0:1"' in done.stdout
