"""Every crash point of checkpoints: `make prove PROVE=tests/training/engine/prove_checkpoint_kills.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.engine.test_checkpoint_kills import kills


@pytest.mark.parametrize("background", [False, True])
def test_killed_at_any_point_the_last_state_is_the_same(tmp_path: Path, background: bool) -> None:
    report = kills(tmp_path, background, range)
    assert report.tried == report.points > 60
    print(f"checkpoints (background: {background}): {report.points} points in {report.seconds:.0f} s")
