"""What `import streamfit` loads, seen in a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"confluent_kafka", "kafka", "narwhals", "pandas", "rich", "river", "scipy", "typer"}


def loaded_after(statements: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has loaded after `statements`."""
    code = f"import sys\n{statements}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import streamfit", "import streamfit, connectors"])
def test_importing_loads_nothing_heavy(statement: str) -> None:
    loaded = loaded_after(statement)
    assert {"streamfit", "numpy"} <= loaded
    assert not loaded & HEAVY


def test_training_from_arrays_loads_only_rivers_bases() -> None:
    loaded = loaded_after(
        "import numpy as np, streamfit as sf\n"
        "model = sf.LogisticRegression()\n"
        "sf.Trainer(model, sf.ArraySource(np.eye(2), [True, False])).run()"
    )
    assert loaded & HEAVY == {"river"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    import streamfit

    assert "LogisticRegression" in dir(streamfit)
    with pytest.raises(AttributeError, match="no attribute 'LogisticRegresion'"):
        streamfit.LogisticRegresion  # noqa: B018  # type: ignore[attr-defined]
