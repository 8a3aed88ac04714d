"""What becomes of bad samples: raised, skipped or put aside; and when there are too many."""

from __future__ import annotations

import logging
import time
from collections import deque

from streamfit.core.validation import check_integer, check_real
from streamfit.dead_letters import DeadLetters, headers_of
from streamfit.errors import (
    BadSampleError,
    BrokerUnavailableError,
    ConfigurationError,
    DeadLetterError,
    SourceError,
    TooManyBadSamplesError,
)
from streamfit.events import Repeated
from streamfit.signals import StopRequest
from streamfit.types import Block, DeadLetterQueue, Source

__all__ = ["BadSamplePolicy", "BadSamples"]

_log = logging.getLogger(__name__)

_MAX_WAITING = 1000  # letters on their way, and their bytes
_MAX_WAITING_BYTES = 1 << 24
_MAX_WAITING_SECONDS = 1.0
# How long a broker may hold us before we look at the signals again. At first, that is: over a slow
# network it takes seconds to connect alone.
_FLUSH_SECONDS = 2.0
_MAX_FLUSH_SECONDS = 16.0
_RETRY_SECONDS = 0.5


class BadSamplePolicy:
    """The arguments of a `Trainer` that are about bad samples; see there.

    Raises
    ------
    ConfigurationError
        When one of them is refused.
    """

    def __init__(
        self,
        on_bad_sample: str | DeadLetters,
        max_bad_ratio: float | None,
        bad_window: int,
        source: Source,
    ) -> None:
        if on_bad_sample not in ("raise", "skip") and not isinstance(on_bad_sample, DeadLetters):
            raise ConfigurationError(
                f"on_bad_sample must be 'raise', 'skip' or DeadLetters(...), not {on_bad_sample!r}"
            )
        self.on_bad_sample = on_bad_sample
        self.max_bad_ratio = (
            None
            if max_bad_ratio is None
            else check_real("max_bad_ratio", max_bad_ratio, minimum=0.0, below=1.0)
        )
        self.bad_window = check_integer("bad_window", bad_window, minimum=1)
        self._source = source
        self.queue()  # does the source fit?

    def queue(self) -> DeadLetterQueue | None:
        """Make the queue of dead letters, if there is to be one."""
        if isinstance(self.on_bad_sample, DeadLetters):
            return self.on_bad_sample.open(self._source)
        return None


class BadSamples:
    """The bad samples of one run.

    Parameters
    ----------
    policy
        What to do with them.
    stop
        Looked at while dead letters wait for a broker that is away.

    Attributes
    ----------
    n
        Bad samples that were passed, those before a resume included.
    """

    def __init__(self, policy: BadSamplePolicy, stop: StopRequest) -> None:
        self.n = 0
        self._policy = policy
        self._stop = stop
        self._queue = policy.queue()
        self._n_waiting = self._n_bytes = 0
        self._waiting_since = 0.0
        self._window: deque[int] = deque()  # the latest bad ones, by their place in the stream
        self._told = Repeated(_log, "bad_samples")
        self._paused = Repeated(_log, "dead_letters_waiting")

    def refuse(self, block: Block, i: int, error: BadSampleError, n_good: int) -> bool:
        """Deal with sample `i` of a block, before which `n_good` were learned in all.

        Returns
        -------
        bool
            Whether it goes to the dead letters, rather than being skipped.

        Raises
        ------
        BadSampleError
            The error itself, under `on_bad_sample="raise"`.
        TooManyBadSamplesError
            When this one is too much.
        """
        if self._policy.on_bad_sample == "raise":
            raise error
        self._break_the_circuit(n_good + self.n, error)
        self.n += 1
        self._told.happened(error=type(error).__name__, message=error)
        if self._queue is None:
            return False
        value, key = (None, None) if block.raw is None else block.raw[i]
        self._queue.send(value, key, headers_of(block, i, error))
        if not self._n_waiting:
            self._waiting_since = time.monotonic()
        self._n_waiting += 1
        self._n_bytes += len(value or b"") + len(key or b"")
        return True

    def flush_when_due(self) -> None:
        """Flush letters when they are many, or large, or have waited for a while."""
        if self._n_waiting and (
            self._n_waiting >= _MAX_WAITING
            or self._n_bytes >= _MAX_WAITING_BYTES
            or time.monotonic() - self._waiting_since >= _MAX_WAITING_SECONDS
        ):
            self.flush()

    def flush(self) -> None:
        """Wait until every dead letter is acknowledged, however long the broker is away.

        Raises
        ------
        DeadLetterError
            When they cannot be put aside, or a signal ends the wait. No position may be saved
            then: it has passed samples that are nowhere.
        """
        seconds = _FLUSH_SECONDS
        while self._n_waiting:
            assert self._queue is not None
            try:
                self._queue.flush(seconds)
            except BrokerUnavailableError as error:
                if self._stop.signal_name is not None:
                    raise DeadLetterError(
                        f"{self._stop.signal_name} while {self._n_waiting} dead letters were not "
                        f"acknowledged; the last checkpoint stands, and they come again: {error}"
                    ) from error
                self._paused.happened(waiting=self._n_waiting, message=error)
                seconds = min(2 * seconds, _MAX_FLUSH_SECONDS)
                time.sleep(_RETRY_SECONDS)
            except SourceError as error:
                raise DeadLetterError(
                    f"{self._n_waiting} dead letters cannot be sent, and the last checkpoint "
                    f"stands: {error}"
                ) from error
            else:
                self._n_waiting = self._n_bytes = 0
        self._paused.close()

    def close(self) -> None:
        """Let go of connections, and tell what has not been told."""
        self._told.close()
        self._paused.close()
        if self._queue is not None:
            self._queue.close()

    def _break_the_circuit(self, n_before: int, error: BadSampleError) -> None:
        ratio, size = self._policy.max_bad_ratio, self._policy.bad_window
        if ratio is None:
            return
        while self._window and self._window[0] <= n_before - size:
            self._window.popleft()
        self._window.append(n_before)
        if len(self._window) / size > ratio:  # not the product: 0.29 * 100 is below 29
            raise TooManyBadSamplesError(
                f"{len(self._window)} of the last {min(size, n_before + 1)} samples are bad, more "
                f"than max_bad_ratio={ratio:g} of {size} allows; the last of them: {error}. What "
                "came before is saved. Find out what changed in the stream; starting again goes "
                "on from here with an empty window"
            ) from error
