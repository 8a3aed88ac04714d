"""streamfit beside its peers: `make bench`, or `python -m benchmarks.run --only S4`.

Importing this package sets the environment of the measurement, before NumPy is loaded: one
thread for every library, and the BLAS kernels that fit the processor.
"""

from __future__ import annotations

import os

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
}

os.environ.update(ONE_THREAD)
# Whoever set these chose other BLAS kernels than the processor's best: unfair to the peers.
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)
