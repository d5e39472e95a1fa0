"""Models that begin with weights from a folder: from the recipe to the scores, and by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from infra.errors import ConfigError
from pipelines.recipe import load
from tests.pipelines.conftest import Textmill
from tests.pipelines.test_chain import asked

MORE = """\
  more: {family: gpt2, size: tiny, tokenizer: bytes, init: first, pretrain: {tokens: 2e3, batch_tokens: 512, length: 32, lr: 6e-4}}
  same: {family: gpt2, tokenizer: bytes, init: first}
"""


def shown(textmill: Textmill, what: str) -> dict:
    done = textmill("show", what, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_exported_model_goes_on_learning_in_another_recipe_and_may_stay_as_it_is(recipe: Path, textmill: Textmill) -> None:
    assert textmill("run", recipe.name, "--plain").returncode == 0
    assert textmill("export", "gpt", "first").returncode == 0
    recipe.write_text(recipe.read_text() + MORE)
    planned = {row["label"]: row for row in json.loads(textmill("plan", recipe.name, "--json").stdout)}
    assert planned["gpt"]["action"] == "reuse" and planned["same"]["stage"] == planned["import more"]["stage"] == "import"
    assert planned["more"]["inputs"][:3] == ["blocks bytes 32", "encode bytes", "tokenizer bytes"]
    assert planned["same"]["fingerprint"] == planned["import more"]["fingerprint"], "read once for both"
    done = textmill("run", recipe.name, "--plain")
    assert done.returncode == 0, done.stderr
    artifacts = recipe.parent / "workspace" / "artifacts"
    lines = {
        name: [
            json.loads(line) for line in (artifacts / "pretrain" / planned[name]["fingerprint"] / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("gpt", "more")
    }
    assert lines["more"][0]["loss"] < lines["gpt"][0]["loss"] - 0.1, "it begins where the other ended"
    weights = {
        name: (artifacts / planned[name]["stage"] / planned[name]["fingerprint"] / "model" / "model.safetensors").read_bytes()
        for name in ("gpt", "more", "same")
    }
    assert weights["same"] == weights["gpt"] != weights["more"]
    scores = artifacts / "evaluate" / planned["evaluate same"]["fingerprint"] / "scores.json"
    assert json.loads(scores.read_text())["model"]["size"] == "imported"
    written = textmill("generate", "same", "--prompt", "The model", "--tokens", "3")
    assert written.returncode == 0 and written.stdout.startswith("The model")


def test_the_imported_files_are_part_of_the_fingerprint_and_their_place_is_not(recipe: Path, textmill: Textmill) -> None:
    folder = recipe.parent / "first"
    shape = {"vocab_size": 300, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**shape))
    model.save_pretrained(folder)
    recipe.write_text(recipe.read_text() + MORE)
    stage, config, inputs = asked(load(str(recipe)).recipe)["import more"]
    assert (stage, inputs) == ("import", {"tokenizer": "tokenizer bytes"})
    assert [file.name for file in config.files] == ["config.json", "model.safetensors"]
    before = [file.digest for file in config.files]
    model.transformer.wte.weight.data.zero_()
    model.save_pretrained(folder)
    after = [file.digest for file in asked(load(str(recipe)).recipe)["import more"][1].files]
    assert before[0] == after[0] and before[1] != after[1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "  a: {family: gpt2, size: tiny, tokenizer: bytes, init: nowhere}\n",
            "small.yaml:10: models.a.init: .*nowhere holds no config.json",
        ),
        ("  a: {family: gpt2, tokenizer: bytes}\n", "small.yaml:10: models.a.size is missing"),
    ],
)
def test_what_is_missing_is_told_with_its_line(line: str, said: str, recipe: Path) -> None:
    (recipe.parent / "first").mkdir()
    (recipe.parent / "first" / "config.json").write_text("{}")
    recipe.write_text(recipe.read_text() + line)
    with pytest.raises(ConfigError, match=said):
        load(str(recipe))


def test_a_pickled_model_is_refused_before_any_work(recipe: Path, textmill: Textmill) -> None:
    (recipe.parent / "first").mkdir()
    (recipe.parent / "first" / "config.json").write_text("{}")
    (recipe.parent / "first" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    recipe.write_text(recipe.read_text() + MORE)
    done = textmill("run", recipe.name, "--plain")
    assert done.returncode == 2 and "pytorch_model.bin is pickled" in done.stderr and "Traceback" not in done.stderr
    by_hand = textmill("import", "first", "ours")
    assert by_hand.returncode == 2 and "pytorch_model.bin is pickled" in by_hand.stderr


def test_a_folder_with_the_one_file_of_transformers_five_is_imported_by_hand(textmill: Textmill, tmp_path: Path) -> None:
    """Its tokenizer.json says of lower case itself; a broken one is told in a line."""
    import transformers

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(97 + i) for i in range(26)), *("##" + chr(97 + i) for i in range(9))]
    config = transformers.BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "theirs")
    theirs = transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    theirs.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "vocab.txt").exists()
    done = textmill("import", "theirs", "ours")
    assert done.returncode == 0, done.stderr
    assert "40 wordpiece pieces" in done.stdout
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again("Ab Çd")["input_ids"] == theirs("Ab Çd")["input_ids"] == [2, 5, 32, 7, 34, 3]
    whole = (tmp_path / "theirs" / "tokenizer.json").read_text()
    for broken, words in ((whole[:500], "not a tokenizer that can be read"), (whole.replace("BertPre", "Punctuation"), "pre_tokenizer")):
        (tmp_path / "theirs" / "tokenizer.json").write_text(broken)
        refused = textmill("import", "theirs", "other")
        assert refused.returncode in (2, 3) and words in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr and "panicked" not in refused.stderr and not (tmp_path / "other").exists()


def test_a_model_of_the_library_is_imported_by_hand(textmill: Textmill, tmp_path: Path) -> None:
    import transformers

    config = transformers.BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "theirs")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(97 + i) for i in range(26)), *("##" + chr(97 + i) for i in range(9))]
    (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    done = textmill("import", "theirs", "ours", "--lowercase")
    assert done.returncode == 0, done.stderr
    assert "ours: bert" in done.stdout and "heads mlm" in done.stdout and "40 wordpiece pieces" in done.stdout
    assert transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").config.vocab_size == 40
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")("abc")["input_ids"] == [2, 5, 32, 33, 3]
    assert textmill("import", "theirs", "ours").returncode == 2
