"""The quality rules: each a named measure of every document in a batch, with the limits the papers publish.

Gopher is Rae et al. 2021 (arXiv:2112.11446), appendix A.1.1: "quality filtering" and "repetition removal" with table A1.
C4 is Raffel et al. 2020 (arXiv:1910.10683), section 2.2. FineWeb is Penedo et al. 2024 (arXiv:2406.17557), section 3.6.
A measure is a number for each document; a limit says how small or large it may be. Limits come from the config.

Where a paper leaves a measure open (the whole by which a share is divided, which of two equally frequent n-grams counts), it is taken
as in datatrove, whose code made FineWeb: on the same words both decide alike, and a test and a benchmark hold us to it. Elsewhere:

- A line is what stands between line feeds, without white space at its ends, and a blank one is none. A word is what stands between
  white space (words.py); one without a letter or digit is punctuation and no word to be counted or measured.
- A stop word is found in any case, and with a comma at its end. Every script has its marks at the end of a sentence, and quotes may follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.corpus import c4, ngrams
from data_prep.corpus.stop_words import STOP_WORDS
from data_prep.corpus.words import Flags, Words, bare, spaced, split

Values = NDArray[np.float64]

LONGEST = 10  # words in an n-gram: as far as table A1 goes
BULLETS = ("•", "‣", "▪", "◦", "●", "○", "∙", "·", "-", "*")
ELLIPSES = c4.ELLIPSES
TERMINAL = c4.SENTENCE_ENDS | frozenset('"”…')  # C4's marks, those of other scripts, and the ellipsis
EDGES = "".join(sorted(c4.ENDS)) + ",;:()[]{}<>«»“„‘‚…–—-*_/،؛、，；：（）「」"  # stripped from a word that may be a stop word
SHORT_LINE = 30  # characters: up to so many in FineWeb's code, fewer in its paper
_MARK = re.compile(r"[.,;:!?'\"`()~…–—-]+|-lrb-|-rrb-|@[-.,]@", re.IGNORECASE)
_SPOKEN = re.compile(r"[^\W_]")
# In these a character counts as a word, so that n characters are fewer than n words: about two to a word in Chinese and Japanese, four or
# five with their marks in the others. Every text of UDHR in the latter breaks the limits of n-grams, and the Japanese one those below ten.
TWO_CHARACTER_WORDS = frozenset({"zh", "ja"})
LONGER_CHARACTER_WORDS = frozenset({"th", "lo", "km", "my"})
LONG_WORDS = frozenset({"ml", "bo", "dz"})  # longer than ten characters on average: agglutinating, or parted by a tsheg
UNSPACED_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "km", "my", "ko"})  # a word is short here: no lower limit on its length


class Batch:
    """Some documents, looked at once: their words and lines are shared by all rules. pages: which are web pages; None: all."""

    def __init__(self, texts: pa.Array, languages: list[str], pages: Flags | None = None) -> None:
        self.pages = pages
        self.words: Words = split(texts, hangul_runs=False)
        self.languages = languages
        self._rows = [[line.strip() for line in (text or "").split("\n")] for text in texts.to_pylist()]
        self.texts: list[str] = ["\n".join(rows).strip("\n") for rows in self._rows]

    @cached_property
    def lines(self) -> list[list[str]]:
        """The lines that are not blank."""
        return [[line for line in rows if line] for rows in self._rows]

    @cached_property
    def paragraphs(self) -> list[list[str]]:
        """What stands between blank lines."""
        return [_paragraphs(text) for text in self.texts]

    @cached_property
    def characters(self) -> Values:
        """Of each text, white space between its words too; 1 for an empty one, for it divides."""
        return np.maximum(np.fromiter(map(len, self.texts), np.float64, len(self.texts)), 1)

    @cached_property
    def line_feeds(self) -> Values:
        """Of each text."""
        return np.array([text.count("\n") for text in self.texts], np.float64)

    @cached_property
    def all_words(self) -> Values:
        """How many there are, bare punctuation too; 1 for none, for it divides."""
        return np.maximum(self.words.counts, 1).astype(np.float64)

    @cached_property
    def spoken(self) -> Flags:
        """For each place whether its word holds a letter or a digit."""
        known = np.fromiter((_SPOKEN.search(word) is not None for word in self.words.vocabulary), np.bool_, len(self.words.vocabulary))
        flags: Flags = known[self.words.ids]
        return flags

    @cached_property
    def marks(self) -> Flags:
        """For each position whether its word is a mark of a sentence alone, as in text that was tokenized (" , ", " @-@ ")."""
        known = np.fromiter((_MARK.fullmatch(word) is not None for word in self.words.vocabulary), np.bool_, len(self.words.vocabulary))
        flags: Flags = known[self.words.ids]
        return flags

    @cached_property
    def repeats(self) -> list[ngrams.Repeats]:
        """Repeated n-grams for n = 1 ... LONGEST, at index n - 1."""
        return list(ngrams.repeats(self.words, LONGEST))


@dataclass(frozen=True)
class Rule:
    """Documents whose value lies below low or above high are rejected; a limit of None is no limit.

    words, lines: a document with fewer is not measured by this rule: a share of so few says nothing. pages: for web pages alone.
    """

    name: str
    measure: Callable[[Batch], Values]
    low: float | None = None
    high: float | None = None
    applies: Callable[[str], bool] = lambda language: True
    words: int = 0
    lines: int = 0
    pages: bool = False

    def broken(self, batch: Batch) -> tuple[NDArray[np.bool_], Values]:
        values = self.measure(batch)
        bad = np.zeros(len(values), np.bool_)
        if self.low is not None:
            bad |= values < self.low
        if self.high is not None:
            bad |= values > self.high
        if self.pages and batch.pages is not None:
            bad &= batch.pages
        if self.words:
            bad &= word_count(batch) >= self.words
        if self.lines:
            bad &= np.fromiter(map(len, batch.lines), np.int64, len(values)) >= self.lines
        return bad & np.fromiter(map(self.applies, batch.languages), np.bool_, len(values)), values


def word_count(batch: Batch) -> Values:
    """Gopher A.1.1: 50 to 100,000 words."""
    return batch.words.sums(batch.spoken).astype(np.float64)


def mean_word_length(batch: Batch) -> Values:
    """Gopher A.1.1: 3 to 10 characters; nan, which breaks no limit, without a word."""
    lengths, counts = batch.words.lengths[batch.words.ids], word_count(batch)
    return np.where(counts > 0, batch.words.sums(lengths * batch.spoken), np.nan) / np.maximum(counts, 1)


def symbol_ratio(batch: Batch) -> Values:
    """Gopher A.1.1: hash signs and ellipses, each at most 0.1 a word; the larger of the two ratios."""
    hashes = [text.count("#") for text in batch.texts]
    ellipses = [text.count("...") + text.count("…") for text in batch.texts]
    return np.maximum(hashes, ellipses) / batch.all_words


def bullet_lines(batch: Batch) -> Values:
    """Gopher A.1.1: at most 90% of the lines start with a bullet point."""
    return _line_share(batch, lambda line: line.startswith(BULLETS))


def ellipsis_lines(batch: Batch) -> Values:
    """Gopher A.1.1: at most 30% of the lines end with an ellipsis."""
    return _line_share(batch, lambda line: line.endswith(ELLIPSES))


def terminal_lines(batch: Batch) -> Values:
    """FineWeb 3.6 after C4 2.2: share of the lines that end with a terminal punctuation mark (FineWeb: at least 0.12)."""
    return _line_share(batch, lambda line: line[-1] in TERMINAL)


def short_lines(batch: Batch) -> Values:
    """FineWeb 3.6: share of the lines of at most 30 characters (at most 0.67)."""
    return _line_share(batch, lambda line: len(line) <= SHORT_LINE)


def alphabetic_words(batch: Batch) -> Values:
    """Gopher A.1.1: at least 80% of the words hold a letter. A sentence mark that tokenized text has set apart is no word here."""
    return batch.words.sums(batch.words.alphabetic[batch.words.ids]) / np.maximum(batch.all_words - batch.words.sums(batch.marks), 1)


def stop_words(batch: Batch) -> Values:
    """Gopher A.1.1: at least two of eight English words, or of some of the document's language; how many of them occur."""
    values = np.full(batch.words.documents, np.nan)
    forms = [word.lower().strip(EDGES) for word in batch.words.vocabulary]
    for known in sorted(set(batch.languages) & set(STOP_WORDS)):
        number = {word: place for place, word in enumerate(STOP_WORDS[known])}
        at = np.fromiter((number.get(form, -1) for form in forms), np.int64, len(forms))[batch.words.ids]
        seen = np.zeros((batch.words.documents, len(number)), np.bool_)
        seen[batch.words.document[at >= 0], at[at >= 0]] = True
        mine = np.fromiter((code == known for code in batch.languages), np.bool_, len(values))
        values[mine] = seen.sum(axis=1)[mine]
    return values


def duplicate_lines(batch: Batch) -> Values:
    """Gopher table A1: share of lines that had come before, at most 0.30."""
    return _repeated(batch.lines)


def duplicate_line_characters(batch: Batch) -> Values:
    """Gopher table A1: characters in such lines over those of the text, at most 0.20."""
    return _repeated_characters(batch.lines) / batch.characters


def duplicate_paragraphs(batch: Batch) -> Values:
    """Gopher table A1: share of paragraphs that had come before, at most 0.30."""
    return _repeated(batch.paragraphs)


def duplicate_paragraph_characters(batch: Batch) -> Values:
    """Gopher table A1: characters in such paragraphs over those of the text, at most 0.20."""
    return _repeated_characters(batch.paragraphs) / batch.characters


def repeated_line_characters(batch: Batch) -> Values:
    """FineWeb 3.6: characters in such lines over those of all lines (at most 0.1; its code: 0.01)."""
    return _repeated_characters(batch.lines) / np.maximum(batch.characters - batch.line_feeds, 1)


def top_ngram(n: int) -> Callable[[Batch], Values]:
    """Gopher table A1: characters in the most frequent 2-, 3-, 4-gram over those of the text, at most 0.20, 0.18, 0.16."""
    return lambda batch: ngrams.top_characters(batch.words, batch.repeats[n - 1]) / batch.characters


def duplicate_ngram(n: int) -> Callable[[Batch], Values]:
    """Gopher table A1: characters in 5- ... 10-grams that had come before, at most 0.15, 0.14, 0.13, 0.12, 0.11, 0.10."""
    return lambda batch: ngrams.again_characters(batch.words, batch.repeats[n - 1]) / batch.characters


def lorem_ipsum(batch: Batch) -> Values:
    """C4 2.2: how often the placeholder text comes; one is too many."""
    return np.array([text.lower().count("lorem ipsum") for text in batch.texts], np.float64)


def curly_brackets(batch: Batch) -> Values:
    """C4 2.2: opening curly brackets, a sign of program code; one is too many."""
    return np.array([text.count("{") for text in batch.texts], np.float64)


def line_breaks(batch: Batch) -> Values:
    """FineWeb's code, "list ratio": line breaks for each word (at most 0.3)."""
    return batch.line_feeds / batch.all_words


def sentences(batch: Batch) -> Values:
    """C4 2.2: sentences on the page (at least 3; the code that made C4 asked for 5)."""
    return np.array([c4.sentences(text) for text in batch.texts], np.float64)


def listed_words(listed: frozenset[str]) -> Callable[[Batch], Values]:
    """C4 2.2: words of a list of the user's; one is too many. Entries of several words, or of a script without spaces, count once."""
    singles = frozenset(entry for entry in listed if bare(entry) == entry and spaced(entry, hangul_runs=False) == entry)
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
    return np.array([sum(map(len, p)) - sum(map(len, set(p))) for p in parts], np.float64)


def _paragraphs(text: str) -> list[str]:
    """A blank line or several stand between two; most texts have a single one."""
    return [part for part in map(_without_feeds, text.split("\n\n")) if part]


def _without_feeds(part: str) -> str:
    return part.strip("\n")
