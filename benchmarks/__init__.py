"""gradwire beside plain torch, in-process ART and MLServer, measured in one run: ``python -m benchmarks.run``.

Everybody computes with one thread. Math libraries read that when they are loaded, so it is said here, before any is.
"""

import os

os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
