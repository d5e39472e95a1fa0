"""The kinds of tokenizer there are, how each is trained, and how a saved one is loaded.

Each kind's module, with the library under it, is imported when it is used: a machine that only trains has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from data_prep.tokenizer.base import Meta, Tokenizer, read_meta
from infra.artifact import Artifact
from infra.errors import ArtifactError, ConfigError

FOLDER = "tokenizer"  # within an artifact


class Loader(Protocol):
    """Opens a saved folder."""

    def __call__(self, folder: Path, meta: Meta) -> Tokenizer: ...


def _loaded(module: str, folder: Path, meta: Meta) -> Tokenizer:
    """Raises ConfigError where the library is missing that this kind stands on."""
    try:
        found = import_module(f"data_prep.tokenizer.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{folder}: a {meta.kind} tokenizer needs the library {error.name}: install it on this machine") from error
    return cast("Loader", found.load)(folder, meta)


LOADERS: dict[str, Loader] = {
    "byte_bpe": partial(_loaded, "byte_bpe"),
    "bpe_eow": partial(_loaded, "bpe_eow"),
    "wordpiece": partial(_loaded, "wordpiece"),
    "sentencepiece_bpe": partial(_loaded, "sentencepiece"),
    "sentencepiece_unigram": partial(_loaded, "sentencepiece"),
}


class Trainer(Protocol):
    """Makes a tokenizer from texts and saves it in a folder."""

    def __call__(self, texts: Sequence[str], folder: Path, vocab: int, lowercase: bool) -> Meta: ...


def trainer(
    kind: str, min_frequency: int, alphabet: int, coverage: float, specials: str = "gpt", strip_accents: bool | None = None
) -> Trainer:
    """The training function of a kind, with the settings that only some kinds have."""
    from data_prep.tokenizer import bpe_eow, byte_bpe, sentencepiece, wordpiece

    made: dict[str, Trainer] = {
        "byte_bpe": partial(byte_bpe.train, min_frequency=min_frequency, specials=specials),
        "bpe_eow": partial(bpe_eow.train, min_frequency=min_frequency, alphabet=alphabet),
        "wordpiece": partial(wordpiece.train, min_frequency=min_frequency, alphabet=alphabet, strip_accents=strip_accents),
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
    except ConfigError:  # which is a ValueError too
        raise
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder}: the tokenizer cannot be read ({error}); run `textmill verify`, then run again") from error
