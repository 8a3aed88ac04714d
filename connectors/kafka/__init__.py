"""Apache Kafka as a source of samples."""

from __future__ import annotations

from connectors.kafka.security import Security
from connectors.kafka.source import KafkaSource

__all__ = ["KafkaSource", "Security"]
