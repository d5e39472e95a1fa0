"""Patience and the best weights survive any stop: the resumed training ends at the same step with the same weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.compute import LocalCompute
from infra.errors import PipelineError, Preempted
from tests.training.engine.trial import Numbers, bert, gpt, settings
from training.engine import loop
from training.engine.checkpoint import Keep
from training.engine.optim import OptimConfig

# a rate that rises until the training diverges: the lowest validation loss lies before the end, and patience ends it early
CONFIG = settings(
    steps=24,
    micro_batch=3,
    optimiser=OptimConfig(lr=0.1, warmup=12, schedule="constant"),
    save_every=5,
    valid_every=2,
    patience=3,
    keep=Keep(1, True),
)
Found = tuple[int, Any, float, Any, dict[str, np.ndarray]]


def learn(out: Path, config: loop.LoopConfig, kind: str = "gpt", **feed: Any) -> Found:
    out.mkdir(parents=True, exist_ok=True)
    valid = partial(Numbers, kind, batch_size=7, steps_per_epoch=3)
    tower = partial({"gpt": gpt, "bert": bert}[kind], 0.1)
    done = loop.train(tower, partial(Numbers, kind, **feed), valid, config, out, "pretrain")
    return done.steps, done.best, done.loss, done.valid, {name: x.numpy().copy() for name, x in (done.weights or {}).items()}


def same(one: Found, other: Found) -> bool:
    return one[:4] == other[:4] and all(np.array_equal(value, other[4][name]) for name, value in one[4].items())


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """The step after which this rank is asked to stop."""
    asked, save = {"step": -1}, loop._Run._save

    def stopped(self: Any, wish: Any, verdict: Any) -> None:
        save(self, wish._replace(stop=self.point.step == asked["step"]), verdict)

    monkeypatch.setattr(loop._Run, "_save", stopped)
    yield asked


def test_a_training_stopped_after_any_step_ends_early_as_the_undisturbed_one(tmp_path: Path, stop_at: dict[str, int]) -> None:
    """Stopped at, before and after a validation, twice in a row, and once more when all is done."""
    whole = learn(tmp_path / "whole", CONFIG)
    assert 2 < whole[1].step < whole[0] < 24, "the training must diverge for this test"
    for steps in ((whole[1].step,), (whole[0] - 1,), (whole[1].step + 1, whole[1].step + 2)):
        out = tmp_path / "-".join(map(str, steps))
        for stop_at["step"] in steps:
            with pytest.raises(Preempted, match=f"saved after step {stop_at['step']} of 24"):
                learn(out, CONFIG)
        stop_at["step"] = -1
        assert same(learn(out, CONFIG), whole), steps
        assert same(learn(out, CONFIG), whole), "after a kill between the last step and the export"


def test_a_damaged_best_checkpoint_is_not_replaced_by_the_next_best(tmp_path: Path) -> None:
    whole = learn(tmp_path, CONFIG)
    best = tmp_path / ".checkpoints" / f"step-{whole[1].step}"
    share = next(path for path in sorted(best.rglob("*.pt")))
    share.write_bytes(share.read_bytes()[:-1])
    with pytest.raises(PipelineError, match=rf"step-{whole[1].step}, the checkpoint of the lowest validation loss, is damaged"):
        learn(tmp_path, CONFIG)


def both(root: Path, term_at: int) -> list[Found] | None:
    """A rank's program: ZeRO 2 and 3, one after the other."""
    found = []
    for zero in (2, 3):
        feed = {"term_at": term_at, "mark": str(root / f"asked-{zero}")} if term_at else {}
        found.append(learn(root / str(zero), replace(CONFIG, zero=zero), "bert", **feed))
    return found if os.environ["RANK"] == "0" else None


@pytest.mark.prove
def test_two_ranks_under_zero_2_and_3_end_alike_after_sigterm(tmp_path: Path) -> None:
    """The signal comes between two validations; the export is of the best step, gathered from both ranks."""
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = LocalCompute(2, 0).gang("trial", partial(both, tmp_path / "whole", 0))[0]
    assert whole is not None and all(one[1].step < one[0] < 24 for one in whole)
    for _ in range(2):
        with pytest.raises(Preempted, match="saved after step 5 of 24"):
            LocalCompute(2, 0).gang("trial", partial(both, tmp_path / "stopped", 5))
    again = LocalCompute(2, 0).gang("trial", partial(both, tmp_path / "stopped", 5))[0]
    assert again is not None and all(same(one, other) for one, other in zip(again, whole, strict=True))
