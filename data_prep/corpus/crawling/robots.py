"""robots.txt as RFC 9309 wants it: what may be fetched, and how often."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from protego import Protego

LONGEST = 500 << 10  # bytes; RFC 9309, section 2.5: at least this much is read, what follows may be left


@dataclass
class Rules:
    """What one host says to one crawler. closed: why nothing may be fetched, or ""."""

    agent: str
    file: Protego | None = None
    closed: str = ""

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


def rules(agent: str, status: int, body: bytes) -> Rules:
    """What an answer to /robots.txt means (RFC 9309, section 2.3.1).

    2xx: its rules. Other 4xx: no rules. 5xx: everything is closed; 429 is counted there, since it says "too much".
    """
    if 200 <= status < 300:
        text = body[:LONGEST].removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").replace("\0", "")
        try:
            return Rules(agent, Protego.parse(text))
        except Exception as error:  # the parser's own faults on hostile input: unreadable rules are no permission
            return Rules(agent, closed=f"robots.txt cannot be read ({error!r:.80})")
    if 400 <= status < 500 and status != 429:
        return Rules(agent)
    return Rules(agent, closed=f"robots.txt answered {status}")
