"""A torch profile of a few steps: a trace for a viewer of timelines, and a table of the operators that took longest.

profile/trace.json.gz opens in Perfetto (ui.perfetto.dev) or chrome://tracing; profile/operators.json is what the report shows.
Only the first rank looks at itself: the others wait for it in every step, so their traces would show its slowness as theirs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from infra.log import event
from training.engine.rank import Rank

FOLDER, TRACE, OPERATORS = "profile", "trace.json.gz", "operators.json"
SHOWN = 40  # operators, by their own time


class Profiler:
    """Looks on from before step `window[0]` until step `window[1]` begins; without a window it does nothing.

    A training that goes on from behind the window is not looked at: an earlier try wrote its files.
    """

    def __init__(self, window: tuple[int, int] | None, out: Path, place: Rank, stage: str) -> None:
        self.window = window if place.first else None
        self.folder, self.place, self.stage = out / FOLDER, place, stage
        self._running: tuple[profile, int] | None = None
        self._steps = 0  # looked at, with those that a guard had done again

    def before(self, step: int) -> None:
        """At the beginning of every step."""
        if self.window is None:
            return
        first, end = self.window
        if self._running is None and first <= step < end:
            kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self.place.device.type == "cuda" else [])
            looking = profile(activities=kinds)
            looking.start()
            self._running = looking, step
        if self._running is not None and step >= end:
            self.close(step)
        self._steps += self._running is not None

    def close(self, step: int) -> None:
        """Write what was seen so far; nothing where nobody looks."""
        if self._running is None:
            return
        (looking, first), self._running = self._running, None
        looking.stop()
        self.folder.mkdir(exist_ok=True)
        looking.export_chrome_trace(str(self.folder / TRACE))
        told = {"first": first, "end": step, "device": str(self.place.device), "operators": operators(looking, self._steps)}
        (self.folder / OPERATORS).write_text(json.dumps(told, indent=1))
        event("note", message=f"{self.stage}: steps {first} to {step - 1} are profiled in {self.folder / TRACE}")


def operators(looking: profile, steps: int) -> list[dict[str, Any]]:
    """By name: calls and milliseconds of a step. Own time is without what the operator called; on a GPU its kernels' time is told too."""
    rows = [
        {
            "operator": str(row.key),
            "calls": round(row.count / steps, 2),
            "own_ms": round(row.self_cpu_time_total / 1e3 / steps, 4),
            "gpu_ms": round(row.self_device_time_total / 1e3 / steps, 4),
        }
        for row in looking.key_averages()
    ]
    rows.sort(key=lambda row: (-row["own_ms"] - row["gpu_ms"], row["operator"]))
    return rows[:SHOWN]
