"""Article text that a page states as schema.org data: `articleBody` in JSON-LD, for pages whose markup is filled in by a script."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_BLOCKS, MAX_DEPTH = 20, 12
_SCRIPT = re.compile(r"<script\b[^>]{0,500}\btype\s*=\s*[\"']?\s*application/ld\+json[^>]*>(.*?)</script", re.IGNORECASE | re.DOTALL)
_BODIES = ("articleBody", "reviewBody")
_TYPES = re.compile(r"Article|Posting|Review|Report|Recipe|Story|Comment|Answer|CreativeWork", re.IGNORECASE)
_MARKUP = re.compile(r"</?(?:p|br|div|h[1-6]|ul|ol|li|a|b|i|em|strong|span|blockquote|table|pre|code|img|figure)\b[^>]*>", re.IGNORECASE)


def article_body(markup: str) -> str:
    """The longest article text that the page states, as markup; "" when it states none."""
    if "ld+json" not in markup or not any(name in markup for name in _BODIES):
        return ""
    found = ""
    for number, script in enumerate(_SCRIPT.finditer(markup)):
        if number == MAX_BLOCKS:
            break
        for body in _bodies(_loaded(script[1])):
            if len(body) > len(found):
                found = body
    return _as_markup(found)


def _loaded(text: str) -> Any:
    text = text.strip().removeprefix("<!--").removesuffix("-->").removeprefix("//<![CDATA[").removesuffix("//]]>").strip()
    try:
        return json.loads(text, strict=False)  # line breaks in strings, which browsers' consumers accept
    except (ValueError, RecursionError):
        return None


def _bodies(value: Any, depth: int = 0) -> Iterator[str]:
    if depth > MAX_DEPTH:
        return
    if isinstance(value, list):
        for each in value:
            yield from _bodies(each, depth + 1)
    elif isinstance(value, dict):
        kinds = value.get("@type") or ""
        if _TYPES.search(" ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)):
            for name in _BODIES:
                body = value.get(name)
                if isinstance(body, list):
                    body = "\n".join(str(each) for each in body)
                if isinstance(body, str):
                    yield body
        for each in value.values():
            if isinstance(each, list | dict):
                yield from _bodies(each, depth + 1)


def _as_markup(body: str) -> str:
    if "&lt;" in body and not _MARKUP.search(body):
        body = body.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    if _MARKUP.search(body):
        return body
    lines = [" ".join(line.split()) for line in body.splitlines()]
    return "".join(f"<p>{line.replace('<', '&lt;')}</p>" for line in lines if line)
