"""Benchmarks of gradwire beside plain torch, in-process ART and MLServer: ``python -m benchmarks.run``.

All contenders compute with one thread. Math libraries read the number when they are loaded, so it is set here, before any is.
"""

import os

os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
