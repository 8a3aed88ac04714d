"""What an operator does to a state directory: look, go back, take over.

A state directory holds checkpoints, each with the model and the position of the source, and the
journal of what led to them. They are valid only together, so they move only together.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from streamfit import _directory_lock, _journal_file
from streamfit._directory_lock import Ownership
from streamfit._durable import fsync_directory, open_regular, os_errors, write_and_fsync
from streamfit.checkpoint import Checkpoint, Checkpointer, read
from streamfit.errors import CheckpointCorruptError, CheckpointError, StreamfitError
from streamfit.types import Position
from streamfit.verification import end_of, fresh_model

__all__ = ["Summary", "roll_back", "summaries", "take_over"]


@dataclass(frozen=True, slots=True)
class Summary:
    """One checkpoint, as `streamfit checkpoints` shows it.

    Parameters
    ----------
    number
        Its number, the `N` of `streamfit rollback --to N`.
    problem
        Why it cannot be used; None when it can. What else is known is None then.
    created
        When it was saved (UTC).
    n_samples, n_updates
        What the model had learned.
    position
        The next offset of each partition.
    digest
        The model's digest; None when its class is not streamfit's own.
    owner_epoch
        Which owner of the directory saved it.
    """

    number: int
    problem: str | None
    created: str | None = None
    n_samples: int | None = None
    n_updates: int | None = None
    position: Position | None = None
    digest: str | None = None
    owner_epoch: int | None = None


def summaries(path: str | os.PathLike[str]) -> list[Summary]:
    """Look at every checkpoint in a directory, oldest first; a trainer may be at work there.

    Examples
    --------
    >>> import tempfile
    >>> import streamfit as sf
    >>> from streamfit.state_directory import summaries
    >>> samples = [({"x": 1.0}, True), ({"x": 2.0}, False)]
    >>> with tempfile.TemporaryDirectory() as state:
    ...     checkpoint = sf.Checkpointer(state)
    ...     report = sf.Trainer(sf.LogisticRegression(), samples, checkpoint=checkpoint).run()
    ...     (found,) = summaries(state)
    >>> found.number, found.problem, found.n_samples, found.position
    (1, None, 2, {'samples:0': 2})
    >>> found.digest == report.digest
    True
    """
    path = Path(path)
    ownership = Ownership.read(path)
    found = []
    for number, file in _numbered(path).items():
        try:
            checkpoint = read(file)
        except CheckpointError as error:
            if not file.exists():
                continue  # pruned since we listed it
            found.append(Summary(number, str(error)))
            continue
        problem = _journal_problem(path, checkpoint)
        if ownership.is_stale(checkpoint.owner_epoch, number):
            problem = "published by a trainer that had been taken over"
        found.append(
            Summary(
                number=number,
                problem=problem,
                created=checkpoint.created,
                n_samples=_count(checkpoint.model.get("n_samples")),
                n_updates=_count(checkpoint.model.get("n_updates")),
                position=checkpoint.position,
                digest=_digest(checkpoint),
                owner_epoch=checkpoint.owner_epoch,
            )
        )
    return found


def roll_back(path: str | os.PathLike[str], to: int) -> list[int]:
    """Go back to checkpoint `to`: remove those after it, and cut the journal to where it was.

    A crash on the way leaves one of the checkpoints in between as the newest, and all of its
    journal; call it again then.

    Returns
    -------
    list of int
        The numbers of the checkpoints that were removed.

    Raises
    ------
    CheckpointLockedError
        While a trainer holds the directory.
    CheckpointError
        When there is no such checkpoint, or it is not valid, or its journal is not; nothing has
        changed then.
    """
    path = Path(path)
    numbers = _numbered(path)
    if to not in numbers:
        raise CheckpointError(
            f"there is no checkpoint {to} in {path}; there are {sorted(numbers) or 'none'}"
        )
    with Checkpointer(path) as checkpointer:
        checkpoint = read(numbers[to])
        if Ownership.read(path).is_stale(checkpoint.owner_epoch, to):
            raise CheckpointError(
                f"checkpoint {to} in {path} was published by a trainer that had been taken over"
            )
        end = end_of(checkpoint.trainer.get("journal"))
        for _ in _journal_file.read(path, end):
            pass
        checkpointer.remove_after(to)
        _journal_file.Files(path, end, max_bytes=1).close()  # opening it cuts it
    return [number for number in numbers if number > to]


def take_over(path: str | os.PathLike[str]) -> str:
    """Shut out the process that holds a directory, for when it cannot be ended.

    It finds out before it publishes anything. Use it only where the process is stopped or out of
    reach; one that can be killed should be.

    Returns
    -------
    str
        Who held it last.

    Raises
    ------
    CheckpointError
        When the directory is not there or cannot be written.
    """
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(f"there is no state directory {path}")
    before = _directory_lock.take_over(path, lambda: _newest_and_last(path))
    # The old owner may have the last journal file open: the name gets a file of its own.
    journals = sorted(path.glob("journal-*.bin"))
    for journal in journals[-1:]:
        temporary = path / f".journal-{secrets.token_hex(4)}.tmp"
        with os_errors(f"cannot copy {journal}"):
            with open_regular(journal) as file:
                write_and_fsync(temporary, file.read())
            os.replace(temporary, journal)  # noqa: PTH105 (the step has a name: rename)
            fsync_directory(path)
    return before.holder or "nobody"


def _newest_and_last(path: Path) -> tuple[int, int]:
    """Return the numbers of the newest checkpoint that would be read, and of the last file."""
    numbers = _numbered(path)
    ownership = Ownership.read(path)
    for number in sorted(numbers, reverse=True):
        try:
            stale = ownership.is_stale(read(numbers[number]).owner_epoch, number)
        except CheckpointCorruptError:
            continue
        except CheckpointError:
            stale = False  # of a newer format, perhaps: not for us to say
        if not stale:
            return number, max(numbers)
    return 0, max(numbers, default=0)


def _numbered(path: Path) -> dict[int, Path]:
    return {int(file.stem.rpartition("-")[2]): file for file in Checkpointer(path).list()}


def _journal_problem(path: Path, checkpoint: Checkpoint) -> str | None:
    try:
        for _ in _journal_file.read(path, end_of(checkpoint.trainer.get("journal"))):
            pass
    except CheckpointError as error:
        return str(error)
    return None


def _count(value: object) -> int | None:
    return value if type(value) is int else None


def _digest(checkpoint: Checkpoint) -> str | None:
    try:
        model = fresh_model(checkpoint.config)
        model.load_state_dict(checkpoint.model)
    except StreamfitError:
        return None
    return model.digest()
