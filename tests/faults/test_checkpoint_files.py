"""Faults 3 and 10-17: whatever happens to a checkpoint file, the old or the new one loads.

Processes die by real SIGKILLs and disks fill for real; only EIO, which no healthy disk will give,
is injected. Children are forked, which makes hundreds of deaths cheap.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import streamfit.checkpoint
from streamfit import _checkpoint_file
from streamfit._checkpoint_file import encode
from streamfit.checkpoint import Checkpoint, Checkpointer, read
from streamfit.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointLockedError,
    CheckpointMismatchError,
)

ROOT = Path(streamfit.checkpoint.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def checkpoint(k: int, size: int = 3) -> Checkpoint:
    """Make a checkpoint all of whose parts say `k`, so that a mix would show."""
    model = {"weights": np.full(size, float(k)), "n_updates": k}
    return Checkpoint(model, {"k": k}, {"clicks:0": k}, {"k": k})


def told(found: Checkpoint | None) -> int:
    """Return the `k` that every part of a checkpoint must agree on."""
    assert found is not None
    (k,) = {
        *found.model["weights"].tolist(),
        found.model["n_updates"],
        found.config["k"],
        found.position["clicks:0"],
        found.trainer["k"],
        found.number,
    }
    return int(k)


def forge(head: dict[str, Any], body: bytes = b"") -> bytes:
    """Make a file with any header at all, and a right checksum if it has a place for one."""
    text = json.dumps(head, separators=(",", ":")).encode()
    content = len(text).to_bytes(8, "little") + text + body
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


def metadata(**changes: str) -> dict[str, Any]:
    text = '{"model":{},"config":{},"position":{},"trainer":{},"number":1,"created":""}'
    return {"__metadata__": {"format": "2", "sha256": "0" * 64, "streamfit": text, **changes}}


def in_child(body: Callable[[], None]) -> int:
    """Run `body` in a forked process; return its exit code, negative for a signal."""
    if (pid := os.fork()) == 0:
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Checkpointer, Path]]:
    """A checkpointer with two saved checkpoints, and the path of the newer."""
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(checkpoint(1))
        yield checkpointer, checkpointer.save(checkpoint(2))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep thousands of expected warnings out of the report; a test that counts them asks."""
    caplog.set_level(logging.CRITICAL, "streamfit.checkpoint")


# --- 3: crashes


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_around(module: Any, name: str, when: str, call: int) -> None:
    """Make this process kill itself before or after the n-th call of a function."""
    real = getattr(module, name)
    calls = 0

    def deadly(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            die()
        result = real(*args, **kwargs)
        if calls == call and when == "after":
            die()
        return result

    setattr(module, name, deadly)


STEPS = {
    "write": (streamfit.checkpoint, "write_and_fsync", 1),
    "fsync": (os, "fsync", 1),
    "rename": (os, "replace", 1),
    "directory_fsync": (os, "fsync", 2),
    "read_back": (streamfit.checkpoint, "_read_back", 1),
    "prune": (Path, "unlink", 1),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_kill9_each_step(tmp_path: Path, step: str, when: str) -> None:
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        checkpointer.save(checkpoint(1))
        checkpointer.save(checkpoint(2))

    def save_and_die() -> None:
        with Checkpointer(tmp_path, keep=2) as checkpointer:
            module, name, call = STEPS[step]
            die_around(module, name, when, call)
            checkpointer.save(checkpoint(3))

    assert in_child(save_and_die) == -signal.SIGKILL
    order = [f"{a} {b}" for b in STEPS for a in ("before", "after")]
    renamed = order.index(f"{when} {step}") >= order.index("after rename")
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        assert told(checkpointer.latest()) == (3 if renamed else 2)
        checkpointer.save(checkpoint(4 if renamed else 3))
        assert len(checkpointer.list()) == 2
        assert len(list(tmp_path.iterdir())) == 3


def test_kill9_each_line(tmp_path: Path) -> None:
    """The same at every single line that a save executes."""
    sources = {streamfit.checkpoint.__file__, _checkpoint_file.__file__}
    with Checkpointer(tmp_path) as checkpointer:
        old = [
            (file, file.read_bytes()) for file in map(checkpointer.save, map(checkpoint, (1, 2)))
        ]

    def save_and_die_at(deadline: int) -> None:
        lines = 0

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal lines
            if frame.f_code.co_filename not in sources:
                return None
            if event == "line" and (lines := lines + 1) == deadline:
                die()
            return trace

        with Checkpointer(tmp_path, keep=2) as checkpointer:
            sys.settrace(trace)
            checkpointer.save(checkpoint(3))
            sys.settrace(None)

    seen = []
    for deadline in range(1, 1000):
        for file in tmp_path.iterdir():
            file.unlink()
        for file, content in old:
            file.write_bytes(content)
        status = in_child(lambda: save_and_die_at(deadline))  # noqa: B023 (called at once)
        seen.append(told(Checkpointer(tmp_path).latest()))
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert seen == sorted(seen), "once the new one is there, it stays"
    assert seen.count(2) > 40, "the trace saw too few lines to mean anything"
    assert seen.count(3) > 10, "the trace saw too few lines to mean anything"


def test_kill9_random(tmp_path: Path) -> None:
    """At random instants, in the middle of a write of 2 MB too."""
    chance = random.Random(3)

    def save_forever() -> None:
        with Checkpointer(tmp_path) as checkpointer:
            found = checkpointer.latest()
            k = 0 if found is None else found.number
            os.write(begun, b".")
            while True:
                k += 1
                checkpointer.save(checkpoint(k, size=250_000))

    last = 0
    torn = 0
    beginning, begun = os.pipe()
    for _ in range(30):
        if (pid := os.fork()) == 0:
            try:
                save_forever()
            finally:
                os._exit(1)
        assert os.read(beginning, 1)  # on a busy machine that takes longer than a save
        time.sleep(chance.uniform(0.0, 0.06))
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        torn += any(tmp_path.glob(".*.tmp"))
        found = Checkpointer(tmp_path).latest()
        k = 0 if found is None else told(found)
        assert k >= last
        last = k
    os.close(beginning)
    os.close(begun)
    assert last > 0
    assert torn > 0, "no kill fell into a write"


# --- 10, 11: damage


def test_truncate_every_byte(two: tuple[Checkpointer, Path]) -> None:
    checkpointer, newest = two
    content = newest.read_bytes()
    for length in range(len(content)):
        newest.write_bytes(content[:length])
        with pytest.raises(CheckpointCorruptError, match=newest.name):
            read(newest)
        assert told(checkpointer.latest()) == 1
    newest.write_bytes(content + b"\0")
    assert told(checkpointer.latest()) == 1
    newest.write_bytes(content)
    assert told(checkpointer.latest()) == 2


def test_bitflip_every_region(two: tuple[Checkpointer, Path]) -> None:
    """Every bit of the file, one at a time."""
    checkpointer, newest = two
    content = bytearray(newest.read_bytes())
    for i in range(len(content)):
        for bit in range(8):
            content[i] ^= 1 << bit
            newest.write_bytes(content)
            with pytest.raises(CheckpointCorruptError):
                read(newest)
            content[i] ^= 1 << bit
        newest.write_bytes(content[:i] + bytes([content[i] ^ 0xFF]) + content[i + 1 :])
        assert told(checkpointer.latest()) == 1


def test_zeroed_file(two: tuple[Checkpointer, Path]) -> None:
    """What a file system may leave after a power cut: the right length, all zeros."""
    checkpointer, newest = two
    newest.write_bytes(bytes(newest.stat().st_size))
    assert told(checkpointer.latest()) == 1


def test_wrong_bytes_on_the_disk(
    two: tuple[Checkpointer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk acknowledged a write and kept something else: read-back finds it."""
    checkpointer, _ = two
    real = os.replace

    def damage(source: Path, target: Path) -> None:
        content = bytearray(source.read_bytes())
        content[-1] ^= 1
        source.write_bytes(content)
        real(source, target)

    monkeypatch.setattr(os, "replace", damage)
    state = checkpoint(3)
    for _ in range(5):  # more often than `keep`
        with pytest.raises(CheckpointError, match="did not read back"):
            checkpointer.save(state)
    assert state.number == 0
    assert len(checkpointer.list()) == 2
    assert told(checkpointer.latest()) == 2
    monkeypatch.undo()
    assert checkpointer.save(state).name == "checkpoint-00000008.safetensors"


# --- 12: a full or failing disk

FILL_DISK = """
import errno, sys
from pathlib import Path
import numpy as np
from streamfit.checkpoint import Checkpoint, Checkpointer
from streamfit.errors import CheckpointError

folder = Path(sys.argv[1])
with Checkpointer(folder) as checkpointer:
    checkpointer.save(Checkpoint({"w": np.ones(10)}, {}, {}, {}))
    try:
        checkpointer.save(Checkpoint({"w": np.ones(100_000)}, {}, {}, {}))
    except CheckpointError as error:
        assert error.__cause__.errno == errno.ENOSPC, error
        assert "checkpoint-00000002" in str(error), error
    else:
        raise SystemExit("the disk never filled")
    assert len(list(folder.iterdir())) == 2, list(folder.iterdir())
    assert checkpointer.latest().number == 1
    checkpointer.save(Checkpoint({"w": np.ones(10)}, {}, {}, {}))
    assert checkpointer.latest().number == 3
"""


def test_enospc(tmp_path: Path) -> None:
    """A real full disk: 64 KB of tmpfs in a mount namespace of its own."""
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    fill = 'mount -t tmpfs -o size=64k tmpfs "$1"; shift; exec "$@"'
    if (
        not shutil.which("unshare")
        or subprocess.run(
            [*mount, 'mount -t tmpfs tmpfs "$1"', "sh", tmp_path], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("needs the right to mount a tmpfs in a user namespace")
    subprocess.run(
        [*mount, fill, "sh", tmp_path, sys.executable, "-c", FILL_DISK, tmp_path],
        check=True,
        env=ENVIRONMENT,
        timeout=60,
    )


def test_enospc_by_file_size_limit(two: tuple[Checkpointer, Path], tmp_path: Path) -> None:
    """The kernel stops a write half way, on any machine."""
    checkpointer, _ = two
    before = sorted(tmp_path.iterdir())

    def save_too_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.raises(CheckpointError) as caught:
            checkpointer.save(checkpoint(3, size=100_000))
        cause = caught.value.__cause__
        assert isinstance(cause, OSError)
        assert cause.errno == errno.EFBIG

    assert in_child(save_too_much) == 0
    assert sorted(tmp_path.iterdir()) == before
    assert told(checkpointer.latest()) == 2


@pytest.mark.parametrize("call", [1, 2], ids=["file", "directory"])
def test_eio_on_fsync(
    two: tuple[Checkpointer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    checkpointer, _ = two
    before = sorted(tmp_path.iterdir())
    real = os.fsync
    calls = 0

    def fail(descriptor: int) -> None:
        nonlocal calls
        if (calls := calls + 1) == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    state = checkpoint(4)
    with pytest.raises(CheckpointError, match=r"cannot write.*00000003.*error") as caught:
        checkpointer.save(state)
    assert isinstance(caught.value.__cause__, OSError)
    assert sorted(tmp_path.iterdir()) == before
    assert (state.number, state.created) == (0, "")
    assert told(checkpointer.latest()) == 2
    assert checkpointer.save(state).name == "checkpoint-00000004.safetensors"
    assert told(checkpointer.latest()) == 4


def test_eio_on_read(two: tuple[Checkpointer, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector is damage like any other: fall back."""
    checkpointer, newest = two
    real = Path.open

    def fail(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path == newest:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", fail)
    assert told(checkpointer.latest()) == 1


def test_prune_that_fails_says_that_the_save_did_not(
    two: tuple[Checkpointer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer, _ = two
    checkpointer.keep = 1

    def fail(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "unlink", fail)
    state = checkpoint(3)
    with pytest.raises(CheckpointError, match="was saved, but older ones"):
        checkpointer.save(state)
    assert state.number == told(checkpointer.latest()) == 3


# --- 13: several writers


def test_leftover_tmp(tmp_path: Path) -> None:
    leftover = tmp_path / ".checkpoint-00000003.123-0123abcd.tmp"
    other = tmp_path / "notes.tmp"
    leftover.write_bytes(b"half a checkpoint")
    other.write_bytes(b"not ours")
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.latest() is None  # a temporary file is nobody's checkpoint
    with checkpointer:
        assert not leftover.exists()
        assert other.exists()


def test_leftover_tmp_of_a_living_writer_stays(tmp_path: Path) -> None:
    with Checkpointer(tmp_path):
        living = tmp_path / ".checkpoint-00000003.123-0123abcd.tmp"
        living.touch()
        with pytest.raises(CheckpointLockedError):
            Checkpointer(tmp_path).open()
        assert living.exists()


HOLD_LOCK = """
import sys
from streamfit.checkpoint import Checkpointer
holder = Checkpointer(sys.argv[1]).open()
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_writers(tmp_path: Path) -> None:
    """Two real processes; the lock of a killed one is free at once."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, tmp_path],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(CheckpointLockedError, match=f"pid {holder.pid} on "):
            Checkpointer(tmp_path).open()
        holder.kill()
        holder.wait()
        with Checkpointer(tmp_path) as checkpointer:
            checkpointer.save(checkpoint(1))


def test_writers_race_for_the_lock(tmp_path: Path) -> None:
    """Of many processes that open and save at once, each save goes into a file of its own."""

    def save_some() -> None:
        saved = 0
        while saved < 5:
            try:
                with Checkpointer(tmp_path, keep=100) as checkpointer:
                    checkpointer.save(checkpoint(len(checkpointer.list()) + 1))
                    saved += 1
            except CheckpointLockedError:
                time.sleep(0.001)

    children = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            try:
                save_some()
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert [told(read(file)) for file in Checkpointer(tmp_path).list()] == list(range(1, 21))


# --- 14, 15: hostile files


class Payload:
    """Unpickling this makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.proof,))


def test_pickle_payload(two: tuple[Checkpointer, Path], tmp_path: Path) -> None:
    checkpointer, newest = two
    proof = tmp_path / "executed"
    payload = pickle.dumps(Payload(proof))
    npy = tmp_path / "payload.npy"
    np.save(npy, np.array([Payload(proof)], dtype=object), allow_pickle=True)
    tensor = {"dtype": "O", "shape": [1], "data_offsets": [0, len(payload)]}
    for content in (
        payload,
        npy.read_bytes(),
        len(payload).to_bytes(8, "little") + payload,
        forge({**metadata(), "weights": tensor}, payload),
        forge(metadata(streamfit=payload.decode("latin-1"))),
    ):
        newest.write_bytes(content)
        assert told(checkpointer.latest()) == 1
    assert not proof.exists()
    with pytest.raises(CheckpointError, match=r"'weights'.*dtype object"):
        encode(Checkpoint({"weights": np.array([Payload(proof)])}, {}, {}, {}))
    pickle.loads(payload)
    assert proof.exists(), "the payload would have worked"


def tensor(shape: list[int], stop: int, start: int = 0) -> dict[str, Any]:
    return {
        **metadata(),
        "weights": {"dtype": "F64", "shape": shape, "data_offsets": [start, stop]},
    }


BOMBS = {
    "header_of_16_exabytes": (2**64 - 1).to_bytes(8, "little") + b'{"__metadata__":{}}',
    "header_of_4_gigabytes": (2**32).to_bytes(8, "little") + b'{"__metadata__":{}}',
    "tensor_of_1_terabyte": forge(tensor([2**37], 2**40)),
    "tensor_longer_than_its_bytes": forge(tensor([2**37], 8), bytes(8)),
    "shape_that_overflows": forge(tensor([2**33, 2**33], 8), bytes(8)),
    "empty_but_vast": forge(tensor([0, 2**62, 2**62], 0)),
    "negative_offsets": forge(tensor([1], 8, -8), bytes(8)),
    "hole_before_the_tensor": forge(tensor([1], 16, 8), bytes(16)),
    "bytes_that_nobody_declared": forge(metadata(), bytes(100)),
    "deep_json": forge(metadata(streamfit="[" * 1_000_000)),
    "deep_header": forge({**metadata(), "weights": 0}).replace(b":0}", b":" + b"[" * 100_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_decompression_bomb(two: tuple[Checkpointer, Path], bomb: str) -> None:
    """Refused from the declared sizes, in a child that may not allocate 1 GB more."""
    checkpointer, newest = two
    newest.write_bytes(BOMBS[bomb])

    def load_in_little_memory() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
        assert told(checkpointer.latest()) == 1

    assert in_child(load_in_little_memory) == 0


def test_sparse_giant(two: tuple[Checkpointer, Path]) -> None:
    """A file of a terabyte of zeros costs nothing to make, and nothing to refuse."""
    checkpointer, newest = two
    content = newest.read_bytes()
    for start in (b"", content):
        newest.write_bytes(start)
        try:
            os.truncate(newest, 2**40)
        except OSError:
            pytest.skip("this file system has no files of that size")
        began = time.monotonic()
        assert told(checkpointer.latest()) == 1
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "content",
    [
        forge({"weights": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]}}, bytes(8)),
        forge({"__metadata__": {"format": "1"}}),
        forge(metadata(format="one")),
        forge(metadata(streamfit="{}")),
        forge(metadata(streamfit="[]")),
        forge(metadata(streamfit='{"model":[]}')),
        forge(metadata(streamfit="")),
        forge({**metadata(), "sha256": "f" * 64}),
        forge({"a": [], **metadata()}),
    ],
)
def test_foreign_safetensors(two: tuple[Checkpointer, Path], content: bytes) -> None:
    """Well-formed, but none of ours: no checksum, two of them, or not our JSON."""
    checkpointer, newest = two
    newest.write_bytes(content)
    assert told(checkpointer.latest()) == 1


# --- 16, 17: refusals


def test_newer_format(two: tuple[Checkpointer, Path]) -> None:
    """Falling back to an older file would silently lose what the newer version learned."""
    checkpointer, newest = two
    newest.write_bytes(forge(metadata(format="3")))
    with pytest.raises(CheckpointMismatchError, match=r"format 3.*Upgrade"):
        checkpointer.latest()
    newest.write_bytes(forge(metadata(format="3")) + b"\0")  # damaged, so not believed
    assert told(checkpointer.latest()) == 1


def test_all_corrupt(two: tuple[Checkpointer, Path], caplog: pytest.LogCaptureFixture) -> None:
    checkpointer, _ = two
    caplog.set_level(logging.WARNING, "streamfit.checkpoint")
    for file in checkpointer.list():
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointCorruptError, match="every checkpoint") as caught:
        checkpointer.latest()
    assert "backup" in str(caught.value)
    assert "start afresh" in str(caught.value)
    for file in checkpointer.list():
        assert file.name in str(caught.value)
        assert file.name in caplog.text
