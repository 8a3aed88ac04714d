"""Features by name: which column each one has, and what becomes of a name not seen before."""

from __future__ import annotations

from typing import Any

from streamfit._kernels import FeatureIndex, HashedFeatures
from streamfit.errors import ConfigurationError

__all__ = [
    "FeatureIndex",
    "Features",
    "HashedFeatures",
    "check_features",
    "features_config",
    "features_from_config",
]

Features = FeatureIndex | HashedFeatures | None
"""What a learner keeps of its argument `features`; None grows an index as names appear."""


def check_features(features: object) -> Features:
    """Return the argument `features` of a learner; the policies by name stand for an index."""
    if features is None or (isinstance(features, str) and features == "grow"):
        return None
    if isinstance(features, str) and features == "fixed":
        return FeatureIndex(fixed=True)
    if not isinstance(features, FeatureIndex | HashedFeatures):
        raise ConfigurationError(
            "features must be 'grow', 'fixed', a FeatureIndex or HashedFeatures, "
            f"not {features!r:.60}"
        )
    return features


def features_config(features: Features) -> dict[str, Any] | None:
    """Describe the features of a learner in JSON-safe form."""
    if features is None:
        return None
    if isinstance(features, HashedFeatures):
        return {"bits": features.bits}
    return {"names": features.names, "fixed": features.fixed, "maximum": features.maximum}


def features_from_config(config: dict[str, Any] | None) -> Features:
    """Make the features that `features_config` described."""
    if config is None:
        return None
    if isinstance(config, dict) and set(config) == {"bits"}:
        return HashedFeatures(config["bits"])
    if not isinstance(config, dict) or set(config) != {"names", "fixed", "maximum"}:
        raise ConfigurationError(f"features: not the configuration of an index: {config!r:.80}")
    return FeatureIndex(config["names"], config["fixed"], config["maximum"])
