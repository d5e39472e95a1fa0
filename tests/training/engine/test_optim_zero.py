"""LAMB, Muon and Adam without bias correction: sharing a matrix out over ranks changes nothing, under any stage, resumed or not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from infra.compute import LocalCompute
from tests.training.engine.trial import TOWERS, Numbers, Seen, Trial, run_all, settings
from training.engine.optim import OptimConfig, lr_at, make

STEPS = 8
KINDS = {
    "lamb": OptimConfig(lr=2e-2, warmup=2, optimiser="lamb", bias_correction=False, weight_decay=0.1),
    "adam": OptimConfig(lr=2e-3, warmup=2, bias_correction=False, weight_decay=0.1),
    "muon": OptimConfig(lr=2e-3, warmup=2, optimiser="muon", weight_decay=0.1),
}


def plain(config: OptimConfig) -> tuple[list[float], dict[str, torch.Tensor]]:
    """One process, whole matrices, no DeepSpeed."""
    torch.manual_seed(7)
    tower, feed = TOWERS["bert"](), Numbers("bert")
    optimiser, losses = make(tower, config), []
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = lr_at(config, step, STEPS)
        optimiser.zero_grad()
        loss = tower(feed.whole(step)).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses, tower.state_dict()


def trials(root: Path) -> dict[tuple[str, int], Trial]:
    return {
        (kind, stage): Trial(root / f"{kind}-{stage}", settings(steps=STEPS, zero=stage, optimiser=KINDS[kind], save_every=4), "bert")
        for kind in KINDS
        for stage in range(4)
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Seen]:
    named = trials(tmp_path_factory.mktemp("optim"))
    return dict(zip(named, LocalCompute(2).gang("optim", partial(run_all, list(named.values())))[0], strict=True))


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_do_what_one_process_does(kind: str, stage: int, seen: dict[tuple[str, int], Seen]) -> None:
    losses, weights = plain(KINDS[kind])
    found = seen[kind, stage]
    assert found.losses == pytest.approx(losses, abs=2e-5)
    for name, value in weights.items():
        torch.testing.assert_close(found.weights[name], value, atol=2e-5, rtol=1e-3, msg=name)
