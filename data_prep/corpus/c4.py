"""C4's cleaning: the lines that are no prose are taken out of a page, and what is left is counted in sentences.

Raffel et al. 2020 (arXiv:1910.10683), section 2.2. Where the paper and the code that made C4 differ (a line of 5 words there,
of 3 in the code; 3 sentences there, 5 in the code), the code's numbers are the defaults, for the data were made with them. That code
also drops lines about cookies and terms of use, lines with a word of over 1,000 characters, and citation marks.
"""

from __future__ import annotations

import re

LEAST_WORDS = 3
LONGEST_WORD = 1000
ENDS = (".", "?", "!", '"', "'", "”", "’", "。", "？", "！")
ELLIPSES = ("...", "…")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_SENTENCE = re.compile(r"[.?!。？！…]+[\"'”’)\]]*(?=\s|$|(?<=[。？！]))")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“])(?:[A-Za-z]|[A-Za-z]\.[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|No|Inc|Co|Corp|Ltd|Gen|Sen|Rep|Gov)$"
)


def clean(text: str) -> str:
    """The text without the lines that C4 would not keep."""
    return "\n".join(line for line in map(_cleaned, text.split("\n")) if line)


def sentences(text: str) -> int:
    """How many sentences the lines hold; a line is at least one."""
    return sum(_in_line(line) for line in map(str.strip, text.split("\n")) if line)


def _cleaned(line: str) -> str:
    """The line without citation marks, or "". What makes a whole page bad stays, for the rules to see it."""
    words = line.split()
    line = _CITATION.sub("", line.strip())
    if len(words) < LEAST_WORDS or not line.endswith(ENDS) or line.endswith(ELLIPSES):
        return ""
    if max(map(len, words)) > LONGEST_WORD:
        return ""
    lower = line.lower()
    if "lorem ipsum" in lower:
        return line
    if "javascript" in lower:
        return ""
    return line if "{" in line or not any(phrase in lower for phrase in POLICY) else ""


def _in_line(line: str) -> int:
    inner = (found for found in _SENTENCE.finditer(line) if found.end() < len(line))
    return 1 + sum(1 for found in inner if _ends(line, found))


def _ends(line: str, found: re.Match[str]) -> bool:
    """Not after an abbreviation, nor before a small letter."""
    if found[0].startswith(".") and _ABBREVIATION.search(line[max(0, found.start() - 8) : found.start()]):
        return False
    rest = line[found.end() : found.end() + 4].lstrip(" \t\"'“‘([")
    return bool(rest) and not rest[0].islower()
