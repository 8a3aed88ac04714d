"""The running scaler that a learner may carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from streamfit.core.validation import check_real
from streamfit.errors import ConfigurationError

__all__ = ["StandardScaler", "scaler_from_config"]


@dataclass(frozen=True)
class StandardScaler:
    """Scale each feature to mean 0 and variance 1 as the stream goes by: `scaler=` of a learner.

    The mean and the (population) variance of each feature run by Welford's method (Welford 1962),
    one sample at a time and in order; a sample is counted first and then scaled, as in River's
    `StandardScaler | model`. A row in the middle of a micro-batch is scaled by the statistics as
    of its own arrival, so that nothing depends on how a stream is cut. Predicting scales and
    counts nothing. A feature of variance 0 gives 0; a sample of weight 0 is not counted; an
    absent feature counts as 0. The statistics are part of the state.

    Every sample costs all features (what is absent is scaled too), so it does not go with
    `HashedFeatures`.

    Parameters
    ----------
    bound
        Draws each scaled value `z` smoothly into (-bound, bound): `z / sqrt(1 + (z / bound)^2)`. So
        an outlier, or a rare feature's first appearance, counts little more than a value that is
        usual. None: no bound.

    Examples
    --------
    >>> import streamfit as sf
    >>> model = sf.LogisticRegression(sf.optim.SGD(0.1), scaler=sf.StandardScaler())
    >>> for x, y in [(1000.0, False), (3000.0, True), (1500.0, False)]:
    ...     model.learn_one({"income": x}, y)
    >>> round(model.weights["income"], 4)
    0.0707
    """

    bound: float | None = None

    def __post_init__(self) -> None:
        if self.bound is not None:
            object.__setattr__(self, "bound", check_real("bound", self.bound, positive=True))

    def get_config(self) -> dict[str, Any]:
        """Return a JSON-safe description."""
        bound = {} if self.bound is None else {"bound": self.bound}
        return {"id": "standard_scaler", **bound}


def scaler_from_config(config: dict[str, Any] | None) -> StandardScaler | None:
    """Make the scaler that `get_config` described."""
    if config is None:
        return None
    options = dict(config)
    if options.pop("id", None) != "standard_scaler" or options.keys() - {"bound"}:
        raise ConfigurationError(f"unknown scaler {config!r:.80}")
    return StandardScaler(**options)
