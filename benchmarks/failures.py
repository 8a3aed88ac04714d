"""What failures cost: closed formulas, and a simulation event by event to compare them with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Failures", "Outcome", "daly", "efficiency", "expected", "simulate", "young"]


def young(checkpoint: float, mtbf: float) -> float:
    """Return the seconds of work between checkpoints that lose least (Young 1974)."""
    return math.sqrt(2.0 * checkpoint * mtbf)


def daly(checkpoint: float, mtbf: float) -> float:
    """Return the same to a higher order (Daly 2006, equation 37)."""
    if checkpoint >= 2.0 * mtbf:
        return mtbf
    x = math.sqrt(checkpoint / (2.0 * mtbf))
    return young(checkpoint, mtbf) * (1.0 + x / 3.0 + x * x / 9.0) - checkpoint


def efficiency(interval: float, checkpoint: float, restart: float, mtbf: float) -> float:
    """Return the share of the time that ends up in work which is kept (Daly 2006, equation 20).

    Failures come as a Poisson process, also while a checkpoint is written or a restart goes on.
    """
    lost = math.exp(restart / mtbf) * math.expm1((interval + checkpoint) / mtbf)
    return interval / (mtbf * lost)


@dataclass(frozen=True)
class Failures:
    """A training with failures.

    Parameters
    ----------
    workers
        How many.
    round_seconds
        Of a round in which nobody fails, the combining included.
    worker_mtbf, driver_mtbf
        Mean time between failures, of one worker and of the driver.
    respawn
        Seconds until a dead worker is noticed, and replaced by one that has the model.
    restart
        Seconds until a dead driver is.
    interval
        Seconds of work between checkpoints.
    checkpoint
        Seconds for which one stops the work.
    """

    workers: int
    round_seconds: float
    worker_mtbf: float
    driver_mtbf: float
    respawn: float
    restart: float
    interval: float
    checkpoint: float


@dataclass(frozen=True)
class Outcome:
    """Shares of the time: in rounds that are kept, and lost with workers, the driver, writing."""

    kept: float
    with_workers: float
    with_driver: float
    writing: float


def expected(f: Failures) -> float:
    """Return the share of the time that is kept, by formulas.

    A round, and the writing of a checkpoint, is done over until no worker fails meanwhile: both
    take as long as Daly's segment without a checkpoint. The driver's failures meet these.
    """
    one_of_all = f.worker_mtbf / f.workers
    rounds = efficiency(f.round_seconds, 0.0, f.respawn, one_of_all)
    writing = f.checkpoint and f.checkpoint / efficiency(f.checkpoint, 0.0, f.respawn, one_of_all)
    stretched = f.interval / rounds
    return rounds * efficiency(stretched, writing, f.restart, f.driver_mtbf)


def simulate(f: Failures, seconds: float, seed: int = 0) -> Outcome:
    """Let a training run for `seconds`, failure by failure.

    A worker's death costs the round at hand: the driver has the model of the last one. The driver's
    death costs what came after the last checkpoint.
    """
    rng = np.random.default_rng(seed)

    def failure(mtbf: float, after: float) -> float:
        return after + float(rng.exponential(mtbf))

    def ready(failed: float, mtbf: float, repair: float) -> tuple[float, float]:
        """Return when a repair is done, and the next failure; one meanwhile begins it anew."""
        done, following = failed + repair, failure(mtbf, failed)
        while following < done:
            done, following = following + repair, failure(mtbf, following)
        return done, following

    one_of_all = f.worker_mtbf / f.workers
    now, worker_fails, driver_fails = 0.0, failure(one_of_all, 0.0), failure(f.driver_mtbf, 0.0)
    kept = since = with_workers = with_driver = writing = 0.0
    while now < seconds:
        began, undisturbed = now, min(worker_fails, driver_fails) - now
        wanted = math.ceil((f.interval - since) / f.round_seconds - 1e-9)
        rounds = min(wanted, int(undisturbed / f.round_seconds))
        if rounds > 0:
            now += rounds * f.round_seconds
            since += rounds * f.round_seconds
        elif wanted <= 0 and f.checkpoint <= undisturbed:
            now += f.checkpoint
            kept, since, writing = kept + since, 0.0, writing + f.checkpoint
        elif driver_fails <= worker_fails:
            now, driver_fails = ready(driver_fails, f.driver_mtbf, f.restart)
            worker_fails = failure(one_of_all, now)
            with_driver, since = with_driver + now - began + since, 0.0
        else:
            now, worker_fails = ready(worker_fails, one_of_all, f.respawn)
            driver_fails = max(driver_fails, now)
            with_workers += now - began
    return Outcome(kept / now, with_workers / now, with_driver / now, writing / now)
