"""Activation checkpointing and offload change memory and nothing else; what cannot be is refused before work."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from infra.compute import LocalCompute
from infra.errors import ConfigError
from tests.training.engine.trial import Numbers, Seen, Trial, bert, gpt, run_all, settings
from training import settings as meaning
from training.backbone.config import BackboneConfig
from training.backbone.transformer import Backbone, recompute
from training.engine.zero import ZeroConfig
from training.objectives.language import LanguageHead
from training.objectives.rtd import GeneratorDiscriminator
from training.objectives.tower import Tower
from training.pretrain_config import PretrainConfig


def small(share: str = "none", generator: bool = False) -> Tower:
    width = 16 if generator else 32
    config = BackboneConfig(
        vocab=48, width=width, layers=3, heads=2, positions=12, causal=False, norm="post", embedding_norm=True, embedding_width=16,
        share=share, dropout=0.2,
    )  # fmt: skip
    return Tower(Backbone(config), [])


def albert() -> Tower:
    body = small("all").backbone
    return Tower(body, [LanguageHead("mlm", body)])


def electra() -> Tower:
    return GeneratorDiscriminator(small(generator=True).backbone, small().backbone)


MADE = {"gpt": partial(gpt, 0.2), "bert": partial(bert, 0.2), "albert": albert, "electra": electra}


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("kind", MADE)
def test_layers_computed_again_give_the_same_bits_with_dropout_on(kind: str, every: int) -> None:
    torch.manual_seed(0)
    tower = MADE[kind]().train()
    batch, seen = Numbers("gpt" if kind == "gpt" else "bert").whole(0), []
    for asked in (0, every):
        recompute(tower, asked)
        tower.zero_grad()
        torch.manual_seed(5)
        total = tower(batch).total
        total.backward()
        seen.append([total.detach(), *(p.grad for p in tower.parameters() if p.grad is not None)])
    assert len(seen[0]) == len(seen[1]) > 10
    assert all(torch.equal(one, other) for one, other in zip(*seen, strict=True))


def kept(every: int) -> int:
    """Bytes that the backward pass of a deep tower waits with."""
    torch.manual_seed(0)
    config = BackboneConfig(vocab=16, width=32, layers=8, heads=2, positions=64, causal=True, norm="pre", embedding_norm=False, dropout=0.1)
    body = Backbone(config)
    recompute(body, every)
    held: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    tokens = torch.randint(16, (4, 64))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        body(tokens).last_BLD.sum()
    return sum(held.values())


def test_it_keeps_a_fraction_of_the_activations() -> None:
    all_kept, half, least = kept(0), kept(2), kept(1)
    assert least < 0.2 * all_kept
    assert 0.4 * all_kept < half < 0.7 * all_kept


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """Two ranks; plain, recomputed under every stage, offloaded where a CPU can play both parts."""
    root: Path = tmp_path_factory.mktemp("options")
    said = {f"plain-{stage}": {"zero": stage} for stage in range(4)}
    said |= {f"again-{stage}": {"zero": stage, "recompute": 1} for stage in range(4)}
    said |= {f"offload-{stage}": {"zero": stage, "offload": "optimizer"} for stage in (1, 2, 3)}
    said |= {"offload-all": {"zero": 3, "offload": "parameters"}}
    trials = [Trial(root / name, settings(steps=8, save_every=99, **config), "bert", dropout=0.1) for name, config in said.items()]
    return dict(zip(said, LocalCompute(2).gang("options", partial(run_all, trials))[0], strict=True))


@pytest.mark.parametrize("stage", range(4))
def test_under_every_stage_recomputing_changes_no_bit(stage: int, runs: dict[str, Seen]) -> None:
    plain, again = runs[f"plain-{stage}"], runs[f"again-{stage}"]
    assert again.losses == plain.losses
    assert all(torch.equal(again.weights[name], value) for name, value in plain.weights.items())


@pytest.mark.parametrize(("name", "stage"), [("offload-1", 1), ("offload-2", 2), ("offload-3", 3), ("offload-all", 3)])
def test_an_offloaded_optimiser_takes_the_same_steps(name: str, stage: int, runs: dict[str, Seen]) -> None:
    assert runs[name].losses == pytest.approx(runs[f"plain-{stage}"].losses, abs=1e-5)


@pytest.mark.parametrize("wrong", [{"stage": 0, "offload": "optimizer"}, {"stage": 2, "offload": "parameters"}, {"offload": "disk"}])
def test_offload_that_cannot_be_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="offload"):
        ZeroConfig(**wrong)
    with pytest.raises(ConfigError, match="offload"):
        PretrainConfig("gpt2", "tiny", **{"zero" if name == "stage" else name: value for name, value in wrong.items()})


def test_a_recipe_reaches_them() -> None:
    told = meaning.loop_config(PretrainConfig("gpt2", "tiny", zero=2, activation_checkpointing=2, offload="optimizer"))
    assert (told.recompute, told.offload, told.zero) == (2, "optimizer", 2)
    with pytest.raises(ConfigError, match="activation_checkpointing"):
        PretrainConfig("gpt2", "tiny", activation_checkpointing=-1)
