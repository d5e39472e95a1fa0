"""Every family from a folder that transformers wrote, tokenizer included: as it stands, pretrained on, and opened there again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T

from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.errors import ArtifactError, ConfigError, StageFailed
from infra.stage import run
from infra.store import Store
from tests.training.small import LENGTH, Here, documents, texts
from training.card import read_card
from training.engine.measure import read
from training.families.catalog import FAMILIES, family, load
from training.imported import IMPORT, ImportConfig, adopt, files_of, same_pieces
from training.pretrain import PRETRAIN, make_feed
from training.pretrain_config import PretrainConfig

# the kind of vocabulary, its size, and transformers' class for it
VOCABULARIES: dict[str, tuple[dict[str, Any], type]] = {
    "wordpiece": ({"vocab": 200, "lowercase": True}, T.BertTokenizer),
    "gpt": ({"kind": "byte_bpe", "vocab": 300}, T.GPT2Tokenizer),
    "roberta": ({"kind": "byte_bpe", "vocab": 300, "specials": "roberta"}, T.RobertaTokenizer),
    "bpe_eow": ({"vocab": 120, "lowercase": True}, T.OpenAIGPTTokenizer),
    "sentencepiece_unigram": ({"vocab": 60, "lowercase": True}, T.AlbertTokenizer),
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": LENGTH, "initializer_range": 0.1}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "initializer_range": 0.1}
BERT |= {"max_position_embeddings": LENGTH}
DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": LENGTH, "initializer_range": 0.1}
ROBERTA = BERT | {"max_position_embeddings": LENGTH + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
ALBERT = BERT | {"embedding_size": 16, "hidden_act": "gelu_new", "num_hidden_groups": 1}
# its vocabulary, its model with and without the head of a classifier, its configuration, the class that opens it again
EACH: dict[str, tuple[str, Any, Any, Any, str]] = {
    "gpt1": ("bpe_eow", T.OpenAIGPTLMHeadModel, T.OpenAIGPTForSequenceClassification, T.OpenAIGPTConfig(**GPT2), "CausalLM"),
    **dict.fromkeys(
        ("gpt2", "gpt3", "distilgpt2"), ("gpt", T.GPT2LMHeadModel, T.GPT2ForSequenceClassification, T.GPT2Config(**GPT2), "CausalLM")
    ),
    **dict.fromkeys(
        ("bert", "tinybert"), ("wordpiece", T.BertForPreTraining, T.BertForSequenceClassification, T.BertConfig(**BERT), "PreTraining")
    ),
    **dict.fromkeys(
        ("roberta", "distilroberta"),
        ("roberta", T.RobertaForMaskedLM, T.RobertaForSequenceClassification, T.RobertaConfig(**ROBERTA), "MaskedLM"),
    ),
    "distilbert": ("wordpiece", T.DistilBertForMaskedLM, T.DistilBertForSequenceClassification, T.DistilBertConfig(**DISTIL), "MaskedLM"),
    "albert": (
        "sentencepiece_unigram",
        T.AlbertForPreTraining,
        T.AlbertForSequenceClassification,
        T.AlbertConfig(**ALBERT),
        "PreTraining",
    ),
    "electra": (
        "wordpiece",
        T.ElectraForPreTraining,
        T.ElectraForSequenceClassification,
        T.ElectraConfig(**BERT, embedding_size=32),
        "PreTraining",
    ),
}
LINES = [
    "The cat sees the home.",
    "A TEACHER likes music,  and the river follows; 12 engines!",
    "water light water",
    "Ünïcödé e\u0301 İi ``quoted'' Σίσυφος, 한국어 漢字 a-b_c\n\nx",
]


class World:
    """Texts, and a vocabulary of each kind as transformers writes it."""

    def __init__(self, root: Path) -> None:
        self.root, self.store, self.local = root, Store(root / "store"), LocalCompute()
        self.documents = documents(self.store, texts(200))
        self.saved: dict[str, tuple[Any, Path, Artifact]] = {}

    def vocabulary(self, kind: str) -> tuple[Any, Path, Artifact]:
        """transformers' tokenizer, the folder that it saved itself in, and the vocabulary that ours learnt."""
        if kind not in self.saved:
            said, named = VOCABULARIES[kind]
            made = run(TOKENIZER, TokenizerConfig(**{"kind": kind, **said}), {"documents": self.documents}, self.store, self.local)
            theirs, folder = named.from_pretrained(made.path / "tokenizer"), self.root / kind
            theirs.save_pretrained(folder)
            assert {path.name for path in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
            self.saved[kind] = theirs, folder, made
        return self.saved[kind]

    def brought_in(self, kind: str) -> Artifact:
        """The same by a recipe: a tokenizer of kind import from the one file."""
        file = SourceFile.of(self.vocabulary(kind)[1] / "tokenizer.json")
        return run(TOKENIZER, TokenizerConfig(kind="import", files=(file,)), {}, self.store, self.local)

    def model(self, name: str, folder: Path, classes: int = 0) -> Any:
        """A random model of the library, saved with its tokenizer."""
        kind, pretrained, classifier, config, _ = EACH[name]
        theirs, _, made = self.vocabulary(kind)
        more = {"pad_token_id": 1 if kind == "roberta" else 0, "vocab_size": tokenizers.meta(made).vocab}
        config = type(config).from_dict({**config.to_dict(), **more, **({"num_labels": classes} if classes else {})})
        torch.manual_seed(5)
        model = (classifier if classes else pretrained)(config).eval()
        model.save_pretrained(folder)
        theirs.save_pretrained(folder)
        return model

    def fed(self, name: str, tokenizer: Artifact) -> dict[str, Artifact]:
        """Examples as the family reads them."""
        sentences = run(
            ENCODE, EncodeConfig(valid_share=0.2), {"documents": self.documents, "tokenizer": tokenizer}, self.store, self.local
        )
        stage, config = (BLOCKS, BlocksConfig(LENGTH - 2)) if family(name).examples == "blocks" else (PAIRS, PairsConfig(LENGTH))
        if family(name).objective == "next":
            config = BlocksConfig(LENGTH)
        examples = run(stage, config, {"sentences": sentences}, self.store, self.local)  # type: ignore[arg-type]
        return {"examples": examples, "sentences": sentences, "tokenizer": tokenizer}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp("each"))


def test_every_family_is_imported() -> None:
    assert set(EACH) == set(FAMILIES)


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_the_one_file_of_a_tokenizer_gives_its_ids(kind: str, world: World) -> None:
    theirs, _, learnt = world.vocabulary(kind)
    ours = world.brought_in(kind)
    assert tokenizers.load(ours).encode_batch(LINES) == theirs(LINES, add_special_tokens=False)["input_ids"]
    meta, first = tokenizers.meta(ours), tokenizers.meta(learnt)
    assert (meta.kind, meta.vocab, meta.specials) == (first.kind, first.vocab, first.specials)
    if kind == "sentencepiece_unigram":  # transformers' class does other things to letters before than sentencepiece does
        assert meta.fingerprint != first.fingerprint
        return
    assert meta.fingerprint == first.fingerprint, "whichever file it came from"
    assert tokenizers.load(ours).encode_batch(LINES) == tokenizers.load(learnt).encode_batch(LINES)


@pytest.mark.parametrize("name", EACH)
def test_a_folder_of_the_librarys_is_one_of_ours_and_opens_there_again(name: str, world: World, tmp_path: Path) -> None:
    theirs = world.model(name, tmp_path / "theirs")
    told = adopt(tmp_path / "theirs", tmp_path / "ours")
    assert family(told["family"]).layout.model_type == family(name).layout.model_type
    opened = getattr(T, f"AutoModelFor{EACH[name][4]}").from_pretrained(tmp_path / "ours").eval()
    tokens = torch.randint(5, theirs.config.vocab_size, (3, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs(tokens)[0]
        ours = load(tmp_path / "ours").eval()
        head = ours.head("rtd") if name == "electra" else ours.language_head()
        torch.testing.assert_close(head.logits(ours.backbone(tokens)), wanted, atol=2e-5, rtol=0)
        torch.testing.assert_close(opened(tokens)[0], wanted, atol=2e-5, rtol=0)
    again = T.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again(LINES)["input_ids"] == world.vocabulary(EACH[name][0])[0](LINES)["input_ids"]


@pytest.mark.parametrize("name", EACH)
def test_a_classifier_of_the_librarys_is_read_and_opens_there_again(name: str, world: World, tmp_path: Path) -> None:
    theirs = world.model(name, tmp_path / "theirs", classes=3)
    assert adopt(tmp_path / "theirs", tmp_path / "ours")["heads"] == ["class"]
    opened = T.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    tokens = torch.randint(5, theirs.config.vocab_size, (3, 11), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, one = load(tmp_path / "ours").eval(), tokens[:1]
        torch.testing.assert_close(opened(one).logits, theirs(one).logits, atol=2e-5, rtol=0)
        torch.testing.assert_close(
            ours.head("class").logits(ours.backbone(one, keep_BL=torch.ones_like(one).bool())), theirs(one).logits, atol=2e-5, rtol=0
        )


@pytest.mark.parametrize("name", EACH)
def test_pretraining_goes_on_from_it(name: str, world: World, tmp_path: Path) -> None:
    world.model(name, tmp_path)
    tokenizer = world.brought_in(EACH[name][0])
    given, found = [replace(SourceFile.of(p), name=p.relative_to(tmp_path).as_posix()) for p in files_of(tmp_path)], family(name)
    init = run(IMPORT, ImportConfig(tuple(given), name), {"tokenizer": tokenizer}, world.store, world.local)
    card = read_card(init)
    shape = {key: card["backbone"][key] for key in ("width", "heads", "layers", "positions", "ffn", "embedding_width")}
    config = PretrainConfig(
        family=name, size=next(iter(found.sizes)), tokens=3 * 8 * LENGTH, batch_tokens=8 * LENGTH, length=LENGTH, log_every=1, lr=1e-5,
        overrides={**shape, "dropout": 0.0, **({"generator": 0.5} if name == "electra" else {})},
    )  # fmt: skip
    data = world.fed(name, tokenizer)
    made = run(PRETRAIN, config, {**data, "init": init}, world.store, Here())
    first = read(made.file("metrics.jsonl"))[0]
    tower, batch = load(tmp_path).eval(), make_feed(config, data, "train").slice(0, 0, 1)
    if name != "electra":  # there the generator is fresh, and what it proposes too
        with torch.no_grad():
            assert first["loss"] == pytest.approx(tower(batch).total.item(), abs=2e-4)
    else:
        assert torch.allclose(load(made.path / "model").backbone.blocks[0].ffn.up.weight, tower.backbone.blocks[0].ffn.up.weight, atol=1e-3)


def test_a_file_that_keeps_capitals_is_not_read_as_lower_case(world: World, tmp_path: Path) -> None:
    file = SourceFile.of(world.vocabulary("gpt")[1] / "tokenizer.json")
    with pytest.raises(ConfigError, match="keeps capital letters; take lowercase out"):
        run(TOKENIZER, TokenizerConfig(kind="import", files=(file,), lowercase=True), {}, world.store, world.local)


def test_a_recipes_tokenizer_with_other_letters_is_refused(world: World, tmp_path: Path) -> None:
    """The same pieces by id, but lower case on one side alone: no weights are learnt with those ids."""
    world.model("bert", tmp_path)
    tokenizer = tokenizers.load(world.brought_in("wordpiece"))
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in tokenizer.pieces))  # type: ignore[attr-defined]
    file = SourceFile.of(tmp_path / "vocab.txt")
    cased, folded = (
        run(TOKENIZER, TokenizerConfig(kind="import", files=(file,), lowercase=lowercase), {}, world.store, world.local)
        for lowercase in (False, True)
    )
    same_pieces(tmp_path, folded)
    with pytest.raises(ConfigError, match="not with its letters"):
        same_pieces(tmp_path, cased)
    (tmp_path / "tokenizer.json").unlink()  # vocab.txt and the settings beside it still say so
    same_pieces(tmp_path, folded)
    with pytest.raises(ConfigError, match="not with its letters"):
        same_pieces(tmp_path, cased)
    assert adopt(tmp_path, tmp_path / "ours")["tokenizer"] == "wordpiece"
    assert tokenizers.load(tmp_path / "ours").encode_batch(LINES) == tokenizer.encode_batch(LINES)
    (tmp_path / "tokenizer_config.json").unlink()
    same_pieces(tmp_path, cased)  # nobody says


def test_a_file_that_is_no_tokenizer_is_told_by_the_stage(world: World, tmp_path: Path) -> None:
    for content in ("[]", "{", '{"model": {"type": "WordLevel", "vocab": {}}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        file = SourceFile.of(tmp_path / "tokenizer.json")
        with pytest.raises((ArtifactError, ConfigError, StageFailed), match=r"tokenizer\.json"):
            run(TOKENIZER, TokenizerConfig(kind="import", files=(file,)), {}, world.store, world.local)
