"""The special tokens around one text and around a pair, as ids and as the post-processor of a tokenizer.json.

One description serves both: the task's input pipeline frames token ids with it, and the exported tokenizer carries it, so that
`AutoTokenizer(text, second)` gives the input which the model was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.errors import ArtifactError, ConfigError

SECOND = "B"  # tokenizer.json's name of the second text


@dataclass(frozen=True)
class Encoded:
    """One example as the model reads it, not yet padded."""

    tokens: list[int]
    segments: list[int]


@dataclass(frozen=True)
class Frame:
    """Ids before the first text, between the two of a pair, and after the last. segments: whether the second text has segment 1."""

    start: tuple[int, ...] = ()
    between: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()
    segments: bool = False

    def encode(self, first: list[int], second: list[int] | None, length: int) -> Encoded:
        """Token ids of one text or a pair within `length`, truncated as the `tokenizers` library truncates (longest_first)."""
        added = len(self.start) + len(self.stop) + (len(self.between) if second is not None else 0)
        if length - added < (1 if second is None else 2):
            raise ConfigError(f"length {length} leaves {length - added} tokens for the text next to {added} special tokens; raise it")
        if second is None:
            tokens = [*self.start, *first[: length - added], *self.stop]
            return Encoded(tokens, [0] * len(tokens))
        first, second = truncate(first, second, length - added)
        left, right = [*self.start, *first, *self.between], [*second, *self.stop]
        return Encoded(left + right, [0] * len(left) + [int(self.segments)] * len(right))


def truncate(first: list[int], second: list[int], budget: int) -> tuple[list[int], list[int]]:
    """Shorten the longer text until both fit; two that are both too long get half each, the odd token goes to the longer one.

    The rule of tokenizers' LongestFirst (tokenizers/src/utils/truncation.rs), where of two equal texts the second is the longer one.
    """
    if len(first) + len(second) <= budget:
        return first, second
    short = min(len(first), len(second))
    long = short if short > budget else max(short, budget - short)
    if short + long > budget:
        short = budget // 2
        long = short + budget % 2
    return (first[:long], second[:short]) if len(first) > len(second) else (first[:short], second[:long])


def around(specials: Mapping[str, int], *, causal: bool, separators: int = 1, segments: bool = False) -> Frame:
    """The frame of a family. A causal model reads the bare text, its end-of-text token between two; `separators`: RoBERTa has two.

    Raises ConfigError where a model that reads both ways has no [CLS] and [SEP].
    """
    if causal:
        end = specials.get("eos", specials.get("sep"))
        return Frame(between=() if end is None else (end,))
    if missing := [role for role in ("cls", "sep") if role not in specials]:
        raise ConfigError(f"the tokenizer has no {', '.join(missing)} token, which a model that reads both ways needs around a text")
    sep = specials["sep"]
    return Frame((specials["cls"],), (sep,) * separators, (sep,), segments)


def post_processor(frame: Frame, pieces: Sequence[str]) -> dict[str, Any]:
    """The frame as tokenizer.json writes it. pieces: the text of every id."""

    def special(number: int, segment: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": pieces[number], "type_id": segment}}

    second = int(frame.segments)
    start, stop = [special(number) for number in frame.start], [special(number) for number in frame.stop]
    text = [{"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), (SECOND, second))]
    pair = [*start, text[0], *(special(number) for number in frame.between), text[1], *(special(number, second) for number in frame.stop)]
    used = {number: pieces[number] for number in (*frame.start, *frame.between, *frame.stop)}
    return {
        "type": "TemplateProcessing",
        "single": [*start, text[0], *stop],
        "pair": pair,
        "special_tokens": {piece: {"id": piece, "ids": [number], "tokens": [piece]} for number, piece in sorted(used.items())},
    }


def frame_of(record: Mapping[str, Any]) -> Frame:
    """The frame that a tokenizer.json describes. Raises ArtifactError where single and pair do not agree or a step is unknown."""
    found = record.get("post_processor")
    steps = found.get("processors", ()) if found and found.get("type") == "Sequence" else [found] if found else []
    steps = [step for step in steps if step["type"] != "ByteLevel"]  # changes offsets only
    if not steps:
        return Frame()
    if len(steps) > 1 or steps[0]["type"] not in _READERS:
        raise ArtifactError(f"tokenizer.json has the post-processor {', '.join(step['type'] for step in steps)}, which cannot be read")
    return _READERS[steps[0]["type"]](steps[0])


def _template(step: Mapping[str, Any]) -> Frame:
    ids = {name: token["ids"] for name, token in step["special_tokens"].items()}
    parts: list[list[int]] = [[]]
    kinds: list[int] = []
    for part in step["pair"]:
        if "Sequence" in part:
            kinds.append(part["Sequence"]["type_id"])
            parts.append([])
        else:
            parts[-1].extend(ids[part["SpecialToken"]["id"]])
    single = [ids[part["SpecialToken"]["id"]] if "SpecialToken" in part else None for part in step["single"]]
    if len(kinds) != 2 or single.count(None) != 1 or kinds not in ([0, 0], [0, 1]):
        raise ArtifactError(f"tokenizer.json has a template of pairs that cannot be read: {step['pair']}")
    start, between, stop = (tuple(part) for part in parts)
    at = single.index(None)
    before, after = ([number for part in side for number in part or ()] for side in (single[:at], single[at + 1 :]))
    if tuple(before) != start or tuple(after) != stop:
        raise ArtifactError("tokenizer.json frames one text in another way than a pair; that cannot be read")
    return Frame(start, between, stop, kinds == [0, 1])


def _bert(step: Mapping[str, Any]) -> Frame:
    return Frame((step["cls"][1],), (step["sep"][1],), (step["sep"][1],), segments=True)


def _roberta(step: Mapping[str, Any]) -> Frame:
    return Frame((step["cls"][1],), (step["sep"][1],) * 2, (step["sep"][1],))


_READERS = {"TemplateProcessing": _template, "BertProcessing": _bert, "RobertaProcessing": _roberta}
