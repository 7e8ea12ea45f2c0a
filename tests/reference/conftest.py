"""Read before the tests import NumPy: other tests run on the other core, and two BLAS threads that
wait for each other's turn take five times as long as one."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
