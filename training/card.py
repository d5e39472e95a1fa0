"""What a model artifact says of itself: card.json beside the folder model/ that transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer.base import META, read_meta
from infra.artifact import Artifact
from infra.errors import ArtifactError

if TYPE_CHECKING:
    from training.families.family import Family, Use
    from training.objectives.tower import Tower

CARD, MODEL = "card.json", "model"


def read_card(model: Artifact) -> dict[str, Any]:
    """Raises ArtifactError when there is none: the artifact is then no model."""
    try:
        card: dict[str, Any] = json.loads(model.file(CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{model.stage}/{model.fingerprint}: its {CARD} cannot be read ({error}); run again to remake it") from error
    return card


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def export_model(family: Family, tower: Tower, out: Path, tokenizer: Artifact, use: Use | None = None) -> None:
    """Write model/ atomically."""
    part = out / f".{MODEL}"
    for stale in (part, out / MODEL):
        shutil.rmtree(stale, ignore_errors=True)
    family.export(tower, part, tokenizer.path, use)
    part.rename(out / MODEL)


def check_tokenizer(model: Artifact, tokenizer: Artifact, sentences: Artifact | None = None) -> None:
    """Raises ArtifactError unless model, tokenizer and encoded sentences share one vocabulary, id by id.

    Equal sizes prove nothing: with two pieces swapped every loss is still a number.
    """
    ours, mine = read_card(model).get("tokenizer_fingerprint"), tokenizers.meta(tokenizer).fingerprint
    if ours not in (mine, tokenizer.fingerprint):
        raise ArtifactError(
            f"{model.stage}/{model.fingerprint} was made with tokenizer {ours}, but {tokenizer.fingerprint} ({mine}) is given: "
            "the same id is another piece of text; use the model's own tokenizer"
        )
    if sentences is not None:
        used = read_meta(sentences.file(META)).fingerprint
        if used != mine:
            raise ArtifactError(f"the sentences were encoded with tokenizer {used}, not with {mine}; encode them with the model's own")
