"""The pieces of a saved tokenizer and which of them begin a word, from its files alone: masks of whole words need no library."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import punctuation
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.tokenizer.base import JSON, META, Meta, check_files, ordered, with_specials
from infra.errors import ArtifactError, ConfigError

SPACED, UNIGRAM = "sentencepiece", "Unigram"
SPACE = "\u2581"  # what sentencepiece writes for a space


def pieces_of(model: Mapping[str, Any]) -> list[str]:
    """The pieces of a record's model, by id."""
    vocabulary = model["vocab"]
    return [piece for piece, _ in vocabulary] if model["type"] == UNIGRAM else ordered(vocabulary)


def word_start(kind: str, pieces: Sequence[str], specials: Mapping[str, int]) -> NDArray[np.bool_]:
    """WordPiece marks what continues a word; byte-level BPE writes a leading space as Ġ, a new line as Ċ."""
    if kind == "bpe_eow":
        raise ConfigError("a bpe_eow tokenizer marks where words end, not where they begin: take single tokens, or another kind")
    if kind.startswith(SPACED):
        starts = [piece.startswith(SPACE) for piece in pieces]
    elif kind == "wordpiece":
        starts = [not piece.startswith("##") for piece in pieces]
    else:
        starts = [piece[0] in "ĠĊĉč" or piece[0] in punctuation for piece in pieces]
    return with_specials(starts, specials)


def word_start_of(folder: Path, meta: Meta) -> NDArray[np.bool_]:
    """Tokenizer.word_start of the folder's tokenizer. Raises ArtifactError when its files are not those that meta describes."""
    check_files(folder, meta)
    try:
        pieces = pieces_of(json.loads((folder / JSON).read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}: the tokenizer cannot be read ({error}); run `textmill verify`, then run again") from error
    if len(pieces) != meta.vocab:
        raise ArtifactError(f"{folder / JSON} holds {len(pieces)} pieces, its {META} speaks of {meta.vocab}; run again to remake it")
    return word_start(meta.kind, pieces, meta.specials)
