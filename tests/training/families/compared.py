"""Every family's model of ours beside the library's with the same random weights: how two are made, and how near they have to be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import torch
import transformers

from training.backbone.attention import Sight
from training.backbone.transformer import Hidden
from training.families.catalog import family
from training.feed.batch import IGNORE, Batch
from training.objectives.rtd import corrupt
from training.objectives.tower import Tower

CASES = {
    "gpt1": ("gpt1", {}),
    "gpt2": ("gpt2", {}),
    "gpt2-unusual": ("gpt2", {"tied": False, "scale_by_layer": True, "scale_attention": False, "activation": "silu"}),
    "gpt3": ("gpt3", {}),
    "distilgpt2": ("distilgpt2", {}),
    "bert": ("bert", {}),
    "bert-relu-ffn": ("bert", {"activation": "relu", "ffn": 48}),
    "roberta": ("roberta", {}),
    "distilroberta": ("distilroberta", {"activation": "relu"}),  # but for the masked-token head
    "distilbert": ("distilbert", {}),
    "tinybert": ("tinybert", {"ffn": 48}),
    "albert": ("albert", {"embedding_width": 16}),
    "albert-unshared": ("albert", {"embedding_width": 16, "share": "none"}),
    "albert-attention": ("albert", {"embedding_width": 16, "share": "attention"}),
    "albert-ffn": ("albert", {"embedding_width": 16, "share": "ffn"}),
}
ELECTRAS = {"electra": ("electra", {"embedding_width": 16}), "electra-wide": ("electra", {"embedding_width": 32, "activation": "relu"})}
TOLERANCE = 2e-5
PAIRED = {"bert": "next_sentence_label", "tinybert": "next_sentence_label", "albert": "sentence_order_label"}
WORST: dict[str, dict[str, float]] = {}  # by case: the largest differences that these tests saw


def seen(case: str, what: str, difference: float) -> float:
    worst = WORST.setdefault(case, {})
    worst[what] = max(worst.get(what, 0.0), difference)
    return difference


def pair(reference: SimpleNamespace, case: str, seed: int, folder: Path):
    """Our tower with random weights, and the library's model that read its export."""
    name, changes = CASES[case]
    found = family(name)
    tower = found.build(reference.small_config(name, **changes), seed=seed).eval()
    reference.disturb(tower, seed)
    found.export(tower, folder)
    return found, tower, reference.theirs_for(tower, folder)


def close(case: str, what: str, ours: torch.Tensor, theirs: torch.Tensor, at: torch.Tensor | None = None) -> None:
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs() if at is None else (ours - theirs)[at].abs()
    assert seen(case, what, difference.max().item()) < TOLERANCE, (what, difference.max().item())


def hidden_states_close(case: str, hidden: Hidden, states: tuple[torch.Tensor, ...], at: torch.Tensor | None) -> None:
    """ALBERT gives its embedding twice, before and after the projection; the last of theirs is after a final norm."""
    for mine, other in zip([*hidden.layers[:-1], hidden.last_BLD], states[-len(hidden.layers) :], strict=True):
        close(case, "hidden", mine, other, at)


def attention_close(case: str, tower: Tower, batch: Batch, maps: Hidden, theirs: tuple[torch.Tensor, ...]) -> None:
    """Our scores, masked and made probabilities, are the library's maps: what TinyBERT's students are taught by."""
    sight = Sight(tower.config, batch.tokens_BL, batch.keep_BL)
    assert len(maps.scores) == len(theirs) == tower.config.layers
    for layer, (scores, wanted) in enumerate(zip(maps.scores, theirs, strict=True)):
        mask = sight.mask(layer)
        seen_BHLL = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        real = None if batch.keep_BL is None else batch.keep_BL[:, None, :].expand(scores.shape[:3])
        close(case, "attention", seen_BHLL.softmax(-1), wanted, real)


def paired(case: str, batch: Batch) -> dict[str, torch.Tensor]:
    name = PAIRED.get(case.partition("-")[0])
    return {name: batch.labels["pair"]} if name and "pair" in batch.labels else {}


def shifted_back(batch: Batch) -> torch.Tensor:
    """The library shifts labels of causal models itself."""
    if "mlm" in batch.labels:
        return batch.labels["mlm"]
    following = batch.labels["next"]
    return torch.cat([torch.full_like(following[:, :1], IGNORE), following[:, :-1]], 1)


@torch.no_grad()
def weights_become_gradients(tower: torch.nn.Module) -> None:
    """So that they can be given the library's names."""
    for parameter in tower.parameters():
        parameter.copy_(parameter.grad)


def gradients_close(case: str, ours: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(wanted)
    floor = 1e-3 * max(gradient.norm() for gradient in wanted.values())  # a key's bias has no gradient but rounding
    for name, gradient in wanted.items():
        error = (ours[name] - gradient).norm() / gradient.norm().clamp_min(floor)
        assert seen(case, "gradient", error.item()) < 1e-4, (name, error)


def electras(case: str, seed: int, folder: Path, reference: SimpleNamespace):
    """Our two towers in one, and the library's discriminator and generator that read its export."""
    found, config = family("electra"), reference.small_config("electra", **ELECTRAS[case][1])
    tower = found.build(config, seed=seed).eval()
    reference.disturb(tower, seed)
    found.export(tower, folder)
    doubter = transformers.AutoModelForPreTraining.from_pretrained(folder, attn_implementation="eager").eval()
    guesser = transformers.AutoModelForMaskedLM.from_pretrained(folder / "generator", attn_implementation="eager").eval()
    for theirs in (doubter, guesser):  # which learn nothing where the generator proposes the padding piece; the released code did
        theirs.electra.embeddings.word_embeddings.padding_idx = None
    return found, tower, doubter, guesser


def doubted(tower: Tower, batch: Batch) -> tuple[Batch, torch.Tensor]:
    """What the discriminator sees: evaluation always samples alike."""
    tokens, replaced = corrupt(batch, tower.sample(tower.language_logits(batch, batch.labels["mlm"] != IGNORE), batch))
    return Batch(tokens, batch.segments_BL, batch.keep_BL), replaced
