"""A sample of the crash points and bit flips that `make prove` tries completely."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.tiny import CASES


@pytest.mark.slow
def test_a_sample_of_kills_and_of_flipped_bits_changes_no_byte(tmp_path: Path) -> None:
    """In a process of its own: it forks, and the one that runs all tests has threads."""
    done = subprocess.run([sys.executable, "-m", "tests.faults.crash_sample", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["points"].keys() == CASES.keys() and all(one["points"] > 30 for one in told["points"].values())
    flips = told["flips"]
    assert flips["tried"] == flips["detected"] + flips["harmless"] and flips["detected"] > flips["harmless"]
    assert {".arrow", ".json"} <= set(flips["kinds"])
    assert told["scratch"]["tried"] == told["scratch"]["harmless"] > 0
