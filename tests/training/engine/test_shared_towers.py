"""ELECTRA's two towers under every stage of ZeRO on two ranks: one embedding in one storage, before, through and after a failure."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.compute import LocalCompute
from tests.training.engine.trial import Numbers, backbone, settings
from training.backbone.transformer import Backbone
from training.engine.loop import Trained, train
from training.engine.measure import METRICS, read
from training.families.catalog import family, load
from training.objectives.rtd import GeneratorDiscriminator

EMBEDDINGS = ("backbone.embedding", "generator.embedding")
PARTS = ("token.weight", "position.weight", "segment.weight", "norm.weight", "norm.bias")


@dataclass
class Ended:
    losses: list[float]
    arrays: dict[str, np.ndarray]
    storages: list[int]  # of the token embedding under its three names


def towers() -> GeneratorDiscriminator:
    config = replace(backbone(False, 0.1), embedding_width=24, generator=0.25)
    tower = family("electra").build(config)
    assert isinstance(tower, GeneratorDiscriminator)
    return tower


def ended(out: Path, done: Trained) -> Ended:
    weights = done.weights or {}
    names = [f"{e}.token.weight" for e in EMBEDDINGS] + ["heads.0.scores.weight"]
    arrays = {name: x.clone().numpy() for name, x in weights.items()}
    return Ended(
        [line["loss"] for line in read(out / METRICS)], arrays, [weights[n].untyped_storage().data_ptr() for n in names if weights]
    )


def program(root: Path) -> list[tuple[Ended, Ended]] | None:
    """For each stage: twelve steps; and twelve steps with a failure at the seventh, after a checkpoint at the fifth."""
    torch.set_num_threads(1)
    found = []
    for zero in range(4):
        both = []
        for broken in (False, True):
            out = root / f"{zero}-{broken}"
            out.mkdir(parents=True, exist_ok=True)
            config = settings(zero=zero, micro_batch=3)
            if broken:
                with pytest.raises(ValueError, match="disk"):
                    train(towers, partial(Numbers, "bert", fail_at=7), None, config, out, "pretrain")
            both.append(ended(out, train(towers, partial(Numbers, "bert"), None, config, out, "pretrain")))
        found.append((both[0], both[1]))
    return found if os.environ["RANK"] == "0" else None


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Ended, Ended]]:
    return LocalCompute(2).gang("electra", partial(program, tmp_path_factory.mktemp("electra")))[0]


@pytest.mark.parametrize("zero", range(4))
def test_the_embedding_is_one_storage_after_training_and_after_resuming(zero: int, seen: list[tuple[Ended, Ended]]) -> None:
    for run in seen[zero]:
        assert len(run.storages) == 3 and len(set(run.storages)) == 1
        for part in PARTS:
            assert np.array_equal(*(run.arrays[f"{e}.{part}"] for e in EMBEDDINGS)), part


@pytest.mark.parametrize("zero", range(4))
def test_a_failed_run_goes_on_to_the_very_same_weights(zero: int, seen: list[tuple[Ended, Ended]]) -> None:
    straight, resumed = seen[zero]
    assert resumed.losses == straight.losses
    for name, array in straight.arrays.items():
        assert np.array_equal(array, resumed.arrays[name]), name


def test_every_stage_learns_the_same(seen: list[tuple[Ended, Ended]]) -> None:
    """The generator's samples are drawn by seed, step and rank: alike under every stage."""
    for straight, _ in seen[1:]:
        assert straight.losses == pytest.approx(seen[0][0].losses, rel=1e-3)


def test_what_was_trained_is_exported_and_read_back_with_one_embedding(seen: list[tuple[Ended, Ended]], tmp_path: Path) -> None:
    tower = towers()
    tower.load_state_dict({name: torch.from_numpy(x) for name, x in seen[3][0].arrays.items()})
    family("electra").export(tower, tmp_path)
    again = load(tmp_path)
    assert isinstance(again, GeneratorDiscriminator) and again.config.generator == 0.25
    assert again.generator.embedding.token is again.backbone.embedding.token
    assert again.head("mlm").scores.weight is again.backbone.embedding.token.weight
    for (name, ours), theirs in zip(tower.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_shared_embedding_is_one_parameter_of_the_tower() -> None:
    tower = towers()
    named = dict(tower.named_parameters(remove_duplicate=False))
    for part in PARTS:
        assert named[f"generator.embedding.{part}"] is named[f"backbone.embedding.{part}"]
    assert sum(p.numel() for p in tower.parameters()) < sum(p.numel() for p in named.values())
    assert isinstance(tower.generator, Backbone)
