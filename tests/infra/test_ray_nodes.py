"""A gang over two Ray nodes under blows: the same weights at a fixed number of ranks, the same losses with fewer and then more."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from infra.compute import LocalCompute
from tests.infra.cluster_soak import KINDS, Driver, Plan, soak
from tests.infra.nodes import Nodes
from tests.training.engine.trial import Trial, run_all, settings

pytestmark = [pytest.mark.ray, pytest.mark.cluster]
WITHIN_S = 60.0  # what the engine promises: a node lost, then training again with the ranks that are left
CLOSE = 1e-5


def test_killed_in_every_way_the_weights_are_those_of_the_undisturbed_run(tmp_path: Path) -> None:
    told = soak(tmp_path, Plan(steps=80, save_every=5), list(KINDS))
    assert told.equal, told
    assert len(told.resumed) >= len(KINDS) and all(step > 0 for step in told.resumed), told


def test_a_lost_node_leaves_fewer_ranks_the_same_losses_and_a_new_node_gives_them_back(tmp_path: Path) -> None:
    """The batch stays whole, however many share it: every loss is that of the run nothing happened to."""
    plan = Plan(steps=300, save_every=10, min_ranks=1, dropout=0.0, pace_s=0.2)
    calm = settings(steps=plan.steps, zero=plan.zero, micro_batch=3, log_every=1)
    straight = LocalCompute(2).gang("calm", partial(run_all, [Trial(tmp_path / "calm", calm, "bert")]))[0]
    with Nodes(1, 1) as nodes:
        victim = Driver(tmp_path / "struck", nodes, plan)
        victim.reach(25)
        nodes.nodes[-1].kill_raylet()
        lost = time.monotonic()
        victim.recover(0)
        took = time.monotonic() - lost
        alone = len(nodes.ranks())
        nodes.add(1)
        _until(lambda: len(nodes.ranks()) == 2, 120)
        victim.finish()
    assert alone == 1 and took < WITHIN_S, (alone, took)
    said = [str(event.get("message")) for event in victim.events()]
    assert any("goes on with 1" in one for one in said) and any("room for more ranks" in one for one in said), said
    print(f"{took:.1f} s from the loss of a node to the next step")
    losses = [line["loss"] for line in victim.lines()]
    assert len(losses) == plan.steps and losses == pytest.approx(straight[0].losses, abs=CLOSE)


def _until(true: object, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < ends
        time.sleep(0.1)
