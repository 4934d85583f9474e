"""One thread per process, in the tests and in what they start: small tensors gain nothing from more, and the tests
themselves run side by side (`make test`)."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported, later
