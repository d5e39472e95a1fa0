from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from training.backbone import exchange
from training.families.catalog import family, load
from training.feed.batch import IGNORE, Batch

CASES = {
    "gpt1": ("gpt1", {}),
    "gpt2": ("gpt2", {}),
    "gpt3": ("gpt3", {}),
    "distilgpt2": ("distilgpt2", {}),
    "bert": ("bert", {}),
    "bert-relu-ffn": ("bert", {"activation": "relu", "ffn": 48}),
    "roberta": ("roberta", {}),
    "distilroberta": ("distilroberta", {}),
    "distilbert": ("distilbert", {}),
    "albert": ("albert", {"embedding_width": 16}),
    "albert-unshared": ("albert", {"embedding_width": 16, "share": "none"}),
    "albert-attention": ("albert", {"embedding_width": 16, "share": "attention"}),
    "albert-ffn": ("albert", {"embedding_width": 16, "share": "ffn"}),
}
ELECTRAS = {"electra": ("electra", {"embedding_width": 16}), "electra-wide": ("electra", {"embedding_width": 32})}
TOLERANCE = 2e-5


def pair(reference: SimpleNamespace, case: str, seed: int, folder: Path):
    """Our tower with random weights, and the library's model that read its export."""
    name, changes = CASES[case]
    found = family(name)
    tower = found.build(reference.small_config(name, **changes), seed=seed).eval()
    reference.disturb(tower, seed)
    found.export(tower, folder)
    return found, tower, reference.theirs_for(tower, folder)


def close(ours: torch.Tensor, theirs: torch.Tensor, at: torch.Tensor | None = None) -> None:
    at = torch.ones(ours.shape[:2], dtype=torch.bool) if at is None else at
    difference = (ours - theirs)[at].abs().max().item()
    assert difference < TOLERANCE, difference


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", CASES)
def test_logits_hidden_states_and_losses_are_the_librarys(
    case: str, seed: int, padded: bool, tmp_path: Path, reference: SimpleNamespace
) -> None:
    _, tower, theirs = pair(reference, case, seed, tmp_path)
    names = [h.name for h in tower.heads]
    batch = reference.make_batch(tower.config, names, seed, padded)
    with torch.no_grad():
        labels = {"labels": shifted_back(batch)} | ({"next_sentence_label": batch.labels["pair"]} if case.startswith("bert") else {})
        labels |= {"sentence_order_label": batch.labels["pair"]} if case.startswith("albert") else {}
        out = theirs(**reference.inputs(batch), **labels, output_hidden_states=True)
        hidden = tower.hidden(batch, every_layer=True)
        ours = tower(batch)
    logits = out.prediction_logits if "prediction_logits" in out else out.logits
    close(tower.language_logits(batch), logits, batch.keep_BL)
    for mine, other in zip(hidden.layers[:-1], out.hidden_states[-len(hidden.layers) : -1], strict=True):
        close(mine, other, batch.keep_BL)
    close(hidden.last_BLD, out.hidden_states[-1], batch.keep_BL)
    assert ours.total.item() == pytest.approx(out.loss.item(), abs=TOLERANCE)
    if "pair" in names:
        pair_logits = out.seq_relationship_logits if case.startswith("bert") else out.sop_logits
        torch.testing.assert_close(tower.head("pair").logits(hidden), pair_logits, atol=TOLERANCE, rtol=0)


def shifted_back(batch: Batch) -> torch.Tensor:
    """The library shifts labels of causal models itself."""
    if "mlm" in batch.labels:
        return batch.labels["mlm"]
    following = batch.labels["next"]
    return torch.cat([torch.full_like(following[:, :1], IGNORE), following[:, :-1]], 1)


@pytest.mark.parametrize("case", [c for c in CASES if c not in ("albert-attention", "albert-ffn")])
def test_gradients_are_the_librarys(case: str, tmp_path: Path, reference: SimpleNamespace) -> None:
    found, tower, theirs = pair(reference, case, 3, tmp_path)
    batch = reference.make_batch(tower.config, [h.name for h in tower.heads], 3, padded=True)
    tower(batch).total.backward()
    labels = {"labels": shifted_back(batch)}
    if "pair" in batch.labels:
        labels["next_sentence_label" if case.startswith("bert") else "sentence_order_label"] = batch.labels["pair"]
    theirs(**reference.inputs(batch), **labels).loss.backward()
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.copy_(parameter.grad)
    ours = exchange.to_theirs(tower, found.layout)
    wanted = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert set(ours) == set(wanted)
    floor = 1e-3 * max(gradient.norm() for gradient in wanted.values())  # a key's bias has no gradient but rounding
    for name, gradient in wanted.items():
        error = (ours[name] - gradient).norm() / gradient.norm().clamp_min(floor)
        assert error < 1e-4, (name, error)


@pytest.mark.parametrize("case", [*CASES, *ELECTRAS])
def test_a_classifier_is_the_librarys_classifier(case: str, tmp_path: Path, reference: SimpleNamespace) -> None:
    name, changes = {**CASES, **ELECTRAS}[case]
    found, config = family(name), reference.small_config(name, **changes)
    body = found.build(config, seed=0)
    tower = found.task_tower(body, classes=3).eval()
    reference.disturb(tower, 5)
    found.export(tower, tmp_path, pad_one(tmp_path))
    theirs = reference.theirs_for(tower, tmp_path)
    batch = reference.make_batch(config, ["class"], 0, padded=True)
    with torch.no_grad():
        ours, wanted = tower.head("class").logits(tower.hidden(batch)), theirs(**reference.inputs(batch)).logits
    assert wanted.shape == (4, 3)
    torch.testing.assert_close(ours, wanted, atol=TOLERANCE, rtol=0)
    assert transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).config.num_labels == 3


def pad_one(folder: Path) -> Path:
    """A tokenizer's record that says: padding is id 1."""
    place = folder / "a" / "tokenizer"
    place.mkdir(parents=True)
    (place / "meta.json").write_text(json.dumps({"kind": "wordpiece", "vocab": 61, "specials": {"pad": 1}, "fingerprint": "x"}))
    return place.parent


@pytest.mark.parametrize("case", ELECTRAS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_electra_towers_are_the_librarys(case: str, seed: int, tmp_path: Path, reference: SimpleNamespace) -> None:
    found, config = family("electra"), reference.small_config("electra", **ELECTRAS[case][1])
    tower = found.build(config, seed=seed).eval()
    reference.disturb(tower, seed)
    found.export(tower, tmp_path)
    doubter = transformers.AutoModelForPreTraining.from_pretrained(tmp_path).eval()
    guesser = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "generator").eval()
    batch = reference.make_batch(config, ["mlm"], seed, padded=True)
    with torch.no_grad():
        guesses = guesser(**reference.inputs(batch), labels=batch.labels["mlm"])
        doubts = doubter(**reference.inputs(batch), labels=torch.zeros_like(batch.tokens_BL))
        close(tower.language_logits(batch), guesses.logits, batch.keep_BL)
        hidden = tower.hidden(batch)
        close(tower.head("rtd").logits(hidden), doubts.logits, batch.keep_BL)
        assert tower(batch).parts["mlm"].item() == pytest.approx(guesses.loss.item(), abs=TOLERANCE)
        zeros = torch.zeros_like(batch.tokens_BL).masked_fill(~batch.keep_BL, IGNORE)
        assert tower.head("rtd")(hidden, zeros).item() == pytest.approx(doubts.loss.item(), abs=TOLERANCE)


@pytest.mark.parametrize("case", ["gpt1", "gpt2", "bert", "roberta", "distilbert", "albert", "albert-unshared", "electra"])
def test_models_saved_by_the_library_are_read_back(case: str, tmp_path: Path, reference: SimpleNamespace) -> None:
    theirs = THEIRS[case]().eval()
    reference.disturb(theirs, 9)
    theirs.save_pretrained(tmp_path)
    tower = load(tmp_path).eval()
    names = [h.name for h in tower.heads]
    batch = reference.make_batch(tower.config, ["mlm"], 4, padded=True)
    with torch.no_grad():
        out = theirs(**reference.inputs(batch))
        hidden = tower.hidden(batch)
        head = tower.head("rtd") if names == ["rtd"] else tower.language_head()
        close(head.logits(hidden), out[0], batch.keep_BL)


def _encoder(config: type, **more):
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    return config(**{**sizes, "max_position_embeddings": 30, **more})


T = transformers
THEIRS = {
    "gpt1": lambda: T.OpenAIGPTLMHeadModel(T.OpenAIGPTConfig(vocab_size=61, n_positions=24, n_embd=32, n_layer=3, n_head=4)),
    "gpt2": lambda: T.GPT2LMHeadModel(T.GPT2Config(vocab_size=61, n_positions=24, n_embd=32, n_layer=3, n_head=4, n_inner=80)),
    "bert": lambda: T.BertForPreTraining(_encoder(T.BertConfig)),
    "roberta": lambda: T.RobertaForMaskedLM(_encoder(T.RobertaConfig, type_vocab_size=1, layer_norm_eps=1e-5)),
    "distilbert": lambda: T.DistilBertForMaskedLM(
        T.DistilBertConfig(vocab_size=61, dim=32, n_layers=3, n_heads=4, hidden_dim=64, max_position_embeddings=24)
    ),
    "albert": lambda: T.AlbertForPreTraining(_encoder(T.AlbertConfig, embedding_size=16)),
    "albert-unshared": lambda: T.AlbertForMaskedLM(_encoder(T.AlbertConfig, embedding_size=16, num_hidden_groups=3)),
    "electra": lambda: T.ElectraForPreTraining(_encoder(T.ElectraConfig, embedding_size=16)),
}


AUTO = [
    ("gpt1", "CausalLM"),
    ("gpt2", "CausalLM"),
    ("gpt3", "CausalLM"),
    ("bert", "PreTraining"),
    ("bert", "MaskedLM"),
    ("roberta", "MaskedLM"),
    ("distilbert", "MaskedLM"),
    ("albert", "PreTraining"),
    ("albert", "MaskedLM"),
]


@pytest.mark.parametrize(("case", "kind"), AUTO)
def test_automodel_finds_every_tensor_of_a_fresh_model(case: str, kind: str, tmp_path: Path, reference: SimpleNamespace) -> None:
    name, changes = CASES[case]
    found = family(name)
    tower = found.build(reference.small_config(name, **changes), seed=0).eval()
    found.export(tower, tmp_path)
    model, info = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(tmp_path, output_loading_info=True)
    left = {
        n for n in info["unexpected_keys"] if not n.startswith(("bert.pooler", "cls.seq_relationship", "albert.pooler", "sop_classifier"))
    }
    assert not info["missing_keys"] and not info["mismatched_keys"] and not left
    batch = reference.make_batch(tower.config, ["mlm"], 0, padded=True)
    with torch.no_grad():
        out = model.eval()(**reference.inputs(batch))
        logits = out.prediction_logits if "prediction_logits" in out else out.logits
        assert (tower.language_logits(batch) - logits)[batch.keep_BL].abs().max() < 1e-5
