"""A page's markup, repaired as the HTML standard says: by lexbor, whose output tags.py reads.

libxml2's recovery ends at </body> or </html>, loses text that is misnested in tables, and follows HTML 4; a browser does not.
Pages served as XHTML are read as XML first, where <script/> and <div/> are complete elements.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from html.entities import html5

from lxml.etree import HTMLParser, LxmlError, XMLParser, fromstring, tostring
from resiliparse.parse.html import HTMLTree

from data_prep.corpus import formulas

_CONTROLS = bytes((*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F))
_TO_SPACES = bytes.maketrans(_CONTROLS, b" " * len(_CONTROLS))
# UTF-8 without these bytes has no character above U+02FF but those of U+2000 to U+2FFF, and no control character
_PLAIN = bytes({*range(0x80), *range(0x80, 0xCC), 0xE2} - set(_CONTROLS))
_LONE_E2 = re.compile(  # of U+2000 to U+2FFF, those that NFC replaces, and combining marks
    rb"\xe2(?:\x80[\x80\x81]|\x83[\x90-\xb0]|\x84[\xa6\xaa\xab]|\x8c[\xa9\xaa]|\xab\x9c|\xb3[\xaf-\xb1]|\xb5\xbf|\xb7[\xa0-\xbf])"
)
_ENTITY = re.compile(rb"&([A-Za-z][A-Za-z0-9]{1,31});")
_XML_ENTITIES = frozenset((b"amp", b"lt", b"gt", b"quot", b"apos"))
_DOCTYPE = re.compile(rb"<!DOCTYPE\s[^\[>]*(?:\[[^\]]*\]\s*)?>", re.IGNORECASE)
_DECLARATION = re.compile(rb"\A\s*<\?xml[^>]*\?>")


@dataclass(frozen=True)
class Document:
    """tree: lexbor's, after repair."""

    tree: HTMLTree
    title: str

    @property
    def markup(self) -> bytes:
        """UTF-8 of the complete page after repair."""
        document = self.tree.document
        return document.html.encode("utf-8", "replace") if document is not None else b""

    def body(self) -> str:
        """The body as lexbor writes it, or the complete page without one; formulas as TeX."""
        body = self.tree.body or self.tree.document
        written: str = body.html if body is not None else ""
        return _with_formulas(written) if "math" in written and ("<math" in written or '"math/' in written) else written


def parse(markup: str, is_xhtml: bool = False) -> Document:
    """The page after repair, in NFC, so that nothing that is measured in it depends on how its accents are spelt; never fails."""
    body = markup.encode("utf-8", "replace")  # Arrow refuses a lone surrogate
    others = body.translate(None, _PLAIN)
    if not others.isascii() or _LONE_E2.search(body):
        body = _composed(markup).encode("utf-8", "replace")
    if others:
        body = body.translate(_TO_SPACES)  # controls are no text
    if is_xhtml:
        body = _from_xml(body) or body
    tree = HTMLTree.parse_from_bytes(body, "utf-8")
    return Document(tree, tree.title or "")


def _composed(markup: str) -> str:
    """Markup in NFC; as it is where a stroke could overlay a bracket and take a tag away (U+0338 makes one character of it and "<")."""
    return markup if "\u0338" in markup else unicodedata.normalize("NFC", markup)


def _with_formulas(written: str) -> str:
    try:
        tree = fromstring(written.encode("utf-8", "replace"), _parser())
    except LxmlError:  # beyond libxml2's limits
        return written
    formulas.replace(tree)
    body = HTMLTree.parse_from_bytes(tostring(tree, encoding="utf-8", method="html"), "utf-8").body
    return body.html if body is not None else written


def _from_xml(body: bytes) -> bytes:
    """XHTML as HTML; b"" when it is not well-formed, which a browser refuses to show and HTML's recovery can still read."""

    def character(found: re.Match[bytes]) -> bytes:
        name = found[1]
        known = None if name in _XML_ENTITIES else html5.get(name.decode() + ";")
        return found[0] if known is None else "".join(f"&#{ord(each)};" for each in known).encode()

    plain = _ENTITY.sub(character, _DOCTYPE.sub(b"", _DECLARATION.sub(b"", body), count=1))
    try:
        root = fromstring(plain, XMLParser(resolve_entities=False, no_network=True, load_dtd=False, encoding="utf-8"))
    except LxmlError:
        return b""
    for element in root.iter():
        if isinstance(element.tag, str) and element.tag.startswith("{"):
            element.tag = element.tag.rpartition("}")[2]
    return b"<!DOCTYPE html>" + tostring(root, method="html", encoding="utf-8")


@lru_cache(maxsize=1)
def _parser() -> HTMLParser:
    return HTMLParser(collect_ids=False, default_doctype=False, encoding="utf-8", remove_comments=True, remove_pis=True)
