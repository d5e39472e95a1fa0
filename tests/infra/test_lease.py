"""A lease keeps others out while its holder lives, and no longer."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from infra import lease


def test_one_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def enter() -> None:
        nonlocal inside, most
        with lease.held(tmp_path / "x.lease"):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.02)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_the_lease_of_a_dead_process_of_this_machine_is_taken_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    path.write_text(
        json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": 1.0, "id": "old"})
    )  # the pid lives on as another process
    begun = time.monotonic()
    with lease.held(path):
        assert time.monotonic() - begun < 2


def test_a_silent_holder_on_another_machine_is_waited_for_and_then_outlived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "DEAD_S", 0.6)
    path = tmp_path / "x.lease"
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": 1.0, "id": "other"}))
    begun = time.monotonic()
    with lease.held(path):
        assert time.monotonic() - begun >= 0.6
