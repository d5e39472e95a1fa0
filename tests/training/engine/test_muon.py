"""Muon: an orthogonal step, torch's own where it is told a whole matrix, and AdamW for what is no hidden matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from infra.errors import ConfigError
from tests.training.engine.trial import ALL_TOWERS, Numbers
from training.engine.muon import Muon, orthogonal, own_share, whole
from training.engine.optim import OptimConfig, make

CONFIG = OptimConfig(lr=1e-2, optimiser="muon", weight_decay=0.1)


@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64)])
def test_a_step_has_singular_values_near_one_and_the_matrixs_own_directions(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    made = orthogonal(matrix)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.4 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ made @ v.T
    assert (inner - inner.diagonal().diag()).norm() < 0.02 * inner.norm(), "the same singular vectors"


def test_steps_are_torchs_own() -> None:
    """Several steps with momentum, decay and Nesterov; torch rounds its iteration to bfloat16."""
    torch.manual_seed(1)
    ours, theirs = (nn.Parameter(torch.ones(24, 8) * 0.1) for _ in range(2))
    mine = Muon([{"params": [ours], "orthogonal": True, "matrix": (24, 8), "weight_decay": 0.1}], 1e-2, (0.9, 0.95), 1e-8)
    other = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(6):
        gradient = torch.randn(24, 8)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        other.step()
    moved = (theirs.detach() - 0.1).norm()
    assert (ours - theirs).detach().norm() < 0.02 * moved
    assert 0.5 < float((ours - 0.1).detach().square().mean().sqrt()) / (6e-2 * 0.2) < 1.5, "as long as AdamW's"


@pytest.mark.parametrize("kind", ALL_TOWERS)
def test_hidden_matrices_alone_are_orthogonal_and_each_parameter_is_in_one_group(kind: str) -> None:
    tower = ALL_TOWERS[kind]()
    names = {id(p): name for name, p in tower.named_parameters()}
    groups = make(tower, CONFIG).param_groups
    listed = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(names.values())
    hidden = {names[id(p)] for group in groups if group["orthogonal"] for p in group["params"]}
    assert hidden == {name for name, p in tower.named_parameters() if ".blocks." in name and p.ndim == 2}
    assert all(group["weight_decay"] == (0.1 if group["params"][0].ndim == 2 else 0.0) for group in groups)


def test_a_tower_learns_by_it() -> None:
    torch.manual_seed(0)
    tower, batch = ALL_TOWERS["gpt"](), Numbers("gpt").whole(0)
    optimiser, losses = make(tower, CONFIG), []
    for _ in range(30):
        optimiser.zero_grad()
        loss = tower(batch).total
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and not math.isnan(losses[-1])


def test_a_share_that_is_filled_up_becomes_the_matrix_again() -> None:
    matrix = torch.arange(15.0).view(3, 5)
    flat = torch.cat([matrix.flatten(), torch.zeros(3)])
    assert torch.equal(whole(flat, (3, 5)), matrix) and whole(matrix, (3, 5)) is matrix
    assert torch.equal(own_share(matrix, flat), flat) and own_share(matrix, matrix) is matrix


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="muon is for the matrices of layers"):
        make(nn.Linear(3, 3), CONFIG)
