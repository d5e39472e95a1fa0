"""Where links come from and which are wanted: the config of the links stage, and the columns its parts hand over."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from data_prep.corpus import feeds, hosts, urls
from data_prep.corpus.trackers import KNOWN
from data_prep.schemas import LINKS as COLUMNS
from infra.artifact import SourceFile
from infra.errors import ConfigError

KINDS = ("submissions", "urls", "sitemap", "feed", "site")
RULES = ("post", "sum")
EXTENSION = re.compile(r"\.?[A-Za-z0-9_-]{1,20}(\.[A-Za-z0-9_-]{1,20})*")
# origin: the source's index in the config; post: a submission's own id, null where there is none
FOUND = COLUMNS.append(pa.field("origin", pa.int32())).append(pa.field("post", pa.string()))
SET_ASIDE = pa.schema([("line", pa.string()), ("source", pa.string()), ("reason", pa.string())])
SITES = pa.schema([("url", pa.string()), ("host", pa.string()), ("depth", pa.int32()), ("max_pages", pa.int64())])
FILES = pa.schema([("origin", pa.int32()), ("name", pa.string()), ("digest", pa.string())])  # files whose posts stand in the tally `sums`

Item = tuple[int, int, str]  # the part's number, its source's place, the file


@dataclass(frozen=True)
class LinkSource:
    """Where links come from.

    files: for all kinds but site. min_karma, karma_rule, allow_over_18: for submissions. since: for sitemaps and feeds, YYYY-MM-DD;
    entries that state an older day are left out, those without a date are kept. url, depth, max_pages: for a site that is followed
    within its host.
    """

    kind: str
    files: tuple[SourceFile, ...] = ()
    min_karma: int = 3
    karma_rule: str = "post"
    allow_over_18: bool = False
    url: str = ""
    depth: int = 3
    max_pages: int = 1_000
    since: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"links: no source kind {self.kind!r}; there are {', '.join(KINDS)}")
        if self.karma_rule not in RULES:
            raise ConfigError(f"links: no karma_rule {self.karma_rule!r}; there are {', '.join(RULES)}")
        if self.kind != "site" and not self.files:
            raise ConfigError(f"links: a source of kind {self.kind} needs files")
        if self.since and feeds.day(self.since) != self.since:
            raise ConfigError(f"links: since {self.since!r} is no date of the form 2024-09-05")
        if self.kind == "site":
            if urls.canonical(self.url) is None:
                raise ConfigError(f"links: a site needs the URL of its start page, not {self.url!r}; write it as http://host/path")
            if self.depth < 0 or self.max_pages < 1:
                raise ConfigError(f"links: site {self.url}: depth {self.depth} must not be negative, max_pages {self.max_pages} at least 1")

    @property
    def sums(self) -> bool:
        """True when a URL's posts count together."""
        return self.kind == "submissions" and self.karma_rule == "sum"


@dataclass(frozen=True)
class LinksConfig:
    """What is done with the links of all sources.

    exclude_hosts: never asked for; allow_hosts: if given, no others are; each as `host` or `*.domain`. The same from files with a
    domain a line, which means all below it as well. A host on both is left out. exclude_extensions: endings of paths (`php`,
    `tar.gz`), besides those of media. max_per_domain: how many URLs of one registered domain are listed, earlier lists included:
    those with most karma, then the first by URL. tracking_parameters: query parameters that are
    left out of URLs, in addition to those of trackers.py; a `*` at the end of a name is any ending.

    recrawl: list again what an earlier list has. suffix_list names the list of public
    suffixes that says what a domain is; it fills itself in where it matters.

    Start pages of sites stand above all of this: they are always listed.
    """

    sources: tuple[LinkSource, ...]
    shards: int = 16
    exclude_hosts: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    exclude_hosts_file: SourceFile | None = None
    allow_hosts_file: SourceFile | None = None
    exclude_extensions: tuple[str, ...] = ()
    max_per_domain: int | None = None
    tracking_parameters: tuple[str, ...] = ()
    recrawl: bool = False
    suffix_list: str = ""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("links: no sources; name at least one of kind " + ", ".join(KINDS))
        if self.shards < 1:
            raise ConfigError(f"links: shards must be at least 1, not {self.shards}")
        if self.max_per_domain is not None and self.max_per_domain < 1:
            raise ConfigError(f"links: max_per_domain must be at least 1, not {self.max_per_domain}")
        for name in ("exclude_hosts", "allow_hosts"):
            for pattern in getattr(self, name):
                hosts.check_pattern(f"links: {name}", pattern)
        for ending in self.exclude_extensions:
            if not EXTENSION.fullmatch(ending):
                raise ConfigError(f"links: exclude_extensions: {ending!r} is no ending of a file name; write `php` or `tar.gz`")
        KNOWN.and_own(self.tracking_parameters)
        if self.max_per_domain is not None and not self.suffix_list:
            object.__setattr__(self, "suffix_list", hosts.suffixes())

    def host_lists(self) -> tuple[hosts.Hosts | None, hosts.Hosts]:
        """Those that alone are allowed, None where all are, and those that are not."""
        only = bool(self.allow_hosts or self.allow_hosts_file)
        allowed = hosts.Hosts(self.allow_hosts, self.allow_hosts_file) if only else None
        return allowed, hosts.Hosts(self.exclude_hosts, self.exclude_hosts_file)

    def starts(self) -> dict[str, int]:
        """The canonical start pages of sites, and the place of the source that names each."""
        return {str(urls.canonical(s.url)): place for place, s in reversed([*enumerate(self.sources)]) if s.kind == "site"}
