"""A model that transformers saved becomes one of ours: its weights, its ids, and what a pretraining makes of them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from data_prep.tokenizer import catalog as tokenizers
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.errors import ArtifactError, ConfigError, StageFailed
from infra.stage import run
from infra.store import Store
from tests.training.small import LENGTH, Here, prepared
from training.card import read_card
from training.engine.measure import read
from training.evaluation.decoding import Sampling
from training.evaluation.generate import continue_texts
from training.families.catalog import family, load
from training.feed.batch import IGNORE
from training.imported import IMPORT, ImportConfig, adopt, begin, files_of, pieces, same_pieces
from training.pretrain import PRETRAIN, make_feed
from training.pretrain_config import PretrainConfig

SHAPE = {"width": 32, "heads": 4, "layers": 2, "positions": LENGTH, "ffn": 64, "dropout": 0.0}


class World:
    """A store with a WordPiece and a byte-level tokenizer, examples of both, and models of the library with their vocabularies."""

    def __init__(self, root: Path) -> None:
        self.store, self.root = Store(root / "store"), root
        self.bert, self.gpt = prepared(self.store, causal=False), prepared(self.store, causal=True)

    def vocabulary(self, data: dict[str, Artifact], folder: Path) -> None:
        """Its files as they are published: vocab.txt, or vocab.json with merges.txt."""
        tokenizer = tokenizers.load(data["tokenizer"])
        if data is self.bert:
            (folder / "vocab.txt").write_text("\n".join(tokenizer.pieces) + "\n")
            return
        inner = json.loads((data["tokenizer"].path / "tokenizer" / "tokenizer.json").read_text())["model"]
        (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(tokenizer.pieces)}))
        merges = [" ".join(m) if isinstance(m, list) else m for m in inner["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")

    def theirs(self, name: str, folder: Path) -> torch.nn.Module:
        """A random model of the library with deviation 0.1, saved with its vocabulary."""
        data, torch_state = (self.gpt if name.startswith("gpt2") else self.bert), torch.get_rng_state()
        torch.manual_seed(3)
        vocab = tokenizers.meta(data["tokenizer"]).vocab
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "initializer_range": 0.1}
        sizes |= {"max_position_embeddings": LENGTH, "vocab_size": vocab}
        made = {
            "gpt2": lambda: transformers.GPT2LMHeadModel(
                transformers.GPT2Config(
                    n_embd=32, n_layer=2, n_head=4, n_positions=LENGTH, vocab_size=vocab, n_inner=64, initializer_range=0.1
                )
            ),
            "bert": lambda: transformers.BertForPreTraining(transformers.BertConfig(**sizes)),
            "gpt2-unusual": lambda: transformers.GPT2LMHeadModel(
                transformers.GPT2Config(
                    n_embd=32,
                    n_layer=2,
                    n_head=4,
                    n_positions=LENGTH,
                    vocab_size=vocab + 8,
                    n_inner=64,
                    initializer_range=0.1,
                    tie_word_embeddings=False,
                    scale_attn_by_inverse_layer_idx=True,
                    activation_function="silu",
                )
            ),
            "bert-mlm": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**sizes)),
        }[name]().eval()
        torch.set_rng_state(torch_state)
        made.save_pretrained(folder)
        self.vocabulary(data, folder)
        return made

    def imported(self, folder: Path, name: str, data: dict[str, Artifact], size: str = "") -> Artifact:
        return run(IMPORT, config_of(folder, name, size), {"tokenizer": data["tokenizer"]}, self.store, LocalCompute())


def config_of(folder: Path, name: str, size: str = "") -> ImportConfig:
    files = [replace(SourceFile.of(p), name=p.relative_to(folder).as_posix()) for p in files_of(folder)]
    return ImportConfig(tuple(files), name, size)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("imported"))


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_an_imported_model_is_the_librarys_with_a_card_and_the_tokenizer(name: str, world: World, tmp_path: Path) -> None:
    theirs, data = world.theirs(name, tmp_path), world.gpt if name == "gpt2" else world.bert
    made = world.imported(tmp_path, name, data)
    card = read_card(made)
    assert (card["family"], card["heads"]) == (name, ["next"] if name == "gpt2" else ["mlm", "pair"])
    tokens = torch.randint(5, 60, (2, 9))
    ours = load(made.path / "model").eval()
    with torch.no_grad():
        logits = theirs(tokens)[0]
        torch.testing.assert_close(ours.language_head().logits(ours.backbone(tokens)), logits, atol=2e-5, rtol=0)
        again = transformers.AutoModel.from_pretrained(made.path / "model")
    assert again.config.model_type == name
    assert transformers.AutoTokenizer.from_pretrained(made.path / "model").vocab_size == card["backbone"]["vocab"]


def test_the_same_files_are_the_same_model_wherever_they_lie_and_other_weights_another(world: World, tmp_path: Path) -> None:
    world.theirs("bert", tmp_path / "a")
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").iterdir():
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    keys = [IMPORT.key(config_of(tmp_path / folder, "bert"), {"tokenizer": world.bert["tokenizer"]}) for folder in "ab"]
    assert keys[0] == keys[1]
    weights = load_file(tmp_path / "b" / "model.safetensors")
    weights["cls.predictions.bias"] += 1.0
    save_file(weights, tmp_path / "b" / "model.safetensors")
    assert IMPORT.key(config_of(tmp_path / "b", "bert"), {"tokenizer": world.bert["tokenizer"]}) != keys[0]


def pretraining(name: str, **changes: object) -> PretrainConfig:
    said = {"tokens": 3 * 8 * LENGTH, "batch_tokens": 8 * LENGTH, "length": LENGTH, "log_every": 1, "lr": 1e-4, "overrides": SHAPE}
    return PretrainConfig(family=name, size="tiny", **{**said, **changes})


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_pretraining_begins_with_the_imported_weights(name: str, world: World, tmp_path: Path) -> None:
    """Its first loss is what the library says of the same batch."""
    theirs, data = world.theirs(name, tmp_path), world.gpt if name == "gpt2" else world.bert
    config, init = pretraining(name), world.imported(tmp_path, name, data)
    made = run(PRETRAIN, config, {**data, "init": init}, world.store, Here())
    batch = make_feed(config, data, "train").slice(0, 0, 1)
    with torch.no_grad():
        if name == "gpt2":
            labels = torch.cat([torch.full((8, 1), IGNORE), batch.labels["next"][:, :-1]], 1)
            wanted = theirs(batch.tokens_BL, labels=labels).loss
        else:
            given = {"attention_mask": batch.keep_BL.long(), "token_type_ids": batch.segments_BL}
            wanted = theirs(batch.tokens_BL, **given, labels=batch.labels["mlm"], next_sentence_label=batch.labels["pair"]).loss
    lines = read(made.file("metrics.jsonl"))
    assert lines[0]["loss"] == pytest.approx(wanted.item(), abs=2e-4 if name == "gpt2" else 2e-5)
    assert abs(lines[0]["loss"] - lines[-1]["loss"]) < 1.0
    plain = run(PRETRAIN, config, data, world.store, Here())
    assert plain.fingerprint != made.fingerprint


def test_an_unusual_model_goes_on_as_it_was(world: World, tmp_path: Path) -> None:
    """A padded table, an output matrix of its own, scaled attention: they stay through a pretraining and its export."""
    theirs = world.theirs("gpt2-unusual", tmp_path)
    unusual = {"tied": False, "scale_by_layer": True, "activation": "silu"}
    init = world.imported(tmp_path, "gpt2", world.gpt)
    assert read_card(init)["backbone"]["padded_vocab"] == read_card(init)["backbone"]["vocab"] + 8
    with pytest.raises((ConfigError, StageFailed), match="scale_by_layer True .here False"):
        run(PRETRAIN, pretraining("gpt2"), {**world.gpt, "init": init}, world.store, Here())
    config = pretraining("gpt2", overrides={**SHAPE, **unusual})
    made = run(PRETRAIN, config, {**world.gpt, "init": init}, world.store, Here())
    batch = make_feed(config, world.gpt, "train").slice(0, 0, 1)
    vocab = read_card(init)["backbone"]["vocab"]
    with torch.no_grad():
        logits = theirs(batch.tokens_BL).logits[..., :vocab]
        wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels["next"].flatten(), ignore_index=IGNORE)
    assert read(made.file("metrics.jsonl"))[0]["loss"] == pytest.approx(wanted.item(), abs=2e-4)
    again = transformers.AutoModelForCausalLM.from_pretrained(made.path / "model", attn_implementation="eager").eval()
    assert (again.config.vocab_size, again.config.tie_word_embeddings) == (vocab + 8, False)
    assert again.config.scale_attn_by_inverse_layer_idx and again.config.activation_function == "silu"
    ours = load(made.path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(ours.language_logits(batch), again(batch.tokens_BL).logits[..., :vocab], atol=2e-5, rtol=0)
    texts = continue_texts(made.path / "model", ["The cat"], 12, Sampling(temperature=0.0))
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.path / "model")
    given = tokenizer("The cat", return_tensors="pt")
    greedy = again.generate(**given, max_new_tokens=12, do_sample=False, suppress_tokens=list(range(vocab, vocab + 8)), pad_token_id=0)
    assert texts[0][0] == tokenizer.decode(greedy[0], skip_special_tokens=True)


def test_a_head_that_was_not_imported_starts_from_random_weights_and_is_told(world: World, tmp_path: Path) -> None:
    theirs = world.theirs("bert-mlm", tmp_path)
    found = family("bert")
    tower = found.build(replace(found.backbone("tiny", theirs.config.vocab_size), embedding_width=0, **SHAPE), seed=1)
    before = tower.head("pair").scores.weight.clone()
    assert begin(tower, tmp_path) == ["pair"]
    assert torch.equal(tower.head("pair").scores.weight, before)
    assert torch.equal(tower.head("mlm").transform.dense.weight, theirs.cls.predictions.transform.dense.weight)
    assert torch.equal(tower.backbone.embedding.token.weight, theirs.bert.embeddings.word_embeddings.weight)
    assert tower.head("mlm").scores.weight is tower.backbone.embedding.token.weight


def test_another_shape_than_the_recipes_is_refused_with_the_fields(world: World, tmp_path: Path) -> None:
    world.theirs("bert", tmp_path)
    init = world.imported(tmp_path, "bert", world.bert)
    config = pretraining("bert", overrides={**SHAPE, "layers": 3, "ffn": 128})
    with pytest.raises(ConfigError, match=r"the imported model has layers 2 \(here 3\), ffn 64 \(here 128\)"):
        run(PRETRAIN, config, {**world.bert, "init": init}, world.store, Here())
    with pytest.raises(ConfigError, match=r"width 32 \(here 768\)"):
        world.imported(tmp_path, "bert", world.bert, size="base")
    with pytest.raises(ConfigError, match="holds a bert, not a gpt2"):
        world.imported(tmp_path, "gpt2", world.bert)


# ---- the same ids --------------------------------------------------------------------------------------------------------


def test_a_vocabulary_with_two_pieces_swapped_is_refused(world: World, tmp_path: Path) -> None:
    world.theirs("bert", tmp_path)
    lines = (tmp_path / "vocab.txt").read_text().split("\n")
    lines[20], lines[21] = lines[21], lines[20]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=f"id 20 is {lines[20]!r} there and {lines[21]!r} here"):
        world.imported(tmp_path, "bert", world.bert)


@pytest.mark.parametrize("kind", ["bert", "gpt"])
def test_every_form_of_a_vocabulary_gives_the_same_pieces(kind: str, world: World, tmp_path: Path) -> None:
    data = getattr(world, kind)
    ours = list(tokenizers.load(data["tokenizer"]).pieces)
    (tmp_path / "published").mkdir()
    world.vocabulary(data, tmp_path / "published")
    assert pieces(tmp_path / "published") == ours
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "tokenizer.json").write_bytes((data["tokenizer"].path / "tokenizer" / "tokenizer.json").read_bytes())
    assert pieces(tmp_path / "saved") == ours
    same_pieces(tmp_path / "saved", data["tokenizer"])
    with pytest.raises(ConfigError, match="learnt with other pieces"):
        same_pieces(tmp_path / "saved", (world.gpt if kind == "bert" else world.bert)["tokenizer"])


def test_a_folder_without_a_vocabulary_is_refused(world: World, tmp_path: Path) -> None:
    world.theirs("bert", tmp_path)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(ConfigError, match="holds no vocabulary"):
        world.imported(tmp_path, "bert", world.bert)


# ---- hostile folders -----------------------------------------------------------------------------------------------------


def test_pickles_are_refused_by_name(world: World, tmp_path: Path) -> None:
    world.theirs("bert", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"only safetensors are read, and pytorch_model.bin is pickled"):
        files_of(tmp_path)
    with pytest.raises(ConfigError, match="holds no config.json"):
        files_of(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "huge", [{"vocab_size": 10**9}, {"hidden_size": 2**20}, {"num_hidden_layers": 10**8}, {"max_position_embeddings": 10**9}]
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_memory_is_taken(huge: dict, world: World, tmp_path: Path) -> None:
    world.theirs("bert", tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | huge))
    with pytest.raises(ArtifactError, match="they do not belong together"):
        load(tmp_path)


@pytest.mark.parametrize("named", ["../secret.safetensors", "/etc/passwd", "pytorch_model.bin", 7])
def test_an_index_names_files_of_its_own_folder_only(named: object, world: World, tmp_path: Path) -> None:
    world.theirs("bert", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": named}}))
    with pytest.raises(ArtifactError, match="no safetensors file of its folder|no index of weights"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 64, b"\x00" * 8, (10**12).to_bytes(8, "little") + b"{}"])
def test_a_broken_weights_file_is_told_in_one_line(content: bytes, world: World, tmp_path: Path) -> None:
    world.theirs("bert", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="no safetensors file that can be read"):
        load(tmp_path)


@pytest.mark.parametrize("index", ["[]", "{", '{"weight_map": 3}', '{"other": {}}'])
def test_a_broken_index_is_told_in_one_line(index: str, world: World, tmp_path: Path) -> None:
    world.theirs("bert", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ArtifactError, match="no index of weights that can be read"):
        load(tmp_path)


# ---- by hand -------------------------------------------------------------------------------------------------------------


def test_a_model_adopted_by_hand_writes_text_and_may_be_imported_again(world: World, tmp_path: Path) -> None:
    world.theirs("gpt2", tmp_path / "theirs")
    told = adopt(tmp_path / "theirs", tmp_path / "ours")
    assert told["family"] == "gpt2" and told["heads"] == ["next"] and told["tokenizer"] == "byte_bpe"
    assert continue_texts(tmp_path / "ours", ["The cat"], tokens=4)[0][0].startswith("The cat")
    first, second = (world.imported(tmp_path / folder, "gpt2", world.gpt) for folder in ("theirs", "ours"))
    ours, again = (load(made.path / "model") for made in (first, second))
    assert asdict(ours.config) == asdict(again.config)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), again.parameters(), strict=True))
