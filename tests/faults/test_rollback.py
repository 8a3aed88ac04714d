"""Fault 46, and what an operator sees: `streamfit checkpoints`, `rollback`, `takeover`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamfit as sf
from streamfit import cli
from streamfit._checkpoint_file import encode, read
from streamfit.errors import CheckpointCorruptError, CheckpointError, CheckpointLockedError
from streamfit.state_directory import roll_back, summaries, take_over

SAMPLES: list[Any] = [({"a": i % 7 / 7, "b": i % 5 / 5}, i % 3 == 1) for i in range(400)]


def model() -> sf.LogisticRegression:
    return sf.LogisticRegression(sf.optim.Adam(0.1), batch_size=3)


def train(state: Path, samples: list[Any] = SAMPLES, **options: Any) -> sf.TrainingReport:
    source = sf.IterableSource(samples)
    source.max_block = 20
    checkpoint = sf.Checkpointer(state, every_updates=20, keep=6)
    return sf.Trainer(model(), source, checkpoint=checkpoint, **options).run()


@pytest.mark.parametrize("k", [1, 2, 4])
def test_rollback_k(k: int, tmp_path: Path) -> None:
    """Model, position and journal go back together; what follows is learned again, bit for bit."""
    report = train(tmp_path)
    before = summaries(tmp_path)
    assert [s.problem for s in before] == [None] * 6
    assert before[-1].digest == report.digest
    target = before[-1 - k]
    assert roll_back(tmp_path, target.number) == [s.number for s in before[-k:]]
    after = summaries(tmp_path)
    assert after == before[:-k]
    saved = sf.Checkpointer(tmp_path).latest()
    assert saved is not None
    assert saved.position == target.position == {"samples:0": target.n_samples}
    straight = model()
    for x, y in SAMPLES[: saved.model["n_samples"]]:
        straight.learn_one(x, y)
    assert straight.digest() == target.digest
    assert sf.journal.verify(tmp_path, SAMPLES).equal
    again = train(tmp_path)
    assert (again.resumed_at, again.digest) == (target.n_samples, report.digest)
    assert sf.journal.verify(tmp_path, SAMPLES).equal
    numbers = [s.number for s in summaries(tmp_path)]
    assert min(n for n in numbers if n > target.number) > before[-1].number  # none comes twice


def test_poisoned_data_is_unlearned(tmp_path: Path) -> None:
    """The runbook: go back to before it, and read it again through a filter."""
    poisoned = [*SAMPLES[:300], *[({"a": 1e6, "b": -1e6}, i % 2 == 0) for i in range(100)]]
    train(tmp_path, poisoned)
    (good,) = (s for s in summaries(tmp_path) if s.n_samples == 300 - 300 % 60)
    roll_back(tmp_path, good.number)
    cured = [s if s[0]["a"] < 2 else "poison" for s in poisoned]
    report = train(tmp_path, cured, on_bad_sample="skip")
    assert report.n_bad == 100
    straight = sf.Trainer(model(), SAMPLES[:300]).run()
    assert report.digest == straight.digest


def test_rollback_is_refused_while_a_trainer_runs(tmp_path: Path) -> None:
    train(tmp_path)
    before = contents(tmp_path)
    number = summaries(tmp_path)[0].number
    with sf.Checkpointer(tmp_path):
        locked = contents(tmp_path)
        with pytest.raises(CheckpointLockedError):
            roll_back(tmp_path, number)
        assert cli.main(["rollback", str(tmp_path), "--to", str(number)]) == 33
        assert contents(tmp_path) == locked
    assert {name for name, _ in before} == {name for name, _ in contents(tmp_path)}


def test_rollback_to_what_is_not_valid_changes_nothing(tmp_path: Path) -> None:
    train(tmp_path)
    found = [s.number for s in summaries(tmp_path)]
    with pytest.raises(CheckpointError, match=r"no checkpoint 99 in .*; there are \["):
        roll_back(tmp_path, 99)
    damaged = tmp_path / f"checkpoint-{found[1]:08d}.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointCorruptError):
        roll_back(tmp_path, found[1])
    assert [s.number for s in summaries(tmp_path)] == found
    (problem,) = (s.problem for s in summaries(tmp_path) if s.problem)
    assert "corrupt" in problem
    (journal,) = tmp_path.glob("journal-*.bin")
    journal.write_bytes(journal.read_bytes()[:40])
    with pytest.raises(CheckpointCorruptError, match="journal"):
        roll_back(tmp_path, found[0])
    assert [s.number for s in summaries(tmp_path)] == found
    assert all(s.problem for s in summaries(tmp_path))


def test_a_crash_within_a_rollback_leaves_a_valid_state(tmp_path: Path) -> None:
    """Files go from the newest back, and the journal last."""
    train(tmp_path / "whole")
    target = summaries(tmp_path / "whole")[1].number
    for deadline in range(1, 10):
        state = tmp_path / str(deadline)
        shutil.copytree(tmp_path / "whole", state)
        code = in_child(lambda: roll_back_and_die(state, target, deadline))  # noqa: B023
        assert all(s.problem is None for s in summaries(state))
        assert sf.journal.verify(state, SAMPLES).equal
        roll_back(state, target)
        assert summaries(state)[-1].number == target
        if code == 0:
            break
        assert code == 9
    assert deadline > 3


def roll_back_and_die(state: Path, to: int, deadline: int) -> None:
    real, left = Path.unlink, [deadline]

    def deadly(path: Path, missing_ok: bool = False) -> None:
        left[0] -= 1
        if left[0] == 0:
            os._exit(9)
        real(path, missing_ok=missing_ok)

    Path.unlink = deadly  # type: ignore[method-assign]
    roll_back(state, to)


def in_child(body: Callable[[], None]) -> int:
    """Run `body` in a forked process; return its exit code."""
    if (pid := os.fork()) == 0:
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# --- the command line


def test_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = train(tmp_path)
    assert cli.main(["checkpoints", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    for word in ("number", "samples", "position", "valid", report.digest[:16], "samples:0=400"):
        assert word in table
    assert table.count("yes") == 6
    assert cli.main(["checkpoints", str(tmp_path), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (rows[-1]["digest"], rows[-1]["position"]) == (report.digest, {"samples:0": 400})
    (tmp_path / "checkpoint-00000099.safetensors").write_bytes(b"junk")
    assert cli.main(["checkpoints", str(tmp_path)]) == 0
    assert "corrupt" in capsys.readouterr().out.replace("\n", "")
    assert cli.main(["checkpoints", str(tmp_path / "none")]) == 0
    assert "no checkpoints" in capsys.readouterr().out


def test_rollback_and_takeover_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path)
    number = summaries(tmp_path)[-3].number
    assert cli.main(["rollback", str(tmp_path), "--to", str(number)]) == 0
    assert f"back at checkpoint {number}; removed [" in capsys.readouterr().out
    assert summaries(tmp_path)[-1].number == number
    assert cli.main(["takeover", str(tmp_path)]) == 0
    assert f"held by pid {os.getpid()} on " in capsys.readouterr().out
    assert cli.main(["takeover", str(tmp_path / "none")]) == 30
    assert cli.main(["rollback", str(tmp_path), "--to", "x"]) == 2
    assert cli.main(["rollback", str(tmp_path)]) == 2
    assert cli.main(["no-such-command"]) == 2
    assert cli.main(["--help"]) == 0


def test_the_command_prints_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamfit", "rollback", str(tmp_path), "--to", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 30
    assert done.stderr == f"streamfit: there is no checkpoint 1 in {tmp_path}; there are none\n"


def forge(state: Path, part: str, name: str, value: object) -> None:
    file = sf.Checkpointer(state).list()[-1]
    checkpoint = read(file)
    if name:
        getattr(checkpoint, part)[name] = value
    else:
        setattr(checkpoint, part, value)
    file.write_bytes(encode(checkpoint))


def pipe(state: Path, name: str) -> None:
    (state / name).unlink(missing_ok=True)
    os.mkfifo(state / name)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "count": lambda state: forge(state, "model", "n_samples", "x"),
    "counts": lambda state: forge(state, "model", "n_updates", [1]),
    "optimizer": lambda state: forge(state, "config", "optimizer", "x"),
    "loss": lambda state: forge(state, "config", "loss", [1]),
    "created": lambda state: forge(state, "created", "", "\x1b[2J\x1b[31m"),
    "position": lambda state: forge(state, "position", "\x1b[2J\n:0", 5),
    "lock": lambda state: pipe(state, "lock"),
    "pipe": lambda state: pipe(state, "checkpoint-00000099.safetensors"),
    "journal": lambda state: pipe(state, "journal-00000001.bin"),
    "holder": lambda state: (state / "lock").write_text(  # type: ignore[dict-item,return-value]
        '{"epoch": 1, "number": 0, "fence_epoch": 0, "fence_number": 0, "holder": "\\u001b[2J"}'
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_directory(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No command hangs, fails without a word, or lets a file write to the terminal."""
    train(tmp_path / "whole")
    number = str(summaries(tmp_path / "whole")[1].number)
    for command in (["checkpoints"], ["verify"], ["rollback", "--to", number], ["takeover"]):
        state = tmp_path / command[0]
        shutil.copytree(tmp_path / "whole", state)
        HOSTILE[name](state)
        assert cli.main([command[0], str(state), *command[1:]]) in (0, 2, 30, 31, 32)
        out, err = capsys.readouterr()
        assert out or err
        assert "\x1b" not in out + err


# --- the lock file is anybody's


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"pid 12 on somewhere\n",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"epoch": -1, "number": 0, "fence_epoch": 0, "fence_number": 0, "holder": ""}',
        b'{"epoch": 1e99, "number": 0, "fence_epoch": 0, "fence_number": 0, "holder": ""}',
        b'{"epoch": 1}',
        b"null",
        b"1" * 5000,
    ],
)
def test_a_lock_file_that_says_nothing(content: bytes, tmp_path: Path) -> None:
    """The epochs in the checkpoints go on, whatever became of the lock file."""
    report = train(tmp_path)
    take_over(tmp_path)
    train(tmp_path, [*SAMPLES, *SAMPLES[:9]])
    first = summaries(tmp_path)[-1].owner_epoch
    assert first is not None
    (tmp_path / "lock").write_bytes(content)
    again = train(tmp_path, [*SAMPLES, *SAMPLES[:60]])
    assert again.resumed_at == 409
    newest = summaries(tmp_path)[-1].owner_epoch
    assert newest == first + 1
    assert report.n_samples == 400


def test_a_read_only_directory_says_so() -> None:
    """Whoever may only read looks, and is told why nothing else works."""

    def try_everything() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)  # root writes everywhere
        assert len(summaries(state)) == 6
        for attempt in (
            lambda: take_over(state),
            lambda: roll_back(state, summaries(state)[0].number),
            lambda: train(state),
        ):
            with pytest.raises(CheckpointError, match="Permission denied"):
                attempt()

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        state = Path(folder)
        train(state)
        state.chmod(0o555)
        assert in_child(try_everything) == 0
        state.chmod(0o755)
        assert len(summaries(state)) == 6


def contents(state: Path) -> list[tuple[str, bytes]]:
    return sorted((path.name, path.read_bytes()) for path in state.iterdir())
