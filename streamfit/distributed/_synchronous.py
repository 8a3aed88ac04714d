"""`mode="synchronous"`: the shares of every micro-batch are summed apart and put together.

A round is one micro-batch. Shares are asked in one call to make the update before and to sum their
part of the next micro-batch. Where samples turn out to be bad, more are asked for, until it is
full: those that a single process would have taken.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING

from streamfit._journal_file import Entry, Flush
from streamfit.core.sums import combine, cut, places
from streamfit.distributed._messages import Done, Update, Want

if TYPE_CHECKING:
    from streamfit.distributed._run import ShareRun

__all__ = ["SynchronousRounds"]

_CHUNK = 4096  # samples of a share in one call, where a micro-batch has no end
_POLL_SECONDS = 0.01


class SynchronousRounds:
    """Rounds of one micro-batch each.

    Parameters
    ----------
    run
        The run whose model is trained.
    """

    def __init__(self, run: ShareRun) -> None:
        self._run = run
        self._shares = sorted(share for mine in run.crew.shares.values() for share in mine)
        self._update: Update | None = None  # which the shares have not yet made
        self._waiting: dict[int, int] = {}
        self._read: set[int] = set()  # shares of which everything was read, if not yet taken
        self._short_since: float | None = None
        self._row = self._end = 0  # the next row, and the last; where shares are cuts

    def begin(self) -> None:
        """Let all shares begin with the driver's model, and read ahead."""
        run = self._run
        self._update, self._short_since = None, None
        state = run.crew.pool.put(run.model.state_dict())
        run.crew.ask("load", dict.fromkeys(run.crew.shares, (state,)))
        if run.shards.cuts:
            (self._row,) = run.position.values()
            self._end = self._row + run.shards.rows(run.position)
        else:
            self._waiting, self._read = dict.fromkeys(self._shares, 0), set()
            self._ask({}, False, self._ahead())

    def round(self, ended: set[int]) -> bool:
        """Do a micro-batch; return whether anything came of it.

        Parameters
        ----------
        ended
            Receives the shares when there is nothing more to learn.
        """
        run = self._run
        size = run.model.current_batch_size
        limits = [n for n in (size, run.remaining) if n is not None]
        wanted = min(limits, default=None)
        done: dict[int, Done] = {}
        n, reason, is_summed, first_row = 0, "epoch end", False, self._row
        while n != wanted and reason != "max_wait":
            room = None if wanted is None else wanted - n
            wants = self._allot(room, size, first_row)
            if not wants and self._is_over():
                break
            if not wants and self._is_late(n):
                reason = "max_wait"
                wants = {s: Want(waiting) for s, waiting in self._waiting.items() if waiting}
            elif not wants:
                if run.is_stopping or not (self._poll(room) or done):
                    return False
                continue
            self._short_since = None
            is_summed = room is not None
            answers = self._ask(wants, is_summed, self._ahead())
            done = {s: done[s] + one if s in done else one for s, one in answers.items()}
            n = sum(one.n_samples for one in done.values())
        if self._is_over():
            ended.update(self._shares)
        if not any(one.entries for one in done.values()):
            return False
        if not is_summed:
            answers = self._ask({}, True, 0)
            done = {s: done[s] + one for s, one in answers.items()}
        self._finish(done, n, size, reason)
        return True

    def _finish(self, done: Mapping[int, Done], n: int, size: int | None, reason: str) -> None:
        """Update the driver's model; the shares follow when they are asked next."""
        run = self._run
        sums = [one.sums for _, one in sorted(done.items()) if one.sums is not None]
        if not sums:  # all samples were bad
            run.take(done, lambda: None, [])
            return
        last_batch = run.plan.last_batch if reason == "epoch end" else "apply"
        part, end = 1.0, list[Entry]()
        if n != size:
            end = [Flush(reason, last_batch)]
        if size is not None and n != size:
            part = {"apply": 1.0, "scale": n / size, "drop": 0.0}[last_batch]
        update = Update(combine(sums), size, part)
        run.take(done, lambda: update.sums.apply(run.learner, size, part), end)
        self._update = update

    # ---- who takes what

    def _allot(self, room: int | None, size: int | None, first_row: int) -> dict[int, Want]:
        """Say what each share takes; nothing while too few samples wait.

        Parameters
        ----------
        room
            How many samples the micro-batch still wants; None: all that there are.
        size
            Its size.
        first_row
            Where it begins, if shares are cuts.
        """
        if self._run.shards.cuts:
            return self._cut(room, size, first_row)
        waiting = self._waiting
        if room is None:
            return {share: Want(min(n, _CHUNK)) for share, n in waiting.items() if n}
        total = sum(waiting.values())
        if total < room and len(self._read) < len(self._shares):
            return {}
        left = min(total, room)
        taken = dict.fromkeys(self._shares, 0)
        model = self._run.model
        first = (model.n_updates + model.n_refused) % len(self._shares)
        in_turn = self._shares[first:] + self._shares[:first]  # small batches begin with another
        while left:
            open_ = [share for share in in_turn if waiting[share] > taken[share]]
            for share, fair in zip(open_, cut(left, len(open_)), strict=True):
                n = min(fair, waiting[share] - taken[share])
                taken[share] += n
                left -= n
        return {share: Want(n) for share, n in taken.items() if n}

    def _cut(self, room: int | None, size: int | None, first_row: int) -> dict[int, Want]:
        """Give each share the rows at its places in the micro-batch; the last one, what follows."""
        rows = self._end - self._row
        stop = self._row + (rows if room is None else min(room, rows))
        whole = self._end - first_row if size is None else size
        wants: dict[int, Want] = {}
        (key,) = self._run.position
        bounds = [first_row + place for place in places(whole, len(self._shares))]
        while self._row < stop:
            share = bisect_right(bounds, self._row)
            end = min(stop, bounds[share]) if share < len(bounds) else stop
            wants[share] = Want(end - self._row, {key: self._row})
            self._row = end
        return wants

    def _ahead(self) -> int:
        """Say how many samples each share should have waiting."""
        if self._run.shards.cuts:
            return 0
        size = self._run.model.current_batch_size
        return _CHUNK if size is None else -(-size // len(self._shares))

    def _is_over(self) -> bool:
        """Say whether there is nothing more to take."""
        if self._run.shards.cuts:
            return self._row >= self._end
        return len(self._read) == len(self._shares) and not any(self._waiting.values())

    def _is_late(self, n: int) -> bool:
        """Say whether a partial micro-batch of `n` samples and those that wait is due."""
        if not n and not any(self._waiting.values()):
            self._short_since = None
            return False
        if self._short_since is None:
            self._short_since = time.monotonic()
        max_wait = self._run.plan.max_wait
        return max_wait is not None and time.monotonic() - self._short_since >= max_wait

    # ---- asking

    def _ask(self, wants: Mapping[int, Want], is_last: bool, ahead: int) -> dict[int, Done]:
        crew, update = self._run.crew, self._update
        sent = None if update is None else crew.pool.put(update, update.sums.gradient.nbytes)
        answers: dict[int, Done] = crew.ask(
            "step",
            {
                worker: (sent, {s: wants[s] for s in mine if s in wants}, ahead, is_last)
                for worker, mine in crew.shares.items()
            },
        )
        self._update = None
        for share, one in answers.items():
            self._waiting[share] = one.n_waiting
            if one.is_read:
                self._read.add(share)
        return answers

    def _poll(self, room: int | None) -> bool:
        """Look whether more samples have come; return whether any have."""
        before = dict(self._waiting)
        self._ask({}, False, room or _CHUNK)
        if self._waiting == before and not self._is_over():
            time.sleep(_POLL_SECONDS)
            return False
        return True
