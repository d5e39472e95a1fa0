"""`textmill run --profile`: TensorBoard's own reader finds the run's curves, the report the operators, and the artifact is the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.pipelines.conftest import Textmill


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


def test_a_window_behind_the_end_is_refused_at_once(recipe: Path, textmill: Textmill) -> None:
    told = textmill("plan", "small.yaml", "--set", "models.gpt.pretrain.profile=99:100")
    assert told.returncode == 2 and "ends with step" in told.stderr
