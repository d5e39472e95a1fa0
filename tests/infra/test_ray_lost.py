"""A Ray cluster that is gone, or refuses: the caller gets an error that names it, and no process is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from infra.errors import ConfigError, RayLost
from infra.log import attach
from infra.ray_compute import RayCompute
from tests.infra.nodes import Nodes

pytestmark = [pytest.mark.ray, pytest.mark.cluster]


def wait_after_mark(mark: Path, number: int) -> int:
    mark.touch()
    time.sleep(60 if number else 0)
    return number


def kill_rank_once(mark: Path) -> str:
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with Nodes(2) as made:
        yield made


@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_cluster_that_dies_is_named(victim: str, nodes: Nodes, tmp_path: Path) -> None:
    def strike() -> None:
        while not (tmp_path / "mark").exists():
            time.sleep(0.1)
        for one in nodes.nodes[0].process.children(recursive=True):
            with suppress(psutil.Error):
                if one.name() == victim:
                    one.kill()

    threading.Thread(target=strike, daemon=True).start()
    with RayCompute(address=nodes.address) as compute, pytest.raises(RayLost, match=f"wait: lost Ray on the cluster at {nodes.address}: "):
        compute.map("wait", partial(wait_after_mark, tmp_path / "mark"), range(4))
    assert not multiprocessing.active_children(), "the driver is gone"


def test_a_map_outlives_the_process_that_collects_its_events(nodes: Nodes, tmp_path: Path) -> None:
    struck: list[int] = []

    def strike() -> None:
        while not (tmp_path / "mark").exists():
            time.sleep(0.1)
        for one in (child for node in nodes.nodes for child in node.process.children(recursive=True)):
            with suppress(psutil.Error):
                if any("_Mailbox" in word for word in (one.name(), *one.cmdline())):
                    one.kill()
                    struck.append(one.pid)

    def slow(number: int) -> int:
        (tmp_path / "mark").touch()
        time.sleep(0.5)
        return number

    killer = threading.Thread(target=strike, daemon=True)
    killer.start()
    with RayCompute(address=nodes.address) as compute:
        assert compute.map("wait", slow, range(20)) == list(range(20))
    killer.join()
    assert struck


def test_a_lost_rank_names_its_host_and_what_to_do(nodes: Nodes, tmp_path: Path) -> None:
    told: list[str] = []
    detach = attach(lambda event: told.append(str(event.get("message", ""))))
    with RayCompute(address=nodes.address) as compute:
        assert compute.gang("train", partial(kill_rank_once, tmp_path / "mark"), ranks=1) == ["done"]
    detach()
    [said] = [text for text in told if "was lost" in text]
    assert f"train: rank 0 on host {socket.gethostname()} (" in said and "Ray node" in said and "dmesg" in said and "restarts" in said, said


def test_a_cluster_that_wants_another_token_is_refused(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "8" * 64)
    with RayCompute(address=nodes.address) as compute, pytest.raises(ConfigError, match="no Ray cluster answers at .*RAY_AUTH_TOKEN_PATH"):
        compute.map("wait", abs, [1])
