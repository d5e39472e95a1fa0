"""Memory that a step frees and the next one asks for: page faults and resident memory as the system counts them."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training.engine import heap

STEPS, SIZES = 5, (100 << 20, 40 << 20, 3 << 20)  # bytes: two that the system would take back one by one, one that stays as it is
PAGE = resource.getpagesize()


def steps() -> int:
    """Page faults of some steps that allocate, fill and free alike; the first two, in which the heap grows, are not counted."""
    for step in range(STEPS + 2):
        if step == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        kept = [torch.ones(size, dtype=torch.uint8) for size in SIZES]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def measure() -> None:
    """In a process of its own, whose heap nobody else has moved."""
    torch.set_num_threads(1)
    usual = steps()
    with heap.held() as can:
        kept = steps()
        within = resident()
    print(int(can), usual, kept, within, resident())


def test_held_memory_is_not_asked_for_again_and_goes_back_afterwards() -> None:
    told = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True).stdout.split()
    can, usual, kept, within, left = (int(word) for word in told)
    if not can:
        pytest.skip("the C library is not glibc")
    whole = STEPS * sum(SIZES[:2]) // PAGE
    assert usual > 0.9 * whole, "else this shows nothing"
    assert kept < 0.25 * whole, "at most one block once more, where the heap had to grow after all"
    assert within - left > 0.9 * sum(SIZES[:2]), "what is free goes back to the system"


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    with heap.held() as can:
        assert not can


if __name__ == "__main__":
    measure()
