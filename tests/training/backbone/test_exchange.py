from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from infra.errors import ArtifactError, ConfigError
from training.families.catalog import FAMILIES, family, family_of, load
from training.families.family import Family
from training.feed.batch import Batch
from training.objectives.tower import Tower

SMALL = {"vocab": 61, "width": 32, "layers": 2, "heads": 4, "ffn": 0, "positions": 24}


def tower_of(found: Family, **changes: object) -> Tower:
    narrow = 16 if found.name in ("albert", "electra") else 0
    first = next(iter(found.sizes.values()))
    return found.build(replace(first, **{**SMALL, "embedding_width": narrow, **changes}), seed=1)


def equal(a: Tower, b: Tower) -> bool:
    mine, other = dict(a.named_parameters()), dict(b.named_parameters())
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_written_is_read_back_the_same(name: str, tmp_path: Path) -> None:
    tower = tower_of(family(name))
    family(name).export(tower, tmp_path)
    again = load(tmp_path)
    assert family_of(tmp_path).name == name
    assert equal(tower, again)
    assert again.config == replace(tower.config, init_std=again.config.init_std)
    assert [h.name for h in again.heads] == [h.name for h in tower.heads]


@pytest.mark.parametrize("share", ["none", "attention", "ffn", "all"])
def test_sharing_survives(share: str, tmp_path: Path) -> None:
    tower = tower_of(family("albert"), share=share)
    family("albert").export(tower, tmp_path)
    again = load(tmp_path)
    assert again.config.share == share and equal(tower, again)


def test_a_tied_tensor_is_written_once_and_tied_after_loading(tmp_path: Path) -> None:
    family("bert").export(tower_of(family("bert")), tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert "bert.embeddings.word_embeddings.weight" in names
    assert not any("decoder" in name for name in names)
    again = load(tmp_path)
    with torch.no_grad():
        again.backbone.embedding.token.weight[3, 3] = 7.0
    assert again.head("mlm").scores.weight[3, 3] == 7.0


def test_half_precision_is_written_as_float32(tmp_path: Path) -> None:
    family("gpt2").export(tower_of(family("gpt2")).bfloat16(), tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118


def test_files_with_the_names_of_old_checkpoints_are_read(tmp_path: Path) -> None:
    tower = tower_of(family("bert"))
    family("bert").export(tower, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for n, t in weights.items()}
    save_file(old, tmp_path / "model.safetensors")
    assert equal(load(tmp_path), tower)


def test_a_gpt2_saved_without_its_prefix_and_with_mask_buffers_is_read(tmp_path: Path) -> None:
    tower = tower_of(family("gpt2"))
    family("gpt2").export(tower, tmp_path)
    weights = {n.removeprefix("transformer."): t for n, t in load_file(tmp_path / "model.safetensors").items()}
    save_file({**weights, "h.0.attn.bias": torch.ones(1, 1, 24, 24)}, tmp_path / "model.safetensors")
    assert equal(load(tmp_path), tower)


def test_parts_named_by_an_index_are_read(tmp_path: Path) -> None:
    tower = tower_of(family("gpt2"))
    family("gpt2").export(tower, tmp_path)
    weights = list(load_file(tmp_path / "model.safetensors").items())
    (tmp_path / "model.safetensors").unlink()
    where = {}
    for number, part in enumerate((weights[:9], weights[9:])):
        save_file(dict(part), tmp_path / f"model-{number}.safetensors")
        where |= {name: f"model-{number}.safetensors" for name, _ in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert equal(load(tmp_path), tower)


def test_a_pickled_model_is_never_opened(tmp_path: Path) -> None:
    family("gpt2").export(tower_of(family("gpt2")), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="only safetensors are read"):
        load(tmp_path)


def test_missing_and_misshapen_tensors_are_all_named(tmp_path: Path) -> None:
    family("bert").export(tower_of(family("bert")), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["cls.predictions.bias"]
    weights["bert.embeddings.position_embeddings.weight"] = torch.zeros(9, 32)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"position_embeddings.weight is \[9, 32\].*\[24, 32\]; cls.predictions.bias is missing"):
        load(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no readable config.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "llama"}, "models of type 'llama' cannot be read"),
        ({"model_type": "bert", "architectures": ["BertForQuestionAnswering"]}, "architecture 'BertForQuestionAnswering'"),
        ({"model_type": "bert", "architectures": ["BertModel"], "hidden_act": "mish"}, "hidden_act: 'mish', an activation"),
        ({"model_type": "albert", "architectures": ["AlbertModel"], "num_hidden_groups": 3}, "num_hidden_groups: 3 for 12 layers"),
    ],
)
def test_models_we_cannot_compute_are_refused(settings: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 12, **settings}))
    with pytest.raises(ConfigError) as raised:
        load(tmp_path)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gpt1", {"ffn": 48}, "always has ffn 128, not 48"),
        ("distilbert", {"eps": 1e-5}, "always has eps 1e-12, not 1e-05"),
        ("bert", {"norm": "pre"}, "`norm` has no name"),
        ("albert", {"embedding_width": 32}, "embedding_width below the width 32"),
        ("gpt2", {"share": "none", "embedding_width": 16}, "`embedding.up` has no name"),
    ],
)
def test_what_the_library_cannot_express_is_not_exported(name: str, change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        family(name).export(tower_of(family(name), **change), tmp_path)
    assert message in str(raised.value)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_banded_model_opens_in_transformers_with_the_code_in_its_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    torch.manual_seed(3)
    tower = tower_of(family("gpt3"), band=4, init_std=0.2).eval()
    family("gpt3").export(tower, tmp_path)
    assert load(tmp_path).config.band == 4
    with pytest.raises(ValueError, match="textmill-banded|trust_remote_code"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert sum(p.numel() for p in theirs.parameters()) == family("gpt3").parameters(tower.config)
    tokens = torch.randint(1, tower.config.vocab, (3, 12))
    keep = torch.arange(12)[None] < torch.tensor([12, 9, 5])[:, None]
    with torch.no_grad():
        said, ours = theirs.eval()(tokens, attention_mask=keep.long()), tower.language_logits(Batch(tokens, None, keep))
        torch.testing.assert_close(ours[keep], said.logits[keep], atol=1e-5, rtol=0.0)
        assert said.logits.std() > 0.1, "logits so flat would hide a difference"
        dense = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, band=tokens.shape[1]).eval()
        assert not torch.allclose(dense(tokens).logits[:, -1], theirs(tokens).logits[:, -1], atol=1e-3), "the band must matter"
        loss = theirs(tokens, labels=tokens).loss
        expected = torch.nn.functional.cross_entropy(tower.language_logits(Batch(tokens))[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        torch.testing.assert_close(loss, expected)
        written = [
            theirs.generate(tokens[:1, :3], max_length=12, do_sample=False, use_cache=cached, pad_token_id=0) for cached in (True, False)
        ]
        greedy = tokens[:1, :3]
        for _ in range(9):
            greedy = torch.cat([greedy, tower.language_logits(Batch(greedy))[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(written[0], written[1]) and torch.equal(written[0], greedy[:, : written[0].shape[1]])


def test_roberta_moves_its_positions_to_the_tokenizers_padding(tmp_path: Path) -> None:
    import transformers

    tower = tower_of(family("roberta")).eval()
    place = tmp_path / "tokenizer"
    place.mkdir()
    (place / "meta.json").write_text(json.dumps({"specials": {"pad": 4}}))
    family("roberta").export(tower, tmp_path / "model", tmp_path)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    tokens, keep = torch.randint(5, 61, (2, 10)), torch.arange(10)[None] < torch.tensor([[10], [6]])
    tokens = tokens.masked_fill(~keep, 4)
    again = load(tmp_path / "model").eval()
    with torch.no_grad():
        wanted = theirs(tokens, attention_mask=keep.long()).logits[keep]
        for one in (tower, again):
            mine = one.language_head().logits(one.backbone(tokens, None, keep))[keep]
            torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)


def test_roberta_without_padding_in_the_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"specials": {"eos": 0}}))
    with pytest.raises(ConfigError, match="a tokenizer that has a padding token"):
        family("roberta").export(tower_of(family("roberta")), tmp_path / "model", tmp_path)
