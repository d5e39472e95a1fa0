from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.tokenizer.base import Meta, read_meta, save_meta
from data_prep.tokenizer.catalog import LOADERS, load, meta
from data_prep.tokenizer.word_ids import Encoded
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
    save_meta(tmp_path, replace(read_meta(trained["byte_bpe"]), files={}))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize("kind", list(LOADERS))
def test_a_truncated_a_bit_flipped_and_a_foreign_file_are_errors_that_name_it(tmp_path: Path, trained: dict[str, Path], kind: str) -> None:
    names = [p.name for p in trained[kind].iterdir() if p.name in ("tokenizer.json", "spiece.model")]
    assert len(names) == 1 + kind.startswith("sentencepiece")
    foreign = trained["wordpiece" if kind != "wordpiece" else "byte_bpe"] / "tokenizer.json"
    for name in names:
        whole = (trained[kind] / name).read_bytes()
        flips = [bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]]) for at in range(7, len(whole), len(whole) // 9)]
        for number, wrong in enumerate([whole[:-1], whole[: len(whole) // 2], b"", foreign.read_bytes(), *flips]):
            folder = tmp_path / f"{name} {number}"
            shutil.copytree(trained[kind], folder)
            assert load(folder).vocab
            (folder / name).write_bytes(wrong)
            with pytest.raises(ArtifactError, match=re.escape(str(folder / name))):
                load(folder)
            (folder / name).unlink()
            with pytest.raises(ArtifactError, match=re.escape(str(folder / name))):
                load(folder)


@pytest.mark.parametrize("kind", list(LOADERS))
def test_ids_in_one_array_are_those_of_the_lists(trained: dict[str, Path], texts: list[str], kind: str) -> None:
    tokenizer = load(trained[kind])
    for some in ([], [""], ["", "kalo", ""], texts[:1], [*texts, "", " "]):
        ids, lengths = tokenizer.encode_flat(some)
        assert ids.dtype == np.uint32 and lengths.dtype == np.int64
        assert Encoded(ids, lengths).lists() == tokenizer.encode_batch(some) and len(lengths) == len(some)
        assert ids.tolist() == [number for row in tokenizer.encode_batch(some) for number in row]
