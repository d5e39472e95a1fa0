from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.tokenizer.base import Meta, read_meta, save_meta
from data_prep.tokenizer.catalog import LOADERS, load, meta
from infra.errors import ArtifactError


@pytest.mark.parametrize("kind", list(LOADERS))
def test_what_is_loaded_is_what_meta_says(trained: dict[str, Path], kind: str) -> None:
    tokenizer, known = load(trained[kind]), meta(trained[kind])
    assert known.kind == tokenizer.kind == kind
    assert (tokenizer.vocab, tokenizer.specials, tokenizer.fingerprint) == (known.vocab, known.specials, known.fingerprint)
    assert tokenizer.encode_batch([]) == [] and tokenizer.encode_batch([""]) == [[]]


def test_an_unknown_kind_and_a_broken_file_are_errors(tmp_path: Path, trained: dict[str, Path]) -> None:
    save_meta(tmp_path, Meta("morse", 3, {}, ""))
    with pytest.raises(ArtifactError, match="morse"):
        load(tmp_path)
    save_meta(tmp_path, read_meta(trained["byte_bpe"]))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(tmp_path)
