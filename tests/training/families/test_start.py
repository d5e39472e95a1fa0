"""How a model starts: every weight from the paper's distribution, layer by layer; and where it drops, in training alone."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from training.backbone.attention import Attention
from training.backbone.transformer import Block, Embedding
from training.families.catalog import FAMILIES, family
from training.objectives.rtd import GeneratorDiscriminator
from training.objectives.tower import Tower

CUT = 0.8796  # deviation of a standard normal cut at two deviations
BIG = {"vocab": 1200, "width": 192, "layers": 4, "heads": 4, "positions": 256, "ffn": 0}
TRUNCATED = {"bert", "albert", "electra"}  # Google's releases; the others draw from the whole normal distribution
SCALED = {"gpt2", "gpt3", "distilgpt2"}  # GPT-2, section 2.3: 1/sqrt of the number of residual layers, which are two a block


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_starts_as_the_paper_has_it(name: str, reference: SimpleNamespace) -> None:
    narrow = {"embedding_width": 96} if name in ("albert", "electra") else {}
    tower = family(name).build(reference.small_config(name, **BIG, **narrow), seed=1)
    for path, parameter in tower.named_parameters():
        if parameter.dim() == 1:
            wanted = float("norm" in path and path.endswith("weight"))
            assert torch.equal(parameter, torch.full_like(parameter, wanted)), path
            continue
        std = 0.02
        if name in SCALED and path.endswith(("attention.out.weight", "ffn.down.weight")):
            std /= math.sqrt(2 * BIG["layers"])
        if name in TRUNCATED:
            assert parameter.abs().max() <= 2 * std + 1e-7, path
            std *= CUT
        elif parameter.numel() > 10_000:
            assert parameter.abs().max() > 3 * std, path
        noise = 5 / math.sqrt(2 * parameter.numel())  # of a deviation's estimate, in deviations of it, five times
        assert parameter.std().item() == pytest.approx(std, rel=max(0.01, noise)), path
        assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel()), path


# ---- dropout -------------------------------------------------------------------------------------------------------------


def places(tower: nn.Module) -> dict[str, nn.Module]:
    """Where the papers drop: after the embedding, on the attention probabilities, after each of a block's two sublayers."""
    found: dict[str, nn.Module] = {}
    for path, module in tower.named_modules():
        if isinstance(module, Embedding | Block):
            found[f"{path}.dropout"] = module.dropout
        elif isinstance(module, Attention):
            found[path] = module
    return found


def output(tower: Tower, batch: object) -> Tensor:
    torch.manual_seed(3)
    return torch.stack(list(tower(batch).parts.values()))


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_is_at_every_place_of_the_paper_in_training_and_nowhere_in_evaluation(name: str, reference: SimpleNamespace) -> None:
    narrow = {"embedding_width": 16} if name in ("albert", "electra") else {}
    config = replace(reference.small_config(name, layers=2, **narrow), dropout=0.3)
    tower = family(name).build(config, seed=0).eval()
    reference.disturb(tower, 0)
    batch = reference.make_batch(config, [h.name for h in tower.heads if h.name != "rtd"], 0, padded=True)
    quiet = output(tower, batch)
    assert torch.equal(quiet, output(tower, batch))
    layers = 1 if config.share == "all" else 2
    towers = 2 if isinstance(tower, GeneratorDiscriminator) else 1
    found = places(tower)
    assert len(found) == towers * (1 + 2 + layers), list(found)
    rates = {m.p if isinstance(m, nn.Dropout) else m.dropout for m in found.values()}
    assert rates == {0.3}
    for path, place in found.items():
        place.train()
        assert not torch.equal(quiet, output(tower, batch)), path
        place.eval()
    assert {path for path, m in tower.named_modules() if isinstance(m, nn.Dropout) and m.p} == {p for p in found if p.endswith("dropout")}


def test_what_is_dropped_is_scaled_up_and_its_share_is_the_rate() -> None:
    embedding = Embedding(family("bert").backbone("tiny", vocab=50))
    torch.manual_seed(0)
    x = embedding.train()(torch.randint(50, (64, 128)), None, None)
    assert (x == 0).float().mean().item() == pytest.approx(0.1, abs=0.003)
    kept = embedding.eval()(torch.randint(50, (1, 8)), None, None)
    assert (kept != 0).all()


@pytest.mark.parametrize(("name", "rate"), [("bert", 0.1), ("roberta", 0.1), ("distilbert", 0.2), ("electra", 0.1), ("albert", 0.1)])
def test_a_classifier_drops_before_its_scores_as_released(name: str, rate: float, reference: SimpleNamespace) -> None:
    narrow = {"embedding_width": 16} if name in ("albert", "electra") else {}
    found = family(name)
    task = found.task_tower(found.build(reference.small_config(name, **narrow), seed=0), classes=3)
    assert [m.p for m in task.head("class").modules() if isinstance(m, nn.Dropout)] == [rate]
