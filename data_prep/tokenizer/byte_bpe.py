"""Byte-level BPE (Radford et al. 2019, section 2.2): 256 bytes, merged by frequency; every text has ids and comes back exactly."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_prep.tokenizer.base import JSON, Meta, digests, identity, ordered, save_meta
from data_prep.tokenizer.hub import HubTokenizer, save_hub
from infra.errors import ConfigError

END = "<|endoftext|>"
SETS: dict[str, dict[str, str]] = {  # role -> text; ids in the order in which the texts come first
    "gpt": {"eos": END, "bos": END},  # one token for both, as in GPT-2
    "roberta": {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>", "bos": "<s>", "eos": "</s>"},
}


def smallest(specials: str) -> int:
    """The fewest ids: 256 bytes and the specials."""
    return 256 + len(set(SETS[specials].values()))


def train(texts: Sequence[str], folder: Path, vocab: int, lowercase: bool = False, min_frequency: int = 2, specials: str = "gpt") -> Meta:
    """Deterministic: merges of equal count are taken in the order of their ids, and the 256 bytes are numbered first.

    No merge makes the text of a special: it would have to join letters with punctuation, which are cut apart before.
    """
    engine = blank(models.BPE(), lowercase)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=min_frequency,
        initial_alphabet=alphabet,
        special_tokens=list(dict.fromkeys(SETS[specials].values())),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer, length=len(texts))
    return finish(engine, folder, lowercase, specials)


def set_of(ids: Collection[str], path: Path) -> str:
    """Which specials a published vocabulary has. Raises ConfigError when it has none of them."""
    for name, texts in SETS.items():
        if all(text in ids for text in texts.values()):
            return name
    raise ConfigError(f"{path}: has neither {END} nor RoBERTa's special tokens")


def blank(model: models.BPE, lowercase: bool) -> Tokenizer:
    """An engine around a model, trained or not."""
    engine = Tokenizer(model)
    if lowercase:
        engine.normalizer = normalizers.Lowercase()
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    return engine


def finish(engine: Tokenizer, folder: Path, lowercase: bool, specials: str = "gpt") -> Meta:
    """Save a trained engine with its specials; what identifies it."""
    names = SETS[specials]
    engine.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in dict.fromkeys(names.values())])
    pieces = ordered(engine.get_vocab())
    ids = {role: pieces.index(text) for role, text in names.items()}
    extra: dict[str, Any] = {"add_prefix_space": False}
    if specials == "roberta":  # <s> A </s>, <s> A </s></s> B </s>
        engine.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", ids["cls"]), ("</s>", ids["sep"])]
        )
        extra["model_input_names"] = ["input_ids", "attention_mask"]
    else:
        engine.post_processor = processors.ByteLevel(trim_offsets=False)
    folder.mkdir(parents=True, exist_ok=True)
    save_hub(folder, engine, names, extra)
    merged = [" ".join(pair) for pair in json.loads(engine.to_str())["model"]["merges"]]  # their order decides, not that of the ids
    known = identity("byte_bpe", [*pieces, *merged], {"lowercase": lowercase}, ids)
    meta = Meta("byte_bpe", len(pieces), ids, known, files=digests(folder, JSON))
    save_meta(folder, meta)
    return meta


def load(folder: Path, meta: Meta) -> HubTokenizer:
    """The tokenizer saved in a folder."""
    return HubTokenizer(folder, meta)
