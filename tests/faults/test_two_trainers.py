"""Faults 8 and 31: of two trainers on one directory, one at most publishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import streamfit as sf
from streamfit.errors import CheckpointCorruptError, CheckpointError, CheckpointFencedError
from streamfit.state_directory import roll_back, take_over

sys.path.insert(0, str(Path(__file__).parent))
from processes import WORKER, finish, lead, offline_digest, saved_model, start
from worker import endless, models


def test_duplicate_trainer(tmp_path: Path) -> None:
    """A second trainer of the same directory is refused by the lock, and harms nothing."""
    worker = start(tmp_path)
    assert worker.stdout is not None
    worker.stdout.readline()
    second = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert second.returncode == 33
    assert "event=halted exit_code=33 error=CheckpointLockedError" in second.stderr
    worker.terminate()
    told = finish(worker)
    assert saved_model(tmp_path, "logistic").digest() == told["digest"]


def streamfit(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamfit", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_sigstop_past_session(tmp_path: Path) -> None:
    """A trainer is frozen and another takes over; woken up, the first must not publish."""
    options = ["--every-updates", "20", "--led"]
    first = start(tmp_path, *options)
    lead(first, 3000)
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert second.returncode == 33  # a frozen process holds its lock
    assert "streamfit takeover" in second.stderr
    taken = streamfit("takeover", tmp_path)
    assert taken.returncode == 0, taken.stderr
    assert f"pid {first.pid} on " in taken.stdout
    heir = start(tmp_path, *options)
    lead(heir, 6000)
    owned = {path.name: path.read_bytes() for path in sf.Checkpointer(tmp_path).list()}
    journal = {path: path.read_bytes() for path in tmp_path.glob("journal-*")}

    first.send_signal(signal.SIGCONT)
    assert first.stdin is not None
    first.stdin.close()  # goes on by itself from here
    assert first.stdout is not None
    first.stdout.read()
    assert first.wait(60) == 34
    assert {p.name: p.read_bytes() for p in sf.Checkpointer(tmp_path).list()} == owned
    assert {path: path.read_bytes() for path in tmp_path.glob("journal-*")} == journal

    heir.terminate()
    told = finish(heir)
    model = saved_model(tmp_path, "logistic")
    assert told["digest"] == model.digest() == offline_digest(model.n_samples)
    assert sf.journal.verify(tmp_path, lambda: endless(None)).equal


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_publication_already_under_way_is_fenced(tmp_path: Path, number: int) -> None:
    """Taken over between its last look and its rename: what it publishes is never read."""
    zombie = sf.Checkpointer(tmp_path, keep=1).open()
    state = models("logistic").state_dict()

    def checkpoint() -> sf.Checkpoint:
        return sf.Checkpoint(state, {}, {"samples:0": 0}, {})

    for _ in range(number - 1):
        zombie.save(checkpoint())
    real, late = os.replace, []

    def taken_over_meanwhile(source: Any, target: Any) -> None:
        os.replace = real
        take_over(tmp_path)
        real(source, target)
        late.append(Path(target).read_bytes())

    os.replace = taken_over_meanwhile
    try:
        with pytest.raises(CheckpointFencedError):
            zombie.save(checkpoint())
    finally:
        os.replace = real
    assert len(sf.Checkpointer(tmp_path).list()) == min(1, number - 1)  # and nothing was pruned
    published = tmp_path / f"checkpoint-{number:08d}.safetensors"
    published.write_bytes(late[0])  # as if it had been killed before it took it back
    with pytest.raises(CheckpointFencedError, match="was taken over"):
        zombie.save(checkpoint())
    take_over(tmp_path)  # a second time, before anything else was saved
    with sf.Checkpointer(tmp_path) as heir:
        found = heir.latest()
        assert (0 if found is None else found.number) == number - 1
        assert heir.save(checkpoint()).name == f"checkpoint-{number + 2:08d}.safetensors"
        newest = heir.latest()
        assert newest is not None
        assert newest.owner_epoch == 4
    if number > 1:
        with pytest.raises(CheckpointError, match="taken over"):
            roll_back(tmp_path, number)
        for path in set(sf.Checkpointer(tmp_path).list()) - {published}:
            path.unlink()
        with pytest.raises(CheckpointCorruptError, match="taken over"):  # no fresh model by itself
            sf.Checkpointer(tmp_path).latest()


def test_a_directory_that_was_moved_away_is_left_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with sf.Checkpointer(state) as checkpointer:
        state.rename(tmp_path / "elsewhere")
        with pytest.raises(CheckpointFencedError, match="moved away"):
            checkpointer.check_owner()
        state.mkdir()
        with (
            sf.Checkpointer(state),
            pytest.raises(CheckpointFencedError, match="owner epoch 1, pid"),
        ):
            checkpointer.check_owner()
