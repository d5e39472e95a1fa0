"""What an encoding's shards counted of each language, and what that says of its tokenizer."""

from __future__ import annotations

from typing import Any

from data_prep import shards
from infra.artifact import Artifact

ALL = " all"  # in the place of a language's name; sorts before every name


def languages(encoded: Artifact) -> list[dict[str, Any]]:
    """One row a language, the most text first, after one for all of them: sums, and what they say of the tokenizer.

    fertility: tokens a word (between white space, which says little of a language written without it); bytes and letters a
    token; unknown_share: of the tokens. Empty for an artifact made before this side was.
    """
    sums: dict[str, dict[str, int]] = {}
    for path in encoded.side("languages"):
        for row in shards.read(path).to_pylist():
            for language in (ALL, row.pop("language")):
                sums[language] = shards.total([sums.get(language, {}), row])
    ordered = sorted(sums, key=lambda language: (-sums[language]["bytes"], language))
    return [{"language": language, **sums[language], **_rates(sums[language])} for language in ordered]


def _rates(row: dict[str, int]) -> dict[str, float | None]:
    def share(part: int, whole: int, digits: int = 4) -> float | None:
        return round(part / whole, digits) if whole else None

    return {
        "fertility": share(row["tokens"], row["words"]),
        "bytes_per_token": share(row["bytes"], row["tokens"]),
        "letters_per_token": share(row["letters"], row["tokens"]),
        "unknown_share": share(row["unknown"], row["tokens"], 6),
    }
