"""Every error that streamfit raises, in one tree.

::

    StreamfitError
    ├── ConfigurationError (ValueError)       an argument or configuration is refused
    ├── BadSampleError (ValueError)           a sample is refused; nothing was learned from it
    │   └── DecodeError                       the bytes of a record are not a sample
    ├── TooManyBadSamplesError (RuntimeError) more of the stream is bad than was allowed
    ├── DeadLetterError (RuntimeError)        a bad sample could not be put aside
    ├── SourceError (RuntimeError)            a source cannot go on
    │   ├── BrokerUnavailableError (ConnectionError)
    │   ├── AuthenticationError           the broker refuses us, or we refuse its certificate
    │   └── LostOffsetsError                  the position is no longer in the broker's log
    ├── CheckpointError (RuntimeError)
    │   ├── CheckpointCorruptError            a file fails its checksum or does not parse
    │   ├── CheckpointMismatchError           a valid file of another model, source or format
    │   ├── CheckpointLockedError             another trainer holds the directory
    │   └── CheckpointFencedError             another trainer took the directory over
    ├── WorkerError (RuntimeError)            the workers of a distributed training keep failing
    ├── ServingError (RuntimeError)           the address cannot be listened on
    ├── BusyError (RuntimeError)              the model is learning already, in another call
    ├── UnsupportedError (TypeError)          the model or source cannot do what was asked
    └── MissingDependencyError (ImportError)  an extra, or the compiled kernels, are not installed

and one warning, `UpdateRefusedWarning`. Each class carries the `exit_code` of a worker that it
ends; docs/operations.md has the table.
"""

from __future__ import annotations

from typing import ClassVar, Self

__all__ = [
    "AuthenticationError",
    "BadSampleError",
    "BrokerUnavailableError",
    "BusyError",
    "CheckpointCorruptError",
    "CheckpointError",
    "CheckpointFencedError",
    "CheckpointLockedError",
    "CheckpointMismatchError",
    "ConfigurationError",
    "DeadLetterError",
    "DecodeError",
    "LostOffsetsError",
    "MissingDependencyError",
    "ServingError",
    "SourceError",
    "StreamfitError",
    "TooManyBadSamplesError",
    "UnsupportedError",
    "UpdateRefusedWarning",
    "WorkerError",
]


def shown(value: object, limit: int = 60) -> str:
    """Return `repr(value)`, cut to `limit` characters: for a message about any value at all.

    Examples
    --------
    >>> from streamfit.errors import shown
    >>> shown("a" * 100, 12)
    "'aaaaaaaa..."
    >>> shown(10**5000)
    '<int that cannot be shown>'
    """
    try:
        text = repr(value[:limit] if isinstance(value, str | bytes) else value)
    except Exception:  # whatever the value's own __repr__ raises; digits of a huge int
        return f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class StreamfitError(Exception):
    """Base of every error raised by streamfit and its connectors."""

    exit_code: ClassVar[int] = 1
    """What a worker that this error ends should exit with; see `streamfit.exit_codes`."""


class ConfigurationError(StreamfitError, ValueError):
    """An argument was refused when an object was made."""

    exit_code = 2


class BadSampleError(StreamfitError, ValueError):
    """A sample was refused; no weight, counter or position has moved because of it.

    Parameters
    ----------
    reason
        What is wrong, without the place.
    feature
        Name of the feature at fault, if one is.
    source, partition, offset
        Where the sample came from; filled in by whoever knows (see `at`).

    Examples
    --------
    >>> from streamfit.errors import BadSampleError
    >>> print(BadSampleError("value is nan", feature="age").at("clicks", 0, 17))
    feature 'age': value is nan (source 'clicks', partition 0, offset 17)
    """

    exit_code = 10

    def __init__(
        self,
        reason: str,
        *,
        feature: object = None,
        source: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.feature = feature
        self.source = source
        self.partition = partition
        self.offset = offset

    def at(self, source: str, partition: int, offset: int) -> Self:
        """Record where the sample came from, and return the error itself."""
        self.source, self.partition, self.offset = source, partition, offset
        return self

    def __str__(self) -> str:
        text = (
            self.reason if self.feature is None else f"feature {shown(self.feature)}: {self.reason}"
        )
        if self.source is None:
            return text
        return f"{text} (source {self.source!r}, partition {self.partition}, offset {self.offset})"


class DecodeError(BadSampleError):
    """The bytes of a record could not be decoded into a sample."""


class TooManyBadSamplesError(StreamfitError, RuntimeError):
    """More of the latest samples were bad than `max_bad_ratio` allows."""

    exit_code = 11


class DeadLetterError(StreamfitError, RuntimeError):
    """A bad sample could not be put aside; the saved position has not passed it."""

    exit_code = 12


class SourceError(StreamfitError, RuntimeError):
    """A source cannot go on."""

    exit_code = 20


class BrokerUnavailableError(SourceError, ConnectionError):
    """No broker answered, or it refused the connection."""

    exit_code = 21


class AuthenticationError(SourceError):
    """The broker refused our name or password, or we its certificate. It is not tried again."""

    exit_code = 23


class LostOffsetsError(SourceError):
    """The position asked for is outside what the broker still holds."""

    exit_code = 22


class CheckpointError(StreamfitError, RuntimeError):
    """A checkpoint could not be written or read."""

    exit_code = 30


class CheckpointCorruptError(CheckpointError):
    """A checkpoint file fails its checksum or cannot be parsed."""

    exit_code = 31


class CheckpointMismatchError(CheckpointError):
    """A valid checkpoint that belongs to another model, source or format version."""

    exit_code = 32


class CheckpointLockedError(CheckpointError):
    """Another trainer holds the lock of the checkpoint directory."""

    exit_code = 33


class CheckpointFencedError(CheckpointError):
    """Another trainer took the checkpoint directory over; this one must not publish any more."""

    exit_code = 34


class WorkerError(StreamfitError, RuntimeError):
    """Workers of a distributed training died or did not answer, more often than is allowed."""

    exit_code = 50


class ServingError(StreamfitError, RuntimeError):
    """The address to serve on is taken, not ours, or not to be had."""

    exit_code = 40


class BusyError(StreamfitError, RuntimeError):
    """The model is learning already: in another thread, or while a value is being converted."""


class UnsupportedError(StreamfitError, TypeError):
    """The model or source cannot do what was asked of it."""


class MissingDependencyError(StreamfitError, ImportError):
    """An optional package, or the compiled part of streamfit, is not installed."""


class UpdateRefusedWarning(RuntimeWarning):
    """An update would have made a weight non-finite; it was refused and its samples dropped."""
