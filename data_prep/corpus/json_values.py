"""Values of a JSON text that is one array, or several values one after another, read in a stream.

Own code in place of a streaming parser: ijson 3.6 takes memory by the square of the nesting depth, which a hostile file chooses.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

CHUNK = 1 << 20  # bytes read at once, doubled while a value is longer
LONGEST_VALUE = 64 << 20  # characters of one value
NEAR_END = 16  # characters: an escape or a word that the end of the buffer cuts


class BadJson(Exception):
    """The text is unreadable from here on. reason: bad_json, bad_utf8, truncated or too_long."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def values(stream: BinaryIO, start: bytes = b"") -> Iterator[Any]:
    """Elements of the top-level array, or the top-level values. start: bytes read before. Raises BadJson where it cannot go on."""
    text = _Buffer(stream, start)
    array = text.skip("[")
    while not text.at_end():
        if array and text.skip("]"):
            if not text.at_end():
                raise BadJson("bad_json", f"text after the end of the array, at character {text.position}")
            return
        yield text.value()
        if array and not text.skip(",") and text.next_character() not in ("]", ""):
            raise BadJson("bad_json", f"no comma between two elements, at character {text.position}")
    if array:
        raise BadJson("truncated", "the file ends within the array")


class _Buffer:
    """What is decoded and not yet consumed."""

    def __init__(self, stream: BinaryIO, start: bytes) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._place, self._before, self._more = "", 0, 0, True
        self._add(start, last=False)

    @property
    def position(self) -> int:
        """Characters from the beginning of the file."""
        return self._before + self._place

    def next_character(self) -> str:
        """The next one that is not white space, which is consumed; "" at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._text) or not self._more:
                return self._text[self._place : self._place + 1]
            self._fill(CHUNK)

    def at_end(self) -> bool:
        return not self.next_character()

    def skip(self, character: str) -> bool:
        """Consume this character if it comes next."""
        found = self.next_character() == character
        self._place += found
        return found

    def value(self) -> Any:
        size = CHUNK
        while True:
            try:
                found, end = self._scan(self._text, self._place)
                if end < len(self._text) or not self._more:  # a number may go on in the next chunk
                    self._place = end
                    return found
            except RecursionError as error:
                raise BadJson("bad_json", f"nested too deeply, at character {self.position}") from error
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - NEAR_END or error.msg.startswith("Unterminated")
                if not (cut and self._more):
                    message = f"{error.msg}, at character {self._before + error.pos}"
                    raise BadJson("truncated" if cut else "bad_json", message) from error
            if len(self._text) - self._place > LONGEST_VALUE:
                raise BadJson("too_long", f"a value of more than {LONGEST_VALUE} characters, at character {self.position}")
            self._fill(size)
            size *= 2

    def _fill(self, size: int) -> None:
        data = self._stream.read(size)
        self._more = bool(data)
        self._add(data, last=not data)

    def _add(self, data: bytes, last: bool) -> None:
        try:
            fresh = self._decoder.decode(data, last)
        except UnicodeDecodeError as error:
            raise BadJson("bad_utf8", f"{error.reason}, after character {self._before + len(self._text)}") from error
        self._text, self._before, self._place = self._text[self._place :] + fresh, self._before + self._place, 0
