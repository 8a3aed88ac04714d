"""Tools that prove a streaming learner right; they ship so that others can use them too."""

from __future__ import annotations

from streamfit.testing.kafka import LocalKafka

__all__ = ["LocalKafka"]
