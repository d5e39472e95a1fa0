"""URLs out of sitemaps (sitemaps.org protocol, also index files) and feeds (RSS 0.9x, 1.0, 2.0, Atom), whole or broken.

A file that is well-formed XML is read as such. One that is not is searched for its records (`<url>`, `<item>`, `<entry>`), and each whole
record is read alone, so that damage costs the record it is in. Entities that a file declares are never expanded, and nothing that it
names is opened: a file that declares some counts as broken, and its records are read without their declarations.
"""

from __future__ import annotations

import email.utils
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lxml import etree

from data_prep.corpus import charset, dumps, urls
from data_prep.corpus.dumps import Line
from data_prep.packed import opened

LARGEST = 64 << 20  # bytes, unpacked; the sitemaps.org protocol allows 50 MiB (52,428,800 bytes)
LONGEST_RECORD = 1 << 20  # characters of one record of a broken file; feeds carry whole articles
RECORDS = {"sitemap": ("url", "sitemap"), "feed": ("item", "entry")}
ROOTS = {"sitemap": ("urlset", "sitemapindex"), "feed": ("rss", "RDF", "feed")}
NO_NETWORK = {"resolve_entities": False, "no_network": True, "load_dtd": False, "huge_tree": False, "collect_ids": False}
CDATA, CDATA_END = "<![CDATA[", "]]>"
BARE = re.compile(r"&(?!(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos);)")
NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")  # XML 1.0, section 2.2
DECLARED = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_:.-]{2,40})")
BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
DAY = re.compile(r"(\d{4})(-\d\d)?(-\d\d)?")
FIRST_YEAR = 1990  # Go writes a date that nobody gave as 1 January of the year 1


class Entry(NamedTuple):
    """A URL, and the day it was changed or published as far as it is told: YYYY, YYYY-MM, YYYY-MM-DD or nothing."""

    url: str
    date: str


class _Broken(Exception):
    """Not to be read as XML."""


Found = tuple[Line, Entry | None]  # the line's number is the record's place among those of the file


def entries(path: Path, kind: str) -> Iterator[Found]:
    """Every record of the file; one that is no link comes with its reason and no Entry, and so does what is wrong with the file."""
    content, damage = _content(path)
    number = 0
    for line, entry in _records(content, kind):
        number = line.number
        yield line, entry
    if damage:
        yield Line(number + 1, b"", damage), None


def _content(path: Path) -> tuple[bytes, str]:
    """The file's bytes as far as they can be had and allowed, and what stopped the reading."""
    parts, size = [], 0
    with opened(path) as file:
        try:
            while part := file.read1(1 << 16):  # type: ignore[attr-defined]
                parts.append(part)
                size += len(part)
                if size > LARGEST:
                    return b"".join(parts)[:LARGEST], "too_large"
        except dumps.DAMAGE:
            return b"".join(parts), "damaged_file"
        except OSError as error:
            if error.errno is not None:
                raise
            return b"".join(parts), "damaged_file"
    return b"".join(parts), "damaged_file" if dumps.is_cut(path) else ""


def _records(content: bytes, kind: str) -> Iterator[Found]:
    try:
        root, found = _whole(content, kind)
    except _Broken as error:
        yield from _broken(content, kind, str(error))
        return
    if root in ROOTS[kind]:
        yield from found
    else:
        yield Line(1, content[: dumps.SHOWN], f"not_{kind}"), None


def _whole(content: bytes, kind: str) -> tuple[str, list[Found]]:
    """The root's name and the records of a well-formed file. Raises _Broken on any other."""
    found: list[Found] = []
    root = ""
    try:
        for event, element in etree.iterparse(io.BytesIO(content), ("start", "end"), remove_comments=True, remove_pis=True, **NO_NETWORK):
            if not root:
                root = _local(element)
                _check_declarations(element)
            elif event == "end" and _local(element) in RECORDS[kind]:
                found.append(_record(element, len(found) + 1))
                _forget(element)
    except etree.XMLSyntaxError as error:
        raise _Broken(str(error)) from error
    return root, found


def _check_declarations(root: Any) -> None:
    declared = root.getroottree().docinfo.internalDTD
    if declared is not None and any(True for _ in declared.iterentities()):
        raise _Broken("the file declares entities")


def _forget(element: Any) -> None:
    """Free a record that was read, and what stands before it."""
    element.clear(keep_tail=False)
    above = element.getparent()
    while above is not None and (before := element.getprevious()) is not None:
        above.remove(before)


def _broken(content: bytes, kind: str, error: str) -> Iterator[Found]:
    """The whole records of a file that is not well-formed, and one line that says what is wrong with it."""
    number = 0
    for number, (text, damage) in enumerate(_fragments(_text(content), RECORDS[kind]), 1):
        reason = damage or ("too_long" if len(text) > LONGEST_RECORD else "")
        element = None if reason else _element(text)
        if element is None:
            yield Line(number, text[: dumps.SHOWN].encode("utf-8", "replace"), reason or "no_record"), None
        else:
            yield _record(element, number)
    reason, shown = ("broken_xml", error.encode("utf-8", "replace")) if number else ("not_xml", content[: dumps.SHOWN])
    yield Line(number + 1, shown, reason), None


def _text(content: bytes) -> str:
    for mark, codec in BOMS:
        if content.startswith(mark):
            return content[len(mark) :].decode(codec, "replace")
    declared = DECLARED.match(content)
    codec = charset.codec_of(declared[1].decode("ascii")) if declared else ""
    return content.decode(codec if codec and not codec.startswith("utf-16") else "utf-8", "replace")


def _fragments(text: str, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Each record's markup and "", or what there is of one without an end and the reason.

    CDATA and comments hide the tags inside them, but for one that a whole record would be hidden by: a stray `<!--` must not
    swallow its neighbours. Every search goes forward only, so time is linear in the text.
    """
    name = f"(?:[A-Za-z_][\\w.-]{{0,50}}:)?(?:{'|'.join(names)})"
    token = re.compile(rf"<!\[CDATA\[|<!--|<(/?){name}(?=[\s/>])[^<>]*>")
    ends = {CDATA: _Next(CDATA_END), "<!--": _Next("-->")}
    opening, address = _Next(re.compile(rf"<{name}[\s/>]")), _Next(re.compile(r"<(?:[\w.-]{1,50}:)?(?:loc|link|guid)[\s/>]"))
    start, place = -1, 0
    while found := token.search(text, place):
        place = found.end()
        if found[1] is None:
            end = ends[found[0]].after(text, place)
            inner = opening.after(text, place)
            if end >= 0 and not (0 <= inner < end and 0 <= address.after(text, inner) < end):
                place = end + 3
        elif found[1]:
            if start >= 0:
                yield text[start:place], ""
            start = -1
        else:
            if start >= 0:
                yield text[start : found.start()], "open_record"
            start = -1 if found[0].endswith("/>") else found.start()
    if start >= 0:
        yield text[start:], "open_record"


class _Next:
    """Where something stands next, remembered until that place is passed."""

    def __init__(self, wanted: str | re.Pattern[str]) -> None:
        self.wanted, self.at = wanted, -2  # -1: nowhere any more

    def after(self, text: str, place: int) -> int:
        if self.at != -1 and self.at < place:
            if isinstance(self.wanted, str):
                self.at = text.find(self.wanted, place)
            else:
                found = self.wanted.search(text, place)
                self.at = found.start() if found else -1
        return self.at


def _element(markup: str) -> Any:
    """The element of one record, mended where that needs no guess; None when there is none."""
    parser = etree.XMLParser(recover=True, encoding="utf-8", remove_comments=True, remove_pis=True, **NO_NETWORK)
    try:
        return etree.fromstring(NOT_XML.sub("\ufffd", _escaped(markup)).encode(), parser)
    except etree.XMLSyntaxError:
        return None


def _escaped(markup: str) -> str:
    """With `&` written as `&amp;` where it stands for itself, as it does in the URLs of many feeds."""
    parts = []
    for part in markup.split(CDATA_END):
        plain, mark, hidden = part.partition(CDATA)
        parts.append(BARE.sub("&amp;", plain) + mark + hidden)
    return CDATA_END.join(parts)


def _record(element: Any, number: int) -> Found:
    kind = _local(element)
    url, date = (_of_sitemap if kind in RECORDS["sitemap"] else _of_feed)(element)
    if not url or "\ufffd" in url:
        shown = etree.tostring(element, encoding="utf-8", with_tail=False)[: dumps.SHOWN]
        return Line(number, shown, "bad_characters" if url else "no_url"), None
    if kind == "sitemap":
        return Line(number, url.encode("utf-8", "replace"), "other_sitemap"), None
    if not urls.scheme(url) and element.base:
        url = urls.joined(element.base, url, keep_tracking=True) or url
    return Line(number, url.encode("utf-8", "replace")), Entry(url, day(date))


def _of_sitemap(record: Any) -> tuple[str, str]:
    return _said(record, "loc"), _said(record, "lastmod")


def _of_feed(record: Any) -> tuple[str, str]:
    """The page an item or entry is about, and when it was changed, or else published.

    RSS 2.0 has <link>, or <guid> where isPermaLink is not "false"; RSS 1.0 <link> and rdf:about; Atom <link href> whose rel is
    "alternate" or absent (RFC 4287, section 4.2.7.2).
    """
    date = next((told for name in ("updated", "pubDate", "date", "published") if (told := _said(record, name))), "")
    url = _said(record, "link") or next(filter(None, map(_alternate, record)), "")
    if not url:
        guids = (child for child in record if _local(child) == "guid" and child.get("isPermaLink", "true").strip().lower() != "false")
        url = next((text for guid in guids if urls.scheme(text := (guid.text or "").strip())), "")
    about = next((value for key, value in record.attrib.items() if key.endswith(("}about", ":about"))), "")
    return url or about.strip(), date


def _alternate(child: Any) -> str:
    is_page = _local(child) == "link" and child.get("rel", "alternate") == "alternate"
    return str(child.get("href", "")).strip() if is_page else ""


def _said(record: Any, name: str) -> str:
    """The text of a record's child; one with markup inside is not what it should be, and says nothing."""
    children = (child for child in record if _local(child) == name and not len(child))
    return next((text for child in children if (text := (child.text or "").strip())), "")


def _local(element: Any) -> str:
    """A tag's name without its namespace, or without a prefix that nobody declared."""
    tag = element.tag
    return re.split("[}:]", tag)[-1] if isinstance(tag, str) else ""


def day(text: str) -> str:
    """A date in the forms of the two protocols (W3C date and time; RFC 822) as far as it is told, by its own clock; "" for none."""
    found = DAY.match(text)
    told = found[0] if found else ""
    if not found and not re.search(r"\b0001\b", text):  # email.utils makes 2001 of that
        try:
            parsed = email.utils.parsedate(text)
        except (ValueError, IndexError, TypeError, OverflowError):
            parsed = None
        told = f"{parsed[0]:04}-{parsed[1]:02}-{parsed[2]:02}" if parsed else ""
    return told if told and int(told[:4]) >= FIRST_YEAR else ""
