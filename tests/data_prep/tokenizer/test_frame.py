"""Frames and truncation are those of the `tokenizers` library, which reads the same tokenizer.json outside."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from data_prep.tokenizer.frame import Frame, around, frame_of, post_processor, truncate
from infra.errors import ArtifactError, ConfigError

PIECES = ["[CLS]", "[SEP]", "<|endoftext|>", *(f"w{i}" for i in range(40))]
IDS = {piece: number for number, piece in enumerate(PIECES)}
SPECIALS = {"cls": 0, "sep": 1, "eos": 2}
FRAMES = {
    "bert": around(SPECIALS, causal=False, segments=True),
    "roberta": around(SPECIALS, causal=False, separators=2),
    "distilbert": around(SPECIALS, causal=False),
    "gpt": around(SPECIALS, causal=True),
    "none": Frame(),
}


def library(frame: Frame) -> Tokenizer:
    engine = Tokenizer(models.WordLevel(IDS, unk_token="w0"))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    record = json.loads(engine.to_str()) | {"post_processor": post_processor(frame, PIECES)}
    return Tokenizer.from_str(json.dumps(record))


def words(ids: list[int]) -> str:
    return " ".join(PIECES[number] for number in ids)


TEXT = st.lists(st.integers(3, 42), max_size=30)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FRAMES)), TEXT, st.none() | TEXT, st.integers(6, 40))
def test_a_framed_and_truncated_example_is_the_librarys(name: str, first: list[int], second: list[int] | None, length: int) -> None:
    frame = FRAMES[name]
    engine = library(frame)
    engine.enable_truncation(length)
    wanted = engine.encode(words(first)) if second is None else engine.encode(words(first), words(second))
    found = frame.encode(first, second, length)
    assert (found.tokens, found.segments) == (wanted.ids, wanted.type_ids)


@given(TEXT, TEXT, st.integers(2, 40))
def test_truncation_fills_the_budget_and_takes_from_the_longer_text(first: list[int], second: list[int], budget: int) -> None:
    a, b = truncate(first, second, budget)
    assert len(a) + len(b) == min(budget, len(first) + len(second))
    assert a == first[: len(a)] and b == second[: len(b)]
    if len(a) < len(first) and len(b) < len(second):
        assert abs(len(a) - len(b)) <= 1


@pytest.mark.parametrize("name", sorted(FRAMES))
def test_what_is_written_is_read_again(name: str) -> None:
    assert frame_of({"post_processor": post_processor(FRAMES[name], PIECES)}) == FRAMES[name]


def test_the_librarys_own_processors_are_read() -> None:
    def read(step: object) -> Frame:
        engine = Tokenizer(models.WordLevel(IDS, unk_token="w0"))
        engine.post_processor = step
        return frame_of(json.loads(engine.to_str()))

    assert read(processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))) == FRAMES["bert"]
    assert read(processors.RobertaProcessing(("[SEP]", 1), ("[CLS]", 0))) == FRAMES["roberta"]
    assert read(processors.ByteLevel(trim_offsets=False)) == frame_of({"post_processor": None}) == Frame()
    both = processors.Sequence([processors.ByteLevel(), processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))])
    assert read(both) == FRAMES["bert"]
    uneven = processors.TemplateProcessing(single="$A", pair="[CLS] $A [SEP] $B:1", special_tokens=[("[CLS]", 0), ("[SEP]", 1)])
    with pytest.raises(ArtifactError, match="another way than a pair"):
        read(uneven)
    swapped = processors.TemplateProcessing(single="$A", pair="$B:1 $A", special_tokens=[])
    with pytest.raises(ArtifactError, match="template of pairs"):
        read(swapped)


def test_a_length_without_room_for_text_and_a_tokenizer_without_separators_are_refused() -> None:
    with pytest.raises(ConfigError, match="length 3 leaves 0 tokens for the text next to 3 special tokens"):
        FRAMES["bert"].encode([5], [6], 3)
    with pytest.raises(ConfigError, match="no cls, sep token"):
        around({"eos": 2}, causal=False)
