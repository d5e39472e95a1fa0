"""Four ranks, then two, then one, then four again, each under another stage of ZeRO: the run goes on by itself, along one curve."""

from __future__ import annotations

import itertools
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from infra.compute import LocalCompute
from infra.log import attach
from tests.training.engine.trial import Seen, Trial, plain, run_all, settings
from training.engine.loop import LoopConfig
from training.engine.optim import OptimConfig

STEPS = 20
WORLDS = {4: 7, 2: 12, 1: 17}  # ranks -> the step at which they lose their disk; checkpoints stand at 5, 10 and 15
OPTIMISERS = {
    "adamw": OptimConfig(lr=1e-3, warmup=3),
    "lamb": OptimConfig(lr=1e-2, warmup=3, optimiser="lamb", bias_correction=False),
    "muon": OptimConfig(lr=1e-3, warmup=3, optimiser="muon"),
}
pytestmark = pytest.mark.slow


class Way(NamedTuple):
    """A training, and ZeRO's stage on the four, two, one and four ranks that carry it on."""

    kind: str
    optimiser: str
    stages: tuple[int, int, int, int]
    precision: str = "fp32"

    def config(self, leg: int) -> LoopConfig:
        optimiser = OPTIMISERS[self.optimiser]
        return settings(steps=STEPS, zero=self.stages[leg], micro_batch=3, optimiser=optimiser, precision=self.precision, background=False)

    def trial(self, root: Path, leg: int, **feed: object) -> Trial:
        name = f"{self.kind}-{self.optimiser}-{self.precision}-{''.join(map(str, self.stages))}"
        return Trial(root / name, self.config(leg), self.kind, feed=feed)


WAYS = [
    *(Way("bert", "adamw", (stage,) * 4) for stage in range(4)),
    Way("electra", "adamw", (2, 2, 2, 2)),
    Way("half", "adamw", (3, 0, 2, 1)),
    Way("albert", "adamw", (3, 2, 1, 0)),
    Way("electra", "adamw", (0, 3, 1, 2)),
    Way("bert", "lamb", (1, 3, 2, 0)),
    Way("bert", "muon", (2, 3, 0, 1)),
]
ROUNDED = Way("bert", "adamw", (1, 0, 3, 2), "bf16")
CALM = Way("bert", "adamw", (1, 1, 1, 1), "bf16")  # never disturbed


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
    for leg, (ranks, step) in enumerate(WORLDS.items()):
        trials = [way.trial(root, leg, fail_at=step) for way in (*WAYS, ROUNDED)]
        assert LocalCompute(ranks, restarts=0).gang("elastic", partial(until_the_disk_is_gone, trials)) == [ranks] * ranks
    whole = [way.trial(root, 3) for way in (*WAYS, ROUNDED, CALM)]
    seen = LocalCompute(4, restarts=0).gang("elastic", partial(run_all, whole))[0]
    detach()
    assert seen is not None
    return seen, [e["message"] for e in told if "goes on from step" in e.get("message", "")]


@pytest.mark.parametrize(("number", "way"), list(enumerate(WAYS)))
def test_four_ranks_then_two_then_one_then_four_replay_one_curve(number: int, way: Way, ended: tuple[list[Seen], list[str]]) -> None:
    losses, _, weights = plain(way.kind, way.config(0))
    seen = ended[0][number]
    assert [line["step"] for line in seen.lines] == list(range(STEPS))
    assert seen.losses == pytest.approx(losses, abs=1e-5)
    for name, value in weights.items():
        assert seen.weights[name] == pytest.approx(value, abs=1e-4, rel=1e-3), name


def test_in_bf16_the_curve_stays_beside_that_of_an_undisturbed_run(ended: tuple[list[Seen], list[str]]) -> None:
    """Not on it: other shares of a batch are rounded otherwise. That no bit of the weights is lost is test_universal's."""
    seen, calm = ended[0][-2:]
    assert [line["step"] for line in seen.lines] == list(range(STEPS))
    assert seen.losses == pytest.approx(calm.losses, abs=0.01)


def test_the_ways_take_every_change_of_stage() -> None:
    changes = {change for way in (*WAYS, ROUNDED) for change in itertools.pairwise(way.stages)}
    assert changes == set(itertools.product(range(4), range(4)))


def test_every_change_went_on_from_the_last_checkpoint(ended: tuple[list[Seen], list[str]]) -> None:
    assert [int(said.rsplit(" ", 1)[1]) for said in ended[1]] == [step for step in (5, 10, 15) for _ in (*WAYS, ROUNDED)]
