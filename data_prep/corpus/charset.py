"""Bytes to text: which encoding a page is in, and what to do when it lies about it.

Asked in this order: byte-order mark, HTTP header, <meta> or XML declaration, detection (WHATWG Encoding standard, section 4.2
for the labels; HTML standard, section 13.2.3 for the order). A label that the bytes contradict yields to the next answer.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import charset_normalizer
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

DETECT_BYTES = 1 << 12
META_BYTES = 4096  # the standard looks at 1,024; real pages put more before it
BROKEN_SHARE = 0.1  # of characters lost: beyond it the bytes are no text in any encoding we know
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_BARE_UTF_16 = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))  # without a mark: XML 1.0, appendix F
_META = re.compile(rb"<meta[^>]{0,400}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE)
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_XML = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_:.-]{2,40})", re.IGNORECASE)
_WIDER = {"euc_kr": "cp949", "euc-kr": "cp949", "gbk": "gb18030", "shift_jis": "cp932", "big5": "big5hkscs", "iso8859-11": "cp874"}
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")  # Arrow refuses a lone surrogate, lxml a NUL
_ANY_BYTES_PASS = re.compile(r"(cp|windows-?)125\d|iso[-_]?8859|latin|mac|koi8", re.IGNORECASE)


@dataclass(frozen=True)
class Decoded:
    """text, the Python codec that read it, who named that codec, and how many characters could not be read."""

    text: str
    charset: str
    source: str
    lost: int

    @property
    def is_text(self) -> bool:
        return self.lost <= BROKEN_SHARE * max(1, len(self.text))


def decode(body: bytes, header: str = "") -> Decoded:
    """The body as text, never failing; look at `is_text` before believing it."""
    for mark, codec in _BOMS:
        if body.startswith(mark):
            return _forgiving(body[len(mark) :], codec, "bom")
    for start, codec in _BARE_UTF_16:
        if body.startswith(start):
            return _forgiving(body, codec, "detected")
    tried: list[Decoded] = []
    for label, source in _named(body, header):
        codec = codec_of(label) or (label if source == "detected" else "")
        if not codec:
            continue
        if _ANY_BYTES_PASS.match(codec) and _is_multibyte_utf8(body):
            return _forgiving(body, "utf-8", f"{source}, contradicted")  # bytes that happen to be whole UTF-8 are UTF-8
        answer = _forgiving(body, codec, source)
        if not answer.lost:
            return answer
        tried.append(answer)
    return min(tried, key=lambda answer: answer.lost) if tried else _forgiving(body, "utf-8", "default")


def codec_of(label: str) -> str:
    """The Python codec for an encoding label, by the WHATWG table; "" for a label it does not know."""
    name = label.strip().strip("\"'")
    name = {"latin-1": "iso-8859-1", "cp949": "euc-kr", "uhc": "euc-kr"}.get(name.lower(), name)
    mapped = map_encoding_to_html5(name.replace("_", "-"), fallback_utf8=False) or map_encoding_to_html5(name, fallback_utf8=False) or ""
    return _WIDER.get(mapped, mapped)


def _named(body: bytes, header: str) -> Iterator[tuple[str, str]]:
    if header:
        yield header, "header"
    start = body[:META_BYTES]
    if found := _META.search(start) or _XML.search(start):
        label = found[1].decode("ascii")
        yield ("utf-8" if codec_of(label).startswith("utf-16") else label), "meta"  # it could not have been read, were it UTF-16
    yield (detect_encoding(body) or "utf-8"), "detected"
    foreign = _NOT_ASCII.search(body)
    place = foreign.start() if foreign else 0
    if best := charset_normalizer.from_bytes(body[place : place + DETECT_BYTES]).best():  # slow: asked when uchardet was wrong
        yield best.encoding, "detected"


def _forgiving(body: bytes, codec: str, source: str) -> Decoded:
    try:
        return Decoded(body.decode(codec), codec, source, 0)
    except (UnicodeDecodeError, LookupError):
        text = body.decode(codec, errors="replace")
        return Decoded(text, codec, source, text.count("\ufffd"))


def _is_multibyte_utf8(body: bytes) -> bool:
    if body.isascii():
        return False
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def composed(markup: str) -> str:
    """Markup in NFC, so that nothing that is measured in it depends on how its accents are spelt.

    Left as it is where a stroke could overlay a bracket and take a tag away (U+0338 makes one character of it and a "<", "=" or ">").
    """
    return markup if "\u0338" in markup else unicodedata.normalize("NFC", markup)


def normal(text: str) -> str:
    """NFC, line feeds, no control characters: what every text of the corpus is brought to, once."""
    return unicodedata.normalize("NFC", _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
