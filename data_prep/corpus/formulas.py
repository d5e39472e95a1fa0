r"""Formulas of a page as TeX in its text: \(...\) in a line, \[...\] on a line of its own.

TeX is taken from where the page states it (an annotation of MathML, `alttext`, a MathJax script, the `alt` of a formula's image); MathML
without it is converted (MathML Core: fractions, roots, scripts, limits, matrices). What a renderer wrote next to it is removed.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from lxml.etree import HTMLParser, LxmlError, fromstring

_WRAPPERS = re.compile(r"(?:^|\s)(?:katex|katex-display|mwe-math-element|MathJax\w*|mjx-\w+|MJXc-display)(?:\s|$)")
_DISPLAY = re.compile(r"(?:^|\s)(?:katex-display|MathJax_Display|MJXc-display|mwe-math-element-block)(?:\s|$)")
_RENDERED = re.compile(r"(?:^|\s)(?:MathJax\w*|mjx-chtml|MJXc-display)(?:\s|$)")
_IMAGE = re.compile(r"(?:^|\s)(?:latex|tex|mwe-math-fallback-image-\w+|ql-img-inline-formula|ql-img-displayed-equation)(?:\s|$)")
_IMAGE_SOURCE = re.compile(r"latex\.php\?|/math/render/|latex\.codecogs\.com", re.IGNORECASE)
_STYLE = re.compile(r"\A\{\s*\\(?:displaystyle|textstyle)\s*(.*)\}\Z", re.DOTALL)
_MAX_DEPTH = 100
_SYMBOLS = {
    "\u2061": "", "\u2062": "", "\u2063": ",", "\u2064": "+", "\u00a0": " ", "\u200b": "", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&",
    "#": r"\#", "$": r"\$", "_": r"\_", "\\": r"\backslash", "−": "-", "∗": "*", "×": r"\times", "÷": r"\div", "±": r"\pm", "∓": r"\mp",
    "·": r"\cdot", "⋅": r"\cdot", "∘": r"\circ", "≤": r"\leq", "≥": r"\geq", "≠": r"\neq", "≈": r"\approx", "≡": r"\equiv", "∼": r"\sim",
    "≅": r"\cong", "∝": r"\propto", "≪": r"\ll", "≫": r"\gg", "∑": r"\sum", "∏": r"\prod", "∫": r"\int", "∬": r"\iint", "∮": r"\oint",
    "∂": r"\partial", "∇": r"\nabla", "∞": r"\infty", "√": r"\surd", "∈": r"\in", "∉": r"\notin", "∋": r"\ni", "⊂": r"\subset",
    "⊆": r"\subseteq", "⊃": r"\supset", "⊇": r"\supseteq", "∪": r"\cup", "∩": r"\cap", "∅": r"\emptyset", "∖": r"\setminus",
    "∀": r"\forall", "∃": r"\exists", "¬": r"\neg", "∧": r"\wedge", "∨": r"\vee", "⊕": r"\oplus", "⊗": r"\otimes", "⊥": r"\perp",
    "→": r"\to", "←": r"\leftarrow", "↔": r"\leftrightarrow", "⇒": r"\Rightarrow", "⇐": r"\Leftarrow", "⇔": r"\Leftrightarrow",
    "↦": r"\mapsto", "⟨": r"\langle", "⟩": r"\rangle", "⌊": r"\lfloor", "⌋": r"\rfloor", "⌈": r"\lceil", "⌉": r"\rceil", "∥": r"\|",
    "…": r"\ldots", "⋯": r"\cdots", "⋮": r"\vdots", "⋱": r"\ddots", "′": "'", "″": "''", "ℏ": r"\hbar", "ℓ": r"\ell", "†": r"\dagger",
    "ℝ": r"\mathbb{R}", "ℂ": r"\mathbb{C}", "ℕ": r"\mathbb{N}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ϵ": r"\epsilon", "ϕ": r"\phi",
    "ε": r"\varepsilon", "φ": r"\varphi", "ϑ": r"\vartheta", "ς": r"\varsigma", "∣": r"\mid", "∎": r"\blacksquare", "□": r"\square",
}  # fmt: skip
_TRIGONOMETRY = "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan"
_FUNCTIONS = frozenset(f"{_TRIGONOMETRY} exp log ln lg lim limsup liminf max min sup inf det dim ker deg gcd arg hom Pr".split())
_ACCENTS = {
    "^": r"\hat", "ˆ": r"\hat", "~": r"\tilde", "˜": r"\tilde", "¯": r"\bar", "‾": r"\overline", "→": r"\vec", "⃗": r"\vec", ".": r"\dot",
    "˙": r"\dot", "¨": r"\ddot", "ˇ": r"\check", "˘": r"\breve", "⏞": r"\overbrace",
}  # fmt: skip
_UNDER = {"_": r"\underline", "̲": r"\underline", "⏟": r"\underbrace"}
_BIG = frozenset((r"\sum", r"\prod", r"\int", r"\iint", r"\oint", r"\lim", r"\max", r"\min", r"\sup", r"\inf", r"\limsup", r"\liminf"))


def replace(tree: Any) -> None:
    """Put TeX in the place of every formula of a tree but images, which is changed."""
    for element in list(tree.iter("script", "math")):
        if element.getparent() is None and element is not tree:
            continue  # went with a wrapper
        if element.tag == "script":
            _script(element)
        else:
            top = _wrapper(element)
            if _follows_script(top):
                continue  # MathJax 2: the script behind it is taken
            display = element.get("display") == "block" or element.get("mode") == "display" or _is_display(top)
            _put(top, of(element), display)


def of(math: Any) -> str:
    """The TeX of a `math` element."""
    for annotation in math.iter("annotation"):
        if "tex" in (annotation.get("encoding") or "").lower():
            return _bare("".join(annotation.itertext()))
    if stated := math.get("alttext"):
        return _bare(stated)
    return _joined(_row(math, 0))


def _bare(tex: str) -> str:
    tex = " ".join(tex.split())
    for start, end in ((r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$"), ("$", "$")):
        if tex.startswith(start) and tex.endswith(end) and len(tex) >= len(start) + len(end):
            tex = tex[len(start) : -len(end)].strip()
    styled = _STYLE.match(tex)
    return styled[1].strip() if styled else tex


def _put(element: Any, tex: str, display: bool) -> None:
    """Write TeX in the place of an element; nothing where there is none."""
    parent = element.getparent()
    if parent is None:
        return
    text = _delimited(tex, display) + (element.tail or "")
    before = element.getprevious()
    if before is not None:
        before.tail = (before.tail or "") + text
    else:
        parent.text = (parent.text or "") + text
    parent.remove(element)


def _delimited(tex: str, display: bool) -> str:
    return (rf"\[{tex}\]" if display else rf"\({tex}\)") if tex else ""


def _wrapper(math: Any) -> Any:
    """The outermost element that a renderer put around a formula; the formula itself without one."""
    top, above = math, math.getparent()
    for _ in range(12):
        if above is None:
            break
        if above.tag == "mjx-container" or _WRAPPERS.search(above.get("class") or ""):
            top = above
        above = above.getparent()
    return top


def _is_display(element: Any) -> bool:
    return element.get("display") == "true" or bool(_DISPLAY.search(element.get("class") or ""))


def _follows_script(element: Any) -> bool:
    after = element.getnext()
    return after is not None and after.tag == "script" and (after.get("type") or "").startswith("math/")


def _script(element: Any) -> None:
    kind = (element.get("type") or "").lower()
    if not kind.startswith(("math/tex", "math/mml", "math/asciimath")) or kind.startswith("math/asciimath"):
        return
    display, tex = "mode=display" in kind.replace(" ", ""), element.text or ""
    if kind.startswith("math/mml"):
        try:
            parsed = fromstring(tex, HTMLParser())
        except (LxmlError, ValueError):
            return
        math = None if parsed is None else next(parsed.iter("math"), None)
        if math is None:
            return
        display, tex = display or math.get("display") == "block", of(math)
    while (before := element.getprevious()) is not None and _RENDERED.search(before.get("class") or "") and not (before.tail or "").strip():
        before.getparent().remove(before)
    _put(element, _bare(tex), display)


def of_image(element: Any) -> str:
    """The TeX of a formula's image, with its delimiters; "" for another image."""
    alt = (element.get("alt") or "").strip()
    classes = element.get("class") or ""
    if not alt or not (_IMAGE.search(classes) or _IMAGE_SOURCE.search(element.get("src") or "")):
        return ""
    return _delimited(_bare(alt), "displayed" in classes or "-display" in classes)


def _children(element: Any) -> list[Any]:
    return [child for child in element if isinstance(child.tag, str) and not child.tag.startswith("annotation")]


def _row(element: Any, depth: int) -> list[str]:
    return [part for child in _children(element) if (part := _tex(child, depth + 1))]


def _joined(parts: list[str]) -> str:
    text = ""
    for part in parts:
        text += (" " if re.search(r"\\[A-Za-z]+\Z", text) and part[:1].isalpha() else "") + part
    return text.strip()


def _group(element: Any, depth: int) -> str:
    text = _tex(element, depth + 1)
    return text if len(text) == 1 or re.fullmatch(r"\\[A-Za-z]+", text) else f"{{{text}}}"


def _symbols(text: str) -> str:
    return _joined([_symbol(character) for character in text.strip()])


def _symbol(character: str) -> str:
    if character in _SYMBOLS:
        return _SYMBOLS[character]
    name = unicodedata.name(character, "")
    found = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", name)
    if not found or character in "οΑΒΕΖΗΙΚΜΝΟΡΤΥΧ":
        return unicodedata.normalize("NFKC", character) if name.startswith("MATHEMATICAL") else character
    letter = {"LAMDA": "lambda"}.get(found[2], found[2].lower())
    return "\\" + (letter if found[1] == "SMALL" else letter.capitalize())


def _leaf(element: Any) -> str:
    text = "".join(element.itertext())
    if element.tag == "mtext":
        return rf"\text{{{text}}}" if text.strip() else " "
    text = text.strip()
    if text in _FUNCTIONS:
        return "\\" + text
    if element.tag == "mi" and len(text) > 1 and text.isascii() and text.isalpha():
        return rf"\mathrm{{{text}}}"
    return _symbols(text)


def _tex(element: Any, depth: int = 0) -> str:
    tag, parts = element.tag, _children(element)
    tex = ""
    if depth > _MAX_DEPTH or tag in ("mspace", "mphantom", "none", "mprescripts"):
        pass
    elif tag in ("mi", "mn", "mo", "mtext", "ms"):
        tex = _leaf(element)
    elif tag in _PAIRS and len(parts) == 2:
        tex = _PAIRS[tag](parts, depth)
    elif tag == "msqrt":
        tex = rf"\sqrt{{{_joined(_row(element, depth))}}}"
    elif tag in ("msubsup", "munderover") and len(parts) == 3:
        tex = f"{_group(parts[0], depth)}_{_group(parts[1], depth)}^{_group(parts[2], depth)}"
    elif tag == "mtable":
        rows = (" & ".join(_joined(_row(cell, depth)) for cell in _children(row)) for row in _children(element))
        tex = r"\begin{matrix} " + r" \\ ".join(rows) + r" \end{matrix}"
    elif tag == "mfenced":
        inside = (element.get("separators") or ",").strip()[:1].join(_row(element, depth))
        tex = rf"\left{_symbols(element.get('open') or '(')} {inside} \right{_symbols(element.get('close') or ')')}"
    else:
        tex = _joined(_row(element, depth))
    return tex


def _over(parts: list[Any], depth: int) -> str:
    base, mark = _tex(parts[0], depth + 1), "".join(parts[1].itertext()).strip()
    if mark in _ACCENTS and parts[1].tag == "mo":
        return f"{_ACCENTS[mark]}{{{base}}}"
    return f"{base}^{_group(parts[1], depth)}" if base in _BIG else rf"\overset{{{_tex(parts[1], depth + 1)}}}{{{base}}}"


def _under(parts: list[Any], depth: int) -> str:
    base, mark = _tex(parts[0], depth + 1), "".join(parts[1].itertext()).strip()
    if mark in _UNDER:
        return f"{_UNDER[mark]}{{{base}}}"
    return f"{base}_{_group(parts[1], depth)}" if base in _BIG else rf"\underset{{{_tex(parts[1], depth + 1)}}}{{{base}}}"


_PAIRS = {
    "mfrac": lambda parts, depth: rf"\frac{{{_tex(parts[0], depth + 1)}}}{{{_tex(parts[1], depth + 1)}}}",
    "mroot": lambda parts, depth: rf"\sqrt[{_tex(parts[1], depth + 1)}]{{{_tex(parts[0], depth + 1)}}}",
    "msup": lambda parts, depth: f"{_group(parts[0], depth)}^{_group(parts[1], depth)}",
    "msub": lambda parts, depth: f"{_group(parts[0], depth)}_{_group(parts[1], depth)}",
    "mover": _over,
    "munder": _under,
}
