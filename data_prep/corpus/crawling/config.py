"""How a crawl behaves, and how far it goes."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from data_prep.corpus.crawling.networks import networks
from data_prep.corpus.opt_outs import DIRECTIVES, check
from data_prep.corpus.trackers import KNOWN
from infra.artifact import how
from infra.errors import ConfigError

TEXT = ("text/html", "application/xhtml+xml", "text/plain")
AGENT = re.compile(r"[A-Za-z_-]+")  # RFC 9309, section 2.2.1: a product token
DAY_S = 86_400.0
LEAST = {"max_bytes": 1, "max_header_bytes": 1_024, "max_unpacked_bytes": 1, "dead_after": 1, "concurrency": 1}


@dataclass(frozen=True)
class CrawlConfig:
    """contact: a URL or an e-mail address, sent with every request, so that those who are crawled can complain."""

    contact: str
    agent: str = "textmill"  # the name that robots.txt may speak to
    per_host_delay_s: float = 1.0  # between an answer's end and the next request; a longer Crawl-delay wins
    max_crawl_delay_s: float = 30.0  # a host whose robots.txt asks for more is left alone
    connect_timeout_s: float = 10.0
    page_timeout_s: float = 60.0  # for one whole exchange
    max_bytes: int = 10 << 20  # on the wire
    max_unpacked_bytes: int = 40 << 20
    max_header_bytes: int = 64 << 10  # of a response's head
    max_redirects: int = 5
    retries: int = 2  # after no connection, a body cut short, 429, 500, 502, 503, 504
    backoff_s: float = 1.0  # before the first retry; doubled for each further one
    max_wait_s: float = 120.0  # a Retry-After beyond it ends the page instead
    dead_after: int = 5  # failures in a row after which a host is given up
    robots_max_age_s: float = 86_400.0  # robots.txt is asked for again after it, or after its own shorter max-age
    concurrency: int = how(64)  # requests under way in one worker
    global_concurrency: int = how(0)  # requests under way in all workers of the crawl together; 0: what each worker may, and no less
    allow_networks: tuple[str, ...] = ()  # private networks that may be crawled all the same
    content_types: tuple[str, ...] = TEXT
    opt_outs: tuple[str, ...] = DIRECTIVES  # what a page may say to stay out of the corpus, or its links unfollowed
    tracking_parameters: tuple[str, ...] = ()  # left out of the links that are followed; links.tracking_parameters fills it in
    logical_date: str = ""  # of a scheduled run: a new date is a new crawl

    def __post_init__(self) -> None:
        if not self.contact.strip() or not self.contact.isprintable() or not self.contact.isascii():
            raise ConfigError(f"crawl: contact {self.contact!r}: say in plain ASCII who crawls, by a URL or an e-mail address")
        if not AGENT.fullmatch(self.agent):
            raise ConfigError(f"crawl: agent {self.agent!r} must be letters, - and _ only: robots.txt knows it by that name")
        for field in fields(self):
            value, least = getattr(self, field.name), LEAST.get(field.name, 0)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value >= least:
                raise ConfigError(f"crawl: {field.name} must be at least {least}, not {value}")
        for name in ("connect_timeout_s", "page_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"crawl: {name} must be more than 0")
        if self.robots_max_age_s > DAY_S:
            raise ConfigError(f"crawl: robots_max_age_s must be at most {DAY_S:g} (RFC 9309, section 2.4), not {self.robots_max_age_s:g}")
        networks(self.allow_networks)
        check("crawl", self.opt_outs)
        KNOWN.and_own(self.tracking_parameters)

    @property
    def user_agent(self) -> str:
        """What every request says of itself."""
        return f"{self.agent} (+{self.contact.strip()})"
