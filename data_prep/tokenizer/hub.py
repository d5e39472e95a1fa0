"""Tokenizers of Hugging Face's `tokenizers` library: how they are read, saved, and made fast for much text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tokenizers
from numpy.typing import NDArray

from data_prep.tokenizer import cuts, merging
from data_prep.tokenizer.base import JSON, META, Meta, check_files, threads
from data_prep.tokenizer.pieces import SPACED, UNIGRAM, pieces_of, word_start
from data_prep.tokenizer.word_ids import Encoded, WordIds, between, concatenated, flattened
from infra.errors import ArtifactError
from infra.log import event

BYTES = "byte_bpe"
FEW = 4096  # letters: fewer are not worth the tables of the fast way
MARK = "\U0010fffe"  # between words encoded in one call: a letter that Unicode keeps for use inside programs
MARKED_WORDS = 256  # in one call
# Encoded both ways before the fast way is used. Each line holds a trap of cutting or merging: contractions, runs of white space of
# every kind, at the end too, numbers and letters of several scripts, combining marks, control and unassigned letters, specials.
HOSTILE = (
    "it's we'll I'd they'RE 'tis ''s 's's '' s'\n's\t'll  've",
    "  two  spaces \n\n\tand\r\n tabs\u00a0\u3000\u2028\u0085\x1c x  ",
    " \n",
    "\x00\x01\x7f\u200b\ufeff\ufffd\u0378\U000e0001\U0010ffff",
    "x²³½ ⅷ١٢٣ 四百 12ab34 ３.14e-10",
    "Ünïcödé e\u0301\u0302 ǅ ŉ İi ﬁ Σίσυφος ς नमस्ते ไทย 한국어 \u1112\u1161\u11ab ㅋㅋ 漢字かな 𝔘𐍈 👩‍👩‍👧 🇰🇷",
    "<|endoftext|> [SEP][MASK] <s></s><unk><pad> ##ing </w> ▁▁ ĠĊ",
    "!!!???... ~~~~~~~ ======== $1,000.00 a_b-c/d#e@f.g 'quoted' \"x\"",
    "a" * 200 + " " * 50 + "!" * 120,
)


class HubTokenizer:
    """A tokenizer of Hugging Face's `tokenizers` library: byte-level BPE, BPE with ends of words, WordPiece, Unigram as it was found."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        """Raises ArtifactError when the files are not those that meta describes."""
        self.kind, self.vocab, self.specials, self.fingerprint = meta.kind, meta.vocab, dict(meta.specials), meta.fingerprint
        check_files(folder, meta)
        threads()
        record = json.loads((folder / JSON).read_text(encoding="utf-8"))
        model, self.pieces = record["model"], pieces_of(record["model"])
        if model["type"] == UNIGRAM:  # which finds any piece in a text; a space is in none, for it has become SPACE
            controls = {token["id"] for token in record["added_tokens"]}
            hidden = [[f" {i}" if i in controls else piece, score] for i, (piece, score) in enumerate(model["vocab"])]
            model = {**model, "vocab": hidden}
        self._engine = tokenizers.Tokenizer.from_str(json.dumps({**record, "model": model, "added_tokens": [], "post_processor": None}))
        self._merges = [(left, right) for left, right in model.get("merges", ())]
        if len(self.pieces) != self.vocab:
            raise ArtifactError(
                f"{folder / JSON} holds {len(self.pieces)} pieces, its {META} speaks of {self.vocab}; run again to remake it"
            )

    @property
    def word_start(self) -> NDArray[np.bool_]:
        return word_start(self.kind, self.pieces, self.specials)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self.encode_flat(texts).lists()

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        if (len(texts) < FEW and sum(map(len, texts)) < FEW) or self.kind.startswith(SPACED):
            return self._by_library(texts)
        if self.kind == BYTES and (normalizer := self._engine.normalizer) is not None:  # lower-cases letter by letter
            texts = [normalizer.normalize_str(text) for text in texts]
        return self._words(texts)

    def _by_library(self, texts: Sequence[str]) -> Encoded:
        return flattened([e.ids for e in self._engine.encode_batch_fast(list(texts), add_special_tokens=False)])

    def _each(self, words: pa.StringArray) -> Encoded:
        return self._by_library(words.to_pylist())

    def _marked(self, words: pa.StringArray) -> Encoded:
        """Words by the library, many as one text: a result of its own for each costs more than the encoding."""
        listed = words.to_pylist()
        texts = [MARK.join(listed[at : at + MARKED_WORDS]) for at in range(0, len(listed), MARKED_WORDS)]
        if sum(text.count(MARK) for text in texts) + len(texts) != len(listed):  # a word holds the mark itself
            return self._each(words)
        encoded = self._marking.encode_batch_fast(texts, add_special_tokens=False)
        return concatenated([between(flattened([each.ids]).ids, self.vocab) for each in encoded])

    @cached_property
    def _marking(self) -> tokenizers.Tokenizer:
        """The same tokenizer with one id more, that of MARK."""
        engine = tokenizers.Tokenizer.from_str(self._engine.to_str())
        engine.add_special_tokens([tokenizers.AddedToken(MARK, special=True, normalized=False)])
        return engine

    @cached_property
    def _words(self) -> WordIds:
        """The fast way, built at the first large call and compared with the library on HOSTILE before it is used."""
        if self.kind == BYTES:
            cut: cuts.Cutter = cuts.Gpt2Words(self._engine.pre_tokenizer.pre_tokenize_str)
            merge = merging.merger({piece: number for number, piece in enumerate(self.pieces)}, self._merges, self._engine.model)
            if merge is None:
                event("note", message="this vocabulary's merges have no single order, so its new words are merged by the slower library")
        else:
            cut, merge = cuts.spaced_words, self._marked
        words = WordIds(cut, merge or self._each)
        lower = self._engine.normalizer if self.kind == BYTES else None
        texts = [lower.normalize_str(text) for text in HOSTILE] if lower else HOSTILE
        one_by_one = [row for text in texts for row in words([text]).lists()]  # each word is new here, and known below
        if not one_by_one == words(texts).lists() == self._by_library(HOSTILE).lists():
            raise ArtifactError(
                f"the {self.kind} tokenizer {self.fingerprint} gives other ids by words than by `tokenizers`: its file is not one that "
                "textmill wrote, or the library's version is not one it was made for"
            )
        return words

    def decode(self, ids: Sequence[int]) -> str:
        if self.kind.startswith(SPACED):  # by the pieces' own names
            return str(self._engine.decoder.decode([self.pieces[number] for number in ids]))
        return str(self._engine.decode(list(ids), skip_special_tokens=False))


def save_hub(folder: Path, engine: tokenizers.Tokenizer, names: Mapping[str, str], extra: Mapping[str, Any]) -> None:
    """The files transformers reads. names: role -> text of the special token."""
    (folder / JSON).write_text(engine.to_str(pretty=False), encoding="utf-8")
    roles = {f"{role}_token": text for role, text in sorted(names.items())}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000,
        **roles,
        **extra,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, sort_keys=True), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(roles, indent=1, sort_keys=True), encoding="utf-8")
