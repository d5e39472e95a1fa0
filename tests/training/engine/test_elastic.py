"""Four ranks, then two, then one, then four again: the run goes on by itself each time, along the very curve of one process."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from infra.compute import LocalCompute
from infra.log import attach
from tests.training.engine.trial import Seen, Trial, plain, run_all, settings
from training.engine.loop import LoopConfig
from training.engine.optim import OptimConfig

STEPS = 20
WORLDS = {4: 7, 2: 12, 1: 17}  # ranks -> the step at which they lose their disk; checkpoints stand at 5, 10 and 15
KINDS = [("bert", 0), ("bert", 1), ("bert", 2), ("bert", 3), ("electra", 2)]
pytestmark = pytest.mark.slow


def config(zero: int) -> LoopConfig:
    return settings(steps=STEPS, zero=zero, micro_batch=3, optimiser=OptimConfig(lr=1e-3, warmup=3), background=False)


def until_the_disk_is_gone(trials: list[Trial]) -> int:
    for trial in trials:
        with pytest.raises(ValueError, match="disk were gone"):
            run_all([trial])
    return int(os.environ["WORLD_SIZE"])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Seen], list[str]]:
    root: Path = tmp_path_factory.mktemp("elastic")
    told: list[dict] = []
    detach = attach(told.append)
    for ranks, step in WORLDS.items():
        trials = [Trial(root / f"{kind}-{zero}", config(zero), kind, feed={"fail_at": step}) for kind, zero in KINDS]
        assert LocalCompute(ranks, restarts=0).gang("elastic", partial(until_the_disk_is_gone, trials)) == [ranks] * ranks
    whole = [Trial(root / f"{kind}-{zero}", config(zero), kind) for kind, zero in KINDS]
    seen = LocalCompute(4, restarts=0).gang("elastic", partial(run_all, whole))[0]
    detach()
    assert seen is not None
    return seen, [e["message"] for e in told if "goes on from step" in e.get("message", "")]


@pytest.mark.parametrize(("number", "kind"), enumerate(KINDS))
def test_four_ranks_then_two_then_one_then_four_replay_one_curve(
    number: int, kind: tuple[str, int], ended: tuple[list[Seen], list[str]]
) -> None:
    losses, _, weights = plain(kind[0], config(kind[1]))
    seen = ended[0][number]
    assert [line["step"] for line in seen.lines] == list(range(STEPS))
    assert seen.losses == pytest.approx(losses, abs=1e-5)
    for name, value in weights.items():
        assert seen.weights[name] == pytest.approx(value, abs=1e-4, rel=1e-3), name


def test_every_change_of_ranks_went_on_from_the_last_checkpoint(ended: tuple[list[Seen], list[str]]) -> None:
    assert [int(said.rsplit(" ", 1)[1]) for said in ended[1]] == [step for step in (5, 10, 15) for _ in KINDS]
