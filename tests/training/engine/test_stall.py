"""A rank that is stopped for good does not stop the run: its peer notices, says where it stands, and all start again."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import torch

import infra.gang
from infra.compute import LocalCompute
from infra.log import attach
from tests.training.engine.trial import Trial, run_all, settings
from training.engine.stall import STALLED


@pytest.mark.slow
def test_a_stopped_rank_ends_the_gang_which_goes_on_from_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infra.gang, "GRACE_S", 2.0)  # a stopped process does not hear SIGTERM
    config = settings(steps=20, zero=2, micro_batch=3, stall_seconds=12.0)
    straight = Trial(tmp_path / "straight", config, "bert", dropout=0.1)
    stopped = Trial(tmp_path / "stopped", config, "bert", dropout=0.1, feed={"stop_at": 12, "mark": str(tmp_path / "mark")})
    told: list[dict] = []
    detach = attach(told.append)
    one, other = LocalCompute(2, restarts=2).gang("trial", partial(run_all, [straight, stopped]))[0]
    detach()
    said = [e["message"] for e in told if e["kind"] == "warning"]
    assert any("no progress for 12 s" in text for text in said) and any(f"ended with code {STALLED}" in text for text in said)
    assert any("goes on from step 10" in e.get("message", "") for e in told)
    assert one.losses == other.losses
    assert all(torch.equal(value, other.weights[name]) for name, value in one.weights.items())
    report = (tmp_path / "stopped" / "stalled-rank-0.txt").read_text()
    assert "all_reduce" in report or "distributed" in report, "where the waiting rank stood"


def ended(tmp_path: Path, body: str) -> tuple[int, str]:
    code = f"""
        import os, signal, subprocess, sys, time
        from pathlib import Path
        from training.engine.stall import StallWatch
        {body}
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "report")], timeout=60, check=False)
    return done.returncode, (tmp_path / "report").read_text() if (tmp_path / "report").exists() else ""


def test_without_progress_the_process_ends_and_says_where_it_stood(tmp_path: Path) -> None:
    code, report = ended(
        tmp_path,
        """
        def waiting_for_what_never_comes():
            time.sleep(60)
        with StallWatch(0.4, Path(sys.argv[1]), "pretrain"):
            waiting_for_what_never_comes()""",
    )
    assert code == STALLED and "waiting_for_what_never_comes" in report


def test_with_progress_or_after_the_training_nothing_ends(tmp_path: Path) -> None:
    code, report = ended(
        tmp_path,
        """
        with StallWatch(1.5, Path(sys.argv[1]), "pretrain") as watch:
            for _ in range(12):
                time.sleep(0.25)
                watch.beat()
        time.sleep(2)""",
    )
    assert code == 0 and not report


def test_a_process_that_was_itself_stopped_did_not_stall(tmp_path: Path) -> None:
    code, report = ended(
        tmp_path,
        """
        with StallWatch(2.0, Path(sys.argv[1]), "pretrain") as watch:
            subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -STOP {os.getpid()}; sleep 4; kill -CONT {os.getpid()}"])
            time.sleep(5.0)
            watch.beat()""",
    )
    assert code == 0 and not report
