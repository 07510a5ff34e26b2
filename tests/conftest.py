"""What holds for all tests: no law is broken because a machine is slow."""

import os

from hypothesis import HealthCheck, settings

# One test runs on each core. Threads of two that share them wait for one another in loops, which
# makes both many times slower. It is read when numpy and torch are first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

settings.register_profile("bithive", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bithive")
