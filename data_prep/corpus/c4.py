"""C4's cleaning: the lines that are no prose are taken out of a page, and what is left is counted in sentences.

Raffel et al. 2020 (arXiv:1910.10683), section 2.2. Where the paper and the code that made C4 differ (a line of 5 words there,
of 3 in the code; 3 sentences there, 5 in the code), the code's numbers are the defaults, for the data were made with them. That code
also drops lines about cookies and terms of use, lines with a word of over 1,000 characters, and citation marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

LEAST_WORDS = 3
LONGEST_WORD = 1000
# Unicode 16, PropList.txt, Sentence_Terminal: the full stops, question and exclamation marks of all scripts.
_SENTENCE_TERMINAL = """
0021 002e 003f 0589 061d-061f 06d4 0700-0702 07f9 0837 0839 083d-083e 0964-0965 104a-104b 1362 1367-1368 166e 1735-1736 17d4-17d5 1803
1809 1944-1945 1aa8-1aab 1b4e-1b4f 1b5a-1b5b 1b5e-1b5f 1b7d-1b7f 1c3b-1c3c 1c7e-1c7f 2024 203c-203d 2047-2049 2cf9-2cfb 2e2e 2e3c
2e53-2e54 2e60-2e61 3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe12 fe15-fe16 fe52
fe56-fe57 ff01 ff0e ff1f ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df
11238-11239 1123b-1123c 112a9 113d4-113d5 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c
11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16d6e-16d6f 16e98 1bc9f 1da88
"""


def _marks(ranges: str) -> Iterator[str]:
    for part in ranges.split():
        first, _, last = part.partition("-")
        yield from map(chr, range(int(first, 16), int(last or first, 16) + 1))


SENTENCE_ENDS = frozenset(_marks(_SENTENCE_TERMINAL))
ENDS = SENTENCE_ENDS | frozenset("\"'”’")
ELLIPSES = ("...", "…")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_FOREIGN = "".join(sorted(mark for mark in SENTENCE_ENDS if not mark.isascii()))
_BEYOND = re.compile("[\u0589-\u1fff\u2024\u203c-\u2049\u2cf9-\U0010ffff]")  # not Latin, Greek, Cyrillic: one of them may stand there
_CLOSING = r"[\"'”’)\]]*"
_SENTENCE = re.compile(rf"[.?!…]+{_CLOSING}(?=\s|$)")
_ANY_SENTENCE = re.compile(rf"[.?!…{_FOREIGN}]+{_CLOSING}(?=\s|$|(?<=[{_FOREIGN}]))")  # much slower to look for
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“])(?:[A-Za-z]|[A-Za-z]\.[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|No|Inc|Co|Corp|Ltd|Gen|Sen|Rep|Gov)$"
)


def clean(text: str) -> str:
    """The text without the lines that C4 would not keep."""
    return "\n".join(line for line in map(_cleaned, text.split("\n")) if line)


def sentences(text: str) -> int:
    """How many sentences the lines hold; a line is at least one."""
    pattern = _SENTENCE if text.isascii() or not _BEYOND.search(text) else _ANY_SENTENCE
    return sum(_in_line(line, pattern) for line in map(str.strip, text.split("\n")) if line)


def _cleaned(line: str) -> str:
    """The line without citation marks, or "". What makes a whole page bad stays, for the rules to see it."""
    whole = line.strip()
    line = _CITATION.sub("", whole) if "[" in whole else whole
    if line[-1:] not in ENDS or line.endswith(ELLIPSES):
        return ""
    words = whole.split()
    if len(words) < LEAST_WORDS or (len(whole) > LONGEST_WORD and max(map(len, words)) > LONGEST_WORD):
        return ""
    lower = line.lower()
    if "lorem ipsum" in lower:
        return line
    if "javascript" in lower:
        return ""
    return line if "{" in line or not any(phrase in lower for phrase in POLICY) else ""


def _in_line(line: str, pattern: re.Pattern[str]) -> int:
    inner = (found for found in pattern.finditer(line) if found.end() < len(line))
    return 1 + sum(1 for found in inner if _ends(line, found))


def _ends(line: str, found: re.Match[str]) -> bool:
    """Not after an abbreviation, nor before a small letter."""
    if found[0].startswith(".") and _ABBREVIATION.search(line[max(0, found.start() - 8) : found.start()]):
        return False
    rest = line[found.end() : found.end() + 4].lstrip(" \t\"'“‘([")
    return bool(rest) and not rest[0].islower()
