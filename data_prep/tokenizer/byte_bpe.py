"""Byte-level BPE (Radford et al. 2019, section 2.2): 256 bytes, merged by frequency; every text has ids and comes back exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_prep.tokenizer.base import HubTokenizer, Meta, identity, ordered, save_hub, save_meta

END = "<|endoftext|>"
SPECIALS = (END,)
SMALLEST = 256 + len(SPECIALS)


def train(texts: Sequence[str], folder: Path, vocab: int, lowercase: bool = False, min_frequency: int = 2) -> Meta:
    """Deterministic: merges of equal count are taken in the order of their ids, and the 256 bytes are numbered first."""
    engine = Tokenizer(models.BPE())
    if lowercase:
        engine.normalizer = normalizers.Lowercase()
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, min_frequency=min_frequency, initial_alphabet=alphabet, special_tokens=list(SPECIALS), show_progress=False
    )
    engine.train_from_iterator(texts, trainer, length=len(texts))
    return finish(engine, folder, lowercase)


def finish(engine: Tokenizer, folder: Path, lowercase: bool) -> Meta:
    """Save a trained engine with its special; what identifies it."""
    engine.post_processor = processors.ByteLevel(trim_offsets=False)
    engine.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    pieces = ordered(engine.get_vocab())
    specials = dict.fromkeys(("eos", "bos"), pieces.index(END))  # one token for both, as in GPT-2
    folder.mkdir(parents=True, exist_ok=True)
    save_hub(folder, engine, {"eos": END, "bos": END}, {"add_prefix_space": False})
    meta = Meta("byte_bpe", len(pieces), specials, identity("byte_bpe", pieces, {"lowercase": lowercase}, specials))
    save_meta(folder, meta)
    return meta


def load(folder: Path, meta: Meta) -> HubTokenizer:
    """The tokenizer saved in a folder."""
    return HubTokenizer(folder, meta)
