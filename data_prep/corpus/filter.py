"""Documents in, those in a wanted language and of fair quality out; the rest stand aside with the rule they broke."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep import schemas, shards
from data_prep.corpus import blocklist, c4, pii, rules, words
from data_prep.corpus.language import detect, score
from data_prep.corpus.language_codes import accepted
from data_prep.corpus.rules import LONG_WORDS, LONGER_CHARACTER_WORDS, LONGEST, TWO_CHARACTER_WORDS, UNSPACED_LANGUAGES, Batch, Rule
from data_prep.corpus.stop_words import STOP_WORDS
from infra.artifact import Counts, SourceFile
from infra.compute import Compute
from infra.errors import ConfigError
from infra.reuse import Shardwise
from infra.stage import Inputs, Stage

# Limits of the families beside Gopher's, whose rules are on by default (rules.py names the sources).
FAMILIES: Mapping[str, Mapping[str, float]] = {
    "c4": {"max_curly_brackets": 0, "max_lorem_ipsum": 0, "min_sentences": 5},
    "fineweb": {"min_terminal_lines": 0.12, "max_short_lines": 0.67, "max_repeated_line_characters": 0.01, "max_line_breaks": 0.3},
}
TOP_NGRAM = 4  # the longest of Gopher's most frequent n-grams; longer ones are counted as duplicates
STOP_WORD_TEXT = 50  # words from which Gopher asks for stop words: it reads no shorter document
AUTO = -1  # a limit that is asked of web pages alone
PAGE_WORDS = (50, 100_000)  # Gopher, appendix A.1.1
NgramLimits = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class FilterConfig:
    """Limits as published (see rules.py); None, or an empty tuple, switches a rule off.

    languages: ISO 639 codes (language_codes.py); empty takes every language. The two n-gram limits are (n, share) pairs, n from 1 to 10.
    min_words, max_words: -1 asks Gopher's 50 and 100,000 of documents with a URL alone: they are limits for web pages, and a book or a
    review that a user brings as text is as long as it is. A number is asked of all documents.
    min_share_words, min_share_lines: rules that compare words, or lines, of a document with each other are asked only of documents with
    at least so many; 0 asks all, as datatrove does.
    families: c4, fineweb; their rules that have no limit of their own get the published one, and c4 cleans lines (c4.py).
    min_language_score: how sure the identifier has to be of the language it names, from 0 to 1.
    block_hosts, block_url_words, bad_words: files with an entry a line (blocklist.py); a list of bad words whose name is a language's
    two letters is for texts of that language. mask: emails, ips, phones (pii.py).
    """

    languages: tuple[str, ...] = ("en",)
    min_language_score: float | None = None
    block_hosts: tuple[SourceFile, ...] = ()
    block_url_words: tuple[SourceFile, ...] = ()
    max_url_words: int | None = 0
    min_words: int | None = AUTO  # 50 for web pages
    max_words: int | None = AUTO  # 100,000 for web pages
    min_mean_word: float | None = 3.0
    max_mean_word: float | None = 10.0
    max_symbol_ratio: float | None = 0.1
    max_bullet_lines: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_alphabetic_words: float | None = 0.8
    min_stop_words: int | None = 2
    max_duplicate_lines: float | None = 0.3
    max_duplicate_line_characters: float | None = 0.2
    max_duplicate_paragraphs: float | None = 0.3
    max_duplicate_paragraph_characters: float | None = 0.2
    top_ngrams: NgramLimits = ((2, 0.20), (3, 0.18), (4, 0.16))
    duplicate_ngrams: NgramLimits = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    min_share_words: int | None = 100
    min_share_lines: int | None = 5
    min_terminal_lines: float | None = None  # FineWeb: 0.12
    max_short_lines: float | None = None  # FineWeb: 0.67
    max_repeated_line_characters: float | None = None  # FineWeb: 0.1 in the paper, 0.01 in its code
    max_line_breaks: float | None = None  # FineWeb's code: 0.3
    max_lorem_ipsum: int | None = 0
    max_curly_brackets: int | None = None  # C4: 0
    min_sentences: int | None = None  # C4: 3 in the paper, 5 in its code
    families: tuple[str, ...] = ()
    bad_words: tuple[SourceFile, ...] = ()
    mask: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ConfigError on limits that nothing, or no n-gram we count, could meet."""
        for name in ("min_words", "max_words"):
            if (value := getattr(self, name)) is not None and value < AUTO:
                raise ConfigError(f"filter: {name} {value} must be 0 or more, -1 (Gopher's limit, for web pages) or null (no limit)")
        fewest, most = self.words_of_page()
        if fewest is not None and most is not None and fewest > most:
            raise ConfigError(f"filter: min_words {fewest} is more than max_words {most}")
        if self.min_language_score is not None and not 0 <= self.min_language_score <= 1:
            raise ConfigError(f"filter: min_language_score {self.min_language_score} must be from 0 to 1")
        if (self.min_share_words or 0) < 0 or (self.min_share_lines or 0) < 0:
            raise ConfigError(
                f"filter: min_share_words {self.min_share_words} and min_share_lines {self.min_share_lines} must be 0 or more"
            )
        accepted(self.languages)
        wrong = [n for n, _ in (*self.top_ngrams, *self.duplicate_ngrams) if not 1 <= n <= LONGEST]
        if wrong:
            raise ConfigError(f"filter: n-grams of {wrong[0]} words are not counted; choose n from 1 to {LONGEST}")
        for names, known, what in ((self.families, FAMILIES, "family"), (self.mask, pii.KINDS, "kind of mark to mask")):
            if strange := [name for name in names if name not in known]:
                raise ConfigError(f"filter: there is no {what} {strange[0]!r}; choose from {', '.join(known)}")

    def words_of_page(self) -> tuple[int | None, int | None]:
        """The fewest and the most words of a document with a URL; None: no limit."""
        return (PAGE_WORDS[0] if self.min_words == AUTO else self.min_words, PAGE_WORDS[1] if self.max_words == AUTO else self.max_words)

    def limit(self, name: str) -> float | None:
        """The limit of a rule: its own, else that of a family that was named."""
        own: float | None = getattr(self, name)
        published = [FAMILIES[family][name] for family in self.families if name in FAMILIES[family]]
        return own if own is not None or not published else published[0]


def rules_of(config: FilterConfig) -> tuple[Rule, ...]:
    """The rules in the order in which they are asked; one without a limit is not asked at all."""
    spaced, short_words = partial(_outside, UNSPACED_LANGUAGES), partial(_outside, UNSPACED_LANGUAGES | LONG_WORDS)
    fewest, most = config.words_of_page()
    words, lines = config.min_share_words or 0, config.min_share_lines or 0
    listed = [
        Rule("language_score", language_score, low=config.min_language_score),
        Rule("min_words", rules.word_count, low=fewest, pages=config.min_words == AUTO),
        Rule("max_words", rules.word_count, high=most, pages=config.max_words == AUTO),
        Rule("min_mean_word", rules.mean_word_length, low=config.min_mean_word, applies=spaced),
        Rule("max_mean_word", rules.mean_word_length, high=config.max_mean_word, applies=short_words),
        Rule("symbol_ratio", rules.symbol_ratio, high=config.max_symbol_ratio, words=words),
        Rule("bullet_lines", rules.bullet_lines, high=config.max_bullet_lines, lines=lines),
        Rule("ellipsis_lines", rules.ellipsis_lines, high=config.max_ellipsis_lines, lines=lines),
        Rule("alphabetic_words", rules.alphabetic_words, low=config.min_alphabetic_words),
        Rule("stop_words", rules.stop_words, low=config.min_stop_words, applies=STOP_WORDS.__contains__, words=min(words, STOP_WORD_TEXT)),
        Rule("duplicate_lines", rules.duplicate_lines, high=config.max_duplicate_lines, lines=lines),
        Rule("duplicate_line_characters", rules.duplicate_line_characters, high=config.max_duplicate_line_characters, lines=lines),
        Rule("duplicate_paragraphs", rules.duplicate_paragraphs, high=config.max_duplicate_paragraphs, lines=lines),
        Rule(
            "duplicate_paragraph_characters",
            rules.duplicate_paragraph_characters,
            high=config.max_duplicate_paragraph_characters,
            lines=lines,
        ),
        *(
            Rule(f"top_{n}_gram", rules.top_ngram(n), high=share, applies=_has_words(n, words), words=words)
            for n, share in config.top_ngrams
        ),
        *(
            Rule(f"duplicate_{n}_grams", rules.duplicate_ngram(n), high=share, applies=_has_words(n, words), words=words)
            for n, share in config.duplicate_ngrams
        ),
        Rule("terminal_lines", rules.terminal_lines, low=config.limit("min_terminal_lines"), lines=lines),
        Rule("short_lines", rules.short_lines, high=config.limit("max_short_lines"), lines=lines),
        Rule("repeated_line_characters", rules.repeated_line_characters, high=config.limit("max_repeated_line_characters"), lines=lines),
        Rule("line_breaks", rules.line_breaks, high=config.limit("max_line_breaks"), applies=spaced, lines=lines),
        Rule("lorem_ipsum", rules.lorem_ipsum, high=config.limit("max_lorem_ipsum")),
        Rule("curly_brackets", rules.curly_brackets, high=config.limit("max_curly_brackets")),
        Rule("sentences", rules.sentences, low=config.limit("min_sentences")),
        *(Rule("bad_words", _bad_words(file), high=0, applies=_readers(file)) for file in config.bad_words),
    ]
    return tuple(rule for rule in listed if rule.low is not None or rule.high is not None)


def language_score(batch: Batch) -> rules.Values:
    """How probable the document's language is to the slower identifier; nan, which breaks no limit, for one it does not know."""
    return np.array([score(text, code) for text, code in zip(batch.texts, batch.languages, strict=True)], np.float64)


def judge(config: FilterConfig, texts: pa.Array, languages: list[str]) -> tuple[list[str], np.ndarray]:
    """For each web page's text the first rule it breaks, "" for none, and the value. Language is asked first: it costs least."""
    wanted = accepted(config.languages)
    names = ["language" if wanted and code not in wanted else "" for code in languages]
    return _judged(config, texts, languages, names, np.full(len(names), np.nan), np.ones(len(names), np.bool_))


def addressed(config: FilterConfig, documents: pa.Table) -> tuple[list[str], np.ndarray]:
    """For each document the first rule that its address breaks, "" for none, and the value."""
    names, values = [""] * documents.num_rows, np.full(documents.num_rows, np.nan)
    if config.block_url_words and config.max_url_words is not None:
        listed = blocklist.phrases(config.block_url_words)
        for row, url in enumerate(documents["url"].to_pylist()):
            if (found := blocklist.url_words(url or "", listed)) > config.max_url_words:
                names[row], values[row] = "url_words", found
    if config.block_hosts:
        hosts = blocklist.hosts(config.block_hosts)
        for row, host in enumerate(documents["host"].to_pylist()):
            if host and blocklist.blocked(host, hosts):
                names[row], values[row] = "blocked_host", 1
    return names, values


def keep_good(config: FilterConfig, documents: pa.Table) -> shards.Made:
    """The table split into what is kept and what is rejected, the language filled in where it was not known."""
    languages = [known or detect(text or "") for known, text in zip(documents["language"].to_pylist(), _texts(documents), strict=True)]
    names, values = addressed(config, documents)
    wanted = accepted(config.languages)
    for row, code in enumerate(languages):
        if not names[row] and wanted and code not in wanted:
            names[row] = "language"
    cleaned, done = _cleaned(config, documents), 0
    pages = np.array([bool(url) for url in documents["url"].to_pylist()], np.bool_)
    for batch in words.batches(cleaned["text"]):
        part = slice(done, done + len(batch))
        names[part], values[part] = _judged(config, batch, languages[part], names[part], values[part], pages[part])
        done = part.stop
    column = documents.column_names.index("language")
    documents, cleaned = (t.set_column(column, "language", pa.array(languages, pa.string())) for t in (documents, cleaned))
    good = np.array([not name for name in names], np.bool_)
    kept, masked = _masked(config, cleaned.filter(pa.array(good)))
    rejected = documents.filter(pa.array(~good))
    rejected = rejected.append_column("rule", pa.array([name for name in names if name], pa.string()))
    rejected = rejected.append_column("value", pa.array(values[~good], pa.float64()))
    counts = {"read": documents.num_rows, "kept": kept.num_rows, **_tally(names), **masked}
    return shards.Made(kept, shards.balance("filter", counts), {"rejected": rejected.cast(schemas.REJECTED)})


def work(config: FilterConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Filter every shard; a rejected document keeps the rule it broke."""
    counts = shards.each("filter", partial(keep_good, config), inputs["documents"].shards, out, compute)
    return shards.balance("filter", counts)


def _texts(documents: pa.Table) -> list[str | None]:
    texts: list[str | None] = documents["text"].to_pylist()
    return texts


def _cleaned(config: FilterConfig, documents: pa.Table) -> pa.Table:
    """What the rules judge, and what is kept: with C4, the lines that are prose."""
    if "c4" not in config.families:
        return documents
    return _with_texts(documents, [c4.clean(text or "") for text in _texts(documents)])


def _masked(config: FilterConfig, documents: pa.Table) -> tuple[pa.Table, Counts]:
    """The documents without the marks of persons that the config names."""
    if not config.mask:
        return documents, {}
    masked = [pii.mask(text or "", config.mask) for text in _texts(documents)]
    counts = {f"masked.{kind}": sum(found.get(kind, 0) for _, found in masked) for kind in config.mask}
    return _with_texts(documents, [text for text, _ in masked]), counts


def _with_texts(documents: pa.Table, texts: list[str]) -> pa.Table:
    return documents.set_column(documents.column_names.index("text"), "text", pa.array(texts, pa.string()))


def _judged(
    config: FilterConfig, texts: pa.Array, languages: list[str], names: list[str], values: np.ndarray, pages: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """The names and values, those of texts without a name filled in by the rules; the others are not looked at."""
    names, values = list(names), values.copy()
    stay = np.flatnonzero([not name for name in names])
    broken, measured = rules.first_broken(
        Batch(texts.take(pa.array(stay)), [languages[row] for row in stay], pages[stay]), rules_of(config)
    )
    for place, row in enumerate(stay):
        names[row], values[row] = broken[place], measured[place]
    return names, values


@lru_cache(maxsize=16)
def _bad_words(file: SourceFile) -> Callable[[Batch], rules.Values]:
    return rules.listed_words(blocklist.words(file))


def _readers(file: SourceFile) -> Callable[[str], bool]:
    """Whether a list is for texts of a language."""
    wanted = blocklist.language(file)
    return wanted.__eq__ if wanted else _any


def _any(code: str) -> bool:
    return True


def _tally(names: list[str]) -> Counts:
    return {f"removed.{name}": names.count(name) for name in sorted(set(names)) if name}


def _has_words(n: int, min_share_words: int) -> Callable[[str], bool]:
    """Whether n-grams of a language's text are n words, or nearly; without a minimum of words they are measured in every language."""
    if not min_share_words:
        return _any
    return partial(_outside, LONGER_CHARACTER_WORDS | (TWO_CHARACTER_WORDS if TOP_NGRAM < n < LONGEST else frozenset()))


def _outside(languages: frozenset[str], code: str) -> bool:
    return code not in languages


FILTER = Stage(name="filter", version=4, work=work, shardwise=Shardwise("documents"))
