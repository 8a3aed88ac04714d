"""Tools that prove a streaming learner right; they ship so that others can use them too."""

from __future__ import annotations

from streamfit.testing.kafka import LocalKafka
from streamfit.testing.proxy import Proxy

__all__ = ["LocalKafka", "Proxy"]
