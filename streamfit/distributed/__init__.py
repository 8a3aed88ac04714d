"""One model, several workers: `RayTrainer`, on a cluster of Ray or the cores of one machine.

Needs the `ray` extra, which is imported when a `RayTrainer` is made.
"""

from streamfit.distributed.trainer import RayTrainer, ShareTrainer

__all__ = ["RayTrainer", "ShareTrainer"]
