"""Pages of a MediaWiki XML export (`pages-articles.xml.bz2`): titles, addresses and wikitext turned to plain text.

Format: https://www.mediawiki.org/wiki/Help:Export. Redirects and pages outside the main namespace are no documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

import mwparserfromhell
from lxml import etree
from mwparserfromhell.nodes import Tag, Wikilink

LONGEST_PAGE = 16 << 20  # characters of wikitext; the software itself allows 2 MB
MARKUP_LINKS = re.compile(
    r"^\s*:?\s*(?:file|image|category|media|datei|bild|kategorie|fichier|catégorie|archivo|categoría|파일|그림|분류)\s*:", re.I
)
DROPPED_TAGS = frozenset({"ref", "references", "table", "gallery", "timeline", "imagemap", "score", "math", "noinclude", "includeonly"})
_LANGUAGE_LINK = re.compile(r"^[a-z]{2,3}(?:-[a-z]+)*:")
_MAGIC = re.compile(r"__[A-Z]+__")
_HEADING = re.compile(r"^=+\s*(.*?)\s*=+\s*$", re.MULTILINE)
_EMPTY_BRACKETS = re.compile(r" ?[(（]\s*[,;:，；]*\s*[)）]")
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


@dataclass(frozen=True)
class Page:
    """One page of an export. reason: why it is no document ("" for one that is)."""

    id: str
    title: str
    url: str
    date: str
    text: str
    reason: str = ""


class BadXml(Exception):
    """The export is not well-formed from here on."""


def pages(stream: BinaryIO) -> Iterator[Page]:
    """Every page of the export, in order; memory is bounded by the largest page. Raises BadXml where the XML ends or breaks."""
    base = ""
    context = etree.iterparse(stream, events=("end",), resolve_entities=False, no_network=True, load_dtd=False, huge_tree=True)
    try:
        for _, element in context:
            name = etree.QName(element).localname
            if name == "base":
                base = (element.text or "").rpartition("/")[0]
            elif name == "page":
                yield _page(element, base)
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise BadXml(str(error)) from error


def _page(element: etree._Element, base: str) -> Page:
    fields = {name: element.findtext(f"{{*}}{name}") or "" for name in ("id", "title", "ns")}
    revision = element.find("{*}revision")
    wikitext = "" if revision is None else revision.findtext("{*}text") or ""
    date = "" if revision is None else (revision.findtext("{*}timestamp") or "")[:10]
    url = f"{base}/{quote(fields['title'].replace(' ', '_'), safe=':/,()!*@$;~')}" if base else ""
    reason = ""
    if element.find("{*}redirect") is not None:
        reason = "redirect"
    elif fields["ns"] not in ("", "0"):
        reason = "other_namespace"
    elif len(wikitext) > LONGEST_PAGE:
        reason = "too_long"
    return Page(fields["id"], fields["title"], url, date, "" if reason else plain(wikitext), reason)


def plain(wikitext: str) -> str:
    """Wikitext without its markup: prose; headings and list items are lines; no templates, tables, references, files or categories."""
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    for node in [*code.filter_tags(matches=_is_dropped_tag), *code.filter_wikilinks(matches=_is_dropped_link)]:
        with suppress(ValueError):  # it went with a node that held it
            code.remove(node)
    text = str(code.strip_code(normalize=True, collapse=False, keep_template_params=False))
    text = _HEADING.sub(r"\1", _MAGIC.sub("", text)).replace("'''", "").replace("''", "")
    text = _EMPTY_BRACKETS.sub("", text)
    return _BLANK_LINES.sub("\n\n", "\n".join(line.strip() for line in text.split("\n"))).strip()


def _is_dropped_tag(tag: Tag) -> bool:
    return str(tag.tag).strip().lower() in DROPPED_TAGS


def _is_dropped_link(link: Wikilink) -> bool:
    title = str(link.title)
    return bool(MARKUP_LINKS.match(title) or _LANGUAGE_LINK.match(title))
