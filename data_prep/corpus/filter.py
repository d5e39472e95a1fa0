"""Documents in, those in a wanted language and of fair quality out; the rest stand aside with the rule they broke."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from data_prep import schemas, shards
from data_prep.corpus import rules, words
from data_prep.corpus.language import detect
from data_prep.corpus.rules import LONGEST, UNSPACED_LANGUAGES, Batch, Rule
from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ConfigError
from infra.stage import Inputs, Stage

NgramLimits = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class FilterConfig:
    """Limits as published (see rules.py); None, or an empty tuple, switches a rule off.

    languages: ISO 639-1 codes; empty takes every language. The two n-gram limits are (n, share) pairs, n from 1 to 10.
    """

    languages: tuple[str, ...] = ("en",)
    min_words: int | None = 50
    max_words: int | None = 100_000
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
    min_terminal_lines: float | None = None  # FineWeb: 0.12
    max_short_lines: float | None = None  # FineWeb: 0.67
    max_lorem_ipsum: int | None = 0
    max_curly_brackets: int | None = None  # C4: 0

    def __post_init__(self) -> None:
        """Raises ConfigError on limits that nothing, or no n-gram we count, could meet."""
        if self.min_words is not None and self.max_words is not None and self.min_words > self.max_words:
            raise ConfigError(f"filter: min_words {self.min_words} is more than max_words {self.max_words}")
        wrong = [n for n, _ in (*self.top_ngrams, *self.duplicate_ngrams) if not 1 <= n <= LONGEST]
        if wrong:
            raise ConfigError(f"filter: n-grams of {wrong[0]} words are not counted; choose n from 1 to {LONGEST}")


def rules_of(config: FilterConfig) -> tuple[Rule, ...]:
    """The rules in the order in which they are asked; one without a limit is not asked at all."""
    spaced = partial(_outside, UNSPACED_LANGUAGES)
    listed = [
        Rule("min_words", rules.word_count, low=config.min_words),
        Rule("max_words", rules.word_count, high=config.max_words),
        Rule("min_mean_word", rules.mean_word_length, low=config.min_mean_word, applies=spaced),
        Rule("max_mean_word", rules.mean_word_length, high=config.max_mean_word),
        Rule("symbol_ratio", rules.symbol_ratio, high=config.max_symbol_ratio),
        Rule("bullet_lines", rules.bullet_lines, high=config.max_bullet_lines),
        Rule("ellipsis_lines", rules.ellipsis_lines, high=config.max_ellipsis_lines),
        Rule("alphabetic_words", rules.alphabetic_words, low=config.min_alphabetic_words),
        Rule("stop_words", rules.stop_words, low=config.min_stop_words, applies="en".__eq__),
        Rule("duplicate_lines", rules.duplicate_lines, high=config.max_duplicate_lines),
        Rule("duplicate_line_characters", rules.duplicate_line_characters, high=config.max_duplicate_line_characters),
        Rule("duplicate_paragraphs", rules.duplicate_paragraphs, high=config.max_duplicate_paragraphs),
        Rule("duplicate_paragraph_characters", rules.duplicate_paragraph_characters, high=config.max_duplicate_paragraph_characters),
        *(Rule(f"top_{n}_gram", rules.top_ngram(n), high=share) for n, share in config.top_ngrams),
        *(Rule(f"duplicate_{n}_grams", rules.duplicate_ngram(n), high=share) for n, share in config.duplicate_ngrams),
        Rule("terminal_lines", rules.terminal_lines, low=config.min_terminal_lines),
        Rule("short_lines", rules.short_lines, high=config.max_short_lines),
        Rule("lorem_ipsum", rules.lorem_ipsum, high=config.max_lorem_ipsum),
        Rule("curly_brackets", rules.curly_brackets, high=config.max_curly_brackets),
    ]
    return tuple(rule for rule in listed if rule.low is not None or rule.high is not None)


def judge(config: FilterConfig, texts: pa.Array, languages: list[str]) -> tuple[list[str], np.ndarray]:
    """For each text the first rule it breaks, "" for none, and the value. Language is asked first: it costs least."""
    names = ["language" if config.languages and code not in config.languages else "" for code in languages]
    values = np.full(len(names), np.nan)
    stay = np.flatnonzero([not name for name in names])
    broken, measured = rules.first_broken(Batch(texts.take(pa.array(stay)), [languages[row] for row in stay]), rules_of(config))
    for place, row in enumerate(stay):
        names[row], values[row] = broken[place], measured[place]
    return names, values


def keep_good(config: FilterConfig, documents: pa.Table) -> shards.Made:
    """The table split into what is kept and what is rejected, the language filled in where it was not known."""
    languages = [known or detect(text or "") for known, text in zip(documents["language"].to_pylist(), _texts(documents), strict=True)]
    names: list[str] = []
    values: list[np.ndarray] = []
    for batch in words.batches(documents["text"]):
        broken, measured = judge(config, batch, languages[len(names) : len(names) + len(batch)])
        names += broken
        values.append(measured)
    documents = documents.set_column(documents.column_names.index("language"), "language", pa.array(languages, pa.string()))
    good = np.array([not name for name in names], np.bool_)
    kept = documents.filter(pa.array(good))
    rejected = documents.filter(pa.array(~good))
    rejected = rejected.append_column("rule", pa.array([name for name in names if name], pa.string()))
    value = np.concatenate(values)[~good] if values else np.zeros(0)
    rejected = rejected.append_column("value", pa.array(value, pa.float64()))
    counts = {"read": documents.num_rows, "kept": kept.num_rows, **_tally(names)}
    return shards.Made(kept, shards.balance("filter", counts), {"rejected": rejected.cast(schemas.REJECTED)})


def work(config: FilterConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Filter every shard; a rejected document keeps the rule it broke."""
    counts = shards.each("filter", partial(keep_good, config), inputs["documents"].shards, out, compute)
    return shards.balance("filter", counts)


def _texts(documents: pa.Table) -> list[str | None]:
    texts: list[str | None] = documents["text"].to_pylist()
    return texts


def _tally(names: list[str]) -> Counts:
    return {f"removed.{name}": names.count(name) for name in sorted(set(names)) if name}


def _outside(languages: frozenset[str], code: str) -> bool:
    return code not in languages


FILTER = Stage(name="filter", version=1, work=work)
