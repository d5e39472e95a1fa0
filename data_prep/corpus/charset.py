"""Bytes to text: the encoding of a page, decided by the WHATWG's order with one guard against declarations that the bytes contradict.

Order (HTML standard, 13.2.3.1): byte-order mark, HTTP header, <meta> or XML declaration, detection. Labels are those of the Encoding
standard, and its windows-125x define all bytes of 80 to 9F. The guard: bytes that are valid UTF-8 are UTF-8; a single-byte encoding,
in which any bytes are text, yields to a multi-byte encoding that the page's <meta> declares, or that detection finds, where the bytes are
valid in it and are the pairs that it consists of; a multi-byte encoding in which many bytes are invalid yields to what comes next.
Bytes are valid when few of them are not: a page cut in the middle of a character, or with one stray byte, keeps its encoding.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import chardet
from resiliparse.parse.encoding import map_encoding_to_html5

from data_prep.corpus.prescan import labels

DETECT_BYTES = 1 << 14
BROKEN_SHARE = 0.1  # of characters lost: beyond it the bytes are no text in any known encoding
DAMAGED, DAMAGED_PAIRS = 0.2, 0.02  # of non-ASCII characters lost in UTF-8, and in other encodings, beyond which one yields to the next
ALONE = 0.6  # of non-ASCII bytes with ASCII on both sides: beyond it they are accented letters and no pairs
SURE = 60  # non-ASCII bytes from which detection is more certain than a <meta> that contradicts the header
READ_UTF_8, READ_PAIRS = 3, 20  # characters of several bytes for each that is lost, with which bytes are still text in their encoding
FEW = 5  # the same in encodings of pairs where one is lost
SURE_UTF_8 = 10  # sequences of two bytes from which text in a declared multi-byte encoding is taken for UTF-8; one of three is enough
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_BARE_UTF_16 = ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))  # without a mark: XML 1.0, appendix F
_FOREIGN = re.compile(rb"[\x80-\xff]+")
_ALONE = re.compile(rb"(?<![\x80-\xff])[\x80-\xff](?![\x80-\xff])")
_UNSEEN = re.compile(rb"<!--.*?-->|<(script|style)\b.*?</\1|<[A-Za-z/!?][^>]{0,2000}>", re.IGNORECASE | re.DOTALL)
_ISO_2022_JP = re.compile(rb"\x1b\$[@B]([\x21-\x7e\x80-\xff]+)(?:\x1b\([BJ]|\Z)")
_UNDEFINED = re.compile(rb"(?<![\x80-\xff])[\x81\x8d\x8f\x90\x9d](?![\x80-\xff])")  # in windows-1252: no text in any single-byte encoding
_WIDER = {"euc_kr": "cp949", "euc-kr": "cp949", "gbk": "gb18030", "shift_jis": "cp932", "big5": "big5hkscs", "iso8859-11": "cp874"}
_ALIASES = {"latin-1": "iso-8859-1", "cp949": "euc-kr", "uhc": "euc-kr", "x-user-defined": "windows-1252", "cp932": "shift_jis"}
_ALIASES |= {"big5hkscs": "big5", "shift_jis_2004": "shift_jis", "euc_jis_2004": "euc-jp"}  # names that chardet alone has
_MULTI_BYTE = frozenset(("cp949", "gb18030", "cp932", "big5hkscs", "euc_jp", "euc-jp", "iso2022_jp", "iso-2022-jp"))
_PAIRS = ("euc_jp", "cp949", "cp932", "big5hkscs", "gb18030")  # encodings that chardet does not find in damaged bytes; strict ones first
_ASCII_BYTES = bytes(range(0x80))
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")  # Arrow refuses a lone surrogate, lxml a NUL
_LONE = re.compile("[\ud800-\udfff]")
_QUOTES = frozenset("\"'")
_CJK = ("euc-kr", "cp949", "shift_jis", "cp932", "euc-jp", "iso-2022-jp", "gb18030", "big5")
_WEB = (  # the encodings of the Encoding standard that chardet tells apart
    *("utf-8", "utf-16-le", "utf-16-be", "koi8-r", "koi8-u", "ibm866", "tis-620", "macintosh", *_CJK),
    *(f"windows-{number}" for number in range(1250, 1259)),
    *(f"iso-8859-{number}" for number in (2, 5, 6, 7, 8, 13)),
)


@dataclass(frozen=True)
class Decoded:
    """text, the Python codec that read it, the source of that codec, and how many characters could not be read."""

    text: str
    charset: str
    source: str
    lost: int

    @property
    def is_text(self) -> bool:
        """Whether few enough characters are lost for the bytes to be text."""
        return self.lost <= BROKEN_SHARE * max(1, len(self.text))


def decode(body: bytes, header: str = "") -> Decoded:
    """The body as text, never failing; look at `is_text` before believing it. header: the charset of the HTTP header."""
    for mark, codec in _BOMS:
        if body.startswith(mark):
            return _forgiving(body[len(mark) :], codec, "bom")
    for start, codec in _BARE_UTF_16:
        if body.startswith(start):
            return _forgiving(body, codec, "detected")
    tried: list[Decoded] = []
    for codec, source in _named(body, header):
        answer = _guarded(body, codec, source)
        if not _is_damaged(answer):
            return answer
        tried.append(answer)
    return min(tried, key=lambda answer: answer.lost) if tried else _forgiving(body, "utf-8", "default")


def codec_of(label: str) -> str:
    """The Python codec for an encoding label, by the WHATWG table; "" for a label it does not know."""
    name = label.strip().strip("\"'")
    name = _ALIASES.get(name.lower(), name)
    mapped = map_encoding_to_html5(name.replace("_", "-"), fallback_utf8=False) or map_encoding_to_html5(name, fallback_utf8=False) or ""
    return _WIDER.get(mapped, mapped)


def declared(body: bytes) -> str:
    """The codec of the first known label that the page's markup declares; "" when it declares none."""
    return next((codec for label in labels(body) if not set(label) & _QUOTES and (codec := codec_of(label))), "")


def detect(body: bytes) -> str:
    """The codec that undeclared bytes seem to be in: UTF-8 where they are valid, else chardet's answer among the web's encodings."""
    if _is_iso_2022_jp(body):
        return "iso2022_jp"
    if body.isascii() or _is_multibyte_utf8(body):
        return "utf-8"
    text = _UNSEEN.sub(b" ", body)
    first = _FOREIGN.search(text)
    if not first:  # in scripts and attributes only
        text, first = body, _FOREIGN.search(body)
    start = max(0, (first.start() if first else 0) - 200)
    sample = text[start : start + DETECT_BYTES]
    found = _likeliest(_UNDEFINED.sub(b"", sample))
    return next((codec for codec in _PAIRS if codec != found and _is_damaged_text(sample, codec)), found) or "utf-8"


def _likeliest(sample: bytes) -> str:
    return codec_of(chardet.detect(sample, include_encodings=_WEB)["encoding"] or "")


def _is_damaged_text(sample: bytes, codec: str) -> bool:
    """Whether few characters of a sample are invalid in a codec, and chardet finds that codec in the others."""
    text = sample.decode(codec, "whatwg")
    lost = text.count("\ufffd")
    return lost > 0 and _is_accident(lost, _foreign(text)) and _likeliest(text.replace("\ufffd", "").encode(codec, "ignore")) == codec


def _is_accident(lost: int, read: int) -> bool:
    """Whether so few characters are lost that the others tell the encoding."""
    return READ_PAIRS * lost <= read or (lost == 1 and read >= FEW)


def _named(body: bytes, header: str) -> Iterator[tuple[str, str]]:
    if codec := codec_of(header) if header else "":
        yield codec, "header"
    if codec := declared(body):
        yield ("utf-8" if codec.startswith("utf-16") else codec), "meta"  # it could not have been read, were it UTF-16
    yield detect(body), "detected"


def _guarded(body: bytes, codec: str, source: str) -> Decoded:
    """The body in a named encoding, or in the one that contradicts it."""
    if source != "detected" and codec != "iso2022_jp" and _is_iso_2022_jp(body):
        return _forgiving(body, "iso2022_jp", f"{source}, contradicted")
    if codec == "utf-8" or source == "detected" or body.isascii():
        return _forgiving(body, codec, source)
    if _is_multibyte_utf8(body) and (codec not in _MULTI_BYTE or _is_surely_utf8(body)):
        return _forgiving(body, "utf-8", f"{source}, contradicted")
    if codec not in _MULTI_BYTE and not codec.startswith("utf") and _consists_of_pairs(body):
        found, stated = detect(body), declared(body) if source == "header" else ""
        is_sure = found != "utf-8" and len(body.translate(None, _ASCII_BYTES)) >= SURE  # no UTF-8: nothing fits
        other = stated if stated in _MULTI_BYTE and not is_sure else found
        if other in _MULTI_BYTE and not _is_damaged(answer := _forgiving(body, other, f"{source}, contradicted")):
            return answer
    return _forgiving(body, codec, source)


def _consists_of_pairs(body: bytes) -> bool:
    """Whether the non-ASCII bytes mostly stand together, as the bytes of multi-byte characters do."""
    return len(_ALONE.findall(body)) <= ALONE * len(body.translate(None, _ASCII_BYTES))


def _is_damaged(answer: Decoded) -> bool:
    """Whether so many characters are lost that the bytes are probably in another encoding. One of a few may be an accident."""
    if not answer.lost:
        return False
    total = answer.lost + _foreign(answer.text)
    return answer.lost > (DAMAGED if answer.charset == "utf-8" or answer.lost == 1 else DAMAGED_PAIRS) * total


def _foreign(text: str) -> int:
    """Non-ASCII characters that were read."""
    return len(text) - len(text.encode("ascii", "ignore")) - text.count("\ufffd")


def _forgiving(body: bytes, codec: str, source: str) -> Decoded:
    try:
        return Decoded(body.decode(codec), codec, source, 0)
    except (UnicodeDecodeError, LookupError):
        text = body.decode(codec, errors="whatwg")
        return Decoded(text, codec, source, text.count("\ufffd"))


def _as_browsers_do(error: UnicodeError) -> tuple[str, int]:
    """Bytes that Python's table lacks and the Encoding standard's has: C1 controls in windows-125x, the euro sign in gb18030."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    byte = error.object[error.start]
    if error.encoding.startswith(("charmap", "cp125", "cp874")) and 0x80 <= byte <= 0x9F:
        return chr(byte), error.start + 1
    if error.encoding == "gb18030" and byte == 0x80:
        return "\u20ac", error.start + 1
    return "\ufffd", error.end


codecs.register_error("whatwg", _as_browsers_do)


def _is_multibyte_utf8(body: bytes) -> bool:
    """Whether the non-ASCII bytes, all or all but a few, are UTF-8."""
    if body.isascii():
        return False
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        return READ_UTF_8 * text.count("\ufffd") <= _foreign(text)
    return True


def _is_iso_2022_jp(body: bytes) -> bool:
    """Whether the bytes, all or all but a few, are ASCII, and switch to the characters of JIS X 0208."""
    if b"\x1b$" not in body:
        return False
    pairs = sum(len(found) // 2 for found in _ISO_2022_JP.findall(body))
    return pairs > 0 and _is_accident(len(body.translate(None, _ASCII_BYTES)), pairs)


def _is_surely_utf8(body: bytes) -> bool:
    """Whether valid UTF-8 is long enough not to be text in a multi-byte encoding by chance."""
    runs = _FOREIGN.findall(body)
    return (any(byte >= 0xE0 for run in runs for byte in run[:64]) and any(len(run) >= 3 for run in runs)) or sum(
        map(len, runs)
    ) >= 2 * SURE_UTF_8


def lone_surrogates(text: str) -> int:
    """How many halves of surrogate pairs are in a text, which `normal` removes; strings of JSON may have them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return len(_LONE.findall(text))
    return 0


def normal(text: str) -> str:
    """NFC, line feeds, no control characters: what every text of the corpus is brought to, once."""
    return unicodedata.normalize("NFC", _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))
