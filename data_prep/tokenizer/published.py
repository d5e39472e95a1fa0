"""Published vocabularies as tokenizers of ours: the files say which kind they are, and every id stays what it was.

A .model is sentencepiece's; a .txt alone is BERT's vocab.txt; a .json (piece -> id) with merges beside it (.bpe, .txt) is
GPT-2's or RoBERTa's, or GPT-1's where its pieces end in </w>; a tokenizer.json alone says all of this itself.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import models

from data_prep.tokenizer import bpe_eow, byte_bpe, hub_json, sentencepiece, wordpiece
from data_prep.tokenizer.base import JSON, Meta, ordered
from infra.errors import ArtifactError, ConfigError

KIND = "import"
LARGEST = 64 << 20  # bytes; 256,000 pieces with their merges take half of it


def read(files: Sequence[Path], folder: Path, lowercase: bool) -> Meta:
    """Save the vocabulary of the files in a folder. lowercase: whether its text was lower-cased, which no WordPiece file says."""
    by_suffix = {path.suffix: path for path in files}
    suffixes = sorted(by_suffix)
    try:
        if large := [path for path in files if path.stat().st_size > LARGEST]:
            raise ConfigError(f"{large[0]} is larger than {LARGEST >> 20} MiB, which no vocabulary is")
        if suffixes == [".model"] and len(files) == 1:
            return sentencepiece.adopt(files[0].read_bytes(), folder, lowercase)
        if suffixes == [".json"] and len(files) == 1:
            return hub_json.read(files[0], folder, lowercase)
        if suffixes == [".txt"] and len(files) == 1:
            return wordpiece.adopt(_lines(files[0]), folder, lowercase)
        if len(files) == 2 and suffixes in ([".bpe", ".json"], [".json", ".txt"]):
            merges = by_suffix.get(".bpe") or by_suffix[".txt"]
            return _merged(by_suffix[".json"], merges, folder, lowercase)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ArtifactError(f"{', '.join(map(str, files))}: not a vocabulary that can be read ({error})") from error
    raise ConfigError(
        f"tokenizer.files {', '.join(path.name for path in files) or '(none)'}: give one .model (sentencepiece), one .txt (BERT), "
        "one tokenizer.json, or a .json with its merges in a .bpe or .txt (GPT-1, GPT-2, RoBERTa)"
    )


def check(folder: Path) -> None:
    """A folder from elsewhere that calls its tokenizer ours: raises ArtifactError unless a library may follow its files."""
    hub_json.opened(folder / JSON)
    model = folder / sentencepiece.MODEL
    try:
        if model.is_file():
            sentencepiece.proven(model.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{model}: not a model that can be read ({error})") from error


def _lines(path: Path) -> list[str]:
    """Only a line feed ends a line: other separators are pieces."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _merged(vocabulary: Path, merges: Path, folder: Path, lowercase: bool) -> Meta:
    ids: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
    lines = [line for line in _lines(merges) if line and not line.startswith("#version")]
    pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    pieces = ordered(ids)
    if any(piece.endswith(bpe_eow.SUFFIX) and piece != bpe_eow.SUFFIX for piece in pieces):
        return bpe_eow.save(ids, pairs, folder, lowercase=True)  # GPT-1 knows no other
    return byte_bpe.finish(byte_bpe.blank(models.BPE(ids, pairs), lowercase), folder, lowercase, byte_bpe.set_of(ids, vocabulary))
