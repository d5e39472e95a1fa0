"""Text cut into sentences that, put together again, are the text: nothing is lost, nothing added.

White space between two sentences belongs to the second one, as byte-level BPE attaches it (" word"): so the ids of the
sentences, one after another, are the ids of the text wherever a sentence ends before white space.
"""

from __future__ import annotations

import re

LINE = re.compile(r"(?<=\n)")
# letters of scripts that are written without spaces, and the marks that end their sentences
UNSPACED = re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd]")
FULL_STOPS = "。！？｡．"
CLOSING = re.compile(r"[\"'”’»›)\]]+(?=\s|$)|[」』）】〉》]+")
UNKNOWN_LANGUAGE = "en"  # its rules know . ! ? and the full stops of other scripts


def split(text: str, language: str = "") -> list[str]:
    """Sentences; "".join(split(text)) == text. Empty for an empty text, one for a text of white space only."""
    cut = [piece for paragraph in paragraphs(text) for piece in _segment(paragraph, language or UNKNOWN_LANGUAGE)]
    return _space_first(cut)


def paragraphs(text: str) -> list[str]:
    """A line ends a paragraph, unless the next one starts in lower case without a blank line between: then it was only wrapped."""
    if "\n" not in text:
        return [text] if text else []
    found: list[list[str]] = []
    for line in LINE.split(text):
        if found and line[:1].islower() and not found[-1][0].isspace():
            found[-1].append(line)
        elif line:
            found.append([line])
    return ["".join(lines) for lines in found]


def _segment(paragraph: str, language: str) -> list[str]:
    if paragraph.isspace():  # a blank line: the splitter would take longer to see that than all the rest
        return [paragraph]
    from sentencex import segment  # here, not above: a machine that only trains does without

    pieces = list(segment(language, paragraph))
    if "".join(pieces) != paragraph:  # a rule that rewrites text may not split it
        return [paragraph]
    return _between_words(pieces)


def _between_words(pieces: list[str]) -> list[str]:
    """Sentences end between words alone: at white space, or next to a character of a script without spaces.

    A boundary inside a word (`영화..당시엔`, `good.Next`) would give its parts other ids than the whole text has. Closing quotes and
    brackets at the head of a piece belong to the sentence before.
    """
    sentences: list[str] = []
    for piece in pieces:
        closing = CLOSING.match(piece) if sentences else None
        rest = piece[closing.end() :] if closing else piece
        if closing:
            sentences[-1] += closing[0]
        if rest and sentences and not _may_divide(sentences[-1][-1], rest[0]):
            sentences[-1] += rest
        elif rest:
            sentences.append(rest)
    return sentences


def _may_divide(last: str, first: str) -> bool:
    """Whether a sentence may end between these two characters."""
    return last.isspace() or first.isspace() or last in FULL_STOPS or bool(UNSPACED.match(first))


def _space_first(pieces: list[str]) -> list[str]:
    """White space at the end of a piece moves to the head of the next; the last keeps what is left."""
    sentences: list[str] = []
    waiting = ""
    for piece in pieces:
        words = piece.rstrip()
        if words:
            sentences.append(waiting + words)
            waiting = piece[len(words) :]
        else:
            waiting += piece
    if waiting and sentences:
        sentences[-1] += waiting
    elif waiting:
        sentences.append(waiting)
    return sentences
