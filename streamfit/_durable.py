"""Writing so that a crash leaves the old or the new, never a mix."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from streamfit.errors import CheckpointError

__all__ = ["fsync_directory", "open_regular", "os_errors", "write_and_fsync"]


@contextlib.contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Turn an OSError into a CheckpointError that says what was being done."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{what}: {error}") from error


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read; a pipe of its name, which may wait for ever, is an OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def write_and_fsync(path: Path, content: bytes) -> None:
    """Write a file that must not exist yet, and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    """Wait until the disk has the names in a directory; a rename is not durable before."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
