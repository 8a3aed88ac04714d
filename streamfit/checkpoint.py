"""Save and restore a run: numbered files in one locked directory, durable and verified.

A save is the recipe that survives `kill -9`, a full disk and a power cut at any instant: unique
temporary file, write, fsync, rename, fsync the directory, read back and verify, prune. Whatever
happens in between, the directory holds the old checkpoint or the new one, never a mix.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import secrets
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamfit._checkpoint_file import Checkpoint, encode, read
from streamfit._directory_lock import DirectoryLock, Ownership
from streamfit._durable import fsync_directory, os_errors, write_and_fsync
from streamfit.errors import (
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    ConfigurationError,
)
from streamfit.events import event

__all__ = ["Checkpoint", "Checkpointer", "check_same_model", "read", "transformer_of"]

_log = logging.getLogger(__name__)
_NAME = re.compile(r"checkpoint-([0-9]{8,})\.safetensors")
_TEMPORARY = ".checkpoint-*.tmp"
_PRUNED_RETRIES = 20  # a name that is still there but leads nowhere (a link) ends them


def transformer_of(checkpoint: Checkpoint) -> str | None:
    """Return what prepared the samples before the model saw them (`Transformed`), if anything."""
    state = checkpoint.trainer.get("source_state")
    while isinstance(state, dict):
        if isinstance(found := state.get("transformer"), str):
            return found
        state = state.get("source")
    return None


class Checkpointer:
    """A directory of checkpoints that one trainer owns at a time.

    Nothing touches the disk before `open`. Reading (`latest`, `list`) needs no lock, so a
    dashboard or a server may look while a trainer runs; saving does.

    Parameters
    ----------
    path
        The directory; made, with its parents, when opened.
    every_seconds, every_updates
        How often `due` says that it is time. With neither, a run saves only at its end.
    keep
        How many checkpoints stay on disk.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from streamfit.checkpoint import Checkpoint, Checkpointer
    >>> state = Checkpoint({"weights": np.array([0.5, -1.0])}, {}, {"clicks:0": 1234}, {})
    >>> with tempfile.TemporaryDirectory() as folder, Checkpointer(folder) as checkpointer:
    ...     print(checkpointer.save(state).name)
    ...     found = checkpointer.latest()
    checkpoint-00000001.safetensors
    >>> found.model["weights"], found.position
    (array([ 0.5, -1. ]), {'clicks:0': 1234})
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every_seconds: float | None = None,
        every_updates: int | None = None,
        keep: int = 3,
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ConfigurationError(f"path must be a path, got {path!r}")
        if every_seconds is not None and not _is_positive_number(every_seconds):
            raise ConfigurationError(
                f"every_seconds must be a finite number above 0 or None, got {every_seconds!r}"
            )
        if every_updates is not None and not _is_count(every_updates):
            raise ConfigurationError(
                f"every_updates must be an integer of at least 1 or None, got {every_updates!r}"
            )
        if not _is_count(keep):
            raise ConfigurationError(f"keep must be an integer of at least 1, got {keep!r}")
        self.path = Path(path)
        self.every_seconds = every_seconds
        self.every_updates = every_updates
        self.keep = keep
        self._lock: DirectoryLock | None = None
        self._number = 0  # highest number tried so far
        self._corrupt: set[Path] = set()  # known bad, so not counted in `keep`
        self._saved_time = 0.0
        self._saved_updates: int | None = 0
        self._seen_updates = 0

    def __repr__(self) -> str:
        return (
            f"Checkpointer({str(self.path)!r}, every_seconds={self.every_seconds}, "
            f"every_updates={self.every_updates}, keep={self.keep})"
        )

    def open(self) -> Self:
        """Make and lock the directory; calling it again does nothing.

        Raises
        ------
        CheckpointLockedError
            When another trainer, in this process or any other, holds the directory.
        """
        if self._lock is not None:
            return self
        with os_errors(f"cannot open the checkpoint directory {self.path}"):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = DirectoryLock.acquire(self.path)
            try:
                # We hold the lock, so whoever wrote these is dead, or taken over.
                for leftover in self.path.glob(_TEMPORARY):
                    leftover.unlink(missing_ok=True)
            except BaseException:
                lock.release()
                raise
        self._lock = lock
        self._number = max(self._number, lock.ownership.number)
        self._saved_time = time.monotonic()
        return self

    def close(self) -> None:
        """Release the lock; calling it again does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check_owner(self) -> None:
        """Make sure, while open, that nobody has taken the directory over.

        Raises
        ------
        CheckpointFencedError
            When somebody has: nothing may be written there any more.
        """
        if self._lock is not None:
            self._lock.check()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def list(self) -> list[Path]:
        """Return the files of all checkpoints, valid or not, oldest first."""
        with os_errors(f"cannot list the checkpoint directory {self.path}"):
            try:
                files = [file for file in self.path.iterdir() if _NAME.fullmatch(file.name)]
            except FileNotFoundError:
                return []
        return sorted(files, key=_number_of)

    def latest(self) -> Checkpoint | None:
        """Return the newest valid checkpoint, or None when there has never been one.

        A corrupt file is skipped with a warning in favour of the one before it.

        Raises
        ------
        CheckpointCorruptError
            When there are files and none is valid. To start afresh is for the operator to
            decide, never for this method.
        CheckpointMismatchError
            When the newest valid file is of a newer format.
        CheckpointError
            When a file cannot be read.
        """
        return self._latest(_PRUNED_RETRIES)

    def _latest(self, retries: int) -> Checkpoint | None:
        files = self.list()
        ownership = Ownership.read(self.path)
        for file in reversed(files):
            try:
                checkpoint = read(file)
            except CheckpointCorruptError as error:
                _log.warning(event("corrupt_checkpoint", file=file.name, message=error))
                self._corrupt.add(file)
            except CheckpointError as error:
                if retries and isinstance(error.__cause__, FileNotFoundError):
                    return self._latest(retries - 1)  # pruned by the trainer since we listed it
                raise
            else:
                if ownership.is_stale(checkpoint.owner_epoch, _number_of(file)):
                    _log.warning(event("stale_checkpoint", file=file.name))
                    continue
                self._saved_updates = None
                if self._lock is not None:
                    self._lock.begin_epoch_after(checkpoint.owner_epoch)
                return checkpoint
        corrupt = self._corrupt.intersection(files)
        if not files or not (corrupt or ownership.fence_number):
            return None  # what there is was published after a takeover that found none
        why = "corrupt" if corrupt.issuperset(files) else "corrupt, or of a trainer taken over"
        raise CheckpointCorruptError(
            f"every checkpoint in {self.path} is {why}: {', '.join(f.name for f in files)}. "
            "Nothing was loaded. Restore one from a backup; or, to start afresh on purpose, move "
            "these files and the journal away, or give another directory."
        )

    def due(self, n_updates: int) -> bool:
        """Say whether it is time to save, the model having made `n_updates` updates.

        Parameters
        ----------
        n_updates
            The model's own count. After a restore the first call starts the counting, so it
            should be made before the first new update.
        """
        if self._saved_updates is None or n_updates < self._saved_updates:
            self._saved_updates = n_updates
        self._seen_updates = n_updates
        updates = n_updates - self._saved_updates
        seconds = time.monotonic() - self._saved_time
        return (self.every_updates is not None and updates >= self.every_updates) or (
            self.every_seconds is not None and seconds >= self.every_seconds
        )

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint durably, verify it, and prune old ones.

        Stamps `checkpoint` with number, time and owner epoch, once the file is known to be good.

        Returns
        -------
        Path
            The new file.

        Raises
        ------
        CheckpointFencedError
            When another trainer has taken the directory over.
        CheckpointError
            When any step failed. Older checkpoints are then as they were, and the new one is
            gone, unless the message says that only pruning failed.
        """
        if self._lock is None:
            raise CheckpointError(
                f"checkpoints in {self.path} cannot be saved before open(): nothing is locked"
            )
        # A number is never used twice, even if its file was corrupt or its save failed.
        self._number = 1 + max([self._number, *map(_number_of, self.list())])
        stamped = replace(
            checkpoint,
            number=self._number,
            created=datetime.now(UTC).isoformat(),
            owner_epoch=self._lock.ownership.epoch,
        )
        content = encode(stamped)
        final = self.path / f"checkpoint-{self._number:08d}.safetensors"
        temporary = self.path / f".{final.stem}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        ours = [temporary]
        try:
            with os_errors(f"cannot write checkpoint {final}"):
                write_and_fsync(temporary, content)
                self._lock.check()
                os.replace(temporary, final)  # noqa: PTH105 (the step has a name: rename)
                ours = [final]
                fsync_directory(self.path)
                _read_back(final)
                # Taken over since: it must go, and nothing may be pruned in its favour.
                self._lock.check()
        except BaseException:
            # A file that was not seen to be good must not be the newest one.
            for file in ours:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            raise
        for name in ("number", "created", "owner_epoch"):
            setattr(checkpoint, name, getattr(stamped, name))
        self._saved_time = time.monotonic()
        self._saved_updates = self._seen_updates
        with os_errors(f"{final.name} was saved, but older ones in {self.path} cannot be pruned"):
            self._prune()
        return final

    def remove_after(self, number: int) -> None:
        """Remove every checkpoint with a higher number; none of these is given again."""
        if self._lock is None:
            raise CheckpointError(f"checkpoints in {self.path} cannot be removed before open()")
        files = [file for file in self.list() if _number_of(file) > number]
        self._number = max([self._number, *map(_number_of, files)])
        with os_errors(f"cannot remove checkpoints in {self.path}"):
            self._lock.reserve(self._number)
            for file in reversed(files):  # a crash in between leaves the others in order
                file.unlink(missing_ok=True)
            fsync_directory(self.path)

    def _prune(self) -> None:
        """Remove what is older than the newest `keep` files not known to be corrupt."""
        files = self.list()
        kept = [file for file in files if file not in self._corrupt][-self.keep :]
        for file in files[: files.index(kept[0])]:
            file.unlink(missing_ok=True)


def check_same_model(saved: Checkpoint, config: dict[str, Any], directory: object) -> None:
    """Raise `CheckpointMismatchError`, naming what differs, unless `config` is that of `saved`."""
    changed = sorted(
        name
        for name in config.keys() | saved.config.keys()
        if config.get(name) != saved.config.get(name)
    )
    if changed:
        told = "; ".join(
            f"{name}: {saved.config.get(name)!r} saved, {config.get(name)!r} now"
            for name in changed
        )
        raise CheckpointMismatchError(
            f"checkpoint {saved.number} in {directory} is of another model ({told}); "
            "use the arguments it was made with, or another directory"
        )


def _read_back(path: Path) -> None:
    """Verify what the disk has, past the page cache where the system allows it."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        read(path)
    except CheckpointCorruptError as error:
        raise CheckpointError(
            f"checkpoint {path} did not read back as it was written, so it was removed; "
            "check the disk. Older checkpoints are untouched."
        ) from error


def _number_of(path: Path) -> int:
    """Sequence number in the name of a checkpoint file."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_positive_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
