"""The compiled kernels: the headers compute, the Cython modules hold the memory."""

try:
    from streamfit._kernels.features import FeatureIndex, exact_label
    from streamfit._kernels.formulas import (
        OPTIMIZERS,
        exp,
        learning_rate,
        loss_gradient,
        loss_mean,
        loss_means,
        loss_value,
        sigmoid,
        softmax,
    )
    from streamfit._kernels.hashing import HashedFeatures
    from streamfit._kernels.linear import LinearKernel
    from streamfit._kernels.samples import split_tuples
    from streamfit._kernels.state import Snapshot
except ImportError as error:
    from streamfit.errors import MissingDependencyError

    raise MissingDependencyError(
        "the compiled kernels are not built: run `pip install -e .` (needs a C compiler) "
        f"in the checkout of streamfit ({error})"
    ) from error

__all__ = [
    "OPTIMIZERS",
    "FeatureIndex",
    "HashedFeatures",
    "LinearKernel",
    "Snapshot",
    "exact_label",
    "exp",
    "learning_rate",
    "loss_gradient",
    "loss_mean",
    "loss_means",
    "loss_value",
    "sigmoid",
    "softmax",
    "split_tuples",
]
