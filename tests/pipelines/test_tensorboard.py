"""`textmill run --profile`: TensorBoard's own reader finds the run's curves, the report the operators, and the artifact is the same."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.event_file_writer import EventsWriter

from infra.log import attach, event
from infra.store import Store
from pipelines.tensorboard import Board
from tests.pipelines.conftest import Textmill

ROOT = Path(__file__).parents[2]


def curve(board: Path, name: str = "loss/train") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in EventAccumulator(str(board)).Reload().Scalars(name)]


def test_a_run_is_seen_in_tensorboard_and_profiled(recipe: Path, textmill: Textmill, tmp_path: Path) -> None:
    told = textmill("run", "small.yaml", "--plain", "--until", "pretrain", "--profile", "1:3")
    assert told.returncode == 0, told.stderr
    (run,) = (tmp_path / "workspace/runs").iterdir()
    (model,) = (tmp_path / "workspace/artifacts/pretrain").iterdir()
    lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    (board,) = (run / "tensorboard").iterdir()
    assert board.name == "gpt"
    seen = EventAccumulator(str(board)).Reload()
    curve = [(point.step, point.value) for point in seen.Scalars("loss/train")]
    assert curve == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    (held,) = seen.Scalars("loss/held_out")
    assert held.value == pytest.approx(lines[-1]["valid_loss"])
    assert {"speed/mfu", "optimiser/lr", "optimiser/gradient_norm", "held_out/perplexity"} <= set(seen.Tags()["scalars"])
    assert (model / "profile" / "trace.json.gz").stat().st_size > 1000
    page = (run / "report.html").read_text()
    assert "Steps 1 to 2 in the profiler" in page and "aten::" in page
    again = textmill("run", "small.yaml", "--plain", "--until", "pretrain")
    assert again.returncode == 0 and len(list((tmp_path / "workspace/artifacts/pretrain").iterdir())) == 1, "looking is no other model"


@pytest.mark.prove
def test_a_training_of_launched_ranks_is_seen_at_the_next_run_and_once(recipe: Path, textmill: Textmill, tmp_path: Path) -> None:
    assert textmill("run", "small.yaml", "--plain", "--until", "blocks").returncode == 0
    job = Path(textmill("slurm", "small.yaml").stdout.split()[1]).parent
    there = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "pipelines.rank", str(job)], env=there, cwd="/", check=True, capture_output=True)
    runs = tmp_path / "workspace" / "runs"
    assert not list(runs.glob("*/tensorboard"))
    for _ in range(2):
        told = textmill("run", "small.yaml", "--plain", "--until", "pretrain")
        assert told.returncode == 0, told.stderr
        (board,) = runs.glob("*/tensorboard/gpt")  # the second run shows nothing again
    (model,) = (tmp_path / "workspace/artifacts/pretrain").iterdir()
    lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
    assert curve(board) == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert curve(board, "loss/held_out") == [(line["step"], pytest.approx(line["valid_loss"])) for line in lines if "valid_loss" in line]
    seen = EventAccumulator(str(board)).Reload()
    assert {"speed/mfu", "optimiser/lr", "optimiser/gradient_norm", "held_out/perplexity"} <= set(seen.Tags()["scalars"])
    times = [point.wall_time for point in seen.Scalars("loss/train")]
    assert times == sorted(times) and times[-1] == pytest.approx((model / "metrics.jsonl").stat().st_mtime, abs=0.01)


def test_what_others_began_and_this_run_ends_is_one_curve(tmp_path: Path) -> None:
    store, run = Store(tmp_path / "artifacts"), tmp_path / "runs" / "one"
    metrics = store.scratch("pretrain", "abc") / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    lines = [{"step": step, "loss": 9.0 - step, "parts": {}, "speed": {"seconds": 2.0}} for step in range(4)]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo')
    board = Board(run, store)
    stage = {"kind": "stage", "time": 0.0, "label": "gpt", "stage": "pretrain", "fingerprint": "abc"}
    board.listen(stage | {"state": "running"})
    for step in (3, 4):  # step 3's line stands in the file already
        board.listen({"kind": "train", "time": 1e9 + step, "stage": "pretrain", "step": step, "loss": 9.0 - step})
    board.listen(stage | {"state": "done"})
    board.close()
    assert curve(run / "tensorboard" / "gpt") == [(step, 9.0 - step) for step in range(5)]
    metrics.parent.rename(store.path("pretrain", "abc"))
    again = Board(tmp_path / "runs" / "two", store)
    again.listen(stage | {"state": "cached"})
    again.close()
    assert not (tmp_path / "runs" / "two").exists(), "an earlier run shows it to its end"


def test_a_window_behind_the_end_is_refused_at_once(recipe: Path, textmill: Textmill) -> None:
    told = textmill("plan", "small.yaml", "--set", "models.gpt.pretrain.profile=99:100")
    assert told.returncode == 2 and "ends with step" in told.stderr


def test_a_full_disk_costs_the_scalars_one_warning_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    board, seen = Board(tmp_path / "run", Store(tmp_path / "artifacts")), list[str]()
    ends = [attach(lambda one: seen.append(one.get("message", ""))), attach(board.listen)]
    event("stage", label="gpt", stage="pretrain", fingerprint="0" * 16, state="running")
    event("train", stage="pretrain", step=0, total=50, loss=1.0)
    monkeypatch.setattr(EventsWriter, "write_event", full)
    for step in range(1, 50):  # a queue of ten, whose thread had ended, would block here
        event("train", stage="pretrain", step=step, total=50, loss=1.0)
    board.close()
    for end in ends:
        end()
    assert [text for text in seen if text] == [
        f"no more scalars for TensorBoard in {tmp_path / 'run/tensorboard'}: {os.strerror(errno.ENOSPC)}"
    ]
