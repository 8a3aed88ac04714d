"""The compiled kernels: `kernels.h` computes, the Cython modules hold the memory."""

try:
    from streamfit._kernels.features import FeatureIndex
    from streamfit._kernels.linear import (
        OPTIMIZERS,
        LinearKernel,
        exp,
        learning_rate,
        loss_gradient,
        loss_value,
        sigmoid,
        sigmoid_one,
    )
except ImportError as error:
    from streamfit.errors import MissingDependencyError

    raise MissingDependencyError(
        "the compiled kernels are not built: run `pip install -e .` (needs a C compiler) "
        f"in the checkout of streamfit ({error})"
    ) from error

__all__ = [
    "OPTIMIZERS",
    "FeatureIndex",
    "LinearKernel",
    "exp",
    "learning_rate",
    "loss_gradient",
    "loss_value",
    "sigmoid",
    "sigmoid_one",
]
