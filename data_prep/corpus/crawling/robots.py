"""robots.txt as RFC 9309 wants it: what may be fetched, how often, and for how long that may be remembered.

Libraries were tried: the standard library's takes the first match instead of the longest, Protego takes `text` for the start of
`textmill`, `%3F` for `?`, and a record that it does not know for a group's end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 500 << 10  # bytes; RFC 9309, section 2.5: at least this much is read, what follows may be left
SHORTEST_AGE_S = 300.0  # many servers forbid all caching of all they send; asking before every page would be no courtesy
REDIRECTS = 5  # section 2.3.1.2: at least so many are followed
UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")  # RFC 3986, section 2.3
# Spelt as people spell them; a missing colon is forgiven too
_LINE = re.compile(
    r"[ \t]*(?:(?P<agent>user[- ]?agent)|(?P<allow>allow)|(?P<disallow>d[ia]+s+al+[oa]w)"
    r"|(?P<delay>crawl[- ]delay)|(?P<rate>request[- ]rate))[ \t]*[:\t ](?P<value>[^#]*)",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\*|[A-Za-z_-]+")  # section 2.2.1
_RATE = re.compile(r"(\d{1,9})\s*/\s*(\d{1,9})([smhd]?)\b", re.IGNORECASE)
_UNLIKE = re.compile(r"%[0-9A-Fa-f]{2}|[^\x21-\x7e]+|[\"'<>\\^`{|}\[\]]")  # the latter browsers escape in a path, in a query, or nowhere
_MARK = re.compile(rb"\A\xef(?:\xbb\xbf?)?")  # a byte order mark, or what is left of one
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_MAX_AGE = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


class Pattern:
    """A path of an allow or disallow line (section 2.2.3): from the start on, `*` is any run, `$` at the end is the end."""

    def __init__(self, text: str, allow: bool) -> None:
        plain = normal(text)
        self.rank = (len(plain), allow)  # section 2.2.2: the most octets win, and of equals the one that allows
        self.allow = allow
        self.anchored = plain.endswith("$")
        self.parts = re.sub(r"\*+", "*", plain.removesuffix("$")).split("*")

    @property
    def is_prefix(self) -> bool:
        return not self.anchored and len(self.parts) == 1

    def matches(self, path: str) -> bool:
        """In time linear in path and pattern: each piece is taken where it stands first, the last one where the end wants it."""
        first, *middle = self.parts
        if not path.startswith(first):
            return False
        if not middle:
            return not self.anchored or len(path) == len(first)
        place, last = len(first), middle.pop()
        for part in middle:
            if (found := path.find(part, place)) < 0:
                return False
            place = found + len(part)
        return path.find(last, place) >= 0 if not self.anchored else len(path) - len(last) >= place and path.endswith(last)


@dataclass
class Rules:
    """What one host says to one crawler.

    patterns: the highest rank first. closed: why nothing may be fetched, or "". unreachable: closed because the server could not
    say, not because it said so. delay_s: seconds between requests that the host asks for. age_s: how long this may be remembered.
    """

    patterns: tuple[Pattern, ...] = ()
    closed: str = ""
    unreachable: bool = False
    delay_s: float = 0.0
    age_s: float = float("inf")

    def __post_init__(self) -> None:
        self.prefixes = tuple(p.parts[0] for p in self.patterns if p.is_prefix)
        self.others = tuple(p for p in self.patterns if not p.is_prefix)

    def forbids(self, url: str) -> str:
        """Why the URL, in its canonical form, may not be fetched; "" when it may."""
        if self.closed or not self.patterns:
            return self.closed
        path = normal(url[url.index("/", 8) :])
        if path == "/robots.txt":
            return ""
        for pattern in self.patterns if path.startswith(self.prefixes) else self.others:
            if pattern.matches(path):
                return "" if pattern.allow else "robots.txt disallows it"
        return ""


def rules(agent: str, status: int, body: bytes, cache_control: str = "") -> Rules:
    """What an answer to /robots.txt means (section 2.3.1).

    2xx: its rules. Other 4xx: no rules. 5xx: everything is closed; 429 is counted there, since it says "too much".
    """
    age = seconds_fresh(cache_control)
    if 200 <= status < 300:
        body = _MARK.sub(b"", body, count=1)
        if len(body) > LONGEST:
            body = body[: body.rfind(b"\n", 0, LONGEST) + 1]  # half a rule is none
        return _read(body.decode("latin-1"), agent.lower(), age)  # octets: a path is compared as it was sent, in whatever encoding
    if 400 <= status < 500 and status != 429:
        return Rules(age_s=age)
    return Rules(closed=f"robots.txt answered {status}", unreachable=True, age_s=age)


def seconds_fresh(cache_control: str) -> float:
    """How long an answer with this Cache-Control may be remembered (section 2.4, RFC 9111); inf when it is silent."""
    text = cache_control.lower()
    if "no-store" in text or "no-cache" in text:
        return SHORTEST_AGE_S
    found = _MAX_AGE.search(text)
    return max(SHORTEST_AGE_S, float(found[1])) if found else float("inf")


def normal(path: str) -> str:
    """A path as section 2.2.2 compares it: escapes of unreserved characters undone, what is not ASCII escaped, digits capital."""
    return _UNLIKE.sub(_one, path)


def _octet(found: re.Match[str]) -> str:
    return f"%{ord(found[0]):02X}"


def _one(found: re.Match[str]) -> str:
    text = found[0]
    if text[0] == "%" and len(text) == 3:
        octet = int(text[1:], 16)
        return chr(octet) if octet in UNRESERVED else text.upper()
    return "".join(f"%{octet:02X}" for octet in text.encode("utf-8", "surrogatepass"))


def _read(text: str, agent: str, age_s: float) -> Rules:
    """The group that speaks to the agent, all its parts together; else the one that speaks to everybody (section 2.2.1).

    text: a character an octet. A delay holds for the agents named so far, and ends no group: only allow and disallow do.
    """
    patterns: dict[str, list[Pattern]] = {}
    delays: dict[str, float] = {}
    names: list[str] = []
    in_rules = True
    for line in re.split(r"[\r\n]+", text):
        if not (found := _LINE.match(line)):
            continue  # section 2.2.4: other records must not interfere
        value = found["value"].strip(" \t\0")
        if found["agent"]:
            names, in_rules = ([] if in_rules else names), False
            if (token := _TOKEN.match(value)) and token[0].lower() in (agent, "*"):
                names.append(token[0].lower())
                patterns.setdefault(names[-1], [])
            continue
        is_rule = bool(found["allow"] or found["disallow"])
        in_rules = in_rules or is_rule
        for name in names:
            if is_rule:
                patterns[name] += [Pattern(_NOT_ASCII.sub(_octet, value), bool(found["allow"]))] if value else []
            else:
                delays[name] = max(delays.get(name, 0.0), _seconds(value, is_rate=bool(found["rate"])))
    mine = agent if agent in patterns else "*"
    ranked = sorted(patterns.get(mine, []), key=lambda pattern: pattern.rank, reverse=True)
    return Rules(tuple(ranked), delay_s=delays.get(mine, 0.0), age_s=age_s)


def _seconds(value: str, *, is_rate: bool) -> float:
    """Of `Crawl-delay: 2.5` or `Request-rate: 1/5m`; 0 when it says nothing."""
    if is_rate:
        rate = _RATE.match(value)
        return int(rate[2]) * UNIT_S[rate[3].lower()] / int(rate[1]) if rate and int(rate[1]) else 0.0
    try:
        delay = float(value[:40])
    except ValueError:
        return 0.0
    return delay if 0.0 <= delay < float("inf") else 0.0
