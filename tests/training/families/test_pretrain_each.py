"""Every family of the catalog through the pretraining stage: guesses at first, learns, and opens in transformers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import transformers

from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.catalog import meta
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra.artifact import Artifact
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store
from tests.training.small import LENGTH, Here, documents, texts
from training.card import read_card
from training.engine.measure import read
from training.families.catalog import FAMILIES, family, load
from training.pretrain import PRETRAIN, check, make_feed
from training.pretrain_config import PretrainConfig
from training.settings import feed_config, optim_config

SMALL = {"width": 32, "heads": 4, "layers": 2, "positions": LENGTH}
NARROW = {"albert": {"embedding_width": 16}, "electra": {"embedding_width": 16}}
AUTO = {"next": "AutoModelForCausalLM", "mlm": "AutoModelForMaskedLM"}
PAPER = ["bert", "tinybert", "albert", "electra"]  # these have a class of the library for all their heads


class Data:
    """Tokenizers, sentences and examples of made-up text, each made once."""

    def __init__(self, root: Path) -> None:
        self.store, self.local = Store(root), LocalCompute()
        self.documents = documents(self.store, texts())

    def __call__(self, name: str) -> dict[str, Artifact]:
        kind, wanted = family(name).tokenizer, family(name).examples
        masked = "mlm" in family(name).objective
        specials = "roberta" if masked and kind == "byte_bpe" else "gpt"
        config = TokenizerConfig(kind=kind, vocab=120 if "unigram" in kind else 300, specials=specials)
        tokenizer = run(TOKENIZER, config, {"documents": self.documents}, self.store, self.local)
        sentences = run(
            ENCODE, EncodeConfig(valid_share=0.2), {"documents": self.documents, "tokenizer": tokenizer}, self.store, self.local
        )
        made = {"sentences": sentences, "tokenizer": tokenizer}
        if wanted == "blocks":
            return made | {"examples": run(BLOCKS, BlocksConfig(LENGTH), {"sentences": sentences}, self.store, self.local)}
        return made | {"examples": run(PAIRS, PairsConfig(LENGTH), {"sentences": sentences}, self.store, self.local)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("each"))


def config_of(name: str, steps: int = 4, **changes: object) -> PretrainConfig:
    size = "tiny" if "tiny" in family(name).sizes else next(iter(family(name).sizes))
    said = {"tokens": steps * 8 * LENGTH, "batch_tokens": 8 * LENGTH, "length": LENGTH, "log_every": 1, "seed": 2}
    return PretrainConfig(family=name, size=size, overrides={**SMALL, **NARROW.get(name, {})}, **{**said, **changes})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_guesses_then_learns_and_transformers_opens_it(name: str, data: Data) -> None:
    made = run(PRETRAIN, config_of(name), data(name), data.store, Here())
    lines, card = read(made.file("metrics.jsonl")), read_card(made)
    vocab = meta(data(name)["tokenizer"]).vocab
    theory = {"next": math.log(vocab), "mlm": math.log(vocab), "pair": math.log(2), "rtd": math.log(2)}
    weights = {"rtd": 50.0}
    assert list(lines[0]["parts"]) == list(family(name).heads)
    for part, loss in lines[0]["parts"].items():
        assert loss == pytest.approx(theory[part], rel=0.05), part
    assert lines[0]["loss"] == pytest.approx(sum(weights.get(part, 1.0) * theory[part] for part in family(name).heads), rel=0.05)
    assert lines[-1]["valid_loss"] < lines[0]["loss"]
    auto = "AutoModelForPreTraining" if name in PAPER else AUTO[family(name).objective]
    theirs, told = getattr(transformers, auto).from_pretrained(made.path / "model", output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    ours = load(made.path / "model")
    assert sum({id(p): p.numel() for p in theirs.parameters()}.values()) == family(name).parameters(ours.config)
    assert card["family"] == name and [h.name for h in ours.heads] == card["heads"]
    assert transformers.AutoTokenizer.from_pretrained(made.path / "model").vocab_size == vocab


def test_the_generator_lies_beside_the_discriminator_and_holds_the_same_embedding(data: Data) -> None:
    made = run(PRETRAIN, config_of("electra"), data("electra"), data.store, Here())
    whole = load(made.path / "model")
    assert whole.generator.embedding.token is whole.backbone.embedding.token
    guess = transformers.AutoModelForMaskedLM.from_pretrained(made.path / "model" / "generator")
    assert guess.config.hidden_size == 8 and guess.config.embedding_size == 16


@pytest.mark.parametrize(("name", "segments"), [("bert", 2), ("albert", 2), ("electra", 2), ("roberta", 1), ("gpt2", 1)])
def test_each_reads_as_many_segments_as_its_paper_trained(name: str, segments: int, data: Data) -> None:
    feed = make_feed(config_of(name), data(name), "train")
    seen = [feed.slice(step, 0, 1).segments_BL for step in range(3)]
    assert {segments} == {1 if part is None else int(part.max()) + 1 for part in seen}


def test_each_paper_masks_and_descends_in_its_own_way() -> None:
    electra, albert, roberta, bert = (config_of(name) for name in ("electra", "albert", "roberta", "bert"))
    hidden = feed_config(electra).masking
    assert (hidden.mask, hidden.random, hidden.with_replacement) == (0.85, 0.0, True)
    assert (feed_config(albert).masking.unit, feed_config(albert).masking.ngram) == ("span", 3)
    assert (feed_config(bert).masking.unit, feed_config(bert).masking.mask, feed_config(bert).masking.random) == ("token", 0.8, 0.1)
    assert feed_config(config_of("roberta", mask_rate=0.3)).masking.rate == 0.3
    assert (optim_config(albert).optimiser, optim_config(albert).bias_correction) == ("lamb", False)
    assert (optim_config(electra).optimiser, optim_config(electra).bias_correction) == ("adamw", False)
    assert (optim_config(roberta).betas, optim_config(roberta).bias_correction) == ((0.9, 0.98), True)
    assert not optim_config(PretrainConfig(family="bert", size="base")).bias_correction
    assert optim_config(bert).bias_correction, "our own short recipe"
    assert optim_config(config_of("albert", optimiser="adamw", lr=1e-3)).optimiser == "adamw"
    said = feed_config(config_of("bert", masking={"unit": "word", "static_copies": 10})).masking
    assert (said.unit, said.static_copies, said.mask) == ("word", 10, 0.8)


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("albert", {"embedding_width": 32}, "always project their embedding"),
        ("gpt2", {"norm": "post"}, "gpt2 model always has norm pre"),
        ("electra", {"heads": 2, "width": 30, "ffn": 120}, "a generator of 0.25 of the discriminator would be 7.5 wide"),
        ("electra", {"generator": 0.0}, "generator is 0"),
        ("bert", {"norm": "pre"}, "a bert model always has norm post"),
    ],
)
def test_a_shape_that_could_not_be_written_is_refused_before_any_work(name: str, overrides: dict, said: str, data: Data) -> None:
    config = config_of(name)
    config.overrides.update(overrides)
    with pytest.raises(ConfigError, match=said):
        check(config, data(name), 1)


def test_learning_by_masks_without_a_mask_is_refused(data: Data) -> None:
    with pytest.raises(ConfigError, match="roberta learns by masks and needs the specials mask"):
        check(config_of("roberta"), data("gpt2"), 1)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("bert", {"mask_rate": 1.5}, "rate 1.5"),
        ("bert", {"masking": {"units": "word"}}, "masking has no field `units`; did you mean `unit`"),
        ("bert", {"masking": {"ngram": "two"}}, "wrong type"),
        ("gpt2", {"mask_rate": 0.1}, "gpt2 predicts the next token"),
        ("albert", {"optimiser": "adamw"}, "albert/tiny was trained with lamb, whose rate does not fit adamw; set pretrain.lr"),
        ("bert", {"optimiser": "sgd", "lr": 1e-3}, "optimiser 'sgd' is none of adamw, lamb, muon"),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, changes: dict, said: str, data: Data) -> None:
    with pytest.raises(ConfigError, match=said):
        check(config_of(name, **changes), data(name), 1)
