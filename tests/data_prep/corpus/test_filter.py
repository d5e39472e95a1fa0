from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep import schemas, shards
from data_prep.corpus import blocklist, language, ngrams, rules, words
from data_prep.corpus import filter as filtering
from data_prep.corpus.filter import FILTER, FilterConfig
from data_prep.corpus.rules import Batch
from infra.artifact import SourceFile
from infra.errors import ArtifactError, ConfigError, StageFailed
from infra.stage import run

OFF = {f.name: () if isinstance(f.default, tuple) else None for f in fields(FilterConfig)}
NOTHING = FilterConfig(**OFF)
PROSE = "The house that they have is close to the river, and it will be sold with all of the land around it. "


def batch(*texts: str) -> Batch:
    return Batch(pa.array(texts, pa.string()), ["en"] * len(texts))


def reject(text: str, config: FilterConfig, code: str = "en") -> str:
    return filtering.judge(config, pa.array([text]), [code])[0][0]


def grams(text: str, n: int) -> list[tuple[str, ...]]:
    split = text.split()
    return [tuple(split[i : i + n]) for i in range(len(split) - n + 1)]


def slow_top(text: str, n: int) -> int:
    """Every n-gram counted; most_common keeps the first of equals."""
    [(gram, count)] = Counter(grams(text, n)).most_common(1) or [((), 0)]
    return len(" ".join(gram)) * count


def slow_again(text: str, n: int) -> int:
    """Read from left to right; behind an n-gram that had come before, reading goes on."""
    split, seen, size, at = text.split(), set(), 0, 0
    while at + n <= len(split):
        gram = tuple(split[at : at + n])
        size += sum(map(len, gram)) if gram in seen else 0
        at += n if gram in seen else 1
        seen.add(gram)
    return size


@drawn(st.lists(st.text(alphabet="ab cc\n", max_size=60), min_size=1, max_size=5))
def test_ngram_characters_are_those_counted_one_document_at_a_time(texts: list[str]) -> None:
    split = words.split_texts(texts)
    for found in ngrams.repeats(split, 10):
        np.testing.assert_array_equal(ngrams.top_characters(split, found), [slow_top(t, found.n) for t in texts])
        np.testing.assert_array_equal(ngrams.again_characters(split, found), [slow_again(t, found.n) for t in texts])


@pytest.mark.parametrize(
    ("measure", "text", "value"),
    [
        (rules.word_count, "one two  three\n", 3),
        (rules.mean_word_length, "aa bbbb", 3),
        (rules.symbol_ratio, "# a # b", 0.5),
        (rules.symbol_ratio, "well ... so… yes", 0.5),
        (rules.bullet_lines, "- one\n\n• two\nthree\n* four", 0.75),
        (rules.ellipsis_lines, "read more...\nand…\nend.", 2 / 3),
        (rules.alphabetic_words, "a 1 2 b", 0.5),
        (rules.stop_words, "The the AND dog", 2),
        (rules.duplicate_lines, "a\nb\na\n\na", 0.5),
        (rules.duplicate_line_characters, "aaa\nb\naaa", 3 / 9),
        (rules.duplicate_paragraphs, "one\nline\n\ntwo\n\none\nline", 1 / 3),
        (rules.duplicate_paragraph_characters, "aa\n\nb\n\naa", 2 / 9),
        (rules.terminal_lines, "Yes.\nno\nHow?\nhm", 0.5),
        (rules.short_lines, "x" * 30 + "\n" + "x" * 31, 0.5),
        (rules.lorem_ipsum, "Lorem Ipsum dolor", 1),
        (rules.line_breaks, "one two\nthree\n\nfour", 0.75),
        (rules.sentences, "One. Two!\nthree", 3),
        (rules.listed_words(frozenset({"damn", "bad thing", "坏话"})), "Damn! A bad\n thing, damning: 说坏话。", 3),
        (rules.curly_brackets, "if (a) { b }", 1),
        (rules.duplicate_ngram(5), "a b c d e a b c d e", 5 / 19),
        (rules.top_ngram(2), "a b a b a b c", 9 / 13),
    ],
)
def test_each_measure_on_a_text_with_a_known_answer(measure, text: str, value: float) -> None:
    assert measure(batch("", text, ""))[1] == pytest.approx(value)


@drawn(st.lists(st.text(max_size=80), max_size=4))
def test_no_text_is_too_strange_for_a_rule(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    names, values = filtering.judge(replace(FilterConfig(), languages=()), pa.array(texts, pa.string()), ["en"] * len(texts))
    assert len(names) == len(values) == len(texts)
    assert not any(np.isinf(values))


def test_plain_prose_passes_every_rule_and_each_fault_is_named() -> None:
    prose = (
        "In the spring of that year the two brothers went to live with their aunt, who kept a small inn by the harbour. "
        "The older one soon learned to mend nets and to read the weather, while the younger spent whole days with a Dutch "
        "sailor, listening to stories of storms, whales and cities built of coral. Neither of them wished to go back to school. "
        "When winter came and the boats stayed on land, they began to build one of their own from what the sea had left behind."
    )
    config = FilterConfig()
    assert reject(prose, config) == ""
    assert reject("Too short to be of use.", config) == "min_words"
    assert reject(prose, config, "fr") == "language"
    assert reject("the and " * 60, config) == "top_2_gram"
    assert reject(prose.replace(" ", " # ", 12), replace(config, min_share_words=50)) == "symbol_ratio"
    assert reject("\n".join(f"- {line}" for line in prose.split(", ")), config) == "bullet_lines"
    assert reject(" ".join(f"{i} {i}" for i in range(60)), replace(config, min_mean_word=None)) == "alphabetic_words"
    assert reject(prose + " Lorem ipsum dolor.", config) == "lorem_ipsum"
    assert reject(f"{prose} " * 2, config) == "duplicate_5_grams"


def test_a_family_brings_its_published_limits_and_own_limits_go_before() -> None:
    limits = {
        rule.name: (rule.low, rule.high) for rule in filtering.rules_of(replace(NOTHING, families=("c4", "fineweb"), max_short_lines=0.9))
    }
    assert limits == {
        "terminal_lines": (0.12, None), "short_lines": (None, 0.9), "repeated_line_characters": (None, 0.01), "line_breaks": (None, 0.3),
        "lorem_ipsum": (None, 0), "curly_brackets": (None, 0), "sentences": (5, None),
    }  # fmt: skip
    fineweb = replace(NOTHING, families=("fineweb",))
    line = "This line is long enough for every rule, and it ends well."
    assert reject("\n".join(f"{number} {line}" for number in range(9)), fineweb) == ""
    assert reject("\n".join([f"{n} {line[:-1]}" for n in range(9)] + [line]), fineweb) == "terminal_lines"
    assert reject("\n".join([line] * 2 + [f"{n} {line}" for n in range(9)]), fineweb) == "repeated_line_characters"
    assert reject(f"{line}\n" + "A short line.\n" * 3, fineweb) == "short_lines"
    assert reject("\n\n\n\n".join(f"abcdefghijklmnopqrstuvwxyz-abcdefg {n}." for n in range(9)), fineweb) == "line_breaks"
    with pytest.raises(ConfigError, match="no family 'gopher'; choose from c4, fineweb"):
        FilterConfig(families=("gopher",))


def test_c4_keeps_the_prose_of_a_page_and_the_rejected_keep_their_text(given, rows, store, local) -> None:
    prose = "\n".join(f"Sentence number {n} is whole. It says something." for n in range(3))
    page = f"Menu\nHome | About\n{prose}\nWe use cookies to improve your visit.\nShare this"
    documents = given([[{"text": page}, {"text": f"{page}\nint main() {{ return 0.0."}, {"text": "One. Two.\nNo end"}]])
    made = run(FILTER, replace(NOTHING, families=("c4",)), {"documents": documents}, store, local)
    assert [row["text"] for row in rows(made.shards)] == [prose]
    rejected = rows(made.side("rejected"))
    assert [row["rule"] for row in rejected] == ["curly_brackets", "sentences"]
    assert rejected[1]["text"] == "One. Two.\nNo end"


def test_a_list_of_bad_words_and_marks_of_persons(given, rows, store, local, tmp_path) -> None:
    (tmp_path / "bad.txt").write_text("Darn\nbad thing\n\n")
    bad = (SourceFile.of(tmp_path / "bad.txt"),)
    documents = given(
        [[{"text": "Mail ann@ann.dev or 8.8.8.8:53, not 1.2.3.4."}, {"text": "Oh darn, he said."}, {"text": "That is a bad\nthing!"}]]
    )
    config = replace(NOTHING, bad_words=bad, mask=("emails", "ips"))
    made = run(FILTER, config, {"documents": documents}, store, local)
    assert [row["text"] for row in rows(made.shards)] == ["Mail email@example.com or 192.0.2.1:53, not 1.2.3.4."]
    assert (made.counts["masked.emails"], made.counts["masked.ips"], made.counts["removed.bad_words"]) == (1, 1, 2)
    (tmp_path / "bad.txt").write_text("other")
    blocklist.words.cache_clear()
    filtering._bad_words.cache_clear()
    with pytest.raises(StageFailed, match="not the list"):
        run(FILTER, replace(config, mask=()), {"documents": documents}, store, local)


def test_every_rule_can_be_switched_off() -> None:
    assert filtering.rules_of(NOTHING) == ()
    for text in ("", "# # # #", "a a a a a a", "{{{{ lorem ipsum", "\n- \n- \n"):
        assert reject(text, NOTHING, "und") == ""


def test_rules_for_english_words_do_not_judge_other_languages() -> None:
    korean = "이 영화는 정말 재미있게 봤습니다 그리고 배우들의 연기도 매우 훌륭했다고 생각합니다"
    config = replace(NOTHING, min_mean_word=3.0, min_stop_words=2)
    assert reject(korean, config, "ko") == ""
    assert reject(korean, config, "en") == "stop_words"


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_words 10 is more than max_words 5"):
        FilterConfig(min_words=10, max_words=5)
    with pytest.raises(ConfigError, match="11 words"):
        FilterConfig(top_ngrams=((11, 0.1),))


def test_language_is_right_on_the_declaration_of_human_rights_in_28_languages(json_lines) -> None:
    names = {
        "arb": "ar", "ces": "cs", "cmn_hans": "zh", "dan": "da", "deu": "de", "ell_monotonic": "el", "eng": "en", "fin": "fi",
        "fra": "fr", "heb": "he", "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja", "kor": "ko", "nld": "nl", "pes_1": "fa",
        "pol": "pl", "por_BR": "pt", "ron": "ro", "rus": "ru", "spa": "es", "swe": "sv", "tha": "th", "tur": "tr", "ukr": "uk",
        "vie": "vi", "hin": "hi",
    }  # fmt: skip
    texts = {row["id"].split("/")[1].removesuffix(".txt"): row["text"] for row in json_lines("text/other/udhr.jsonl.gz")}
    asked = [(code, texts[name][start : start + 1000]) for name, code in names.items() for start in range(500, 6500, 1000)]
    asked = [(code, part) for code, part in asked if len(part) > 150]
    right = sum(language.detect(part) == code for code, part in asked) / len(asked)
    foreign = {name for name, text in texts.items() if name not in names and language.detect(text[500:1500]) == "en"}
    assert right > 0.97
    assert len(foreign) <= 6, foreign  # Scots, Nigerian Pidgin and other relatives of English


def test_short_korean_lines_and_english_capitals_are_recognised(json_lines) -> None:
    lines = [row["text"] for row in json_lines("text/ko/naver-movie-reviews.jsonl.gz")[:1000]]
    assert sum(language.detect(line) == "ko" for line in lines) > 970
    speeches = [row["text"][:1500].upper() for row in json_lines("text/en/state-of-the-union.jsonl.gz")]
    assert {language.detect(text) for text in speeches} == {"en"}
    assert language.detect("12345 !!!") == language.detect("") == "und"


def test_the_stage_keeps_what_is_good_and_says_why_of_the_rest(given, rows, store, local) -> None:
    good = [{"url": f"http://a.test/{i}", "text": PROSE * 1 + " ".join(f"word{i}x{j} the and" for j in range(40))} for i in range(3)]
    bad = [{"url": "http://b.test/", "text": "Short."}, {"url": "http://c.test/", "text": ""}]
    documents = given([good + bad, [], bad[:1]])
    made = run(FILTER, replace(NOTHING, languages=("en",), min_words=50), {"documents": documents}, store, local)
    assert made.counts["read"] == 6
    assert made.counts["kept"] == 3
    assert sum(v for k, v in made.counts.items() if k.startswith("removed.")) == 3
    assert [row["url"] for row in rows(made.shards)] == [row["url"] for row in good]
    assert {row["language"] for row in rows(made.shards)} == {"en"}
    rejected = rows(made.side("rejected"))
    assert [row["url"] for row in rejected] == ["http://b.test/", "http://c.test/", "http://b.test/"]
    assert rejected[0]["rule"] in ("language", "min_words")
    assert shards.read(made.shards[0]).schema.remove_metadata() == schemas.DOCUMENTS
    assert [path.name for path in made.shards] == ["00000.arrow", "00001.arrow", "00002.arrow"]


def test_batches_change_nothing(json_lines) -> None:
    texts = [row["text"] for row in json_lines("text/en/movie-reviews.jsonl.gz")[:120]]
    whole, _ = filtering.judge(FilterConfig(), pa.array(texts), ["en"] * len(texts))
    parts = [
        name
        for piece in words.batches(pa.chunked_array([texts]), 20_000)
        for name in filtering.judge(FilterConfig(), piece, ["en"] * len(piece))[0]
    ]
    assert parts == whole


def test_a_ledger_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ArtifactError, match="does not add up"):
        shards.balance("filter", {"read": 3, "kept": 1, "removed.min_words": 1})


def test_small_languages_are_not_taken_for_their_relatives(json_lines) -> None:
    names = {
        "amh": "am", "azj_latn": "az", "bel": "be", "ben": "bn", "cat": "ca", "cym": "cy", "eus": "eu", "gle": "ga", "glg": "gl",
        "isl": "is", "hye": "hy", "kat": "ka", "kaz": "kk", "lao": "lo", "lit": "lt", "mya": "my", "nno": "nn", "sna": "sn", "xho": "xh",
        "yor": "yo", "zul": "zu",
    }  # fmt: skip
    texts = {row["id"].split("/")[1].removesuffix(".txt"): row["text"] for row in json_lines("text/other/udhr.jsonl.gz")}
    found = {code: language.detect(texts[name][500:1500]) for name, code in names.items() if name in texts}
    assert len(found) > 18
    assert sum(code == answer for code, answer in found.items()) >= len(found) - 2, found


def test_clean_texts_written_without_spaces_pass_the_default_rules(json_lines) -> None:
    """In Thai, Lao, Khmer and Burmese a character counts as a word: its n-grams repeat in every text, its marks are no letters."""
    texts = {row["id"].split("/")[1].removesuffix(".txt"): row["text"] for row in json_lines("text/other/udhr.jsonl.gz")}
    names = {"tha": "th", "lao": "lo", "khm": "km", "mya": "my", "jpn": "ja", "cmn_hans": "zh", "mal": "ml", "bod": "bo"}
    languages = [names[name] for name in names if name in texts]
    assert len(languages) >= 7
    chosen = pa.array([texts[name] for name in names if name in texts])
    assert filtering.judge(FilterConfig(languages=()), chosen, languages)[0] == [""] * len(languages)
    published = filtering.judge(FilterConfig(languages=(), min_share_words=0), chosen, languages)[0]
    assert published[0] == "duplicate_5_grams"  # on request every rule is asked of every text
    spam = "สวัสดี " * 200  # lines and paragraphs that repeat are still found
    assert reject("\n".join([spam] * 20), FilterConfig(languages=()), "th") == "duplicate_lines"


def test_a_jumble_has_a_lower_score_than_a_text_of_the_language() -> None:
    jumble = "zq der ksi porta lum het wirt nola es treb que mog sun dla para ik ter von mis"
    assert language.score(PROSE, "en") > 0.99 > language.score(jumble, language.detect(jumble))
    assert language.score(PROSE, "de") < 0.01
    assert np.isnan(language.score(PROSE, "xx"))
    config = replace(NOTHING, min_language_score=0.99)
    names, values = filtering.judge(config, pa.array([PROSE, jumble, PROSE]), ["en", language.detect(jumble), "xx"])
    assert names == ["", "language_score", ""] and 0 < values[1] < 0.99
    with pytest.raises(ConfigError, match="min_language_score 2 must be from 0 to 1"):
        FilterConfig(min_language_score=2)
