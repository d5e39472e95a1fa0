"""A rank that makes no progress ends itself, after writing down where all its threads stand: the gang then starts again."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from infra.log import event

STALLED = 75  # the exit code, EX_TEMPFAIL of sysexits.h: try again
TICK_S = 1.0


class StallWatch:
    """Use around a training. seconds: without a call of beat() after which the process ends with code STALLED; 0: never.

    Only time in which this thread runs counts, so a process that was stopped as a whole (a sleeping machine) does not take its
    own sleep for a stall; a peer that waits for it does.
    """

    def __init__(self, seconds: float, report: Path, stage: str) -> None:
        self.seconds, self.report, self.stage = seconds, report, stage
        self._beats, self._over = 0, threading.Event()

    def beat(self) -> None:
        """There is progress."""
        self._beats += 1

    def __enter__(self) -> StallWatch:
        if self.seconds:
            threading.Thread(target=self._watch, name="stall watch", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()

    def _watch(self) -> None:
        tick = min(TICK_S, self.seconds / 4)
        seen, idle, last = self._beats, 0.0, time.monotonic()
        while not self._over.wait(tick):
            now = time.monotonic()
            idle = 0.0 if self._beats != seen else idle + min(now - last, 2 * tick)
            seen, last = self._beats, now
            if idle >= self.seconds:
                self._end()

    def _end(self) -> None:
        """Nothing here may wait for a lock that the stalled thread could hold: the report first, by faulthandler, then the rest."""
        with self.report.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        said = f"{self.stage}: no progress for {self.seconds:g} s; this rank ends, where it stood is in {self.report}"
        telling = threading.Thread(target=event, args=("warning",), kwargs={"message": said}, daemon=True)
        telling.start()
        telling.join(2.0)
        os._exit(STALLED)
