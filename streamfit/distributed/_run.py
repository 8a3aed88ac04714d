"""The driver of a training in shares: it owns the model, the position, and all that is saved.

Work goes in rounds. Workers compute a round from the driver's model and tell what they have done;
model and position change only when everybody has answered. So between two rounds there is one
consistent state, which is what a checkpoint holds, and what every worker begins anew with when one
of them is lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from streamfit._journal_file import Entry, Segment, Skipped
from streamfit._run import Run
from streamfit.checkpoint import Checkpoint
from streamfit.core.learner import LinearLearner
from streamfit.distributed._crew import Crew
from streamfit.distributed._local import LocalRounds
from streamfit.distributed._messages import Done
from streamfit.distributed._synchronous import SynchronousRounds
from streamfit.distributed._workers import Abandoned, WorkerLost
from streamfit.errors import CheckpointMismatchError, ConfigurationError, StreamfitError
from streamfit.events import event
from streamfit.shards import Dealing, Shards, deal, split
from streamfit.types import Action, Position, Splits

if TYPE_CHECKING:
    from streamfit.distributed.trainer import ShareTrainer

__all__ = ["ShareRun"]

_log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.01
_LOOK_SECONDS = 3.0


class ShareRun(Run):
    """One call of `RayTrainer.run`.

    Parameters
    ----------
    plan
        How to train what on what.
    """

    crew: Crew

    def __init__(self, plan: ShareTrainer) -> None:
        super().__init__(plan)
        self.plan = plan
        self._n_shares = plan.shares
        self._shards: Shards = plan.shards
        self._dealing: Dealing = {}
        self._recorded: object = None  # what the journal knows of the shares
        self._duplicates: dict[int, int] = {}
        self._next_look = 0.0

    @property
    def is_live(self) -> bool:
        """Whether shares may have to wait for samples."""
        return bool(getattr(self.source, "live", False))

    @property
    def learner(self) -> LinearLearner:
        """The model, which is a linear one."""
        assert isinstance(self.model, LinearLearner)
        return self.model

    @property
    def is_stopping(self) -> bool:
        """Whether a signal asks for the end."""
        return self._stop.signal_name is not None

    @property
    def position(self) -> Position:
        """The next offset of each partition."""
        return self._position

    @property
    def shards(self) -> Shards:
        """The source in parts."""
        return self._shards

    @property
    def start(self) -> Position:
        """Where an epoch begins."""
        return self._start

    @property
    def remaining(self) -> int | None:
        """Samples still wanted; None: all."""
        return self._remaining

    @property
    def _n_duplicates(self) -> int:
        return sum(self._duplicates.values())

    # ---- the shares, in checkpoint and journal

    def _more_state(self) -> dict[str, Any]:
        return {"shares": self._shares()}

    def _shares(self) -> dict[str, Any]:
        shares: dict[str, Any] = {"n": self._n_shares, "mode": self.plan.mode}
        if self._shards.cuts:
            return {**shares, "start": self._start, "rows": self._shards.rows(self._start)}
        if (rows := self._shards.total) is not None:
            shares["rows"] = rows
        return {**shares, "of": dict(self._dealing)}

    def _take_more(self, saved: Checkpoint) -> None:
        shares, mode = saved.trainer.get("shares"), self.plan.mode
        if shares is None or shares["mode"] != mode:
            was = "no training in shares" if shares is None else f"one with mode={shares['mode']!r}"
            raise CheckpointMismatchError(
                f"checkpoint {saved.number} in {self._directory} is of {was}, not of one with "
                f"mode={mode!r}; give another directory"
            )
        if self.plan.given_shares not in (None, shares["n"]):
            raise CheckpointMismatchError(
                f"checkpoint {saved.number} in {self._directory} is of shares={shares['n']}, not "
                f"{self.plan.given_shares}; they are part of what is learned and cannot change"
            )
        self._n_shares = int(shares["n"])
        self._dealing = {str(key): int(share) for key, share in shares.get("of", {}).items()}
        self._recorded = shares
        try:
            self._shards = split(self.plan.given_source, self._n_shares, mode)
        except ConfigurationError as error:
            raise CheckpointMismatchError(
                f"checkpoint {saved.number} in {self._directory} is of shares={self._n_shares}, "
                f"which cannot change, and {error}; in another directory"
            ) from error
        if not self._shards.cuts and shares.get("rows") != self._shards.total:
            raise CheckpointMismatchError(
                f"checkpoint {saved.number} in {self._directory} is of shares of an array of "
                f"{shares.get('rows')} rows, not {self._shards.total}; cut anew, some would be "
                "learned twice and others never. Pass the same rows, or give another directory"
            )
        self.source = self._shards.source

    def _deal(self) -> list[Any]:
        """Deal partitions to shares; return what each share reads."""
        if not self._shards.cuts:
            self._dealing = deal(list(self._position), self._n_shares, self._dealing)
        if self._recorded != self._shares():
            self._recorded = self._shares()
            at = {"at": min(self._position.values())} if self._shards.cuts else {}
            self._journal.acted(Action("shares", {**self._shares(), **at}))
        mine: list[list[str]] = [[] for _ in range(self._n_shares)]
        for key, share in self._dealing.items():
            mine[share].append(key)
        if self._shards.cuts:
            return [self.crew.pool.put(self.source)] * self._n_shares
        return [self.crew.pool.put(self._shards.of(keys)) for keys in mine]

    def _positions(self) -> list[Position]:
        """Return where each share begins."""
        if self._shards.cuts:
            return [dict(self._position)] * self._n_shares
        positions: list[Position] = [{} for _ in range(self._n_shares)]
        for key, share in self._dealing.items():
            positions[share][key] = self._position[key]
        return positions

    def beginning(self, worker: int) -> tuple[Any, ...]:
        """Return what a worker has to be told to begin where the model is."""
        return self.crew.beginning(worker, self._sources, self._positions())

    # ---- rounds

    def _train(self) -> None:
        plan = self.plan
        pool = plan.open_pool(plan.settings())
        self.crew = Crew(
            pool,
            plan.workers,
            self._n_shares,
            plan.worker_timeout,
            plan.max_restarts,
            self._stop,
        )
        try:
            self._sources = self._deal()
            self._tell_of_the_idle()
            super()._train()
            with suppress(StreamfitError):  # a generator cannot, and nobody will read it again
                self.source.seek(self._position)  # where a second run begins, as a Trainer's does
        finally:
            self.crew.close()

    def _tell_of_the_idle(self) -> None:
        """Log when there are workers that have nothing to do."""
        workers, shares = self.plan.workers, self._n_shares
        if shares < workers:
            more = "take no more workers than shares"
            if self._resumed_at is not None:
                more += "; how many shares there are is part of the checkpoint and cannot change"
            _log.warning(event("workers_idle", workers=workers, shares=shares, message=more))
        elif not self._shards.cuts and (partitions := len(self._dealing)) < workers:
            more = "one worker reads a partition, or a source of a list: take no more workers"
            _log.warning(
                event(
                    "workers_idle",
                    workers=workers,
                    shares=shares,
                    partitions=partitions,
                    message=more,
                )
            )

    def _flush(self, reason: str, last_batch: str) -> None:
        """Do nothing: shares deal with their partial micro-batches themselves."""

    def _read(self) -> None:
        """Make one pass over the source, round by round."""
        rounds = LocalRounds(self) if self.plan.mode == "local" else SynchronousRounds(self)
        ended: set[int] = set()
        fresh = True
        while self._remaining != 0 and self._stop.signal_name is None:
            try:
                if fresh:
                    self.crew.begin(self._sources, self._positions())
                    rounds.begin()
                    fresh = False
                    ended.clear()
                if len(ended) == self._n_shares:
                    return
                if self._has_new_partitions():
                    self._sources = self._deal()
                    fresh = True
                    continue
                if not rounds.round(ended):
                    time.sleep(_IDLE_SECONDS)
            except Abandoned:
                return
            except WorkerLost as lost:
                self.crew.replace(lost)
                fresh = True
            self._look_at_the_clock()
            self._tell()

    def _has_new_partitions(self) -> bool:
        """Look now and then for partitions that nobody reads yet, and begin them."""
        now = time.monotonic()
        if self._shards.cuts or now < self._next_look:
            return False
        self._next_look = now + _LOOK_SECONDS
        assert isinstance(self.source, Splits)
        new = set(self.source.partitions()) - set(self._position)
        for key in sorted(new):
            self._position[key] = self._start[key] = self.source.position()[key]
        return bool(new)

    def take(
        self, answers: Mapping[int, Done], update: Callable[[], None], end: Sequence[Entry]
    ) -> None:
        """Let a round count, now that everybody has answered.

        Parameters
        ----------
        answers
            What each share has done.
        update
            Changes the model.
        end
            What the journal says of the end of the round.
        """
        done = [answers[share] for share in sorted(answers)]
        entries = self._judge(done)
        n_refused = self.model.n_refused
        update()
        for share, one in answers.items():
            for key, offset in one.position.items():
                self._position[key] = max(offset, self._position.get(key, 0))
            self._duplicates[share] = one.n_duplicates
        self._journal.round([*entries, *end])
        for one in done:
            self.model.loss_sum += one.loss_sum
            self.model.loss_weight += one.loss_weight
        if self.model.n_refused > n_refused:
            self._refused.happened(self.model.n_refused - n_refused)
        for one in done:
            if self._web is not None:
                for refused in one.refused:
                    self._web.refused(refused.error)
            for ys, ws, told in one.scored:
                self._evaluation.score(
                    ys, ws, told if isinstance(told, list) else self.model.predictions(told)
                )

    def _judge(self, done: Sequence[Done]) -> list[Entry]:
        """Deal with the bad samples of a round; return its entries, in the order of the shares."""
        entries: list[Entry] = []
        n_bad, n_good = self._bad.n, self._n_samples
        try:
            for one in done:
                refused = iter(one.refused)
                for entry in one.entries:
                    if isinstance(entry, Skipped):
                        bad = next(refused)
                        letter = self._bad.refuse(bad.block, 0, bad.error, n_good)
                        entries.append(replace(entry, dead_letter=letter))
                    else:
                        n_good += entry.n if isinstance(entry, Segment) else 0
                        entries.append(entry)
        except Exception:
            self._bad.n = n_bad  # the round does not count
            raise
        return entries
