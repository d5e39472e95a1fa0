"""A tokenizer's files next to the model's: copied, and completed with what transformers must know of this model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_prep.tokenizer.base import JSON, META, digests, read_meta, save_meta
from data_prep.tokenizer.frame import Frame, post_processor
from infra.errors import ArtifactError

CONFIG, MAP = "tokenizer_config.json", "special_tokens_map.json"
SPACED_MASK = ("byte_bpe", "sentencepiece_bpe", "sentencepiece_unigram")  # a space before a word is part of the word's token


@dataclass(frozen=True)
class Usage:
    """How a model's inputs are built. pad: the id of padding. length: tokens, model_max_length."""

    frame: Frame
    pad: int | None
    length: int
    settings: Mapping[str, Any] = field(default_factory=dict)  # further keys of tokenizer_config.json


def tokenizer_folder(path: Path) -> Path:
    """The folder that holds the files: the given one, or its `tokenizer/`."""
    inner = path / "tokenizer"
    found = inner if inner.is_dir() else path
    if not found.is_dir():
        raise ArtifactError(f"{path} is no tokenizer folder; give the tokenizer artifact's path")
    return found


def special_ids(path: Path | None) -> dict[str, int]:
    """Role -> id ("pad": 0), from the tokenizer's own record; empty without a tokenizer."""
    if path is None:
        return {}
    path = Path(path)
    for record in (tokenizer_folder(path) / META, path / META):
        if record.exists():
            return {str(role): int(number) for role, number in json.loads(record.read_text(encoding="utf-8"))["specials"].items()}
    return {}


def copy_tokenizer(path: Path, folder: Path) -> None:
    """All its files, textmill's record included: a model folder then works alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(tokenizer_folder(path).iterdir()):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a tokenizer that transformers opens, not only its record."""
    return (folder / META).is_file() and (folder / JSON).is_file()


def complete(folder: Path, usage: Usage) -> None:
    """Write into the copied files what belongs to the model: frame, padding, length, and which inputs a call returns.

    The vocabulary and its fingerprint stay what they are.
    """
    meta, record = read_meta(folder), _read(folder / JSON)
    pieces = pieces_of(record)
    record["post_processor"] = post_processor(usage.frame, pieces)
    if meta.kind in SPACED_MASK and "mask" in meta.specials:  # "a <mask>" is "a" and the mask, as a masked word's token holds its space
        for token in record["added_tokens"]:
            token["lstrip"] = token["lstrip"] or token["id"] == meta.specials["mask"]
    (folder / JSON).write_text(json.dumps(record, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    save_meta(folder, replace(meta, files={**meta.files, **digests(folder, *(name for name in meta.files if name == JSON))}))
    names = ["input_ids", *(["token_type_ids"] if usage.frame.segments else []), "attention_mask"]
    changes = {**usage.settings, "model_max_length": usage.length, "model_input_names": names}
    pad = {} if usage.pad is None else {"pad_token": pieces[usage.pad]}
    _update(folder / CONFIG, {**changes, **pad})
    _update(folder / MAP, pad)


def pieces_of(record: Mapping[str, Any]) -> list[str]:
    """The text of every id of a tokenizer.json; added tokens included."""
    vocab = record["model"]["vocab"]
    ids = {number: piece for piece, number in vocab.items()} if isinstance(vocab, dict) else dict(enumerate(piece for piece, _ in vocab))
    ids |= {token["id"]: token["content"] for token in record["added_tokens"]}
    return [ids[number] for number in range(len(ids))]


def _update(path: Path, changes: Mapping[str, Any]) -> None:
    found = _read(path) if path.is_file() else {}
    path.write_text(json.dumps({**found, **changes}, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
