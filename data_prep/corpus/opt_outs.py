"""What a page says about its use: robots directives (X-Robots-Tag, <meta name=robots>) and the TDM Reservation Protocol.

`noindex` and `none` ask not to be indexed, `noai` not to be used for machine learning, `tdm-reservation: 1` reserves the rights of text
and data mining (W3C Community Group, TDMRep, sections 4 and 5), `nofollow` asks not to follow the page's links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import unescape

from infra.errors import ConfigError

DIRECTIVES = ("noindex", "noai", "tdm", "nofollow")
HEAD = 1 << 16  # bytes of a page in which its directives must stand
_UNSEEN = re.compile(r"<!--.*?(?:-->|$)|<(script|style|title|template|textarea|svg)\b.*?(?:</\1\s*>|$)", re.IGNORECASE | re.DOTALL)
_META = re.compile(r"<meta\b((?:[^>\"']|\"[^\"]*\"|'[^']*')*)>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"([a-z-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))", re.IGNORECASE)
_AGENT = re.compile(r"\s*([A-Za-z*][A-Za-z0-9_*-]*)\s*:\s*(?![/\s\d])(.*)", re.DOTALL)
_DATED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")  # these have a colon, and name no agent


def named(reason: str) -> list[str]:
    """The directives in the reason of a row whose outcome is "opt_out"."""
    return [part.partition(":")[0] for part in reason.split(", ")]


def check(where: str, names: Iterable[str]) -> None:
    """Raises ConfigError on a name that is none of DIRECTIVES."""
    for name in names:
        if name not in DIRECTIVES:
            raise ConfigError(f"{where}: opt_outs: unknown {name!r}; available: {', '.join(DIRECTIVES)}")


def stated(headers: Iterable[tuple[str, str]], body: bytes, agent: str, *, is_html: bool) -> dict[str, str]:
    """The directives that hold for the agent, each with the place that states it, as {"noindex": "X-Robots-Tag"}.

    headers: names and values; only those named X-Robots-Tag and tdm-reservation count.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        if name[:1] not in "xXtT":
            continue
        lower = name.lower()
        if lower == "x-robots-tag":
            _note(found, _for_agent(value, agent.lower()), "X-Robots-Tag")
        elif lower == "tdm-reservation" and value.strip() == "1":
            found.setdefault("tdm", "tdm-reservation header")
    end = body.find(b"</head", 0, HEAD) if is_html else 0
    start = body[: end if end >= 0 else HEAD].lower()
    if b"\0" in start:
        start = start.replace(b"\0", b"")  # UTF-16 reads as ASCII without its zeros
    if b"robots" in start or b"tdm-reservation" in start or agent.lower().encode() in start:
        for name, content in _metas(start.partition(b"</head")[0].decode("latin-1")):
            if name in ("robots", agent.lower()):
                _note(found, content.split(","), "meta robots")
            elif name == "tdm-reservation" and content.strip() == "1":
                found.setdefault("tdm", "meta tdm-reservation")
    return found


def _metas(markup: str) -> Iterable[tuple[str, str]]:
    for tag in _META.finditer(_UNSEEN.sub(" ", markup)):
        attributes = {name.lower(): unescape(a or b or c) for name, a, b, c in reversed(_ATTRIBUTE.findall(tag[1]))}  # the first counts
        yield attributes.get("name", "").strip().lower(), attributes.get("content", "")


def _for_agent(value: str, agent: str) -> list[str]:
    """The directives of one X-Robots-Tag value that hold for the agent: an agent's name speaks for all that follows it."""
    kept, speaks_to = [], "*"
    for part in value.split(","):
        found = _AGENT.match(part)
        is_named = found is not None and found[1].lower() not in _DATED
        if found and is_named:
            speaks_to = found[1].lower()
        if speaks_to in ("*", agent):
            kept.append(found[2] if found and is_named else part)
    return kept


def _note(found: dict[str, str], directives: Iterable[str], where: str) -> None:
    for directive in directives:
        word = directive.strip().lower()
        if word in ("noindex", "none"):
            found.setdefault("noindex", where)
        if word in ("nofollow", "none"):
            found.setdefault("nofollow", where)
        if word == "noai":
            found.setdefault("noai", where)
