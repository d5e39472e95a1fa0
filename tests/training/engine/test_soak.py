"""A short soak; the long one is `make soak`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.engine.soak import Plan, soak


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_three_blows_leave_no_trace(tmp_path: Path) -> None:
    told = soak(tmp_path, Plan(steps=60, save_every=5, seed=3), ["rank", "torn", "driver"])
    assert told.equal and told.damaged == 1 and len(told.resumed) == 3
    assert all(back > 0 for back in told.resumed)
