"""Published vocabularies as tokenizers of ours: the files say which kind they are, and every id stays what it was.

A .model is sentencepiece's; a .txt alone is BERT's vocab.txt; a .json (piece -> id) with merges beside it (.bpe, .txt) is
GPT-2's or RoBERTa's, or GPT-1's where its pieces end in </w>.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models

from data_prep.tokenizer import bpe_eow, byte_bpe, sentencepiece, wordpiece
from data_prep.tokenizer.base import Meta, ordered
from infra.errors import ArtifactError, ConfigError

KIND = "import"


def read(files: Sequence[Path], folder: Path, lowercase: bool) -> Meta:
    """Save the vocabulary of the files in a folder. lowercase: whether its text was lower-cased, which no WordPiece file says."""
    by_suffix = {path.suffix: path for path in files}
    suffixes = sorted(by_suffix)
    try:
        if suffixes == [".model"] and len(files) == 1:
            return sentencepiece.adopt(files[0].read_bytes(), folder, lowercase)
        if suffixes == [".txt"] and len(files) == 1:
            return wordpiece.adopt(_lines(files[0]), folder, lowercase)
        if len(files) == 2 and suffixes in ([".bpe", ".json"], [".json", ".txt"]):
            merges = by_suffix.get(".bpe") or by_suffix[".txt"]
            return _merged(by_suffix[".json"], merges, folder, lowercase)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ArtifactError(f"{', '.join(map(str, files))}: not a vocabulary that can be read ({error})") from error
    raise ConfigError(
        f"tokenizer.files {', '.join(path.name for path in files) or '(none)'}: give one .model (sentencepiece), one .txt (BERT), "
        "or a .json with its merges in a .bpe or .txt (GPT-1, GPT-2, RoBERTa)"
    )


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
    engine = byte_bpe.blank(models.BPE(ids, pairs), lowercase)
    return byte_bpe.finish(engine, folder, lowercase, _set_of(engine, vocabulary))


def _set_of(engine: Tokenizer, path: Path) -> str:
    for name, texts in byte_bpe.SETS.items():
        if all(engine.token_to_id(text) is not None for text in texts.values()):
            return name
    raise ConfigError(f"{path}: has neither {byte_bpe.END} nor RoBERTa's special tokens")
