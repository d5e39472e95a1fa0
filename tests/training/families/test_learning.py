"""The comparisons of tests/training/prove.py run, and the small facts they rest on hold; prove_learning.py runs them in full."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training import prove
from training.families.catalog import FAMILIES, family
from training.feed.batch import Batch
from training.objectives.rtd import GeneratorDiscriminator, corrupt

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("medium")


def test_every_family_is_proven() -> None:
    assert set(prove.PARTS) == {"families", "masking", "pairs", "probe", "sharing", "electra"}
    shapes = {name: prove.Scale().shape(found) for name, found in FAMILIES.items()}
    assert all({"width", "layers", "heads", "positions", "ffn"} <= set(shape) for shape in shapes.values())


@pytest.mark.prove
def test_the_script_runs_every_part_of_it_on_a_cpu(data: Path) -> None:
    """A few steps: that it runs, not that it shows."""
    command = [sys.executable, "-m", "tests.training.prove", "--tiny"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in prove.PARTS:
        assert f"### {name}:" in done.stdout
    assert done.stdout.count("scale tiny") == len(prove.PARTS)


def test_the_script_says_what_it_lacks() -> None:
    command = [sys.executable, "-m", "tests.training.prove", "--part", "probe"]
    without = {k: v for k, v in os.environ.items() if k != prove.DATA}
    done = subprocess.run(command, cwd=ROOT, env=without, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"{prove.DATA} names no folder" in done.stderr


def test_the_discriminator_doubts_better_than_the_base_rate(tmp_path: Path) -> None:
    """One batch by heart, with one fixed draw of the generator: its loss ends below the entropy of the share of replaced tokens."""
    found = family("electra")
    config = replace(found.backbone("tiny", vocab=200), width=64, ffn=128, embedding_width=32, heads=4, layers=2, positions=32, dropout=0.0)
    tower = found.build(config, seed=1)
    assert isinstance(tower, GeneratorDiscriminator)
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 200, (8, 32), generator=rng)
    labels = tokens.masked_fill(torch.rand(8, 32, generator=rng) > 0.15, -100)
    batch = Batch(tokens, None, None, {"mlm": labels})
    drawn = torch.randint(5, 200, (batch.count("mlm"),), generator=rng)
    shown, replaced = corrupt(batch, drawn)
    share = replaced.float().mean().item()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    doubt = tower.head("rtd")
    optimiser = torch.optim.AdamW([*tower.backbone.parameters(), *doubt.parameters()], 1e-3)
    for _ in range(200):
        loss = doubt(tower.backbone(shown), replaced)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * entropy, f"{loss.item():.3f} against {entropy:.3f}"
    assert all(p.grad is None for n, p in tower.generator.named_parameters() if not n.startswith("embedding.")), "nothing flows back to it"
