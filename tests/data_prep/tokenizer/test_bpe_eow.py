from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from data_prep.tokenizer import bpe_eow
from data_prep.tokenizer.catalog import load
from infra.errors import ConfigError


def test_a_words_last_piece_says_that_it_is_the_last(trained: dict[str, Path]) -> None:
    tokenizer = load(trained["bpe_eow"])
    pieces = [tokenizer.pieces[i] for i in tokenizer.encode_batch(["Kalomi terson, quing"])[0]]  # type: ignore[attr-defined]
    assert [word for word in "".join(pieces).split("</w>") if word] == ["kalomi", "terson", ",", "quing"]
    assert tokenizer.decode(tokenizer.encode_batch(["kalomi terson"])[0]) == "kalomi terson"
    assert tokenizer.specials == {"unk": 0, "eos": 1, "bos": 1}


def test_the_most_frequent_pair_is_merged_first_and_an_unknown_letter_is_unknown(tmp_path: Path) -> None:
    bpe_eow.train(["ab ab ab cab cd"], tmp_path, 12)
    tokenizer = load(tmp_path)
    assert tokenizer.encode_batch(["ab"]) == [[tokenizer.pieces.index("ab</w>")]]  # type: ignore[attr-defined]
    assert tokenizer.encode_batch(["z"]) == [[0]]


def test_transformers_gives_the_same_ids_on_real_text(real: list[str], tmp_path: Path) -> None:
    bpe_eow.train(real[:600], tmp_path, 5000)
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path), load(tmp_path)
    assert theirs(real, add_special_tokens=False)["input_ids"] == ours.encode_batch(real) and theirs.eos_token_id == 1


def test_it_does_not_say_where_words_begin(trained: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="where words end"):
        _ = load(trained["bpe_eow"]).word_start
