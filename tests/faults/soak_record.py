"""What the soak saw: one JSON line for each kill and each end, appended at once, and the figures that they give.

python -m tests.faults.soak_record DIRECTORY prints the figures of a soak that runs, or was stopped.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.soak_victims import KINDS

FAULTS = ("different", "stray", "zombie", "unclear", "hang")


class Record:
    """A file of lines; those that an earlier call left are read again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, what: str, **more: Any) -> None:
        row = {"what": what, "time": round(time.time(), 1), **more}
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {what}: {', '.join(f'{k} {v}' for k, v in more.items())}\n")
        sys.stdout.flush()

    def of(self, what: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["what"] == what]

    def kills(self) -> Counter[str]:
        return Counter(row["kind"] for row in self.of("kill"))

    @property
    def good(self) -> bool:
        return not any(self.of(what) for what in FAULTS)

    def figures(self) -> str:
        """Kills by kind and stage, exit codes by kind, and what was wrong."""
        kills, ends = self.of("kill"), self.of("exit")
        cells = Counter((row["stage"], row["kind"]) for row in kills)
        lines = [f"{len(kills)} kills in {len(self.of('round'))} complete rounds and {len(ends)} runs; {self._minutes():.0f} minutes", ""]
        lines += [f"{'stage':24}" + "".join(f"{kind:>9}" for kind in KINDS) + f"{'all':>7}"]
        for stage in dict.fromkeys(row["stage"] for row in kills):
            numbers = [cells[stage, kind] for kind in KINDS]
            lines.append(f"{stage:24}" + "".join(f"{number or '':>9}" for number in numbers) + f"{sum(numbers):>7}")
        lines += [f"{'all':24}" + "".join(f"{self.kills()[kind]:>9}" for kind in KINDS) + f"{len(kills):>7}", ""]
        codes = Counter((row["last"], row["code"]) for row in ends)
        lines += ["exit codes by the last kill of a run (-9: killed itself)"]
        lines += [
            f"  {last:10} {dict(sorted((code, n) for (kind, code), n in codes.items() if kind == last))}" for last in (*KINDS, "none")
        ]
        lines += ["", *(f"{what}: {len(self.of(what))}" for what in FAULTS)]
        lines += [f"  {row}" for what in FAULTS for row in self.of(what)]
        lines += [f"moments without a chance, retried elsewhere: {sum(row['count'] for row in self.of('missed'))}"]
        return "\n".join(lines)

    def _minutes(self) -> float:
        """The time of work: gaps between two calls are left out."""
        times = [row["time"] for row in self.rows]
        return sum(min(b - a, 600.0) for a, b in itertools.pairwise(times)) / 60


if __name__ == "__main__":
    sys.stdout.write(Record(Path(sys.argv[1]) / "soak.jsonl").figures() + "\n")
