"""Character BPE that marks the ends of words, as GPT-1 reads text (Radford et al. 2018, section 4.1; Sennrich et al. 2016).

Words are cut as BERT cuts them, at white space and punctuation; a word's last piece ends in </w>.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from data_prep.tokenizer.base import JSON, Meta, digests, identity, ordered, save_meta
from data_prep.tokenizer.hub import HubTokenizer, save_hub
from data_prep.tokenizer.wordpiece import check_size, count_letters

KIND = "bpe_eow"
SUFFIX = "</w>"
NAMES = {"unk": "<unk>", "eos": "<|endoftext|>", "bos": "<|endoftext|>"}  # ids 0 and 1; GPT-1's own vocabulary has no end of text


def train(texts: Sequence[str], folder: Path, vocab: int, lowercase: bool = True, min_frequency: int = 2, alphabet: int = 1000) -> Meta:
    """alphabet: how many letters at most, the most frequent; others are unknown. The library numbers "x</w>" in the order of a
    hash map, so letters are counted here and numbered first, as for WordPiece.
    """
    engine = _blank(models.BPE(unk_token=NAMES["unk"]), lowercase)
    letters, _, last = count_letters(engine, texts, alphabet)
    first = [*dict.fromkeys(NAMES.values()), *letters, *(letter + SUFFIX for letter in last)]
    check_size(vocab, len(first))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=min_frequency,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        special_tokens=first,
        end_of_word_suffix=SUFFIX,
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer, length=len(texts))
    model: dict[str, Any] = json.loads(engine.to_str())["model"]
    return save(model["vocab"], [(left, right) for left, right in model["merges"]], folder, lowercase)


def save(vocabulary: Mapping[str, int], merges: list[tuple[str, str]], folder: Path, lowercase: bool) -> Meta:
    """Save a vocabulary, trained or published, and its merges."""
    model = models.BPE(dict(vocabulary), merges, unk_token=NAMES["unk"], end_of_word_suffix=SUFFIX, fuse_unk=False)
    engine = _blank(model, lowercase)
    pieces = ordered(vocabulary)
    names = {role: text for role, text in NAMES.items() if text in vocabulary}
    engine.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in dict.fromkeys(names.values())])
    specials = {role: vocabulary[text] for role, text in names.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_hub(folder, engine, names, {"do_lower_case": lowercase})
    merged = [" ".join(pair) for pair in merges]
    known = identity(KIND, [*pieces, *merged], {"lowercase": lowercase, "bert": True}, specials)
    meta = Meta(KIND, len(pieces), specials, known, files=digests(folder, JSON))
    save_meta(folder, meta)
    return meta


def _blank(model: models.BPE, lowercase: bool) -> Tokenizer:
    engine = Tokenizer(model)
    engine.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.BPEDecoder(suffix=SUFFIX)
    return engine


def load(folder: Path, meta: Meta) -> HubTokenizer:
    """The tokenizer saved in a folder."""
    return HubTokenizer(folder, meta)
