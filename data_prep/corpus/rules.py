"""The quality rules: each a named measure of every document in a batch, with the limits the papers publish.

Gopher is Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1: "quality filtering" and "repetition removal" with table A1.
C4 is Raffel et al. 2020 (arXiv:1910.10683), section 2.2. FineWeb is Penedo et al. 2024 (arXiv:2406.17557), section 3.6.
A measure is a number for each document; a limit says how small or large it may be. Limits come from the config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.corpus import c4, ngrams
from data_prep.corpus.words import Words, bare, spaced, split

Values = NDArray[np.float64]

LONGEST = 10  # words in an n-gram: as far as table A1 goes
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Gopher A.1.1, English
BULLETS = ("•", "‣", "▪", "◦", "●", "○", "∙", "·", "-", "*")
ELLIPSES = ("...", "…")
TERMINAL = (".", "!", "?", '"', "”", "。", "！", "？", "…")  # C4's marks and their full-width forms
UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "km", "my", "ko"})  # a word is short here: no lower limit on its length


class Batch:
    """Some documents, looked at once: their words and lines are shared by all rules."""

    def __init__(self, texts: pa.Array, languages: list[str]) -> None:
        self.texts: list[str] = [text or "" for text in texts.to_pylist()]
        self.words: Words = split(texts)
        self.languages = languages

    @cached_property
    def lines(self) -> list[list[str]]:
        """The lines that are not blank, without white space at their ends."""
        return [[line for line in map(str.strip, text.split("\n")) if line] for text in self.texts]

    @cached_property
    def paragraphs(self) -> list[list[str]]:
        """What stands between blank lines."""
        return [[part for part in map(str.strip, text.split("\n\n")) if part] for text in self.texts]

    @cached_property
    def repeats(self) -> list[ngrams.Repeats]:
        """Repeated n-grams for n = 1 ... LONGEST, at index n - 1."""
        return list(ngrams.repeats(self.words, LONGEST))


@dataclass(frozen=True)
class Rule:
    """Documents whose value lies below low or above high are rejected; a limit of None is no limit."""

    name: str
    measure: Callable[[Batch], Values]
    low: float | None = None
    high: float | None = None
    applies: Callable[[str], bool] = lambda language: True

    def broken(self, batch: Batch) -> tuple[NDArray[np.bool_], Values]:
        values = self.measure(batch)
        bad = np.zeros(len(values), np.bool_)
        if self.low is not None:
            bad |= values < self.low
        if self.high is not None:
            bad |= values > self.high
        return bad & np.fromiter(map(self.applies, batch.languages), np.bool_, len(values)), values


def word_count(batch: Batch) -> Values:
    """Gopher A.1.1: 50 to 100,000 words."""
    return batch.words.counts.astype(np.float64)


def mean_word_length(batch: Batch) -> Values:
    """Gopher A.1.1: 3 to 10 characters."""
    return batch.words.characters / np.maximum(batch.words.counts, 1)


def symbol_ratio(batch: Batch) -> Values:
    """Gopher A.1.1: hash signs and ellipses, each at most 0.1 a word; the larger of the two ratios."""
    hashes = [text.count("#") for text in batch.texts]
    ellipses = [text.count("...") + text.count("…") for text in batch.texts]
    return np.maximum(hashes, ellipses) / np.maximum(batch.words.counts, 1)


def bullet_lines(batch: Batch) -> Values:
    """Gopher A.1.1: at most 90% of the lines start with a bullet point."""
    return _line_share(batch, lambda line: line.startswith(BULLETS))


def ellipsis_lines(batch: Batch) -> Values:
    """Gopher A.1.1: at most 30% of the lines end with an ellipsis."""
    return _line_share(batch, lambda line: line.endswith(ELLIPSES))


def terminal_lines(batch: Batch) -> Values:
    """FineWeb 3.6 after C4 2.2: share of the lines that end with a terminal punctuation mark (FineWeb: at least 0.12)."""
    return _line_share(batch, lambda line: line.endswith(TERMINAL))


def short_lines(batch: Batch) -> Values:
    """FineWeb 3.6: share of the lines shorter than 30 characters (at most 0.67)."""
    return _line_share(batch, lambda line: len(line) < 30)


def alphabetic_words(batch: Batch) -> Values:
    """Gopher A.1.1: at least 80% of the words hold a letter."""
    return batch.words.sums(batch.words.alphabetic[batch.words.ids]) / np.maximum(batch.words.counts, 1)


def stop_words(batch: Batch) -> Values:
    """Gopher A.1.1: at least two of eight English words; how many of the eight occur."""
    number = {word: i for i, word in enumerate(STOP_WORDS)}
    which = np.fromiter((number.get(word.lower(), -1) for word in batch.words.vocabulary), np.int64, len(batch.words.vocabulary))
    at = which[batch.words.ids]
    seen = np.zeros((batch.words.documents, len(STOP_WORDS)), np.bool_)
    seen[batch.words.document[at >= 0], at[at >= 0]] = True
    return seen.sum(axis=1).astype(np.float64)


def duplicate_lines(batch: Batch) -> Values:
    """Gopher table A1: share of lines that had come before, at most 0.30."""
    return _repeated(batch.lines)


def duplicate_line_characters(batch: Batch) -> Values:
    """Gopher table A1: characters in such lines over those of all lines, at most 0.20."""
    return _repeated_characters(batch.lines)


def duplicate_paragraphs(batch: Batch) -> Values:
    """Gopher table A1: share of paragraphs that had come before, at most 0.30."""
    return _repeated(batch.paragraphs)


def duplicate_paragraph_characters(batch: Batch) -> Values:
    """Gopher table A1: characters in such paragraphs, at most 0.20."""
    return _repeated_characters(batch.paragraphs)


def top_ngram(n: int) -> Callable[[Batch], Values]:
    """Gopher table A1: characters in the most frequent 2-, 3-, 4-gram, at most 0.20, 0.18, 0.16."""
    return lambda batch: ngrams.top_share(batch.words, batch.repeats[n - 1])


def duplicate_ngram(n: int) -> Callable[[Batch], Values]:
    """Gopher table A1: characters in 5- ... 10-grams that had come before, at most 0.15, 0.14, 0.13, 0.12, 0.11, 0.10."""
    return lambda batch: ngrams.again_share(batch.words, batch.repeats[n - 1])


def lorem_ipsum(batch: Batch) -> Values:
    """C4 2.2: how often the placeholder text comes; one is too many."""
    return np.array([text.lower().count("lorem ipsum") for text in batch.texts], np.float64)


def curly_brackets(batch: Batch) -> Values:
    """C4 2.2: opening curly brackets, a sign of program code; one is too many."""
    return np.array([text.count("{") for text in batch.texts], np.float64)


def line_breaks(batch: Batch) -> Values:
    """FineWeb's code, "list ratio": line breaks for each word (at most 0.3)."""
    return np.array([text.count("\n") for text in batch.texts], np.float64) / np.maximum(batch.words.counts, 1)


def sentences(batch: Batch) -> Values:
    """C4 2.2: sentences on the page (at least 3; the code that made C4 asked for 5)."""
    return np.array([c4.sentences(text) for text in batch.texts], np.float64)


def listed_words(listed: frozenset[str]) -> Callable[[Batch], Values]:
    """C4 2.2: words of a list of the user's; one is too many. Entries of several words, or of a script without spaces, count once."""
    singles = frozenset(entry for entry in listed if bare(entry) == entry and spaced(entry) == entry)
    phrases = sorted(listed - singles)

    def measure(batch: Batch) -> Values:
        marked = np.fromiter((bare(word) in singles for word in batch.words.vocabulary), np.bool_, len(batch.words.vocabulary))
        values = batch.words.sums(marked[batch.words.ids]).astype(np.float64)
        if phrases:
            values += [sum(phrase in text for phrase in phrases) for text in (" ".join(t.lower().split()) for t in batch.texts)]
        return values

    return measure


def first_broken(batch: Batch, rules: Iterable[Rule]) -> tuple[list[str], Values]:
    """For each document the first rule it breaks ("" for none) and the value that broke it (nan for none)."""
    names = [""] * len(batch.texts)
    shown = np.full(len(batch.texts), np.nan)
    for rule in rules:
        bad, values = rule.broken(batch)
        for row in np.flatnonzero(bad):
            if not names[row]:
                names[row], shown[row] = rule.name, values[row]
    return names, shown


def _line_share(batch: Batch, test: Callable[[str], bool]) -> Values:
    return np.array([sum(map(test, lines)) / max(1, len(lines)) for lines in batch.lines], np.float64)


def _repeated(parts: list[list[str]]) -> Values:
    return np.array([(len(p) - len(set(p))) / max(1, len(p)) for p in parts], np.float64)


def _repeated_characters(parts: list[list[str]]) -> Values:
    return np.array([_repeated_share(p) for p in parts], np.float64)


def _repeated_share(parts: list[str]) -> float:
    different = set(parts)
    if len(different) == len(parts):
        return 0.0
    everything = sum(map(len, parts))
    return (everything - sum(map(len, different))) / everything
