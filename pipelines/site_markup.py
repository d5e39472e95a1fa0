"""A docstring becomes HTML: paragraphs, headings, lists, examples, and links to the pages of the names it speaks of."""

from __future__ import annotations

import html
import re

ALIASES = {
    "np": "numpy",
    "pa": "pyarrow",
    "pc": "pyarrow.compute",
    "pq": "pyarrow.parquet",
    "F": "torch.nn.functional",
    "nn": "torch.nn",
    "plt": "matplotlib.pyplot",
}
INLINE = re.compile(
    r":(?:[\w-]+:)+`~?\.?(?P<role>[^`<>]+?)(?:\s*<(?P<target>[^`<>]+)>)?`"  # :func:`name`, :class:`text <name>`
    r"|``(?P<literal>[^`]+)``"
    r"|`(?P<ticked>[^`\n]+)`_{0,2}"
    r"|(?P<dotted>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)"
    r"|(?P<called>[A-Za-z_]\w*)(?=\(\))"
)
NAME = re.compile(r"~?[\w.]+(?:\(\))?")
UNDERLINE = re.compile(r"[-=~^*#\"'`]{3,}\s*$")
TABLE = re.compile(r"\s*(?:[=-]{3,}\s+[=-]{3,}|\+[-=]{3,}\+)")
FIELD = re.compile(r"\w+(?: \([^()]*\))?: \S")  # `name (type): meaning`, one a line
BULLET = re.compile(r"\s*(?:[-*+•]|\d+[.)]|#\.)\s+")


class Markup:
    """Knows the pages there are, so that no link of its making is dead by mistake."""

    def __init__(self, pages: frozenset[str], standard: frozenset[str] = frozenset()) -> None:
        """standard: modules of the standard library, which has a host of its own."""
        self.pages, self.standard = pages, standard

    def resolve(self, name: str, scope: str) -> str | None:
        """The page a name means, looked up like a reader would: as it stands, then in the scope and its parents."""
        name = name.strip().removesuffix("()").lstrip("~.!")
        first, dot, rest = name.partition(".")
        if first in ALIASES:
            name = ALIASES[first] + dot + rest
        while name:
            if name in self.pages:
                return name
            place = scope
            while place:
                if f"{place}.{name}" in self.pages:
                    return f"{place}.{name}"
                place = place.rpartition(".")[0]
            name = name.rpartition(".")[0]  # a method without a page of its own is told on its class's page
        return None

    def anchor(self, name: str, text: str, scope: str = "") -> str:
        """A link to the page, or the bare text when there is none; the standard library is linked across hosts, by module."""
        page = self.resolve(name, scope)
        if page is not None and page != scope:
            return f'<a href="/{page}.html">{html.escape(text)}</a>'
        top = name.strip().lstrip("~.").split(".")[0]
        if page is None and "." in name and top in self.standard:
            return f'<a href="http://python.test/{top}.html">{html.escape(text)}</a>'
        return html.escape(text)

    def inline(self, text: str, scope: str) -> str:
        parts, last = [], 0
        for match in INLINE.finditer(text):
            parts.append(html.escape(text[last : match.start()]))
            parts.append(self._spoken(match, scope))
            last = match.end()
        return "".join(parts) + html.escape(text[last:])

    def _spoken(self, match: re.Match[str], scope: str) -> str:
        role, literal, ticked = match["role"], match["literal"], match["ticked"]
        if role:
            return self.anchor(match["target"] or role, role, scope)
        if literal:
            return f"<code>{self.anchor(literal, literal, scope) if NAME.fullmatch(literal) else html.escape(literal)}</code>"
        if ticked:
            text = re.sub(r"\s*<[^<>]*>$", "", ticked)
            return self.anchor(ticked, text, scope) if NAME.fullmatch(ticked) else html.escape(text)
        name = match["dotted"] or match["called"]
        return self.anchor(name, name, scope)

    def blocks(self, text: str, scope: str) -> str:
        """A docstring in blocks; what follows a `See Also` heading is a list of names."""
        parts: list[str] = []
        names = False
        for block in re.split(r"\n[ \t]*\n", text.strip("\n")):
            lines = [line.rstrip() for line in block.split("\n") if line.strip()]
            if len(lines) >= 2 and UNDERLINE.match(lines[1].strip()):
                names = lines[0].strip().lower() == "see also"
                parts.append(f"<h2>{html.escape(lines[0].strip())}</h2>")
                lines = lines[2:]
            if lines:
                parts.append(self._names(lines, scope) if names else self._block(lines, scope))
        return "\n".join(part for part in parts if part)

    def _block(self, lines: list[str], scope: str) -> str:
        if any(line.lstrip().startswith(">>>") or TABLE.match(line) for line in lines) or lines[0].lstrip().startswith(".. "):
            return self._special(lines, scope)
        first = next((at for at, line in enumerate(lines) if BULLET.match(line)), len(lines))
        told = "".join(f"<p>{self.inline(paragraph, scope)}</p>" for paragraph in _paragraphs(lines[:first]))
        listed = "".join(f"<li>{self.inline(item, scope)}</li>" for item in _items(lines[first:]))
        return told + (f"<ul>{listed}</ul>" if listed else "")

    def _special(self, lines: list[str], scope: str) -> str:
        """Examples stay as they are typed; of a reST directive only what it says is kept."""
        note = re.match(r"\s*\.\. (?:note|warning|seealso|deprecated|versionadded|versionchanged|tip|important)::\s*(.*)", lines[0])
        if not note:
            return "" if lines[0].lstrip().startswith(".. ") else f"<pre>{html.escape(chr(10).join(lines))}</pre>"
        said = " ".join([note[1], *(line.strip() for line in lines[1:])]).strip()
        return f"<p>{self.inline(said, scope)}</p>" if said else ""

    def _names(self, lines: list[str], scope: str) -> str:
        items = []
        for line in lines:
            head, colon, told = line.partition(" : ")
            spoken = ", ".join(self.anchor(name, name.strip(), scope) for name in head.split(",")) if colon or "," in head else None
            items.append(f"{spoken}{colon}{self.inline(told, scope)}" if spoken else self.inline(line.strip(), scope))
        return "<ul>" + "".join(f"<li>{item.strip()}</li>" for item in items) + "</ul>"


def _items(lines: list[str]) -> list[str]:
    items: list[str] = []
    for line in lines:
        if BULLET.match(line) or not items:
            items.append(BULLET.sub("", line, count=1).strip())
        else:
            items[-1] += " " + line.strip()
    return items


def _paragraphs(lines: list[str]) -> list[str]:
    """Lines of one indent flow together; a step back to the left begins anew (`name : type` above its indented meaning)."""
    paragraphs: list[str] = []
    before = 0
    for line in lines:
        indent = len(line) - len(line.lstrip())
        flows = indent == before or (indent > before and paragraphs and (len(paragraphs[-1]) > 60 or FIELD.match(paragraphs[-1])))
        if paragraphs and flows and not (indent <= before and FIELD.match(line.strip())):
            paragraphs[-1] += " " + line.strip()
        else:
            paragraphs.append(line.strip())
        before = indent
    return paragraphs
