"""Training that only saves and resumes, killed before file-system operations of its checkpoints: the last state is always the same.

`python -m tests.training.engine.test_checkpoint_kills FOLDER STEP` tries every STEP-th operation, in a process of its own that forks;
`make prove` tries all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from tests.faults.crash_points import Report, Snapshot, every_point
from tests.training.engine.test_checkpoint import ALONE, Weights
from training.engine.checkpoint import Checkpoints, Keep, Point, verify

STEPS, BACK_AT = 7, 5


def train(root: Path, background: bool) -> None:
    """A state that each step changes, saved after each; once the guard goes back a few steps."""
    root.mkdir(exist_ok=True)
    checkpoints, weights = Checkpoints(root / "checkpoints", ALONE, Keep(last=2, every=3), background), Weights()
    point = checkpoints.resume(weights)
    gone_back = (root / "went-back").exists()
    while point.step < STEPS:
        if point.step == BACK_AT and not gone_back:
            point = checkpoints.back(weights, 3, 1)
            (root / "went-back").touch()
            gone_back = True
        weights.value = weights.value * 1.5 + point.step
        point = Point(point.step + 1, point.tokens + 10)
        checkpoints.save(weights, point, valid_loss=1.0 / point.step)
    checkpoints.wait()


def look(root: Path) -> Snapshot:
    """The last state, and which checkpoints there are, each complete."""
    weights = Weights()
    point = Checkpoints(root / "checkpoints", ALONE).resume(weights)
    steps = sorted(path.name for path in (root / "checkpoints").glob("step-*") if path.name.removeprefix("step-").isdigit())
    for name in steps:
        verify(root / "checkpoints" / name)
    return {"point": point, "value": weights.value.tolist(), "steps": steps, "last-good": (root / "checkpoints/last-good").read_text()}


def kills(folder: Path, background: bool, chosen: Callable[[int], range]) -> Report:
    """Kill at the chosen operations."""
    torch.set_num_threads(1)
    return every_point(folder, lambda root: root.mkdir(parents=True), lambda root: train(root, background), look, chosen)


def test_killed_at_a_sample_of_points_the_last_state_is_the_same(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.engine.test_checkpoint_kills", str(tmp_path), "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(points > 60 for points in json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    every = int(sys.argv[2])
    found = [kills(Path(sys.argv[1]) / str(n), n == 1, lambda points: range(0, points, every)) for n in range(2)]
    print(json.dumps([report.points for report in found]))
