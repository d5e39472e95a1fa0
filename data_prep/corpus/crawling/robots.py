"""robots.txt as RFC 9309 wants it: what may be fetched, how often, and for how long that may be remembered."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from protego import Protego

LONGEST = 500 << 10  # bytes; RFC 9309, section 2.5: at least this much is read, what follows may be left
SHORTEST_AGE_S = 300.0  # many servers forbid all caching of all they send; asking before every page would be no courtesy
REDIRECTS = 5  # section 2.3.1.2: at least so many are followed
_GROUP = re.compile(r"^([ \t]*user[- ]?agent[ \t]*[:\t ])([^\r\n#]*)", re.IGNORECASE | re.MULTILINE)
_TOKEN = re.compile(r"\*|[A-Za-z_-]+")  # section 2.2.1
_BREAKS = dict.fromkeys(map(ord, "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\0"), " ")  # lines end at CR and LF and nowhere else (section 2.2)
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
OTHERS = "somebody-else"


@dataclass
class Rules:
    """What one host says to one crawler. closed: why nothing may be fetched, or ""; age_s: how long this may be remembered."""

    agent: str
    file: Protego | None = None
    closed: str = ""
    unreachable: bool = False  # closed because the server could not say, not because it said so
    age_s: float = float("inf")

    def forbids(self, url: str) -> str:
        """Why the URL may not be fetched; "" when it may."""
        if self.closed:
            return self.closed
        return "" if self.file is None or self.file.can_fetch(url, self.agent) else "robots.txt disallows it"

    @property
    def delay_s(self) -> float:
        """Seconds between requests that the host asks for."""
        if self.file is None:
            return 0.0
        rate = self.file.request_rate(self.agent)
        paced = rate.seconds / rate.requests if rate and rate.requests else 0.0
        return max(float(self.file.crawl_delay(self.agent) or 0.0), paced)


def rules(agent: str, status: int, body: bytes, cache_control: str = "") -> Rules:
    """What an answer to /robots.txt means (RFC 9309, section 2.3.1).

    2xx: its rules. Other 4xx: no rules. 5xx: everything is closed; 429 is counted there, since it says "too much".
    """
    age = seconds_fresh(cache_control)
    if 200 <= status < 300:
        text = body.removeprefix(codecs.BOM_UTF8)[:LONGEST].decode("utf-8", "replace").translate(_BREAKS)
        try:
            return Rules(agent, Protego.parse(_of_tokens(text, agent)), age_s=age)
        except Exception as error:  # the parser's own faults on hostile input: unreadable rules are no permission
            return Rules(agent, closed=f"robots.txt cannot be read ({error!r:.80})", age_s=age)
    if 400 <= status < 500 and status != 429:
        return Rules(agent, age_s=age)
    return Rules(agent, closed=f"robots.txt answered {status}", unreachable=True, age_s=age)


def seconds_fresh(cache_control: str) -> float:
    """How long an answer with this Cache-Control may be remembered (RFC 9309, section 2.4, points to RFC 9111); inf when it is silent."""
    text = cache_control.lower()
    if "no-store" in text or "no-cache" in text:
        return SHORTEST_AGE_S
    found = _MAX_AGE.search(text)
    return max(SHORTEST_AGE_S, float(found[1])) if found else float("inf")


def _of_tokens(text: str, agent: str) -> str:
    """The groups' names reduced to product tokens that are compared whole: the parser would take `text` for the start of `textmill`."""

    def named(line: re.Match[str]) -> str:
        token = _TOKEN.match(line[2].strip())
        name = token[0].lower() if token else ""
        return line[1] + (name if name in ("*", agent.lower()) else OTHERS)

    return _GROUP.sub(named, text)
