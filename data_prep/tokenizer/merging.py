"""Byte-level merges by tiktoken (its only door): several times as fast as `tokenizers`, at the same ids.

tiktoken joins the two neighbours whose joined bytes have the lowest rank; the `tokenizers` library the two that stand first in
its list of pairs. That is the same when each piece is made by one pair, from pieces made earlier, and every piece's own text
becomes that piece; `merger` checks it and gives None for a vocabulary of which it is not true. Only single words go through
here: tiktoken's expressions overflow their stack on a megabyte of spaces, and words are cut elsewhere (cuts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tiktoken
from tokenizers import models

from data_prep.tokenizer.word_ids import Encoded, flattened

WHOLE = r"(?s).+"  # the word as it is


def byte_letters() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes (encoder.py, bytes_to_unicode): themselves where they print, else those from 256 on."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + number): byte for number, byte in enumerate(others)}


def merger(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], model: models.BPE) -> Callable[[list[str]], Encoded] | None:
    """Words to ids, or None when tiktoken cannot be relied on to give those of the model."""
    ranked = _ranked(ids, merges)
    if ranked is None or any(len(model.tokenize(piece)) != 1 for piece in ranked):
        return None
    letters = byte_letters()
    ranks = {bytes(letters[letter] for letter in piece): rank for rank, piece in enumerate(ranked)}
    engine = tiktoken.Encoding("words", pat_str=WHOLE, mergeable_ranks=ranks, special_tokens={})
    of_rank = np.array([ids[piece] for piece in ranked], np.uint32)

    def encode(words: list[str]) -> Encoded:
        found, lengths = flattened([engine.encode_ordinary(word) for word in words])
        return Encoded(of_rank[found], lengths)

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
