"""The wall clock is set back and forth while a run works: nothing waits for it, and no byte depends on it. All stages: `make prove`."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from tests.end_to_end.mini import Place, content
from tests.faults.clock import OFFSETS_S, Restless, jumping
from tests.faults.test_damage import RECIPE, built, place

__all__ = ["place"]


def test_a_command_sees_the_clock_jump(tmp_path: Path) -> None:
    """The other tests of this file would pass without the library."""
    ask = "import time\nfor _ in range(30): print(time.time()); time.sleep(0.05)"
    told = subprocess.run([sys.executable, "-c", ask], env=jumping(tmp_path), capture_output=True, text=True, check=True).stdout
    seen = [float(line) - time.time() for line in told.splitlines()]
    assert {round(one / 60) for one in seen} >= {round(one / 60) for one in OFFSETS_S}


def test_a_run_under_a_jumping_clock_makes_the_same_bytes(place: Place) -> None:
    (place.folder / "damage.yaml").write_text(RECIPE)
    wanted = {label: content(path) for label, path in built(place, "takedown").items()}
    (place.workspace / "artifacts").rename(place.folder / "calm")
    restless = Restless(place.folder)
    rows = restless.run("run", "damage.yaml", "--plain", "--until", "takedown")
    assert {row["state"] for row in rows} == {"done"}
    assert {row["label"]: content(restless.made(row)) for row in rows} == wanted
    assert all(0 <= row["seconds"] < 60 for row in rows), rows
