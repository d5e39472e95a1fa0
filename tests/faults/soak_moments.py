"""When the soak kills: a moment within each stage of a run, which follows the run's own events and not the clock of its start."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

START, END = "(start)", "(end)"  # before the first stage and after the last one
EDGE_S = 8.0  # of both, in which a moment is drawn
SHORTEST_S = 0.3


@dataclass(frozen=True)
class Moment:
    """In which stage: after so many events of it (shards, pages, steps), or so many seconds after its start when events is 0."""

    label: str
    events: int = 0
    delay_s: float = 0.0

    def __str__(self) -> str:
        return f"after {self.events} events" if self.events else f"after {self.delay_s:.1f} s"


@dataclass
class Length:
    """How long a stage took when it last ran undisturbed, and how many events it sent."""

    seconds: float
    events: int


class Follower:
    """Reads the events of one run as they are written."""

    def __init__(self, lengths: dict[str, Length]) -> None:
        self.lengths = lengths
        self.label, self.events, self.since, self.changed = START, 0, time.monotonic(), time.monotonic()
        self._open: set[str] = set()
        self._done: set[str] = set()
        self._offset = 0

    def read(self, run: Path | None) -> None:
        """Take in what the run in this directory has written since the last call."""
        path = run / "events.jsonl" if run else None
        if path is None or not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                self._offset += len(line)
                self._take(json.loads(line))

    def passed(self, moment: Moment) -> bool:
        """Whether the run is within the moment's stage and beyond the moment."""
        if moment.label != self.label:
            return False
        return self.events >= moment.events if moment.events else time.monotonic() - self.since >= moment.delay_s

    def _take(self, event: dict[str, Any]) -> None:
        self.changed = time.monotonic()
        if event["kind"] in ("progress", "train"):
            self.events += 1
        if event["kind"] != "stage":
            return
        label = event["label"]
        if event["state"] == "running":
            self._enter(label)
        elif event["state"] in ("done", "cached"):
            if event["state"] == "done" and label == self.label:
                self.lengths[label].seconds = max(SHORTEST_S, event["seconds"])
            self._done.add(label)
            if set(self.lengths) <= self._done:
                self._enter(END)

    def _enter(self, label: str) -> None:
        self.label, self.events, self.since = label, 0, time.monotonic()


@dataclass
class Plan:
    """The moments of one round. A moment that its stage did not live to see is given to a later stage."""

    rng: Random
    lengths: dict[str, Length]
    owed: int = 0
    moments: dict[str, list[Moment]] = field(default_factory=dict)

    @classmethod
    def draw(cls, rng: Random, lengths: dict[str, Length], owed: int = 0, labels: Iterable[str] = ()) -> Plan:
        plan = cls(rng, lengths, owed)
        for label in labels or (START, *lengths, END):
            plan.moments[label] = [plan.moment(label)]
        return plan

    def moment(self, label: str) -> Moment:
        """A uniform moment: half of them by events, where the stage has any, half by time."""
        length = self.lengths.get(label, Length(EDGE_S, 0))
        if length.events and self.rng.random() < 0.5:
            return Moment(label, events=self.rng.randint(1, length.events))
        return Moment(label, delay_s=self.rng.random() * length.seconds)

    def due(self, follower: Follower) -> Moment | None:
        """The moment that has come, if one has; it stays until `used`."""
        waiting = self.moments.setdefault(follower.label, [])
        if not waiting and self.owed:
            self.owed -= 1
            waiting.append(self.moment(follower.label))
        return waiting[0] if waiting and follower.passed(waiting[0]) else None

    def used(self, moment: Moment) -> None:
        self.moments[moment.label].remove(moment)

    def missed(self, order: Sequence[str], label: str) -> list[Moment]:
        """The moments of the stages before this one, which are owed from now on."""
        before = order[: order.index(label)] if label in order else ()
        lost = [moment for name in before for moment in self.moments.pop(name, ())]
        self.owed += len(lost)
        return lost


def lengths(runs: Iterable[Path]) -> dict[str, Length]:
    """Of the stages of the reference, in their order; it may have been stopped and resumed, so each stage counts where it was longest."""
    found: dict[str, Length] = {}
    for run in sorted(runs):
        seen: dict[str, Length] = {}
        label = ""
        for line in (run / "events.jsonl").read_text().splitlines():
            event = json.loads(line)
            if event["kind"] == "stage":
                label = event["label"]
                seen.setdefault(label, Length(SHORTEST_S, 0)).seconds = max(SHORTEST_S, event["seconds"])
            elif event["kind"] in ("progress", "train") and label:
                seen[label].events += 1
        for name, length in seen.items():
            known = found.setdefault(name, length)
            found[name] = max(known, length, key=lambda one: (one.seconds, one.events))
    return found
