"""The kinds of tokenizer there are, how each is trained, and how a saved one is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from data_prep.tokenizer import bpe_eow, byte_bpe, sentencepiece, wordpiece
from data_prep.tokenizer.base import Meta, Tokenizer, read_meta
from infra.artifact import Artifact
from infra.errors import ArtifactError

FOLDER = "tokenizer"  # within an artifact


class Loader(Protocol):
    """Opens a saved folder."""

    def __call__(self, folder: Path, meta: Meta) -> Tokenizer: ...


LOADERS: dict[str, Loader] = {
    "byte_bpe": byte_bpe.load,
    "bpe_eow": bpe_eow.load,
    "wordpiece": wordpiece.load,
    "sentencepiece_bpe": sentencepiece.load,
    "sentencepiece_unigram": sentencepiece.load,
}


class Trainer(Protocol):
    """Makes a tokenizer from texts and saves it in a folder."""

    def __call__(self, texts: Sequence[str], folder: Path, vocab: int, lowercase: bool) -> Meta: ...


def trainer(kind: str, min_frequency: int, alphabet: int, coverage: float, specials: str = "gpt") -> Trainer:
    """The training function of a kind, with the settings that only some kinds have."""
    made: dict[str, Trainer] = {
        "byte_bpe": partial(byte_bpe.train, min_frequency=min_frequency, specials=specials),
        "bpe_eow": partial(bpe_eow.train, min_frequency=min_frequency, alphabet=alphabet),
        "wordpiece": partial(wordpiece.train, min_frequency=min_frequency, alphabet=alphabet),
        "sentencepiece_bpe": partial(sentencepiece.train, model="bpe", coverage=coverage),
        "sentencepiece_unigram": partial(sentencepiece.train, model="unigram", coverage=coverage),
    }
    return made[kind]


def folder_of(source: Artifact | Path) -> Path:
    """The folder with the tokenizer's files: of an artifact, or the path itself."""
    if isinstance(source, Artifact):
        return source.path / FOLDER
    nested = Path(source) / FOLDER
    return nested if nested.is_dir() else Path(source)


def meta(source: Artifact | Path) -> Meta:
    """What meta.json says, without loading the tokenizer."""
    return read_meta(folder_of(source))


def load(source: Artifact | Path) -> Tokenizer:
    """The tokenizer of an artifact or folder. Raises ArtifactError when its files are not whole."""
    folder = folder_of(source)
    known = read_meta(folder)
    if known.kind not in LOADERS:
        raise ArtifactError(f"{folder}: unknown kind of tokenizer {known.kind!r}; this textmill knows {', '.join(LOADERS)}")
    try:
        return LOADERS[known.kind](folder, known)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: the tokenizer cannot be read ({error}); run `textmill verify`, then run again") from error
