"""A raylet is killed at twenty moments of a cluster's life; the run gets an error by name, and no process of the cluster is left."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress

import psutil
import pytest

from infra.errors import RayLost
from infra.processes import of_session
from infra.ray_compute import RayCompute

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]


def wait(number: int) -> int:
    time.sleep(0.5)
    return number


def kill_raylet(compute: RayCompute, after: float, drivers: list[int]) -> None:
    """Kill it so many seconds after it began."""
    while compute._driver is None:
        time.sleep(0.01)
    drivers.append(compute._driver.process.pid or -1)
    while not (found := [one for one in of_session(drivers[0]) if name(one) == "raylet"]):
        time.sleep(0.01)
    time.sleep(after)
    found[0].kill()


def name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return process.name()
    return ""


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_left_of_a_cluster_whose_raylet_is_killed(seed: int) -> None:
    drivers: list[int] = []
    compute = RayCompute(cpus=2)
    killer = threading.Thread(target=kill_raylet, args=(compute, 5 * random.Random(seed).random() ** 2, drivers), daemon=True)
    killer.start()
    with compute, pytest.raises(RayLost):
        compute.map("wait", wait, range(100))
    killer.join()
    assert drivers and not of_session(drivers[0])
