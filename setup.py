"""The extension table; everything else is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

# -ffp-contract=off: the same bits whether or not the machine has fused multiply-add.
# Never -ffast-math, never -march=native (see streamfit/_kernels/kernels.h).
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]

setup(
    ext_modules=cythonize(
        [
            Extension(
                "streamfit._kernels.linear",
                ["streamfit/_kernels/linear.pyx"],
                depends=["streamfit/_kernels/kernels.h"],
                extra_compile_args=FLAGS,
            ),
        ],
        language_level=3,
    )
)
