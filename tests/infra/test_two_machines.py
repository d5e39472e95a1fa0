"""Two machines, as two network namespaces with addresses of their own: DeepSpeed across a Ray cluster, and across Slurm's tasks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

from infra.compute import LocalCompute
from tests.infra.cluster_soak import Driver, Plan
from tests.infra.nodes import HOSTS, ROOT, Machines, why_no_machines
from tests.training.engine.trial import Trial, run_all, settings

pytestmark = [pytest.mark.ray, pytest.mark.slow]
WITHIN_S = 60.0
PLAN = Plan(steps=40, save_every=10, dropout=0.1, pace_s=0.0)
TASK = """
import os, sys
from pathlib import Path
from infra.launched import environment
os.environ.update(environment(os.environ))
import numpy as np
from tests.infra.cluster_soak import Plan
from tests.infra.test_two_machines import trial
from tests.training.engine.trial import run_all
seen = run_all([trial(Path(sys.argv[1]))])
if seen:
    np.savez(Path(sys.argv[1]) / "weights.npz", **seen[0].arrays)
"""


def trial(root: Path) -> Trial:
    config = settings(steps=PLAN.steps, zero=PLAN.zero, micro_batch=3, save_every=PLAN.save_every, log_every=1)
    return Trial(root / "out", config, "bert", dropout=PLAN.dropout, feed={"pace_s": PLAN.pace_s})


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    if why := why_no_machines():
        pytest.skip(why)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The weights of two ranks on one machine, without Ray."""
    seen = LocalCompute(2).gang("straight", partial(run_all, [trial(tmp_path_factory.mktemp("straight"))]))[0]
    return seen[0].arrays


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return set(a) == set(b) and all(np.array_equal(x, b[name]) for name, x in a.items())


def test_a_training_across_two_machines_of_a_ray_cluster_is_that_of_one(straight: dict[str, np.ndarray], tmp_path: Path) -> None:
    with Machines() as machines:
        machines.start()
        before = machines.sent()
        driver = Driver(tmp_path, machines, PLAN)
        driver.reach(1)
        assert [len(node.ranks()) for node in machines.nodes] == [1, 1]
        weights = driver.finish()
        numbers = sum(x.size for x in weights.values())
        assert machines.sent() - before > 4 * numbers * PLAN.steps / 2  # half of every gradient crosses the cable, and more
    assert same(weights, straight)


def test_slurms_tasks_on_two_machines_find_each_other(straight: dict[str, np.ndarray], tmp_path: Path) -> None:
    with Machines() as machines:
        tasks = [subprocess.Popen(_task(machines, n, tmp_path), env=_slurm(n), cwd=ROOT) for n in range(2)]
        assert [task.wait(180) for task in tasks] == [0, 0]
    with np.load(tmp_path / "weights.npz") as found:
        assert same(dict(found), straight)


def _task(machines: Machines, number: int, root: Path) -> list[str]:
    return ["ip", "netns", "exec", machines.names[number], sys.executable, "-c", TASK, str(root)]


def _slurm(number: int) -> dict[str, str]:
    said = {"SLURM_PROCID": str(number), "SLURM_NODEID": str(number), "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}
    return {**os.environ, **said, "SLURM_STEP_NODELIST": ",".join(HOSTS), "PYTHONPATH": str(ROOT)}


@pytest.mark.cluster
def test_when_the_cable_is_pulled_the_training_goes_on_with_the_machine_that_is_left(tmp_path: Path) -> None:
    """The worst way to lose a node: nobody is told. What works on the other side ends itself."""
    with Machines() as machines:
        machines.start()
        driver = Driver(tmp_path, machines, Plan(steps=300, save_every=5, min_ranks=1, dropout=0.0, pace_s=0.1))
        driver.reach(12)
        lonely = machines.nodes[1].ranks()
        machines.cut()
        cut = time.monotonic()
        driver.recover(0)
        took = time.monotonic() - cut
        driver.finish()
        assert len(lonely) == 1 and gone(lonely[0]), lonely
    print(f"{took:.1f} s from the cut to the next step")
    assert took < WITHIN_S


def gone(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
