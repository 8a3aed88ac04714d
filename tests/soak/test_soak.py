"""The soak of `make soak`, in less than a minute."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from streamfit.testing import LocalKafka

sys.path.insert(0, str(Path(__file__).parent))
from soak import soak


@pytest.mark.timeout(180)
def test_soak(tmp_path: Path) -> None:
    """Every kind of fault at least once, and then W and L hold."""
    if "STREAMFIT_KAFKA" in os.environ:
        pytest.skip("needs a broker that can be stopped")
    if missing := LocalKafka.unavailable():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    result = soak(tmp_path, minutes=0.5, rate=150.0, seconds_between=2.0, seed=1)
    print(result)
    assert not result.failures, result.failures
    assert result.n_good > 1000
    for fault in ("SIGTERM", "SIGSTOP", "broker restart", "broker kill -9"):
        assert result.survived[fault]
    assert result.survived["kill -9 while the broker is away"] >= 2
    assert len(result.bad) >= 3
