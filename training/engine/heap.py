"""A rank's memory stays with it from step to step: on a CPU most of what a step frees, the next one asks for again.

The C library gives blocks of more than 32 MB, and the free top of its heap, back to the system, which hands every page out anew,
zeroed. With a GPT of 6 layers, 384 wide, that was 50,000 page faults and 12% of a step of 330 ms (see tests/benchmarks).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3), glibc's malloc.h
USUAL = 32 << 20  # where glibc's own moving threshold for blocks of their own ends on 64 bits; the heap's top goes back at twice that


@contextmanager
def held() -> Iterator[bool]:
    """While this lasts freed memory is kept, after it all that is free is given back. True where the C library can (glibc).

    Of threads that have a heap of their own only the blocks of less than 32 MB are kept.
    """
    library = _glibc()
    if library is None:
        yield False
        return
    library.mallopt(MMAP_THRESHOLD, 2**30)
    library.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield True
    finally:
        library.mallopt(MMAP_THRESHOLD, USUAL)
        library.mallopt(TRIM_THRESHOLD, 2 * USUAL)
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libc.so.6")
        library.malloc_trim.argtypes = [ctypes.c_size_t]
        return library if library.mallopt and library.malloc_trim else None
    except (OSError, AttributeError):  # another system, or another C library
        return None
