"""A clock that is set back and forth while a program runs: a library, preloaded, that answers for the system's wall clock."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.mini import Place

PERIOD_MS = 150
OFFSETS_S = (0, -2 * 86_400, 3_600, 40 * 86_400, -7, 1)
SOURCE = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const long offsets[] = {OFFSETS};

/* From the time since boot, which nobody sets: all processes jump together. */
static long offset(void) {
    struct timespec up;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &up);
    long period = (up.tv_sec * 1000 + up.tv_nsec / 1000000) / PERIOD;
    return offsets[period % (sizeof offsets / sizeof *offsets)];
}

int clock_gettime(clockid_t id, struct timespec *to) {
    int status = syscall(SYS_clock_gettime, id, to);
    if (!status && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) to->tv_sec += offset();
    return status;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
"""


def jumping(directory: Path) -> dict[str, str]:
    """The environment in which every process sees the wall clock jump, seven times a second. Skips the test without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler for the library that sets the clock")
    text = SOURCE.replace("OFFSETS", ", ".join(f"{one}L" for one in OFFSETS_S)).replace("PERIOD", str(PERIOD_MS))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "clock.c").write_text(text)
    library = directory / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(directory / "clock.c")], check=True)
    return {"LD_PRELOAD": " ".join([str(library), *os.environ.get("LD_PRELOAD", "").split()])}


@dataclass(frozen=True)
class Restless(Place):
    """A place whose commands see the wall clock jump."""

    @property
    def clock(self) -> Path:
        return self.folder / "clock"

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **jumping(self.clock)}
