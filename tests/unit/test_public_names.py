"""What users may import. A change here is a change of the library's interface."""

from __future__ import annotations

import types

import pytest

import connectors
import streamfit as sf


def public(module: types.ModuleType) -> list[str]:
    return sorted(module.__all__)


def test_streamfit() -> None:
    assert public(sf) == [
        "ArraySource",
        "Checkpoint",
        "Checkpointer",
        "DateParts",
        "DeadLetters",
        "DriftMonitor",
        "FeatureIndex",
        "GradientNoise",
        "HashedFeatures",
        "IterableSource",
        "LinearRegression",
        "LogisticRegression",
        "NoiseScale",
        "Progress",
        "RaiseLearningRate",
        "SoftmaxRegression",
        "StandardScaler",
        "Trainer",
        "TrainingReport",
        "Transformed",
        "WebMonitor",
        "adapters",
        "advise_batch_size",
        "distributed",
        "errors",
        "exit_codes",
        "journal",
        "losses",
        "offline",
        "optim",
        "plot",
        "schedules",
        "types",
    ]


def test_losses() -> None:
    assert public(sf.losses) == [
        "Absolute",
        "CrossEntropy",
        "EpsilonInsensitive",
        "HalfSquared",
        "Hinge",
        "Huber",
        "Log",
        "Loss",
        "ModifiedHuber",
        "Poisson",
        "Quantile",
        "Squared",
        "SquaredHinge",
        "from_config",
    ]


def test_optimizers() -> None:
    assert public(sf.optim) == [
        "AMSGrad",
        "AdaDelta",
        "AdaGrad",
        "Adam",
        "AdamW",
        "Auto",
        "FTRLProximal",
        "Optimizer",
        "RMSProp",
        "SGD",
        "from_config",
    ]


def test_schedules() -> None:
    assert public(sf.schedules) == [
        "BatchSizeSchedule",
        "Constant",
        "CosineWarmup",
        "Exponential",
        "GeometricBatchSize",
        "InverseScaling",
        "MilestoneBatchSize",
        "NoiseScaleBatchSize",
        "Optimal",
        "Schedule",
        "Step",
        "batch_size_from_config",
        "from_config",
    ]


def test_journal() -> None:
    assert public(sf.journal) == [
        "Action",
        "Difference",
        "Epoch",
        "FLUSHES",
        "Flush",
        "Journal",
        "Mark",
        "Segment",
        "Skipped",
        "Verification",
        "entries",
        "verify",
    ]


def test_offline() -> None:
    assert public(sf.offline) == ["LocalFit", "OfflineFit", "fit_local_sgd", "fit_offline"]


def test_distributed() -> None:
    assert public(sf.distributed) == ["RayTrainer", "ShareTrainer"]


def test_plot() -> None:
    assert public(sf.plot) == [
        "convergence",
        "descent_paths",
        "effective_batch",
        "ladder",
        "last_batch",
        "memory",
    ]


@pytest.mark.parametrize(
    "module",
    [
        sf,
        sf.distributed,
        sf.losses,
        sf.optim,
        sf.plot,
        sf.schedules,
        sf.offline,
        sf.journal,
        sf.errors,
        sf.types,
    ],
)
def test_every_public_name_is_there_and_documented(module: types.ModuleType) -> None:
    for name in module.__all__:
        assert hasattr(module, name)
        value = getattr(module, name)
        if isinstance(value, type | types.FunctionType | types.ModuleType):
            assert value.__doc__, name


def test_nothing_else_public_slips_out() -> None:
    loose = {
        name
        for name, value in vars(sf).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert loose <= set(sf.__all__)


def test_connectors() -> None:
    assert {"ArraySource", "IterableSource", "JSONDecoder", "KafkaSource"} <= set(
        connectors.__all__
    )


def test_every_error_is_a_streamfit_error() -> None:
    for name in sf.errors.__all__:
        error = getattr(sf.errors, name)
        assert issubclass(error, sf.errors.StreamfitError | Warning)
