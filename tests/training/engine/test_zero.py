"""Every ZeRO stage on one and two ranks does what one plain process does, without DeepSpeed."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from infra.compute import LocalCompute
from infra.errors import ConfigError
from tests.training.engine.trial import TOWERS, Seen, Trial, plain, run_all, settings
from training.engine.zero import ZeroConfig

STEPS = 15


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str, int], Seen]:
    """By (ranks, kind, stage). Two gangs in all; micro-batches of 3 of 10 rows make uneven pieces everywhere."""
    root: Path = tmp_path_factory.mktemp("zero")
    seen = {}
    for ranks in (1, 2):
        names = [(ranks, kind, stage) for kind in TOWERS for stage in range(4)]
        trials = [
            Trial(root / f"{ranks}-{kind}-{stage}", settings(steps=STEPS, zero=stage, micro_batch=3, save_every=99, clip=0.5), kind)
            for ranks, kind, stage in names
        ]
        seen |= zip(names, LocalCompute(ranks).gang("zero", partial(run_all, trials))[0], strict=True)
    return seen


@pytest.mark.parametrize("kind", TOWERS)
def test_every_stage_on_one_and_two_ranks_follows_the_plain_loop(kind: str, curves: dict[tuple[int, str, int], Seen]) -> None:
    losses, norms, weights = plain(kind, settings(steps=STEPS, clip=0.5))
    for ranks in (1, 2):
        for stage in range(4):
            seen = curves[ranks, kind, stage]
            assert seen.losses == pytest.approx(losses, abs=2e-5), (ranks, stage)
            assert seen.losses[0] == pytest.approx(losses[0], abs=1e-6), (
                "ragged masks over ranks and micro-batches must not change the mean"
            )
            assert [line["norm"] for line in seen.lines] == pytest.approx(norms, rel=1e-4), (ranks, stage)
            assert set(seen.weights) == set(weights)
            for name, value in weights.items():
                torch.testing.assert_close(seen.weights[name], value, atol=2e-4, rtol=1e-3, msg=f"{ranks} {stage} {name}")


LAUNCHERS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME"}
LEFT = """
import os, sys
from pathlib import Path
from tests.training.engine.trial import Trial, run_all, settings
for stage in range(4):
    run_all([Trial(Path(sys.argv[1]) / str(stage), settings(steps=3, zero=stage, save_every=99))])
print(*os.environ)
"""


def test_a_training_within_a_program_leaves_nothing_that_what_it_starts_later_takes_for_a_launchers_word(tmp_path: Path) -> None:
    """RANK left behind makes every task of a later srun the first of its own world: they write over each other."""
    own = {name: value for name, value in os.environ.items() if name not in LAUNCHERS}
    done = subprocess.run([sys.executable, "-c", LEFT, str(tmp_path)], env=own, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & LAUNCHERS == {"LOCAL_RANK"}  # which DeepSpeed asks for at any time, and every launcher says anew


def test_tied_weights_come_back_as_one(curves: dict[tuple[int, str, int], Seen]) -> None:
    assert all(seen.tied for seen in curves.values())


def test_bf16_keeps_float32_weights_and_losses(tmp_path: Path) -> None:
    trials = [Trial(tmp_path / f"{stage}", settings(zero=stage, precision="bf16", save_every=99), "bert") for stage in range(4)]
    losses, _, weights = plain("bert", settings())
    for seen in LocalCompute(2).gang("bf16", partial(run_all, trials))[0]:
        assert seen.losses == pytest.approx(losses, abs=0.03)
        assert any(torch.tensor(x).bfloat16().item() != x for x in seen.losses)
        name = "backbone.blocks.0.ffn.up.weight"
        assert seen.weights[name].dtype == torch.float32
        assert not torch.equal(seen.weights[name].bfloat16().float(), seen.weights[name]), "the master weights, not their bf16 copy"
        torch.testing.assert_close(seen.weights[name], weights[name], atol=5e-3, rtol=0.05)


@pytest.mark.parametrize("wrong", [{"stage": 4}, {"precision": "fp8"}, {"accumulation": 0}, {"clip": -1.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        ZeroConfig(**wrong)
