"""The extension table; everything else is in pyproject.toml."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# -ffp-contract=off: the same bits whether or not the machine has fused multiply-add.
# Never -ffast-math, never -march=native (see streamfit/_kernels/kernels.h).
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]

HEADERS = sorted(str(path) for path in Path("streamfit/_kernels").glob("*.h"))
MODULES = [
    *("features", "formulas", "hashing", "records", "tables"),
    *("memory", "state", "samples", "learning", "linear"),
]

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"streamfit._kernels.{name}",
                [f"streamfit/_kernels/{name}.pyx"],
                depends=HEADERS,
                extra_compile_args=FLAGS,
            )
            for name in MODULES
        ],
        language_level=3,
        compiler_directives={"boundscheck": False, "wraparound": False},
    )
)
