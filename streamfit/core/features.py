"""Features by name: which column each one has."""

from __future__ import annotations

from typing import Any

from streamfit._kernels import FeatureIndex
from streamfit.errors import ConfigurationError

__all__ = ["FeatureIndex", "features_config", "features_from_config"]


def features_config(features: FeatureIndex | None) -> dict[str, Any] | None:
    """Describe the `features` argument of a learner in JSON-safe form."""
    return None if features is None else {"names": list(features.names), "fixed": features.fixed}


def features_from_config(config: dict[str, Any] | None) -> FeatureIndex | None:
    """Make the feature index that `features_config` described."""
    if config is None:
        return None
    if not isinstance(config, dict) or set(config) != {"names", "fixed"}:
        raise ConfigurationError(f"features: not the configuration of an index: {config!r}")
    return FeatureIndex(config["names"], config["fixed"])
