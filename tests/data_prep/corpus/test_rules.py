"""Each rule alone: at its limit and beyond it as the reference decides, its published number, and against a plain count."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep import schemas
from data_prep.corpus import c4, rules
from data_prep.corpus import filter as filtering
from data_prep.corpus.charset import normal
from data_prep.corpus.filter import FAMILIES, FilterConfig
from data_prep.corpus.rules import Batch, Rule
from data_prep.corpus.stop_words import STOP_WORDS
from infra.artifact import SourceFile
from infra.errors import ConfigError
from tests.data_prep.corpus.golden_rules import WHOLE, near_limits

LIST = (SourceFile.of(__file__),)
ALL = FilterConfig(families=("c4", "fineweb"), min_language_score=0.5, bad_words=LIST)
AS_PUBLISHED = FilterConfig(families=("c4", "fineweb"), min_share_words=0, min_share_lines=0)
RULES = {rule.name: rule for rule in filtering.rules_of(AS_PUBLISHED)}
CLEANED = ("lorem_ipsum", "curly_brackets", "sentences")  # C4 asks these of what is left of a page
GUIDE = Path(__file__).parents[3] / "docs/guides/filters.md"


def broken(rule: Rule, text: str) -> bool:
    seen = c4.clean(text) if rule.name in CLEANED else text
    return bool(rule.broken(Batch(pa.array([seen]), ["en"]))[0][0])


NEAR = near_limits()


@pytest.mark.parametrize("name", RULES)
def test_at_a_limit_and_beyond_it_each_rule_decides_as_the_reference(name: str) -> None:
    assert [broken(RULES[name], text) for text, _ in NEAR[name]] == [drop for _, drop in NEAR[name]]


@pytest.mark.parametrize("name", WHOLE)
def test_whole_texts_break_the_rules_that_they_break_for_the_reference(name: str) -> None:
    text, reference = WHOLE[name]
    assert {rule.name for rule in RULES.values() if broken(rule, text)} == reference


LINES = st.lists(st.sampled_from(["", " ", "a", "bb", "bb ", "ccc", "- d", "e ...", "f."]), max_size=12).map("\n".join)


def slow_lines(text: str) -> dict[str, float]:
    """Plain counts, one line and one paragraph after the other."""
    tidy = "\n".join(line.strip() for line in text.split("\n")).strip("\n")
    lines = [line for line in tidy.split("\n") if line]
    paragraphs = [part for part in re.split(r"\n{2,}", tidy) if part]
    found: dict[str, float] = {"line_breaks": tidy.count("\n") / max(1, len(text.split()))}
    for name, parts in (("line", lines), ("paragraph", paragraphs)):
        seen: Counter[str] = Counter()
        again = size = 0
        for part in parts:
            again, size = again + (part in seen), size + len(part) * (part in seen)
            seen[part] += 1
        found[f"duplicate_{name}s"] = again / max(1, len(parts))
        found[f"duplicate_{name}_characters"] = size / max(1, len(tidy))
        if name == "line":
            found["repeated_line_characters"] = size / max(1, len("".join(lines)))
    for name, test in {
        "bullet_lines": lambda line: line.startswith("-"),
        "ellipsis_lines": lambda line: line.endswith("..."),
        "terminal_lines": lambda line: line.endswith("."),
        "short_lines": lambda line: len(line) <= 30,
    }.items():
        found[name] = sum(map(test, lines)) / max(1, len(lines))
    return found


@drawn(st.lists(LINES, min_size=1, max_size=4))
def test_lines_and_paragraphs_are_those_counted_one_by_one(texts: list[str]) -> None:
    batch = Batch(pa.array(texts, pa.string()), ["en"] * len(texts))
    for row, text in enumerate(texts):
        for name, value in slow_lines(text).items():
            assert RULES[name].measure(batch)[row] == pytest.approx(value), (name, text)


@drawn(st.lists(st.text(alphabet="aB1 .,#…\n", max_size=60), min_size=1, max_size=4))
def test_words_are_those_counted_one_by_one(texts: list[str]) -> None:
    batch = Batch(pa.array(texts, pa.string()), ["en"] * len(texts))
    for row, text in enumerate(texts):
        words = text.split()
        spoken = [word for word in words if any(map(str.isalnum, word))]
        assert rules.word_count(batch)[row] == len(spoken)
        np.testing.assert_allclose(rules.mean_word_length(batch)[row], sum(map(len, spoken)) / len(spoken) if spoken else np.nan)
        assert rules.alphabetic_words(batch)[row] == pytest.approx(
            sum(any(map(str.isalpha, w)) for w in words) / max(1, sum(not re.fullmatch("[.,…]+", w) for w in words))
        )
        assert rules.symbol_ratio(batch)[row] == pytest.approx(
            max(text.count("#"), text.count("…") + text.count("...")) / max(1, len(words))
        )


def test_the_marks_at_the_end_of_a_sentence_are_those_of_unicode() -> None:
    marks = {chr(code) for code in range(0x110000) if regex.fullmatch(r"\p{Sentence_Terminal}", chr(code))}
    assert len(marks ^ c4.SENTENCE_ENDS) <= 20, marks ^ c4.SENTENCE_ENDS  # another version of Unicode knows a few more
    assert set(".!?。？！।؟") <= c4.SENTENCE_ENDS


def test_every_language_with_stop_words_has_them_in_its_declaration_of_human_rights(json_lines) -> None:
    names = {
        "ar": "arb", "bg": "bul", "cs": "ces", "da": "dan", "de": "deu", "el": "ell_monotonic", "en": "eng", "es": "spa", "fa": "pes_1",
        "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun", "id": "ind", "it": "ita", "nl": "nld", "no": "nob", "pl": "pol",
        "pt": "por_PT", "ro": "ron", "ru": "rus", "sk": "slk", "sv": "swe", "tr": "tur", "uk": "ukr", "vi": "vie",
    }  # fmt: skip
    assert set(names) == set(STOP_WORDS)
    texts = {row["id"].split("/")[1].removesuffix(".txt"): row["text"] for row in json_lines("text/other/udhr.jsonl.gz")}
    for code, name in names.items():
        words = normal(texts[name]).split()[60:]
        pieces = [" ".join(words[at : at + 50]) for at in range(0, len(words) - 50, 50)]
        counts = rules.stop_words(Batch(pa.array(pieces, pa.string()), [code] * len(pieces)))
        assert len(pieces) > 20 and (counts < 2).mean() < 0.05, (code, counts)
    strange = rules.stop_words(Batch(pa.array([texts["eng"]]), ["de"]))
    assert strange[0] < 4  # "in", "die", "von" are no proof of German alone, but a text of another language has few
    assert np.isnan(rules.stop_words(Batch(pa.array([texts["kor"]]), ["ko"]))[0])


# ---- texts that the published rules were not made for ------------------------------------------------------------------


def removed(text: str, config: FilterConfig, language: str = "ko") -> str:
    return filtering.judge(config, pa.array([text]), [language])[0][0]


def test_korean_has_words_as_written() -> None:
    """An eojeol is a word, however long: neither one per syllable nor none at all."""
    spaced_text = "어제 본 영화는 정말 재미있었고 배우들의 연기도 훌륭했다"
    texts = [spaced_text, spaced_text.replace(" ", ""), "漢字 かな", "한글과 漢字"]
    assert rules.word_count(Batch(pa.array(texts), ["ko"] * 4)).tolist() == [8, 1, 4, 3]


SHORT = FilterConfig(languages=(), min_words=None)


@pytest.mark.parametrize(
    "text",
    ["정말 재미있어요...", "최고! 최고!", "굿굿굿굿굿굿굿굿굿굿굿굿굿굿굿굿", "ㅋㅋㅋ 역시 #최고의 영화", "또 보고 싶다 또 보고 싶다"],
)
def test_short_texts_are_not_judged_by_shares_of_few_words(text: str) -> None:
    assert removed(text, SHORT) == ""


@pytest.mark.parametrize(("words", "name"), [(40, ""), (120, "top_2_gram")])
def test_repetition_is_judged_where_there_is_enough_text(words: int, name: str) -> None:
    assert removed(" ".join(["so good"] * (words // 2)), FilterConfig(min_words=None, min_stop_words=None), "en") == name
    published = FilterConfig(languages=(), min_words=None, min_share_words=0, min_stop_words=None)
    assert removed(" ".join(["so good"] * (words // 2)), published, "en") == "top_2_gram"


@pytest.mark.parametrize(("lines", "name"), [(4, ""), (5, "ellipsis_lines")])
def test_lines_are_compared_where_there_are_enough(lines: int, name: str) -> None:
    text = "\n".join(f"the {word} and the {word[::-1]} of it ..." for word in ("miller", "river", "wheel", "stone", "grain")[:lines])
    assert removed(text, FilterConfig(min_words=None, max_symbol_ratio=None), "en") == name


def test_gophers_length_limits_are_for_web_pages() -> None:
    def left(url: str, **limits: int | None) -> int:
        table = pa.table({"url": [url], "host": [""], "text": ["the cat and the dog"], "language": ["en"], "id": ["a"], "title": [""]})
        table = table.append_column("date", pa.array([""])).append_column("charset", pa.array([""]))
        table = table.append_column("karma", pa.array([None], pa.int64())).append_column("source", pa.array(["x:1"]))
        return filtering.keep_good(FilterConfig(**limits), table.select(schemas.DOCUMENTS.names).cast(schemas.DOCUMENTS)).counts["kept"]

    assert [left("http://a.test/"), left(""), left("", min_words=6), left("", min_words=5), left("http://a.test/", min_words=None)] == [
        0,
        1,
        0,
        1,
        1,
    ]
    with pytest.raises(ConfigError, match="min_words -2"):
        FilterConfig(min_words=-2)
    with pytest.raises(ConfigError, match="min_words 200000 is more than max_words 100000"):
        FilterConfig(min_words=200_000)


def test_tokenized_text_is_judged_by_its_words() -> None:
    """WikiText sets marks apart: ` , `, ` @-@ `. Bars, digits and stars are no words and count as before."""
    prose = "The mill , which a well @-@ known miller built , stood by the river . It was , he said , the first one ."
    assert removed(prose, FilterConfig(min_words=None), "en") == ""
    assert removed("mill | river | stone | 1702 | 1703 | 1704 | wheel", FilterConfig(min_words=None), "en") == "alphabetic_words"


# ---- the guide -----------------------------------------------------------------------------------------------------------


def table() -> list[tuple[str, str, str, str]]:
    """The guide's rows: rule, limit, keys, source."""
    found = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    return [(rule, limit.strip(), keys.strip(), source.strip()) for rule, limit, keys, source in found]


def test_the_guide_names_every_rule_and_every_key_with_its_default() -> None:
    rows = table()
    named = {name for row in rows for name in [row[0]]}
    asked = {rule.name for rule in filtering.rules_of(ALL)} | {"language", "blocked_host", "url_words"}
    assert named == asked
    text = GUIDE.read_text(encoding="utf-8")
    for field in fields(FilterConfig):
        assert f"`{field.name}`" in text, field.name
    assert all(source for *_, source in rows)


def test_the_guide_gives_the_limits_that_are_asked() -> None:
    limits = {rule.name: rule.low if rule.low is not None else rule.high for rule in filtering.rules_of(ALL)}
    numbers = {rule: float(limit.replace(",", "").split()[-1]) for rule, limit, _, _ in table() if re.search(r"\d$", limit)}
    assert {rule: limits[rule] for rule in numbers} == numbers
    assert len(numbers) >= 27
    for family, published in FAMILIES.items():
        for key in published:
            assert re.search(rf"`{key}`[^|]*\| [^|]*{family}", GUIDE.read_text(encoding="utf-8"), re.IGNORECASE), key
