"""Checkpoints round trip exactly; the checkpointer's arguments, numbers, pruning and lock."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

from streamfit._checkpoint_file import encode
from streamfit.checkpoint import Checkpoint, Checkpointer, read
from streamfit.errors import CheckpointError, CheckpointLockedError, ConfigurationError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**64, max_value=2**200)
    | st.floats()
    | st.text()
    | st.sampled_from(['"sha256":"' + "0" * 64 + '"', ',"sha256":"' + "f" * 64 + '",', "\0\\"])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)
DTYPES = st.sampled_from(["?", "b", "B", "h", "H", "i", "I", "q", "Q", "e", "f", "d"])
ARRAYS = hnp.arrays(
    DTYPES, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), fill=st.nothing()
)
NAMES = st.text() | st.sampled_from(['"sha256":"' + "a" * 64 + '"', "sha256", "format", "a/b"])
MODELS = st.dictionaries(NAMES.filter(lambda name: name != "__metadata__"), ARRAYS | JSON)


def checkpoint(k: int = 1) -> Checkpoint:
    return Checkpoint({"weights": np.full(3, float(k))}, {"l2": 0.1}, {"a:0": k}, {"k": k})


def round_trip(state: Checkpoint, folder: Path) -> Checkpoint:
    file = folder / "one.safetensors"
    file.write_bytes(encode(state))
    return read(file)


def assert_same(a: Any, b: Any) -> None:
    """Equal to the bit and the type."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, float):
        assert repr(a) == repr(b)  # tells -0.0 from 0.0, and takes nan for nan
    else:
        assert a == b


# --- the file


@settings(max_examples=50, deadline=None)
@given(MODELS, st.dictionaries(st.text(), JSON), st.dictionaries(st.text(), st.integers()))
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    model: dict[str, Any],
    rest: dict[str, Any],
    position: dict[str, int],
) -> None:
    folder = tmp_path_factory.getbasetemp()
    found = round_trip(Checkpoint(model, rest, position, rest, 7, "now"), folder)
    assert_same(found.model, model)
    assert_same(found.config, rest)
    assert_same(found.position, position)
    assert_same(found.trainer, rest)
    assert (found.number, found.created) == (7, "now")


@pytest.mark.parametrize(
    "array",
    [
        np.array(1.5),
        np.array(True),
        np.zeros(0),
        np.zeros((3, 0), dtype=np.int64),
        np.array([np.nan, -np.inf, -0.0, 5e-324]),
        np.array([-(2**63), 2**63 - 1]),
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0)[::-3],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6)[1::2],
    ],
)
def test_arrays_round_trip(tmp_path: Path, array: npt.NDArray[Any]) -> None:
    found = round_trip(Checkpoint({"a": array}, {}, {}, {}), tmp_path).model["a"]
    assert_same(found, array.copy())
    assert found.flags.writeable


def test_big_endian_array_keeps_its_values(tmp_path: Path) -> None:
    array = np.array([1.5, -2.0], dtype=">f8")
    found = round_trip(Checkpoint({"a": array}, {}, {}, {}), tmp_path).model["a"]
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"bad": np.array([object()])}, "bad"),
        ({"bad": np.array(["text"])}, "bad"),
        ({"bad": np.zeros(2, dtype=np.complex128)}, "bad"),
        ({"bad": np.zeros(2, dtype=np.longdouble)}, "bad"),
        ({"bad": np.array(["2020-01-01"], dtype="M8[s]")}, "bad"),
        ({"bad": np.ma.masked_array([1.0], [True])}, "bad"),
        ({"bad": (1, 2)}, "bad"),
        ({"bad": np.float32(1)}, "bad"),
        ({"bad": {"x": [0, {1, 2}]}}, r"bad'\]\['x'\]\[1\]"),
        ({"bad": {3: 1.0}}, "bad.*key 3"),
        ({"bad": b"bytes"}, "bad"),
        ({"bad": [np.zeros(2)]}, "bad"),
        ({"__metadata__": np.zeros(2)}, "__metadata__"),
        ({3: np.zeros(2)}, "3"),
        ({3: 1}, "3"),
        ({"\ud800": np.zeros(2)}, "surrogate"),
        ({"huge": 10**5000}, "digits"),
    ],
)
def test_what_would_not_round_trip_is_refused_by_name(
    tmp_path: Path, model: dict[str, Any], name: str
) -> None:
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(CheckpointError, match=name):
            checkpointer.save(Checkpoint(model, {}, {}, {}))
        assert checkpointer.latest() is None
        assert [file.name for file in tmp_path.iterdir()] == ["lock"]


def test_circular_state_is_refused(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(CheckpointError, match="recursion"):
        encode(Checkpoint({}, {"loop": loop}, {}, {}))


def test_other_tools_can_open_the_file(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpointer:
        file = checkpointer.save(checkpoint())
    np.testing.assert_array_equal(load_file(file)["weights"], np.ones(3))
    content = file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == "2"
    assert json.loads(header["__metadata__"]["streamfit"])["position"] == {"a:0": 1}


# --- the checkpointer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": 3}, "path.*3"),
        ({"path": None}, "path.*None"),
        *[
            ({"every_seconds": bad}, f"every_seconds.*{bad!r}")
            for bad in (0, -1, math.inf, math.nan, True, "5")
        ],
        *[({"every_updates": bad}, f"every_updates.*{bad!r}") for bad in (0, -1, 2.0, True, "5")],
        *[({"keep": bad}, f"keep.*{bad!r}") for bad in (0, -1, 2.0, True, None)],
    ],
)
def test_arguments_are_refused_by_name_and_value(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Checkpointer(**{"path": "state", **arguments})


def test_nothing_touches_the_disk_before_open(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    checkpointer = Checkpointer(folder, every_seconds=5)
    assert checkpointer.latest() is None
    assert checkpointer.list() == []
    assert "every_seconds=5" in repr(checkpointer)
    with pytest.raises(CheckpointError, match=r"before open\(\)"):
        checkpointer.save(checkpoint())
    assert not folder.parent.exists()
    with checkpointer:
        assert folder.is_dir()


def test_save_numbers_and_stamps(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpointer:
        state = checkpoint()
        file = checkpointer.save(state)
        found = checkpointer.latest()
    assert file.name == "checkpoint-00000001.safetensors"
    assert found is not None
    assert (found.number, found.created) == (state.number, state.created) == (1, found.created)
    assert found.created.endswith("+00:00")
    assert found.position == {"a:0": 1}


@pytest.mark.parametrize("keep", [1, 3])
def test_prune_keeps_the_newest(tmp_path: Path, keep: int) -> None:
    with Checkpointer(tmp_path, keep=keep) as checkpointer:
        for k in range(1, 6):
            checkpointer.save(checkpoint(k))
        numbers = [read(file).number for file in checkpointer.list()]
    assert numbers == list(range(6 - keep, 6))


def test_prune_does_not_count_corrupt_ones(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpointer:
        files = [checkpointer.save(checkpoint(k)) for k in range(1, 4)]
    files[1].write_bytes(b"")
    files[2].write_bytes(b"")
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert checkpointer.latest() is not None
        checkpointer.save(checkpoint(4))
        assert [file.name[-13] for file in checkpointer.list()] == list("1234")
        checkpointer.save(checkpoint(5))
        assert [file.name[-13] for file in checkpointer.list()] == list("45")


def test_numbers_go_on_past_corrupt_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-00000041.safetensors").write_bytes(b"junk")
    (tmp_path / "checkpoint-x.safetensors").write_bytes(b"not ours")
    (tmp_path / "journal").write_bytes(b"not ours either")
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        assert checkpointer.save(checkpoint()).name == "checkpoint-00000042.safetensors"
        assert len(checkpointer.list()) == 1
    assert (tmp_path / "checkpoint-x.safetensors").exists()
    assert (tmp_path / "journal").exists()


def test_nine_digits_come_after_eight(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-99999999.safetensors").write_bytes(encode(checkpoint(1)))
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.save(checkpoint(2)).name == "checkpoint-100000000.safetensors"
        found = checkpointer.latest()
    assert found is not None
    assert found.trainer == {"k": 2}


def test_due_by_updates(tmp_path: Path) -> None:
    with Checkpointer(tmp_path, every_updates=10) as checkpointer:
        assert not checkpointer.due(9)
        assert checkpointer.due(10)
        assert checkpointer.due(12)  # until it is saved
        checkpointer.save(checkpoint())
        assert not checkpointer.due(21)
        assert checkpointer.due(22)
    with Checkpointer(tmp_path, every_updates=10) as checkpointer:
        checkpointer.latest()
        assert not checkpointer.due(22)  # restored: counting starts here
        assert not checkpointer.due(31)
        assert checkpointer.due(32)


def test_due_by_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Checkpointer(tmp_path, every_seconds=5, every_updates=10) as checkpointer:
        now = 104.0
        assert not checkpointer.due(1)
        assert checkpointer.due(10)
        now = 105.0
        assert checkpointer.due(1)
        checkpointer.save(checkpoint())
        assert not checkpointer.due(1)


def test_due_by_neither(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpointer:
        assert not checkpointer.due(10**9)


def test_lock_names_directory_holder_and_remedy(tmp_path: Path) -> None:
    first = Checkpointer(tmp_path).open()
    assert first.open() is first
    with pytest.raises(CheckpointLockedError, match=f"pid {os.getpid()} on ") as caught:
        Checkpointer(tmp_path).open()
    assert str(tmp_path) in str(caught.value)
    assert "stop that process" in str(caught.value)
    first.save(checkpoint())
    found = Checkpointer(tmp_path).latest()  # reading needs no lock
    assert found is not None
    first.close()
    first.close()
    with Checkpointer(tmp_path):
        pass


def test_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot open.*file") as caught:
        Checkpointer(tmp_path / "file" / "state").open()
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(CheckpointError, match="cannot list"):
        Checkpointer(tmp_path / "file").list()


def test_pruned_while_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A reader without the lock listed a file that the trainer has pruned since."""
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(checkpoint())
        real = checkpointer.list
        stale = [[*real(), tmp_path / "checkpoint-00000009.safetensors"]]
        monkeypatch.setattr(checkpointer, "list", lambda: stale.pop() if stale else real())
        found = checkpointer.latest()
    assert found is not None
    assert found.number == 1
    assert not caplog.records


def test_unreadable_file_is_an_error_not_a_fallback(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(checkpoint())
        (tmp_path / "checkpoint-00000002.safetensors").mkdir()
        with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*00000002"):
            checkpointer.latest()


def test_corrupt_file_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(checkpoint(1))
        checkpointer.save(checkpoint(2)).write_bytes(b"")
        with caplog.at_level(logging.WARNING, "streamfit"):
            found = checkpointer.latest()
    assert found is not None
    assert found.trainer == {"k": 1}
    assert "checkpoint-00000002.safetensors" in caplog.text
    assert "header claims" in caplog.text


def test_a_link_that_leads_nowhere_is_unreadable(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(checkpoint())
        (tmp_path / "checkpoint-00000002.safetensors").symlink_to(tmp_path / "gone")
        with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*00000002"):
            checkpointer.latest()


def test_closing_unlocks_although_a_forked_child_lives(tmp_path: Path) -> None:
    first = Checkpointer(tmp_path).open()
    waits, ends = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ends)
            os.read(waits, 1)
            first.close()  # not the child's to unlock
        finally:
            os._exit(0)
    os.close(waits)
    try:
        first.close()
        with Checkpointer(tmp_path):
            pass
    finally:
        os.close(ends)
        os.waitpid(child, 0)
