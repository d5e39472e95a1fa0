"""Byte-level merges by tiktoken (its only door): several times as fast as `tokenizers`, at the same ids.

tiktoken joins the two neighbours whose joined bytes have the lowest rank; the `tokenizers` library the two that stand first in
its list of pairs. That is the same when each piece is made by one pair, from pieces made earlier, and every piece's own text
becomes that piece; `merger` checks it and gives None for a vocabulary of which it is not true. Only single words go through
here: tiktoken's expressions overflow their stack on a megabyte of spaces, and words are cut elsewhere (cuts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import tiktoken
from tokenizers import models

from data_prep.tokenizer.word_ids import Encoded, between, flattened

MARK = "\0"  # between words encoded in one call: a call for each word costs more than the merging
WORDS = r"[^\x00]+|\x00"


def byte_letters() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes (encoder.py, bytes_to_unicode): themselves where they print, else those from 256 on."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + number): byte for number, byte in enumerate(others)}


def merger(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], model: models.BPE) -> Callable[[pa.StringArray], Encoded] | None:
    """Words to ids, or None when tiktoken cannot be relied on to give those of the model."""
    ranked = _ranked(ids, merges)
    if ranked is None or any(len(model.tokenize(piece)) != 1 for piece in ranked):
        return None
    letters = byte_letters()
    ranks = {bytes(letters[letter] for letter in piece): rank for rank, piece in enumerate(ranked)}
    engine = tiktoken.Encoding("words", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})
    of_rank, mark = np.array([ids[piece] for piece in ranked], np.uint32), ranks[MARK.encode()]

    def encode(words: pa.StringArray) -> Encoded:
        listed = words.to_pylist()
        text = MARK.join(listed)
        if text.count(MARK) == len(listed) - 1:
            ranked, lengths = between(flattened([engine.encode_ordinary(text)]).ids, mark)
        else:  # a word holds the mark itself
            ranked, lengths = flattened([engine._encode_single_piece(word) for word in listed])
        return Encoded(of_rank[ranked], lengths)

    return encode


def _ranked(ids: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> list[str] | None:
    """The pieces in the order in which they are made, the bytes first; None when some piece has no one place in it."""
    known = dict.fromkeys(byte_letters())
    if any(letter not in ids for letter in known):
        return None
    for left, right in merges:
        piece = left + right
        if left not in known or right not in known or piece in known or piece not in ids:
            return None
        known[piece] = None
    return list(known)
