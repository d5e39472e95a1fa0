"""map keeps order and tells every failure; a gang talks, dies and restarts as one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from infra.compute import Compute, LocalCompute, cores
from infra.errors import ConfigError, Preempted, StageFailed
from infra.log import attach, event
from infra.ray_compute import RayCompute


def square(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is negative")
    event("note", message=f"squared {number}")
    return number * number


def die_once(mark: Path, number: int) -> int:
    if number == 1 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def rank() -> tuple[int, int, str]:
    event("note", message=f"hello from {os.environ['RANK']}")
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), os.environ["OMP_NUM_THREADS"]


def die_as_rank_one_once(mark: Path) -> str:
    if os.environ["RANK"] == "1" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if not mark.exists():
        time.sleep(60)  # as a rank waits in a collective for one that died
    return "done"


def die_always() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail_as_rank_one() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("width 770 is not a multiple of heads 12")
    time.sleep(60)


def preempted() -> None:
    raise Preempted("saved at step 3")


def leave_a_pid(path: Path) -> None:
    (path / os.environ["RANK"]).write_text(str(os.getpid()))
    if os.environ["RANK"] == "1":
        raise ValueError("end")
    time.sleep(60)


@pytest.fixture(scope="module")
def ray() -> Iterator[RayCompute]:
    with RayCompute(cpus=2, ranks=2) as compute:
        yield compute


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def compute(request: pytest.FixtureRequest) -> Compute:
    return LocalCompute(ranks=2) if request.param == "local" else request.getfixturevalue("ray")


def test_map_keeps_the_order_of_its_items(compute: Compute) -> None:
    assert compute.map("square", square, range(20)) == [n * n for n in range(20)]


def test_map_of_nothing_is_nothing(compute: Compute) -> None:
    assert compute.map("square", square, []) == []


def test_map_tries_everything_and_tells_all_failures(compute: Compute) -> None:
    with pytest.raises(StageFailed) as caught:
        compute.map("square", square, [1, -2, 3, -4, 5])
    assert sorted(caught.value.failures) == [1, 3]
    assert str(caught.value) == "square: 2 of 5 shards failed; shard 1: ValueError('-2 is negative'), shard 3: ValueError('-4 is negative')"


def test_what_a_task_tells_reaches_the_listener(compute: Compute) -> None:
    told: list[dict[str, object]] = []
    detach = attach(told.append)
    try:
        compute.map("square", square, [3])
        if isinstance(compute, RayCompute):
            time.sleep(0.5)  # events travel beside results
            compute.map("square", square, [4])
    finally:
        detach()
    assert "squared 3" in [e.get("message") for e in told]
    assert {"stage": "square", "done": 1, "total": 1}.items() <= next(e for e in told if e["kind"] == "progress").items()


@pytest.mark.ray
def test_a_killed_worker_is_replaced_and_its_item_done_again(ray: RayCompute, tmp_path: Path) -> None:
    assert ray.map("die", partial(die_once, tmp_path / "mark"), range(3)) == [0, 1, 2]


def test_a_gang_has_its_ranks_and_shares_the_cores() -> None:
    told: list[dict[str, object]] = []
    detach = attach(told.append)
    try:
        results = LocalCompute(ranks=2).gang("g", rank)
    finally:
        detach()
    assert [r[:2] for r in results] == [(0, 2), (1, 2)]
    assert sorted(str(e.get("message")) for e in told) == ["hello from 0", "hello from 1"]


def test_a_program_that_imports_torch_first_has_its_ranks_share_the_cores_too(tmp_path: Path) -> None:
    """A spawned process looks at its parent's main module before it knows that it is a rank."""
    program = tmp_path / "program.py"
    program.write_text(
        "import torch\nfrom infra.compute import LocalCompute\n\n"
        "if __name__ == '__main__':\n    print(LocalCompute(3).gang('count', torch.get_num_threads))\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == f"{[max(1, cores() // 3)] * 3}\n", done.stderr


def test_a_killed_rank_restarts_the_gang(tmp_path: Path) -> None:
    begun = time.monotonic()
    assert LocalCompute().gang("g", partial(die_as_rank_one_once, tmp_path / "mark"), ranks=2) == ["done", "done"]
    assert time.monotonic() - begun < 40


def test_a_gang_that_always_dies_gives_up(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"g: 1 of 1 ranks failed; rank 0: .*process [0-9]+ on .* was killed by signal 9 SIGKILL"):
        LocalCompute(restarts=1).gang("g", die_always, ranks=1)


def test_an_exception_of_one_rank_ends_all_and_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match="rank 1: ValueError.'width 770"):
        LocalCompute().gang("g", fail_as_rank_one, ranks=2)


def test_a_preempted_gang_is_preempted_not_failed() -> None:
    with pytest.raises(Preempted, match="saved at step 3"):
        LocalCompute().gang("g", preempted, ranks=1)


def test_no_rank_outlives_its_gang(tmp_path: Path) -> None:
    with pytest.raises(StageFailed):
        LocalCompute().gang("g", partial(leave_a_pid, tmp_path), ranks=2)
    pids = [int(text) for p in tmp_path.iterdir() if (text := p.read_text())]  # the gang may end a rank before its first byte
    assert pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.ray
def test_a_cluster_that_does_not_answer_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        RayCompute(address="127.0.0.1:9").map("square", square, [1])
