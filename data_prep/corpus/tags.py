"""Tags and text of a page as lexbor writes it, read without a second parser.

lexbor's output is regular: tag names in lower case, attributes in double quotes without < and >, every element but the void ones
closed. One regular expression splits it, which takes less time than parsing it into another tree and walking over that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Token = tuple[str, str, str]  # "name" or "/name", attributes, the text up to the next tag
VOID = frozenset(
    (
        *("area", "base", "br", "col", "embed", "frame", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"),
        *("basefont", "bgsound", "keygen"),
    )
)
UNSEEN = frozenset(
    (
        *("script", "style", "noscript", "template", "svg", "math", "iframe", "select", "textarea", "datalist"),
        *("object", "embed", "canvas", "video", "audio", "map", "title", "noembed", "noframes"),
    )
)  # elements without text of the page
_TOKEN = re.compile(r"<(/?[a-z][^\s>]*)([^>]*)>([^<]*)")
_RAW = re.compile(r"<(?:(script|style|iframe|noembed|noframes|xmp|plaintext)[\s>]|!--)")  # in which < is text
_SCRIPT = re.compile(r"<!--+>|(<!--)|(-->)|(<script[\s/>])|(</script[\s/>])", re.IGNORECASE)
_ESCAPED_RAW = ("xmp", "plaintext")


class Node:
    """An element: its tag, its attributes as they are written, the element around it. holds_text: for a figure, see region.py."""

    __slots__ = ("attributes", "holds_text", "parent", "tag")

    def __init__(self, tag: str, attributes: str, parent: Node | None) -> None:
        self.tag, self.attributes, self.parent = tag, attributes, parent
        self.holds_text = False

    def get(self, name: str) -> str | None:
        """The value of an attribute, None when it is not there."""
        found = re.search(rf'\s{name}="([^"]*)"', self.attributes)
        return unescaped(found[1]) if found else None

    def line(self) -> Iterator[Node]:
        """The element and those around it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent


def tokens(written: str) -> list[Token]:
    """The tags of lexbor's output with the text after each, without comments, scripts and the like."""
    return _TOKEN.findall(_without_raw(written))


def end_of(given: list[Token], at: int) -> int:
    """The index of the end tag of the element that starts at an index; of the last tag when it has none."""
    name = given[at][0]
    end, depth = "/" + name, 0
    for index in range(at, len(given)):
        tag = given[index][0]
        if tag == name:
            depth += 1
        elif tag == end:
            depth -= 1
            if not depth:
                return index
    return len(given) - 1


def unescaped(text: str) -> str:
    """Text or an attribute's value without lexbor's escapes."""
    if "&" not in text:
        return text
    return text.replace("&nbsp;", "\u00a0").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")


def _without_raw(written: str) -> str:
    kept: list[str] = []
    at = 0
    for found in _RAW.finditer(written):
        start = found.start()
        if start < at:
            continue
        name = found[1]
        ending = f"</{name}>" if name else "-->"
        end = _script_end(written, found.end()) if name == "script" else written.find(ending, found.end() - 1)
        end = len(written) if end < 0 else end
        kept.append(written[at:start])
        if name in _ESCAPED_RAW:
            head = written.find(">", start) + 1
            kept.append(written[start:head] + written[head:end].replace("&", "&amp;").replace("<", "&lt;") + ending)
        at = end + len(ending)
    kept.append(written[at:])
    return "".join(kept)


def _script_end(written: str, start: int) -> int:
    """Where the end tag of a script is, in which a comment may hold another script (HTML standard, script data double escaped state)."""
    end = written.find("</script>", start)
    if written.find("<!--", start, end) < 0:
        return end
    depth = 0  # 1 in a comment, 2 in a script in it
    for found in _SCRIPT.finditer(written, start):
        if found[1]:
            depth = max(depth, 1)
        elif found[2]:
            depth = 0
        elif found[3] and depth:
            depth = 2
        elif found[4]:
            if depth < 2:
                return found.start()
            depth = 1
    return -1
