"""WordPiece as BERT reads it (Devlin et al. 2019, section 3): words cut into the longest known pieces, continuations marked ##."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_prep.tokenizer.base import JSON, Meta, digests, identity, ordered, save_meta
from data_prep.tokenizer.hub import HubTokenizer, save_hub
from infra.errors import ConfigError
from infra.log import event

NAMES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}  # ids 0-4
HANGUL = re.compile("[\uac00-\ud7a3]")
HANGUL_SHARE = 0.01  # of a sample's documents, from which on Korean is part of the corpus
LONGEST_WORD = 100  # letters; a longer word is unknown, as in BERT


def train(
    texts: Sequence[str],
    folder: Path,
    vocab: int,
    lowercase: bool = True,
    min_frequency: int = 2,
    alphabet: int = 1000,
    strip_accents: bool | None = None,
) -> Meta:
    """alphabet: how many letters at most, the most frequent; words with other letters are unknown. strip_accents: None: when it
    lower-cases, as BERT does; this also takes Hangul syllables apart into letters (jamo), which a warning says.

    The library numbers "##x" in the order of a hash map, which differs from run to run and decides between merges of
    equal count. So letters and their continuations are counted here and numbered first, in a fixed order.
    """
    engine = _blank(lowercase, strip_accents)
    _warn_of_jamo(texts, lowercase, strip_accents)
    letters, inner, _ = count_letters(engine, texts, alphabet)
    first = [*NAMES.values(), *(f"##{letter}" for letter in inner)]
    check_size(vocab, len(first) + len(letters))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab,
        min_frequency=min_frequency,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        special_tokens=first,
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer, length=len(texts))
    return _save(ordered(engine.get_vocab()), folder, lowercase, strip_accents)


def _warn_of_jamo(texts: Sequence[str], lowercase: bool, strip_accents: bool | None) -> None:
    stripped = lowercase if strip_accents is None else strip_accents
    if stripped and (share := sum(1 for text in texts if HANGUL.search(text)) / max(1, len(texts))) > HANGUL_SHARE:
        event(
            "warning",
            message=f"wordpiece: {share:.0%} of the sample's documents hold Hangul, whose syllables are taken apart into jamo, as BERT's "
            "accent stripping does; set the tokenizer's `strip_accents: false` (KoELECTRA and KLUE do) or `lowercase: false`",
        )


def _blank(lowercase: bool, strip_accents: bool | None = None) -> Tokenizer:
    engine = Tokenizer(models.WordPiece(unk_token=NAMES["unk"], max_input_chars_per_word=LONGEST_WORD))
    engine.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)  # None: when it lower-cases
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return engine


def count_letters(engine: Tokenizer, texts: Sequence[str], limit: int) -> tuple[list[str], list[str], list[str]]:
    """The most frequent letters, which of them occur inside words, and which end words; all in the order of Unicode."""
    chunks: Counter[str] = Counter()
    for text in texts:
        chunks.update(engine.normalizer.normalize_str(text).split())
    letters: Counter[str] = Counter()
    inner: set[str] = set()
    last: set[str] = set()
    for chunk, count in chunks.items():
        for word, _ in engine.pre_tokenizer.pre_tokenize_str(chunk):
            inner.update(word[1:])
            last.update(word[-1:])
            for letter in word:
                letters[letter] += count
    kept = sorted(letters, key=lambda letter: (-letters[letter], letter))[:limit]
    return sorted(kept), sorted(inner.intersection(kept)), sorted(last.intersection(kept))


def check_size(vocab: int, needed: int) -> None:
    """Raises ConfigError when the letters alone do not fit."""
    if vocab < needed:
        raise ConfigError(
            f"tokenizer.vocab {vocab} is too small: specials, letters and their continuations alone are {needed}; "
            "raise vocab or lower tokenizer.alphabet"
        )


def adopt(pieces: list[str], folder: Path, lowercase: bool) -> Meta:
    """A published vocabulary, by id."""
    if missing := [name for name in NAMES.values() if name not in pieces]:
        raise ConfigError(f"the vocabulary lacks {', '.join(missing)}; it is no WordPiece vocabulary of BERT's kind")
    return _save(pieces, folder, lowercase)


def _save(pieces: list[str], folder: Path, lowercase: bool, strip_accents: bool | None = None) -> Meta:
    """A fresh engine around the vocabulary: the trained one would treat every continuation as a special."""
    engine = _blank(lowercase, strip_accents)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    engine.model = models.WordPiece(vocab=vocabulary, unk_token=NAMES["unk"], max_input_chars_per_word=LONGEST_WORD)
    engine.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in NAMES.values()])
    specials = {role: vocabulary[name] for role, name in NAMES.items()}
    engine.post_processor = around(NAMES["cls"], NAMES["sep"], vocabulary)
    folder.mkdir(parents=True, exist_ok=True)
    extra = {
        "do_lower_case": lowercase,
        "strip_accents": strip_accents,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
    }
    save_hub(folder, engine, NAMES, extra)
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    rules = {"lowercase": lowercase, "bert": True} | ({} if strip_accents is None else {"strip_accents": strip_accents})
    known = identity("wordpiece", pieces, rules, specials)
    meta = Meta("wordpiece", len(pieces), specials, known, files=digests(folder, JSON))
    save_meta(folder, meta)
    return meta


def record(path: Path, lowercase: bool, steps: Mapping[str, Any]) -> dict[str, Any]:
    """A vocab.txt as a tokenizer.json. steps: what the normalizer does beside lower case (strip_accents, handle_chinese_chars)."""
    pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    found: dict[str, Any] = json.loads(_blank(lowercase).to_str())
    model = {"vocab": {piece: number for number, piece in enumerate(pieces)}, "continuing_subword_prefix": "##"}
    found["model"] = {"type": "WordPiece", "unk_token": NAMES["unk"], "max_input_chars_per_word": LONGEST_WORD, **model}
    found["normalizer"] = {"type": "BertNormalizer", "clean_text": True, "lowercase": lowercase, **steps}
    return found


def around(cls: str, sep: str, ids: Mapping[str, int]) -> processors.TemplateProcessing:
    """What transformers puts around one text and two."""
    return processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=[(cls, ids[cls]), (sep, ids[sep])]
    )


def load(folder: Path, meta: Meta) -> HubTokenizer:
    """The tokenizer saved in a folder."""
    return HubTokenizer(folder, meta)
