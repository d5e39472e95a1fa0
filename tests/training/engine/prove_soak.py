"""A short soak; the long one is `make soak`."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.engine.soak import Plan, Victim, newest, soak
from tests.training.engine.trial import plain, settings
from training.engine.checkpoint import verify
from training.engine.measure import METRICS, read


@pytest.mark.timeout(400)
def test_three_blows_leave_no_trace(tmp_path: Path) -> None:
    told = soak(tmp_path, Plan(steps=60, save_every=5, seed=3, stall_s=120.0), ["rank", "torn", "driver"])
    assert told.equal and told.damaged == 1 and len(told.resumed) == 3
    assert all(back > 0 for back in told.resumed)


@pytest.mark.timeout(400)
def test_what_was_struck_under_one_stage_is_carried_on_by_others_and_by_other_ranks(tmp_path: Path) -> None:
    """Along the curve of a plain loop. Without dropout, whose draws hang on the rank."""
    plan = Plan(steps=60, save_every=5, zero=2, dropout=0.0, stall_s=120.0)
    losses, _, expected = plain("bert", settings(steps=plan.steps))
    with Victim(tmp_path, plan) as victim:
        for step, zero, ranks in ((14, 3, 1), (28, 0, 2), (43, 1, 1)):
            victim.reach(step)
            saved = verify(newest(tmp_path / "out" / ".checkpoints"))
            assert (saved["zero"], saved["world"]) == (victim.plan.zero, victim.plan.ranks)
            victim.plan = replace(plan, zero=zero, ranks=ranks)
            victim.strike("driver", random.Random(step))
        weights = victim.finish()
    assert sum("goes on from step" in e.get("message", "") for e in victim.events()) == 3
    assert [line["loss"] for line in read(tmp_path / "out" / METRICS)] == pytest.approx(losses, abs=1e-5)
    for name, value in expected.items():
        assert weights[name] == pytest.approx(value.numpy(), abs=1e-4, rel=1e-3), name
