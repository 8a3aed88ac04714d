from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

import streamfit as sf
from connectors import (
    CSVSource,
    JSONDecoder,
    JSONLinesSource,
    LibSVMSource,
    ParquetSource,
    open_source,
)
from connectors.describe import source_from_config, source_from_url
from streamfit.errors import (
    BadSampleError,
    ConfigurationError,
    MissingDependencyError,
    SourceError,
)
from streamfit.types import Block, DescribesItself, Source


def samples(blocks: Any) -> list[tuple[Any, Any, Any]]:
    """Good samples with their offsets."""
    return [
        (offset, block.x[i], block.y[i])
        for block in blocks
        for i, offset in enumerate(block.offsets)
        if i not in block.errors
    ]


def errors(blocks: Any) -> list[str]:
    return [str(error) for block in blocks for error in block.errors.values()]


def csv_file(folder: Path, n: int) -> CSVSource:
    path = folder / "data.csv"
    rows = "".join(f"{i},{i / 2},{i % 2}\n" + ("\n" if i % 7 == 0 else "") for i in range(n))
    path.write_text("a,b,y\n" + rows)
    return CSVSource(path, "y")


def json_file(folder: Path, n: int) -> JSONLinesSource:
    path = folder / "data.jsonl"
    rows = (json.dumps({"a": float(i), "b": i / 2, "y": float(i % 2)}) for i in range(n))
    path.write_text("".join(row + ("\n\n" if i % 7 == 0 else "\n") for i, row in enumerate(rows)))
    return JSONLinesSource(path, JSONDecoder("y"))


both = pytest.mark.parametrize("make", [csv_file, json_file])
Make = Callable[[Path, int], Any]


@both
@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 2048, 3000])
def test_records_in_order(make: Make, n: int, tmp_path: Path) -> None:
    source = make(tmp_path, n)
    name = source.path.name
    assert isinstance(source, Source)
    assert source.position() == {f"{name}:0": 0}
    seen = 0
    for block in source:
        seen += len(block)
        assert (block.key, source.position()) == (f"{name}:0", {f"{name}:0": seen})
    source.seek({f"{name}:0": 0})
    assert samples(source) == [(i, {"a": float(i), "b": i / 2}, i % 2) for i in range(n)]
    assert list(source) == []


@both
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(places=st.lists(st.integers(0, 3000), max_size=6), fresh=st.booleans())
def test_any_record_can_be_sought(
    make: Make, places: list[int], fresh: bool, tmp_path: Path
) -> None:
    source = make(tmp_path, 3000)
    for place in places:
        if fresh:
            source = make(tmp_path, 3000)
        source.seek({f"{source.path.name}:0": place})
        block = next(iter(source), None)
        if place == 3000:
            assert block is None
        else:
            assert block is not None
            assert block.offsets[0] == block.x[0]["a"] == place


@both
def test_seeking_again_and_again_is_cheap(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import connectors._file_source

    n_lines = 0
    read = connectors._file_source.Lines.next_bytes

    def counted(lines: Any) -> bytes | None:
        nonlocal n_lines
        n_lines += 1
        return read(lines)

    monkeypatch.setattr(connectors._file_source.Lines, "next_bytes", counted)
    source = make(tmp_path, 20_000)
    for place in [*range(19_000, 0, -1000), *range(0, 20_000, 1000)]:
        source.seek({f"{source.path.name}:0": place})
        next(iter(source))
    assert n_lines < 20_000 * 1.2 + 39 * 2048 * 1.2


@both
def test_positions_that_do_not_fit(make: Make, tmp_path: Path) -> None:
    source = make(tmp_path, 10)
    name = source.path.name
    for position in ({}, {"other:0": 1}, {f"{name}:0": -1}, {f"{name}:0": "1"}, {f"{name}:1": 1}):
        with pytest.raises(SourceError, match="not a position"):
            source.seek(position)
    source.seek({f"{name}:0": 11})
    with pytest.raises(SourceError, match="has 10 records; the position is 11"):
        list(source)
    source.seek({f"{name}:0": 3})
    blocks = iter(source)
    next(blocks)
    source.seek({f"{name}:0": 0})
    with pytest.raises(SourceError, match="sought while it was read"):
        next(blocks)


BAD_CSV = """a,b,y
1,2,1
far,2,1
1,2
1,2,3,4
1,2,
1,"x
y",0
1,nan,0
, 3 ,TRUE
1_0,2,1
1e400,1,0
"q""q",1,0
4,5,0"""


def test_bad_csv_records(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(BAD_CSV)
    (block,) = CSVSource(path, "y")
    assert sorted(block.errors) == [1, 2, 3, 4, 5, 8, 10]
    assert str(block.errors[1]) == (
        "feature 'a': line 3: 'far' is not a number (source 'bad.csv', partition 0, offset 1)"
    )
    assert block.errors[1].feature == "a"
    assert "line 4: 2 fields, the header has 3" in str(block.errors[2])
    assert "line 6: target 'y' is missing" in str(block.errors[4])
    assert "line 8" in str(block.errors[5])  # the record began on line 7 and ended on 8
    lines = BAD_CSV.encode().splitlines(keepends=True)
    assert [value for value, _ in block.raw[:5]] == [lines[i] for i in (1, 2, 3, 4, 5)]
    assert block.raw[5] == (lines[6] + lines[7], None)
    assert (block.x[7], block.y[7]) == ({"b": 3.0}, 1.0)
    assert (block.x[11], block.y[11]) == ({"a": 4.0, "b": 5.0}, 0.0)
    report = sf.Trainer(sf.LogisticRegression(), CSVSource(path, "y"), on_bad_sample="skip").run()
    assert (report.n_samples, report.n_bad) == (3, 9)  # NaN and infinity are the learner's
    with pytest.raises(BadSampleError, match="line 3"):
        sf.Trainer(sf.LogisticRegression(), CSVSource(path, "y")).run()


def test_labels_that_are_names_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "plants.csv"
    path.write_text("petal,kind\n1.4,setosa\n4.7,versicolor\n6.0,virginica\n1.3,setosa\n")
    model = sf.SoftmaxRegression(sf.optim.SGD(0.5))
    report = sf.Trainer(model, CSVSource(path, target="kind")).run()
    assert (report.n_samples, model.classes) == (4, ["setosa", "versicolor", "virginica"])
    twin = model.clone()
    for petal, kind in [(1.4, "setosa"), (4.7, "versicolor"), (6.0, "virginica"), (1.3, "setosa")]:
        twin.learn_one({"petal": petal}, kind)
    assert twin.digest() == model.digest()
    logistic = sf.Trainer(
        sf.LogisticRegression(), CSVSource(path, target="kind"), on_bad_sample="skip"
    )
    assert (logistic.run().n_bad, logistic.model.n_samples) == (4, 0)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(b"\xef\xbb\xbfa,y\r\n1,1\r\n\xff,1\r\n\x00,0\r\n3,0\r\n")
    found = list(CSVSource(path, "y"))
    assert samples(found) == [(0, {"a": 1.0}, 1.0), (3, {"a": 3.0}, 0.0)]
    assert "line 3: not UTF-8" in errors(found)[0]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"a": 1, "y": 1}\n\xff\n[]\n{"a"\n{"a": 2}\n{"a": 3, "y": 0}')
    found = list(JSONLinesSource(path, JSONDecoder("y")))
    assert [offset for offset, _, _ in samples(found)] == [0, 5]
    assert [error.split(":")[0] for error in errors(found)] == [f"line {n}" for n in (2, 3, 4, 5)]


def test_endless_lines_and_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import connectors._file_source

    monkeypatch.setattr(connectors._file_source, "_MAX_LINE", 1000)
    rows = "".join(f"{i},1\n" for i in range(100))
    path = tmp_path / "long.csv"
    path.write_text(f"a,y\n{rows}{'1' * 5000},1\n{rows}")
    found = list(CSVSource(path, "y"))
    assert len(samples(found)) == 200
    assert "longer than 1000 bytes" in errors(found)[0]
    path.write_text("a,y\n" + rows + '"' + "1,1\n" * 40_000 + "5,1\n")
    found = list(CSVSource(path, "y"))
    assert samples(found)[-1][1:] == ({"a": 5.0}, 1.0)
    assert "field larger than field limit" in errors(found)[0]
    path = tmp_path / "long.jsonl"
    path.write_text('{"y": 1}\n{"a": "' + "x" * 5000 + '"}\n{"y": 0}\n')
    found = list(JSONLinesSource(path, JSONDecoder("y")))
    assert [y for _, _, y in samples(found)] == [1, 0]
    assert "longer than 1000 bytes" in errors(found)[0]


def test_weights_and_chosen_columns(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b,w,y\n1,2,0.5,1\n3,4,,0\n")
    (block,) = CSVSource(path, "y", weight="w", features=["b"])
    assert (block.x, block.y, block.w) == ([{"b": 2.0}, {"b": 4.0}], [1.0, 0.0], [0.5, 1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "z"}, "no columns"),
        ({"target": "a"}, "more than once"),
        ({"target": "y", "weight": "y"}, "different"),
        ({"target": "y", "features": ["y"]}, "different"),
    ],
)
def test_columns_are_checked_at_once(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,a,y\n" if message == "more than once" else "a,b,y\n")
    with pytest.raises(ConfigurationError, match=message):
        CSVSource(path, **arguments)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        CSVSource(tmp_path / "none.csv", "y")
    with pytest.raises(SourceError, match="cannot read"):
        list(JSONLinesSource(tmp_path / "none.jsonl", JSONDecoder("y")))
    with pytest.raises(ConfigurationError, match="path"):
        CSVSource("", "y")
    with pytest.raises(ConfigurationError, match="decoder"):
        JSONLinesSource("x.jsonl", "y")  # type: ignore[arg-type]


@both
def test_a_source_from_its_own_description(make: Make, tmp_path: Path) -> None:
    source = make(tmp_path, 5)
    assert isinstance(source, DescribesItself)
    config = json.loads(json.dumps(source.get_config()))
    expected = samples(source)
    assert samples(source_from_config(config)) == expected
    assert samples(source_from_url(f"{source.path}?target=y")) == expected
    chosen: list[Block] = list(source_from_url(f"{source.path}?target=y&features=b"))
    assert chosen[0].x[1] == {"b": 0.5}


def test_a_decoder_that_cannot_tell_its_arguments(tmp_path: Path) -> None:
    assert JSONLinesSource(tmp_path / "x.jsonl", lambda line: (line, 1, None)).get_config() is None


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data.csv", "target"),
        ("data.xml?target=y", "no source"),
        ("kafka://localhost:9092?target=y", "topic"),
        ("kafka:///topic?target=y", "bootstrap_servers"),
        ("kafka://localhost/topic?target=y&colour=red", "colour"),
        ("kafka://localhost/topic?target=y&client=pigeon", "client"),
    ],
)
def test_urls_that_name_no_source(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        source_from_url(url)


@both
@pytest.mark.parametrize("deaths", [[], [1, 2, 1]])
def test_training_from_a_file_resumes_and_verifies(
    make: Make, deaths: list[int], tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def train(calls: int) -> sf.TrainingReport:
        left = [calls]

        def callback(_: object) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        return sf.Trainer(
            sf.LogisticRegression(sf.optim.SGD(1e-6), batch_size=7),
            make(tmp_path, 3000),
            epochs=2,
            checkpoint=sf.Checkpointer(tmp_path / "state", every_updates=50),
            callbacks=[callback],
        ).run()

    for calls in deaths:
        with pytest.raises(Killed):
            train(calls)
    assert train(-1).n_samples == 6000
    assert sf.journal.verify(tmp_path / "state", make(tmp_path, 3000)).equal


# ---- packed files, LibSVM, the standard input


def packed(path: Path, content: bytes) -> Path:
    pack = {".gz": gzip.compress, ".zst": zstd.compress}[path.suffix]
    path.write_bytes(pack(content))
    return path


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_packed_files_that_are_damaged_are_told(suffix: str, tmp_path: Path) -> None:
    content = "".join(f"{i} 1:{i * 7919 % 1000}\n" for i in range(5000)).encode()
    path = packed(tmp_path / f"data.svm.{suffix}", content)
    assert sum(len(block) for block in LibSVMSource(path)) == 5000
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], b"no such thing", whole[:-9] + b"x" * 9):
        path.write_bytes(damaged)
        with pytest.raises(SourceError, match=f"cannot read .*data.svm.{suffix}"):
            list(LibSVMSource(path))
    path.write_bytes(whole + whole)  # members and frames may follow each other
    assert sum(len(block) for block in LibSVMSource(path)) == 10_000


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_seeking_in_a_packed_file_remembers_blocks(suffix: str, tmp_path: Path) -> None:
    content = b"".join(b"%d 1:%d\n" % (i % 2, i) for i in range(5000))
    source = LibSVMSource(packed(tmp_path / f"data.svm.{suffix}", content))
    for place in (4500, 0, 3000, 2047, 2048):
        source.seek({f"data.svm.{suffix}:0": place})
        assert next(iter(source)).x[0] == {1: float(place)}


def test_libsvm_records(tmp_path: Path) -> None:
    path = tmp_path / "data.svm"
    path.write_bytes(
        b"# only a comment\n+1 1:0.5 qid:3 7:-2e3 # the first\n\n-1\n"
        b"1 1:2 1:3\n1 a:1\n1 2\nx 1:1\n1 1:\xff\n0 3:nan\n"
    )
    (block,) = LibSVMSource(path)
    assert (block.x[:2], block.y[:2]) == ([{1: 0.5, 7: -2000.0}, {}], [1.0, -1.0])
    assert [str(block.errors[i]).partition(" (")[0] for i in sorted(block.errors)] == [
        "feature 1: line 5: the index is there twice",
        "line 6: b'a:1' is not index:value",
        "line 7: b'2' is not index:value",
        "line 8: 'x' is not a number",
        "feature 1: line 9: '\ufffd' is not a number",
    ]
    assert 7 not in block.errors  # which the learner refuses


@pytest.mark.parametrize("kind", ["csv", "jsonl", "libsvm"])
def test_the_standard_input(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = range(3000)
    text = {
        "csv": "a,y\n" + "".join(f"{i},{i % 2}\n" for i in rows),
        "jsonl": "".join(f'{{"a": {i}, "y": {i % 2}}}\n' for i in rows),
        "libsvm": "".join(f"{i % 2} 1:{i}\n" for i in rows),
    }[kind]

    def opened() -> Any:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return open_source(f"-?format={kind}&target=y" if kind != "libsvm" else "-?format=libsvm")

    source = opened()
    assert isinstance(source, Source)
    first = next(iter(source))
    assert (first.key, first.offsets[0]) == ("stdin:0", 0)
    rest = [y for block in source for y in block.y]  # an iteration that was left goes on
    assert [*first.y, *rest] == [i % 2 for i in rows]
    source.seek({"stdin:0": 0})
    with pytest.raises(SourceError, match="only once"):
        list(source)
    resumed = opened()
    resumed.seek({"stdin:0": 2500})
    assert [offset for block in resumed for offset in block.offsets] == list(range(2500, 3000))
    assert resumed.get_config() is None


def test_sources_by_their_names(tmp_path: Path) -> None:
    packed(tmp_path / "a.csv.gz", b"a,y\n1,0\n")
    packed(tmp_path / "a.jsonl.zst", b'{"a": 1, "y": 0}\n')
    for name in ("a.csv.gz?target=y", "a.jsonl.zst?target=y"):
        (block,) = open_source(f"{tmp_path / name}")
        assert (block.x, block.y) == ([{"a": 1.0}], [0.0])
    (tmp_path / "a.libsvm").write_text("0 1:1\n")
    (block,) = open_source(f"{tmp_path / 'a.libsvm'}")
    assert block.x == [{1: 1.0}]
    for url in ("-?format=xml&target=y", "a.gz?target=y", "a.txt?target=y"):
        with pytest.raises(ConfigurationError, match="is no source"):
            open_source(url)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "backports", None)
    (tmp_path / "a.svm.zst").write_bytes(b"")
    with pytest.raises(MissingDependencyError, match=r"streamfit\[zstd\]"):
        list(LibSVMSource(tmp_path / "a.svm.zst"))


# ---- Parquet


def test_parquet_columns(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    table = pa.table(
        {
            "a": pa.array([1, None, 3], "int8"),
            "b": pa.array([True, False, None]),
            "c": pa.array([0.5, 1.5, 2.5], "float32"),
            "name": ["x", "y", "z"],
            "y": pa.array([True, None, False]),
            "w": pa.array([None, 2.0, 3.0]),
        }
    )
    parquet.write_table(table, path)
    source = ParquetSource(path, "y", weight="w", features=["b", "a", "c"])
    (block,) = source
    assert isinstance(block.x, np.ndarray)
    assert block.features == ["b", "a", "c"]
    assert block.x.tolist() == [[1.0, 1.0, 0.5], [0.0, 0.0, 1.5], [0.0, 3.0, 2.5]]
    assert (block.y[0], block.y[2]) == (1.0, 0.0)
    assert block.w is not None
    assert list(block.w) == [1.0, 2.0, 3.0]
    assert {i: str(e) for i, e in block.errors.items()} == {
        1: "target 'y' is null (source 'data.parquet', partition 0, offset 1)"
    }
    assert source.lag({"data.parquet:0": 1}) == 2
    for options, message in (
        ({"target": "y"}, "column 'name' of .* is of type string, no number"),
        ({"target": "z"}, r"no columns \['z'\]"),
        ({"target": "y", "weight": "y"}, "different columns"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            ParquetSource(path, **options)
    (named,) = ParquetSource(path, "name", features=["a"])
    assert list(named.y) == ["x", "y", "z"]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match="cannot read"):
        ParquetSource(path, "y")
    with pytest.raises(SourceError, match="cannot read"):
        open_source(f"{tmp_path / 'none.parquet'}?target=y")
