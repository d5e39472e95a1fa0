"""Environment variables that are set for as long as something lasts, and limits that this process runs under."""

from __future__ import annotations

import ctypes
import os
import resource
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

ROOMY = 4 << 30  # bytes of address space in which every library finds what it reserves
M_ARENA_MAX = -8  # of mallopt(3), in glibc's malloc.h
_SETTING = threading.Lock()  # the environment is the whole process's


@contextmanager
def holding(environment: Mapping[str, str]) -> Iterator[None]:
    """These variables, then what was there before. One thread at a time; not within itself."""
    with _SETTING:
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def fit_address_space() -> None:
    """Under a low limit of virtual memory (`ulimit -v`), have libraries that are not loaded yet reserve less of it.

    Arrow's own allocator, glibc's arenas (64 MiB a thread) and the stacks of OpenBLAS's threads take address space that is never used.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or limit > ROOMY:
        return
    for name, value in (("ARROW_DEFAULT_MEMORY_POOL", "system"), ("OPENBLAS_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1")):
        os.environ.setdefault(name, value)
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
