from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings

from streamfit.testing import LocalKafka

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=50, **_COMMON)
settings.register_profile("ci", max_examples=50, derandomize=True, **_COMMON)
settings.register_profile("nightly", max_examples=5000, **_COMMON)
settings.register_profile(
    "mutants", max_examples=25, derandomize=True, phases=[Phase.explicit, Phase.generate], **_COMMON
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") == "true" else "dev")
)


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """One broker for all tests of this process, started by the first that wants it."""
    if missing := LocalKafka.unavailable():
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with LocalKafka() as broker:
        print(f"broker: {broker!r}")
        yield broker


@pytest.fixture(params=["kafka-python", "confluent-kafka"])
def client(request: pytest.FixtureRequest) -> str:
    """Each Kafka client in turn."""
    return str(request.param)
