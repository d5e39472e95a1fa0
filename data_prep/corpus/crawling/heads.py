"""HTTP heads as browsers read them: LF line ends, folded lines, lines that are no field, several Content-Types, all taken in stride."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

Field = tuple[bytes, bytes]
END = re.compile(rb"\r?\n\r?\n|\A\r?\n")  # of a head
STATUS = re.compile(rb"(?:HTTP|ICY)(?:/(\d{1,3})(?:\.(\d{1,3}))?)?[ \t]+(\d{3})(?!\d)[ \t]*([^\r\n]*)", re.IGNORECASE)
_FOLD = re.compile(rb"\r*\n[ \t]+")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.1: a token
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]+")
_DIRT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n|$)")  # controls but those of line ends
_MEDIA = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)/([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(;.*)?", re.DOTALL)
_CHARSET = re.compile(r";\s*charset\s*=\s*[\"']?\s*([\w.:+-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Head:
    """status is None where the first line is no status line. fields: names as they came, in order."""

    status: int | None
    version: bytes
    reason: bytes
    fields: tuple[Field, ...]

    def get(self, name: str) -> str:
        """The values of all fields of this name (case does not matter), with commas between; "" when there is none."""
        return ", ".join([value.decode("latin-1") for value in self._values.get(name.lower().encode(), ())])

    def first(self, name: str) -> str:
        """The value of the first field of this name; "" when there is none."""
        values = self._values.get(name.lower().encode())
        return values[0].decode("latin-1") if values else ""

    @cached_property
    def _values(self) -> dict[bytes, list[bytes]]:
        found: dict[bytes, list[bytes]] = {}
        for field, value in self.fields:
            found.setdefault(field.lower(), []).append(value)
        return found


def parse(head: bytes) -> Head:
    """A head without its final empty line. Lines without a colon and fields whose name is no token are left out."""
    first, _, rest = _FOLD.sub(b" ", head.lstrip(b"\r\n")).partition(b"\n")
    status = STATUS.match(first)
    fields, dirty = [], _DIRT.search(rest)
    for line in rest.split(b"\n") if status else ():
        name, colon, value = line.partition(b":")
        if colon and _NAME.fullmatch(name := name.rstrip(b" \t")):
            fields.append((name, (_CONTROLS.sub(b" ", value) if dirty else value).strip(b" \t\r")))
    if status is None:
        return Head(None, b"", b"", ())
    version = b"%s.%s" % (status[1], status[2] or b"0") if status[1] else b"1.0"
    return Head(int(status[3]), version, _CONTROLS.sub(b" ", status[4]).strip(), tuple(fields))


@lru_cache(maxsize=1 << 10)  # servers send few different ones
def media_type(values: str) -> tuple[str, str]:
    """(type, charset) of the values of all Content-Type fields, in lower case; ("", "") when none of them is one.

    The Fetch standard's "extract a MIME type": the last valid one counts, `*/*` is none, and a charset stays while the type does.
    """
    kind = charset = ""
    for value in _split(values):
        found = _MEDIA.fullmatch(value)
        if not found or (essence := f"{found[1]}/{found[2]}".lower()) == "*/*":
            continue
        stated = _CHARSET.search(found[3] or "")
        charset = stated[1].lower() if stated else charset if essence == kind else ""
        kind = essence
    return kind, charset


def _split(values: str) -> Iterable[str]:
    """At commas, but not inside of quotation marks."""
    return re.findall(r"(?:[^,\"]|\"(?:[^\"\\]|\\.)*\"?)+", values, re.DOTALL)
