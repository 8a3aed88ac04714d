"""The end of a worker process: what it says, and the exit code that a supervisor sees."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from streamfit.errors import StreamfitError
from streamfit.events import event

__all__ = ["exit_codes"]

_log = logging.getLogger(__name__)


@contextmanager
def exit_codes() -> Iterator[None]:
    """End the process with the exit code of whatever streamfit error comes through.

    The error is logged as `event=halted`, without a traceback; those of other libraries, and
    bugs, pass with theirs. The codes are in docs/operations.md; each error class has its own in
    `exit_code`.

    Examples
    --------
    A worker's main program::

        with sf.exit_codes():
            sf.Trainer(model, source, checkpoint=sf.Checkpointer("state/")).run()

    >>> import streamfit as sf
    >>> try:
    ...     with sf.exit_codes():
    ...         raise sf.errors.LostOffsetsError("offset 5 is gone")
    ... except SystemExit as end:
    ...     end.code
    22
    """
    try:
        yield
    except StreamfitError as error:
        name = type(error).__name__
        _log.critical(event("halted", exit_code=error.exit_code, error=name, message=error))
        raise SystemExit(error.exit_code) from error
