from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from data_prep.tokenizer import bpe_eow, byte_bpe, sentencepiece, wordpiece
from data_prep.tokenizer.base import Meta, identity, ordered, read_meta, save_meta, threads
from data_prep.tokenizer.catalog import load, trainer
from data_prep.tokenizer.pieces import word_start_of
from infra.errors import ArtifactError, ConfigError

KINDS = ["byte_bpe", "wordpiece", "sentencepiece_bpe", "sentencepiece_unigram"]
PANGRAM = "the quick brown fox jumps over the lazy dog"
LITERALS = ["<|endoftext|>", "[SEP]", "[MASK]", "[CLS]", "[PAD]", "<s>", "</s>", "<pad>", "<unk>"]


@pytest.mark.parametrize("kind", [*KINDS, "bpe_eow"])
@pytest.mark.parametrize("literal", LITERALS)
def test_a_special_written_in_a_page_is_only_text(trained: dict[str, Path], kind: str, literal: str) -> None:
    tokenizer = load(trained[kind])
    controls = {number for role, number in tokenizer.specials.items() if role != "unk"}
    for text in (literal, f"kalo {literal} miter", f"kalo{literal}{literal}", f"\n{literal}\n"):
        ids = tokenizer.encode_batch([text])[0]
        assert ids and not controls & set(ids)


@pytest.fixture(scope="module")
def steeped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tokenizers of every kind trained on a corpus full of specials written out, and every letter of them in other words too:
    sentencepiece's trainer passes over its control symbols where they stand in a text."""
    root, words = tmp_path_factory.mktemp("steeped"), f"{PANGRAM} {PANGRAM[::-1]}"
    texts = [*LITERALS, "<mask>", "</w>", "the rest [of] <it> | is text_.", words, words.upper()] * 40
    byte_bpe.train(texts, root / "byte_bpe", 400)
    byte_bpe.train(texts, root / "roberta", 400, specials="roberta")
    bpe_eow.train(texts, root / "bpe_eow", 150)
    for low in (False, True):
        wordpiece.train(texts, root / f"wordpiece {low}", 200, lowercase=low)
        for model in ("bpe", "unigram"):
            sentencepiece.train(texts, root / f"{model} {low}", 120, model, lowercase=low, coverage=1.0)
    return {path.name: path for path in root.iterdir()}


def test_specials_written_out_get_no_control_id_even_of_a_corpus_full_of_them(steeped: dict[str, Path]) -> None:
    """The unknown id too: a literal <unk> is letters, all of which these vocabularies have."""
    assert len(steeped) == 9
    for name, folder in steeped.items():
        tokenizer = load(folder)
        for literal in [*LITERALS, "<mask>"]:
            few = [literal, f"the {literal} rest", f"the{literal}{literal}is", f"\n{literal}\n", f" {literal.upper()} "]
            for texts in (few, few * 200):  # by the library alone, and by words
                found = {number for row in tokenizer.encode_batch(texts) for number in row}
                assert not set(tokenizer.specials.values()) & found, f"{name}: {literal}"


@pytest.mark.parametrize("kind", [*KINDS, "bpe_eow"])
@pytest.mark.parametrize("unit", ["a", " ", "!", "a ", "가", "\n", "'s"])
def test_a_megabyte_of_one_thing_is_no_trap(trained: dict[str, Path], kind: str, unit: str) -> None:
    """tiktoken's own expressions overflow their stack on the spaces."""
    text = unit * (1_000_000 // len(unit.encode()))
    ids, lengths = load(trained[kind]).encode_flat([text, "kalo"])
    assert lengths.sum() == len(ids) and lengths[1] == len(load(trained[kind]).encode_batch(["kalo"])[0])
    if kind == "byte_bpe":
        assert load(trained[kind]).decode(ids[: lengths[0]].tolist()) == text


ODD = [
    "Émile ÉTÉ e\u0301te\u0301",
    "四百漢字かなカナ",
    "한국어 \u1112\u1161\u11ab가나다",
    "İSTANBUL Σίσυφος ǅ",
    "naïve ﬁne ｋａｌｏ\u3000mi",
    "a\u200bb\x00c\tdo\r\n",
]


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("kind", [*KINDS, "bpe_eow"])
def test_transformers_reads_odd_letters_alike_cased_and_uncased(texts: list[str], tmp_path: Path, kind: str, low: bool) -> None:
    """Accents, CJK and Hangul, composed or not."""
    trainer(kind, 2, 1000, 1.0)([*texts, *ODD * 5], tmp_path, vocab=500 if "sentence" in kind else 700, lowercase=low)
    ours, theirs = load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    many = [*ODD, *texts]
    mine, other = ours.encode_batch(many), theirs(many, add_special_tokens=False)["input_ids"]
    tied = sorted if kind == "sentencepiece_unigram" else list  # two cuts of equal sum: the same pieces in another order
    assert list(map(tied, mine)) == list(map(tied, other))
    same = ours.encode_batch(["KALO Émile"]) == ours.encode_batch(["kalo émile"])
    assert same == low


@pytest.mark.parametrize("kind", KINDS)
def test_word_starts_are_the_words_of_a_text(trained: dict[str, Path], kind: str) -> None:
    tokenizer = load(trained[kind])
    ids = tokenizer.encode_batch([" kalomi terson quing lo lo"])[0]
    starts = tokenizer.word_start
    assert len(starts) == tokenizer.vocab and starts.dtype == bool
    assert len(ids) > 5 and int(starts[ids].sum()) == 5 and starts[ids[0]]
    assert all(starts[number] for number in tokenizer.specials.values())
    assert word_start_of(trained[kind], read_meta(trained[kind])).tolist() == starts.tolist()


def test_word_starts_need_no_library(trained: dict[str, Path]) -> None:
    code = "import sys; sys.modules |= dict.fromkeys(('tokenizers', 'tiktoken', 'sentencepiece', 'xxhash')); from pathlib import Path; "
    code += "from data_prep.tokenizer.base import read_meta; from data_prep.tokenizer.pieces import word_start_of; "
    code += "print([int(word_start_of(Path(f), read_meta(Path(f))).sum()) for f in sys.argv[1:]])"
    folders = [trained[kind] for kind in KINDS]
    done = subprocess.run([sys.executable, "-c", code, *map(str, folders)], capture_output=True, text=True)
    assert done.stdout.strip() == str([int(load(folder).word_start.sum()) for folder in folders]), done.stderr


def test_the_identity_changes_with_any_piece_its_id_the_normaliser_and_the_specials() -> None:
    base = ("byte_bpe", ["a", "b"], {"lowercase": True}, {"eos": 0})
    others = [
        ("wordpiece", *base[1:]),
        (base[0], ["b", "a"], *base[2:]),
        (base[0], ["ab"], *base[2:]),
        (*base[:2], {"lowercase": False}, base[3]),
        (*base[:3], {"eos": 1}),
    ]
    assert len({identity(*parts) for parts in (base, *others)}) == 6  # type: ignore[arg-type]
    assert identity(*base) == identity(*base)  # type: ignore[arg-type]


def test_ids_with_a_hole_or_a_double_are_refused() -> None:
    assert ordered({"b": 1, "a": 0}) == ["a", "b"]
    for wrong in ({"a": 0, "b": 2}, {"a": 0, "b": 0}, {"a": 1}):
        with pytest.raises(ArtifactError):
            ordered(wrong)


def test_meta_comes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    meta = Meta("wordpiece", 9, {"sep": 3}, "f", {"documents": 2})
    save_meta(tmp_path, meta)
    assert read_meta(tmp_path) == meta == read_meta(tmp_path / "meta.json")
    assert meta.separator == 3 and Meta("byte_bpe", 9, {"sep": 3, "eos": 0}, "f").separator == 0
    (tmp_path / "meta.json").write_text(json.dumps({"kind": "x"}))
    with pytest.raises(ArtifactError, match="meta.json"):
        read_meta(tmp_path)


def test_a_worker_with_one_cpu_starts_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "7")  # so that what follows is undone
    monkeypatch.delenv("RAYON_NUM_THREADS")
    for said, expected in (("1", 1), ("3", 3), ("", -1), ("0", -1), ("many", -1)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert threads() == expected
    assert os.environ["RAYON_NUM_THREADS"] == "1"  # what was said first stays


def test_a_vocabulary_without_an_end_joins_no_documents() -> None:
    with pytest.raises(ConfigError, match="no token that ends a text"):
        _ = Meta("bpe_eow", 9, {"unk": 0}, "f").separator
