"""Who owns a checkpoint directory: a lock for the living, an epoch against the undead.

The lock is the kernel's (`flock`, on the file `lock`), so it is free the moment its process dies.
A process that is only stopped keeps it. An operator may then take the directory over: another
file gets the name `lock`, and the process that wakes up holds a file without a name, which it
finds out before it publishes. For a publication that was already past that check there is a fence
in the new file: checkpoints of an earlier owner epoch than `fence_epoch` are not read when their
number is above `fence_number`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Self, TextIO

from streamfit._durable import fsync_directory, open_regular, os_errors, write_and_fsync
from streamfit.errors import CheckpointFencedError, CheckpointLockedError

__all__ = ["DirectoryLock", "Ownership", "take_over"]

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Ownership:
    """What the file `lock` says.

    Parameters
    ----------
    epoch
        Counts the owners of the directory; saved in each checkpoint as `owner_epoch`.
    number
        Checkpoint numbers up to this one are not given again.
    fence_epoch, fence_number
        See the module.
    holder
        Process and machine of the last owner.
    """

    epoch: int = 0
    number: int = 0
    fence_epoch: int = 0
    fence_number: int = 0
    holder: str = ""

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Read it; a file that is not there, or says nothing, is that of a new directory."""
        try:
            with open_regular(directory / "lock") as file:
                return cls._parsed(file.read(_MAX_BYTES))
        except OSError:
            return cls()

    @classmethod
    def _parsed(cls, content: bytes) -> Self:
        try:
            found = json.loads(content)
            values = {f.name: found[f.name] for f in fields(cls)}
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls()
        holder = values.pop("holder")
        if not all(type(value) is int and 0 <= value < 2**53 for value in values.values()):
            return cls()
        printable = (c if c.isprintable() else "?" for c in str(holder)[:200])
        return cls(**values, holder="".join(printable))

    def is_stale(self, owner_epoch: int, number: int) -> bool:
        """Say whether a checkpoint was published by an owner that had been taken over."""
        return owner_epoch < self.fence_epoch and number > self.fence_number

    def encoded(self) -> bytes:
        """Return the content of the file."""
        return json.dumps(asdict(self)).encode() + b"\n"


class DirectoryLock:
    """Exclusive ownership of one directory, from `acquire` to `release`."""

    def __init__(self, directory: Path, file: TextIO, ownership: Ownership) -> None:
        self.ownership = ownership
        self._directory = directory
        self._file = file
        self._process = os.getpid()

    @classmethod
    def acquire(cls, directory: Path) -> Self:
        """Lock a directory and begin the next epoch.

        Raises
        ------
        CheckpointLockedError
            When another process, or another part of this one, has it.
        """
        file = (directory / "lock").open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_named_lock(file, directory):  # taken over since we opened it
                raise BlockingIOError
            before = Ownership.read(directory)
            holder = f"pid {os.getpid()} on {socket.gethostname()}"
            lock = cls(directory, file, replace(before, epoch=before.epoch + 1, holder=holder))
            lock._write()
        except BlockingIOError as error:
            file.close()
            holder = Ownership.read(directory).holder or "another process"
            raise CheckpointLockedError(
                f"checkpoint directory {directory} is in use by {holder}. One trainer owns a "
                "directory: stop that process, or give this trainer a directory of its own. If it "
                "is stopped or out of reach, `streamfit takeover` shuts it out."
            ) from error
        except BaseException:
            file.close()
            raise
        return lock

    def check(self) -> None:
        """Make sure that the directory is still ours.

        Raises
        ------
        CheckpointFencedError
            When it was taken over, moved or replaced.
        """
        if not _is_named_lock(self._file, self._directory):
            now = Ownership.read(self._directory)
            raise CheckpointFencedError(
                f"checkpoint directory {self._directory} was taken over (owner epoch {now.epoch}, "
                f"{now.holder or 'nobody yet'}) or moved away while this process (owner epoch "
                f"{self.ownership.epoch}) held it. Nothing was published; end this process."
            )

    def begin_epoch_after(self, epoch: int) -> None:
        """Be the owner after `epoch`, which a checkpoint says, if the lock file did not know."""
        if epoch >= self.ownership.epoch:
            self.ownership = replace(self.ownership, epoch=epoch + 1)
            self._write()

    def reserve(self, number: int) -> None:
        """Never give checkpoint numbers up to `number` again."""
        self.ownership = replace(self.ownership, number=number)
        self._write()

    def release(self) -> None:
        """Unlock. The file stays: removing it would let two trainers lock files of one name."""
        if self._process == os.getpid():  # a forked child keeps the file open, and the lock
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    def _write(self) -> None:
        self._file.seek(0)
        self._file.truncate(0)
        self._file.write(self.ownership.encoded().decode())
        self._file.flush()
        os.fsync(self._file.fileno())


def take_over(directory: Path, numbers: Callable[[], tuple[int, int]]) -> Ownership:
    """Shut out whoever holds a directory.

    Parameters
    ----------
    directory
        The directory.
    numbers
        Returns the numbers of the newest checkpoint that is to be read, and of the last of all.

    Returns
    -------
    Ownership
        That which was ended.
    """
    before = Ownership.read(directory)
    epoch = before.epoch + 1
    _replace(directory, replace(before, epoch=epoch))
    # Only now: what the old owner published while it still was one counts, nothing after that.
    newest, last = numbers()
    _replace(
        directory,
        Ownership(
            epoch=epoch,
            number=max(before.number, last + 1),  # that one the old owner may still publish
            fence_epoch=epoch,
            fence_number=newest,
        ),
    )
    return before


def _replace(directory: Path, ownership: Ownership) -> None:
    temporary = directory / f".lock-{secrets.token_hex(4)}.tmp"
    with os_errors(f"cannot take {directory} over"):
        write_and_fsync(temporary, ownership.encoded())
        os.replace(temporary, directory / "lock")  # noqa: PTH105 (the step has a name: rename)
        fsync_directory(directory)


def _is_named_lock(file: TextIO, directory: Path) -> bool:
    try:
        named = (directory / "lock").stat()
    except OSError:
        return False
    ours = os.fstat(file.fileno())
    return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)
