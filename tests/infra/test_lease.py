"""A lease keeps others out while its holder lives, and no longer."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

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


def test_a_beat_that_the_system_refuses_is_followed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.02)
    path, real, refused = tmp_path / "x.lease", lease._read, threading.Event()

    def read(path: Path) -> dict[str, Any] | None:
        if threading.current_thread() is not threading.main_thread() and not refused.is_set():
            refused.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return real(path)

    with lease.held(path):
        monkeypatch.setattr(lease, "_read", read)
        assert refused.wait(60)
        before, ends = (real(path) or {}).get("beat", 0), time.monotonic() + 60
        while (real(path) or {}).get("beat", 0) <= before:
            assert time.monotonic() < ends
            time.sleep(0.01)
