"""Which hosts are asked and which are not, and the domain that somebody registered above a host.

In a recipe a host is named as `example.com` (that one alone) or `*.example.com` (it and all below it). A list in a file has a domain
a line and means all below it too, as the lists that are passed around do (UT1's, squidGuard's: `domains` files); lines of a hosts file
(`0.0.0.0 example.com`) are read as well, and `#` begins a comment.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import publicsuffixlist

from data_prep.corpus import dumps, urls
from data_prep.packed import opened
from infra.artifact import SourceFile
from infra.errors import ConfigError

LARGEST_LIST = 1 << 29  # bytes, unpacked; the largest list in common use (UT1 adult, 4.6 million domains) has 100 MB
PLAIN = re.compile(r"(?=.{1,253}$)[a-z0-9_][a-z0-9_-]{0,62}(\.[a-z0-9_][a-z0-9_-]{0,62})*\.[a-z][a-z0-9-]{0,61}[a-z0-9]")


class Hosts:
    """A set of hosts. A host is looked up with each of its parent domains, so a list of a million costs no more than one of ten."""

    def __init__(self, patterns: tuple[str, ...] = (), file: SourceFile | None = None) -> None:
        below = {pattern[2:] for pattern in patterns if pattern.startswith("*.")}
        self.alone = frozenset(urls.host(pattern) for pattern in patterns if not pattern.startswith("*."))
        self.below = frozenset(urls.host(name) for name in below)
        self.listed = read_list(file)[0] if file else frozenset()

    def __contains__(self, host: str) -> bool:
        """host: a canonical name or address, without a port."""
        return host in self.alone or any(name in self.below or name in self.listed for name in domains_of(host))


def check_pattern(where: str, pattern: str) -> None:
    """Raises ConfigError on what is neither `host` nor `*.domain`."""
    try:
        urls.host(pattern.removeprefix("*."))
    except ValueError:
        raise ConfigError(f"{where}: {pattern!r} is no host; write `example.com` or `*.example.com`") from None


@lru_cache(maxsize=4)
def read_list(file: SourceFile) -> tuple[frozenset[str], int]:
    """The domains of a list, and how many of its lines name none. Raises ConfigError when all are such, or the file is torn."""
    found, unread = set(), 0
    for line in _text(Path(file.path)).splitlines():
        name = line.partition("#")[0].strip()
        if PLAIN.fullmatch(name):  # nearly every line of a long list
            found.add(name)
        elif name:
            domains = _domains(name)
            found.update(domains)
            unread += not domains
    if unread and not found:
        raise ConfigError(f"{file.path}: no line names a host; a list has one domain a line, `#` begins a comment")
    return frozenset(found), unread


def _text(path: Path) -> str:
    try:
        with opened(path) as packed:
            content = packed.read(LARGEST_LIST + 1)
    except (OSError, *dumps.DAMAGE) as error:
        raise ConfigError(f"{path}: this list of hosts cannot be read: {error}") from error
    if len(content) > LARGEST_LIST:
        raise ConfigError(f"{path}: a list of hosts has at most {LARGEST_LIST >> 20} MiB")
    return content.decode("utf-8-sig", "replace")


def _domains(line: str) -> list[str]:
    """The domains of an uncommon line: a wildcard, capitals, other scripts, an address, or an address with the names it stands for."""
    words = line.split()
    if len(words) > 1 and not _is_address(words[0]):
        return []
    found = []
    for word in words[1:] or words:
        try:
            found.append(urls.host(word.removeprefix("*").removeprefix(".")))
        except ValueError:
            continue
    return found


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word)
    except ValueError:
        return False
    return True


def domains_of(host: str) -> Iterator[str]:
    """The host, without its port, and every domain it lies in: a.b.c, b.c, c."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and ":" in host else host
    labels = name.split(".")
    for start in range(len(labels)):
        yield ".".join(labels[start:])


@lru_cache(maxsize=1 << 16)
def domain(host: str) -> str:
    """The part of a host's name that somebody registered (`bbc.co.uk` of `www.bbc.co.uk`), by Mozilla's public suffix list.

    Its private section counts too: `me.github.io` is a domain of its own. Addresses and names that are suffixes themselves are their
    own domain.
    """
    if host.startswith("[") or host.rpartition(".")[2].isdigit():
        return host
    return str(_suffixes().privatesuffix(host) or host)


@cache
def _suffixes() -> publicsuffixlist.PublicSuffixList:
    return publicsuffixlist.PublicSuffixList()  # the list in its wheel; it asks no network


@cache
def suffixes() -> str:
    """Twelve hex digits that name the public suffix list installed here: another list, other domains."""
    return hashlib.sha256(Path(publicsuffixlist.PSLFILE).read_bytes()).hexdigest()[:12]
