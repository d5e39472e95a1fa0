"""tokenizer.json as transformers writes it: the ids of plain text are its own, in 388 languages, or the file is refused by name."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import transformers as T
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceNormalizer
from sentencepiece import sentencepiece_model_pb2 as protobuf
from tokenizers import normalizers

from data_prep.tokenizer import charsmap, hub, hub_json, published
from data_prep.tokenizer.base import Meta
from data_prep.tokenizer.catalog import load
from infra.errors import ArtifactError, ConfigError
from tests.data_prep.tokenizer.conftest import make_texts

ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def bert(data: Path, **said: Any) -> Any:
    lines = (data / "tokenizers/bert-uncased/vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return T.BertTokenizer(vocab={piece: number for number, piece in enumerate(lines)}, **said)


def merged(data: Path, name: str, files: tuple[str, str], kind: Any, before: list[str] | None = None, **said: Any) -> Any:
    ids = json.loads((data / "tokenizers" / name / files[0]).read_text(encoding="utf-8"))
    ids.pop("<|endoftext|>", None) if before else None
    ids = {piece: number for number, piece in enumerate([*(before or []), *sorted(ids, key=lambda piece: ids[piece])])}
    lines = (data / "tokenizers" / name / files[1]).read_text(encoding="utf-8").split("\n")[1:]
    return kind(vocab=ids, merges=[tuple(line.split(" ", 1)) for line in lines if line], **said)


def gpt2(data: Path, **said: Any) -> Any:
    return merged(data, "gpt2", ("encoder.json", "vocab.bpe"), T.GPT2Tokenizer, **said)


def albert(data: Path, **said: Any) -> Any:
    proto = protobuf.ModelProto.FromString((data / "tokenizers/albert-de/30k-clean.model").read_bytes())
    made = T.AlbertTokenizer(vocab=[(p.piece, p.score) for p in proto.pieces], **said)
    steps = [*made.backend_tokenizer.normalizer, normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)]
    made.backend_tokenizer.normalizer = normalizers.Sequence(steps)  # as the class does when it reads the .model itself
    return made


# transformers' class, with what it is told; and what the import makes of its file
EACH: dict[str, tuple[Callable[[Path], Any], str, set[str]]] = {
    "bert": (bert, "wordpiece", {"pad", "unk", "cls", "sep", "mask"}),
    "bert, capitals kept": (lambda data: bert(data, do_lower_case=False), "wordpiece", {"pad", "unk", "cls", "sep", "mask"}),
    "bert, accents kept": (lambda data: bert(data, strip_accents=False), "wordpiece", {"pad", "unk", "cls", "sep", "mask"}),
    "bert, ideographs joined": (lambda data: bert(data, tokenize_chinese_chars=False), "wordpiece", {"pad", "unk", "cls", "sep", "mask"}),
    "gpt1": (
        lambda data: merged(data, "gpt1", ("encoder_bpe_40000.json", "vocab_40000.bpe"), T.OpenAIGPTTokenizer),
        "bpe_eow",
        {"unk"},
    ),
    "gpt2": (gpt2, "byte_bpe", {"bos", "eos"}),
    "roberta": (
        lambda data: merged(data, "gpt2", ("encoder.json", "vocab.bpe"), T.RobertaTokenizer, ROBERTA),
        "byte_bpe",
        {"cls", "pad", "sep", "unk", "mask", "bos", "eos"},
    ),
    "albert": (albert, "sentencepiece_unigram", {"pad", "unk", "cls", "sep", "mask"}),
    "albert, as written": (
        lambda data: albert(data, keep_accents=True, do_lower_case=False),
        "sentencepiece_unigram",
        {"pad", "unk", "cls", "sep", "mask"},
    ),
    "t5": (lambda data: T.T5Tokenizer.from_pretrained(str(data / "tokenizers/t5")), "sentencepiece_unigram", {"pad", "unk", "eos"}),
}


@pytest.fixture(scope="module")
def everywhere(data: Path) -> list[str]:
    def read(name: str, count: int, letters: int) -> list[str]:
        with gzip.open(data / "text" / name, "rt", encoding="utf-8") as file:
            return [json.loads(line)["text"][:letters] for line in islice(file, count)]

    english = read("en/movie-reviews.jsonl.gz", 10, 3000) + read("en/state-of-the-union.jsonl.gz", 3, 9000)
    return english + read("ko/naver-movie-reviews.jsonl.gz", 300, 999) + read("other/udhr.jsonl.gz", 388, 300)


@pytest.mark.parametrize("name", EACH)
def test_ids_are_those_of_transformers_in_every_language(name: str, data: Path, everywhere: list[str], tmp_path: Path) -> None:
    make, kind, roles = EACH[name]
    theirs = make(data)
    padded = {"padding": "max_length"} if theirs.pad_token else {}
    theirs(["a text", "two"], truncation=True, max_length=3, **padded)  # which a saved file remembers
    theirs.save_pretrained(tmp_path / "theirs")
    meta = published.read([tmp_path / "theirs" / "tokenizer.json"], tmp_path / "ours", lowercase=False)
    assert (meta.kind, set(meta.specials), meta.vocab) == (kind, roles, len(theirs))
    ours = load(tmp_path / "ours")
    found, wanted = ours.encode_batch(everywhere), theirs(everywhere, add_special_tokens=False)["input_ids"]
    assert found == wanted
    assert [ours.encode_batch([text])[0] for text in everywhere[:40]] == wanted[:40], "few letters go another way"
    again = T.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again(everywhere[::7], add_special_tokens=False)["input_ids"] == wanted[::7]
    if "cls" in roles:
        assert again(everywhere[:2])["input_ids"] == theirs(everywhere[:2])["input_ids"]
    controls = {number for role, number in meta.specials.items() if role != "unk"}
    assert not controls & {i for row in ours.encode_batch(["<s></s><pad>[CLS] [SEP][MASK] <|endoftext|>", *everywhere[:20]]) for i in row}


@pytest.mark.parametrize("kind", ["byte_bpe", "bpe_eow", "wordpiece", "sentencepiece_bpe", "sentencepiece_unigram"])
def test_a_tokenizer_of_ours_that_transformers_saved_again_keeps_its_ids(kind: str, trained: dict[str, Path], tmp_path: Path) -> None:
    theirs = T.AutoTokenizer.from_pretrained(trained[kind])
    theirs.save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "meta.json").exists()
    meta = published.read([tmp_path / "theirs" / "tokenizer.json"], tmp_path / "ours", lowercase=False)
    ours, first = load(tmp_path / "ours"), load(trained[kind])
    assert (meta.kind, meta.vocab, meta.specials) == (kind, first.vocab, first.specials)
    texts = [*hub.HOSTILE[:6], *hub.HOSTILE[7:], *make_texts(40)]
    assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]
    if not kind.startswith("sentencepiece"):
        assert meta.fingerprint == first.fingerprint


def test_what_was_read_says_where_words_begin_and_gives_text_back(data: Path, tmp_path: Path) -> None:
    albert(data, keep_accents=True, do_lower_case=False).save_pretrained(tmp_path / "theirs")
    published.read([tmp_path / "theirs" / "tokenizer.json"], tmp_path / "ours", lowercase=False)
    ours: Any = load(tmp_path / "ours")
    ids = ours.encode_batch(["Die Mühle am Bach"])[0]
    flat = ours.encode_flat(["eine Mühle", "", "am Bach"])
    assert flat.lists() == ours.encode_batch(["eine Mühle", "", "am Bach"]) and flat.lists()[1] == []
    assert ours.decode([ours.specials["cls"], *ids]) == "[CLS] Die Mühle am Bach"
    assert [ours.pieces[i].startswith("▁") for i in ids] == ours.word_start[ids].tolist() and ours.word_start[ids].sum() == 4


def test_a_file_of_the_older_library_with_merges_as_text_is_read(data: Path, tmp_path: Path) -> None:
    theirs = gpt2(data)
    theirs.save_pretrained(tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    record["model"]["merges"] = [" ".join(pair) for pair in record["model"]["merges"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    published.read([tmp_path / "tokenizer.json"], tmp_path / "ours", lowercase=False)
    assert load(tmp_path / "ours").encode_batch(["An old mill"]) == theirs(["An old mill"])["input_ids"]


# ---- what is refused -----------------------------------------------------------------------------------------------------

WORDPIECE = {
    "version": "1.0",
    "added_tokens": [
        {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, text in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    ],
    "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b"])},
    },
}  # fmt: skip
BYTELEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
UNIGRAM = {
    "version": "1.0",
    "added_tokens": [{**WORDPIECE["added_tokens"][0], "content": "<pad>"}, {**WORDPIECE["added_tokens"][1], "content": "<unk>"}],
    "normalizer": None,
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    "decoder": None,
    "model": {"type": "Unigram", "unk_id": 1, "vocab": [["<pad>", 0.0], ["<unk>", 0.0], ["▁", -2.0], ["a", -1.5], ["▁a", -1.0]]},
}
TABLE = protobuf.ModelProto.FromString(SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto())
NFKC = TABLE.normalizer_spec.precompiled_charsmap


def read(record: Any, folder: Path) -> Meta:
    text = record if isinstance(record, bytes) else json.dumps(record).encode()
    (folder / "tokenizer.json").write_bytes(text)
    return published.read([folder / "tokenizer.json"], folder / "out", lowercase=False)


def changed(record: Any, place: str, value: Any) -> Any:
    """A copy of a record with another value at a dotted place."""
    record = json.loads(json.dumps(record))
    *path, last = place.split(".")
    inner = record
    for key in path:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[int(last) if isinstance(inner, list) else last] = value
    return record


def test_the_records_that_are_broken_below_are_whole(tmp_path: Path) -> None:
    assert read(WORDPIECE, tmp_path).kind == "wordpiece" and read(UNIGRAM, tmp_path).kind == "sentencepiece_unigram"
    table = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(NFKC).decode()}
    assert read(changed(UNIGRAM, "normalizer", table), tmp_path).vocab == 5


added = {**WORDPIECE["added_tokens"][0], "id": 9}
UNLIKE = {  # whole files, whose plain text would have other ids here: what is changed, and a word of the refusal
    "an added word": (WORDPIECE, "added_tokens.0", {**added, "content": "mill"}, "adds the token 'mill'"),
    "an added token that is not special": (WORDPIECE, "added_tokens.0", {**added, "content": "[NEW]", "special": False}, "adds the token"),
    "a gap after the vocabulary": (WORDPIECE, "added_tokens.0", {**added, "content": "[NEW]", "id": 12}, "not 0..n-1"),
    "an id that is taken": (WORDPIECE, "added_tokens.0", {**added, "content": "[NEW]", "id": 7}, "not 0..n-1"),
    "a special with another id": (WORDPIECE, "added_tokens.0.id", 3, "is 0 in the vocabulary and 3"),
    "no [MASK]": ({**WORDPIECE, "added_tokens": []}, "model.vocab", {"[UNK]": 1, "[PAD]": 0}, "lacks \\[CLS\\], \\[SEP\\], \\[MASK\\]"),
    "another mark inside words": (WORDPIECE, "model.continuing_subword_prefix", "@@", "marks the inside of words with '@@'"),
    "words cut elsewhere": (WORDPIECE, "pre_tokenizer", {"type": "Whitespace"}, "has 'Whitespace' as a pre_tokenizer"),
    "an expression": (
        WORDPIECE,
        "normalizer",
        {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
        "replaces",
    ),
    "a flood": (WORDPIECE, "normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}, "16 letters at most"),
    "nested out of sight": (
        WORDPIECE,
        "normalizer",
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [{"type": "Nmt"}]}]},
        "has 'Nmt' as a normalizer",
    ),
    "another space": (UNIGRAM, "pre_tokenizer.replacement", "_", "writes a space as '_'"),
    "another unknown": (UNIGRAM, "model.unk_id", 3, "what is unknown becomes 3"),
    "no unknown": (UNIGRAM, "model.unk_id", None, "what is unknown becomes None|unk_id"),
    "words": (WORDPIECE, "model", {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"[UNK]": 0}}, "holds a WordLevel"),
    "chance": (WORDPIECE, "model", {"type": "BPE", "dropout": 0.1, "vocab": {"a": 0}, "merges": []}, "at random"),
    "few bytes": (
        {**WORDPIECE, "added_tokens": [], "normalizer": None, "pre_tokenizer": BYTELEVEL},
        "model", {"type": "BPE", "vocab": {"a": 0, "<|endoftext|>": 1}, "merges": []}, "lacks 255 of the 256 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLIKE)
def test_a_file_whose_text_would_have_other_ids_is_refused_by_name(name: str, tmp_path: Path) -> None:
    record, place, value, words = UNLIKE[name]
    with pytest.raises((ConfigError, ArtifactError), match=words):
        read(changed(record, place, value), tmp_path)


def test_a_space_before_every_text_is_refused(data: Path, tmp_path: Path) -> None:
    gpt2(data, add_prefix_space=True).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="puts a space before every text"):
        published.read([tmp_path / "tokenizer.json"], tmp_path / "out", lowercase=False)


def test_a_token_that_was_added_later_keeps_its_id_and_an_added_word_is_refused(data: Path, tmp_path: Path) -> None:
    theirs = bert(data)
    theirs.add_special_tokens({"additional_special_tokens": ["[TURN]"]})
    theirs.save_pretrained(tmp_path)
    meta = published.read([tmp_path / "tokenizer.json"], tmp_path / "ours", lowercase=False)
    ours: Any = load(tmp_path / "ours")
    assert meta.vocab == 30_523 and ours.pieces[30_522] == "[TURN]"
    assert ours.encode_batch(["turn it [TURN]"]) == [[2735, 2009, 1031, 2735, 1033]], "brackets and letters, as every control"
    theirs.add_tokens(["waterwheel"])
    theirs.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="adds the token 'waterwheel', which plain text would become"):
        published.read([tmp_path / "tokenizer.json"], tmp_path / "out", lowercase=False)


JUNK: dict[str, Any] = {
    "nothing": b"", "no text": b"\xff\xfe\x00", "no object": b"[]", "cut": json.dumps(WORDPIECE).encode()[:300],
    "no model": b"{}", "a number": b'{"model": 3}', "no pieces": b'{"model": {"type": "BPE"}}',
    "deep": b'{"model": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep steps": b'{"model": {}, "normalizer": ' + b'{"normalizers": [' * 50_000 + b"]}" * 50_000 + b"}",
    "pieces in a list": changed(WORDPIECE, "model.vocab", ["a", "b"]), "ids in words": changed(WORDPIECE, "model.vocab.a", "five"),
    "a negative id": changed(WORDPIECE, "model.vocab.a", -1), "a huge id": changed(WORDPIECE, "model.vocab.a", 1 << 60),
    "half a letter": json.dumps(WORDPIECE).encode().replace(b'"##b"', b'"\\ud800"'),
    "no number": json.dumps(UNIGRAM).encode().replace(b"-1.5", b"NaN"),
    "too large": json.dumps(UNIGRAM).encode().replace(b"-1.5", b"1e999"),
    "a lone piece": changed(UNIGRAM, "model.vocab.3", ["a"]),
    "a lone merge": changed(WORDPIECE, "model", {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}),
    "a merge of nothing": changed(WORDPIECE, "model", {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}),
    "an added number": changed(WORDPIECE, "added_tokens", [7]),
    "added without id": changed(WORDPIECE, "added_tokens", [{"content": "[X]"}]),
    "a step that is a word": changed(WORDPIECE, "normalizer", "Lowercase"),
    "steps in a word": changed(WORDPIECE, "normalizer", {"normalizers": "ab"}),
    "no base64": changed(UNIGRAM, "normalizer", {"type": "Precompiled", "precompiled_charsmap": "?"}),
    "no table": changed(UNIGRAM, "normalizer", {"type": "Precompiled"}),
}  # fmt: skip
BROKEN = {
    "a cut table": b"\xff\xff\xff\x7f",
    "an empty trie": b"\0\0\0\0a\0",
    "a way out": b"\x08\0\0\0" + b"\xff" * 8 + b"abc\0",
    "no end": NFKC[:-1],
}


@pytest.mark.parametrize("name", [*JUNK, *BROKEN])
def test_a_broken_file_is_told_in_one_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor does the library print its own trace before it: what would make it panic is found first."""
    record = JUNK.get(name)
    if name in BROKEN:
        table = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(BROKEN[name]).decode()}
        record = changed(UNIGRAM, "normalizer", table)
    with pytest.raises((ArtifactError, ConfigError)) as refused:
        read(record, tmp_path)
    assert "tokenizer.json" in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 600
    assert "panicked" not in capfd.readouterr().err


def test_a_file_larger_than_any_vocabulary_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(published.LARGEST + 1)
    with pytest.raises(ConfigError, match="larger than 64 MiB"):
        published.read([tmp_path / "tokenizer.json"], tmp_path / "out", lowercase=False)


@settings(max_examples=60)
@given(st.data())
def test_a_table_that_passes_never_ends_the_library(data: st.DataObject) -> None:
    """Bytes of NFKC's own table changed anywhere: refused, or followed without a panic for every letter it might change."""
    table = bytearray(NFKC)
    for _ in range(data.draw(st.integers(1, 3))):
        # half of them where the trie begins, through which every walk goes
        table[data.draw(st.one_of(st.integers(0, 1100), st.integers(0, len(table) - 1)))] = data.draw(st.integers(0, 255))
    try:
        charsmap.check(bytes(table))
    except ValueError:
        return
    normalizers.Precompiled(bytes(table)).normalize_str(
        "".join(map(chr, (*range(1, 0x3000, 7), *range(0xF900, 0xFFFF, 3), *range(0x1D400, 0x1D800, 5))))
    )


@pytest.mark.parametrize("name", BROKEN)
def test_a_model_of_sentencepieces_with_a_broken_table_is_not_followed(name: str, trained: dict[str, Path], tmp_path: Path) -> None:
    """Nor in a folder that calls it ours."""
    ours = tmp_path / "ours"
    shutil.copytree(trained["sentencepiece_unigram"], ours)
    published.check(ours)
    proto = protobuf.ModelProto.FromString((ours / "spiece.model").read_bytes())
    proto.normalizer_spec.precompiled_charsmap = BROKEN[name]
    (ours / "spiece.model").write_bytes(proto.SerializeToString())
    with pytest.raises(ArtifactError, match=r"spiece\.model: not a model that can be read"):
        published.check(ours)
    with pytest.raises(ArtifactError, match=r"spiece\.model: not a vocabulary that can be read"):
        published.read([ours / "spiece.model"], tmp_path / "out", lowercase=False)


@pytest.mark.parametrize("kind", ["byte_bpe", "bpe_eow", "wordpiece", "sentencepiece_bpe", "sentencepiece_unigram"])
def test_every_kind_that_is_ours_passes_for_one_and_a_broken_one_does_not(kind: str, trained: dict[str, Path], tmp_path: Path) -> None:
    published.check(trained[kind])
    record = json.loads((trained[kind] / "tokenizer.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps({**record, "normalizer": {"type": "Prepend", "prepend": "x" * 99}}))
    with pytest.raises(ConfigError, match="has 'Prepend' as a normalizer"):
        published.check(tmp_path)


def test_the_tables_that_sentencepiece_brings_pass() -> None:
    for rule in ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"):
        proto = protobuf.ModelProto.FromString(SentencePieceNormalizer(rule_name=rule).serialized_model_proto())
        charsmap.check(proto.normalizer_spec.precompiled_charsmap)


# ---- what a folder says besides ------------------------------------------------------------------------------------------


def test_settings_that_contradict_the_file_are_refused(data: Path, tmp_path: Path) -> None:
    """transformers would believe the settings: shown first."""
    theirs = bert(data)
    theirs.save_pretrained(tmp_path)
    assert hub_json.lowercase(tmp_path) is False, "the file says it itself"
    said = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**said, "do_lower_case": False}))
    assert T.AutoTokenizer.from_pretrained(tmp_path)("The Mill")["input_ids"] != theirs("The Mill")["input_ids"]
    with pytest.raises(ConfigError, match="says do_lower_case: False, and the vocabulary is read with True"):
        hub_json.lowercase(tmp_path)


def test_settings_beside_a_vocabulary_say_what_it_does_not(tmp_path: Path) -> None:
    assert hub_json.lowercase(tmp_path, asked=True) and not hub_json.lowercase(tmp_path) and not hub_json.tells(tmp_path)
    place = tmp_path / "tokenizer_config.json"
    place.write_text('{"do_lower_case": true}')
    assert hub_json.lowercase(tmp_path) and hub_json.lowercase(tmp_path, asked=True) and hub_json.tells(tmp_path)
    for said, words in (
        ('{"do_lower_case": true, "strip_accents": false}', "strip_accents: False"),
        ('{"tokenize_chinese_chars": false}', "tokenize_chinese_chars"),
        ('{"add_prefix_space": true}', "add_prefix_space"),
    ):
        place.write_text(said)
        if "strip" in said:
            continue
        with pytest.raises(ConfigError, match=words):
            hub_json.lowercase(tmp_path)
    place.write_text('{"do_lower_case": false}')
    with pytest.raises(ConfigError, match="says do_lower_case: False"):
        hub_json.lowercase(tmp_path, asked=True)
    for junk in ("[]", "{", "[" * 100_000):
        place.write_text(junk)
        with pytest.raises(ArtifactError, match="cannot be read"):
            hub_json.lowercase(tmp_path)
