"""One spelling for each URL.

URLs are parsed as browsers do it (the WHATWG URL standard, by Ada, which Node.js uses). Beyond that, two spellings become one only where
RFC 3986 (section 6.2.2, 6.2.3) says that they are the same resource, and where a parameter is known to do nothing but track. Order of
parameters, doubled and trailing slashes, http and https all stay as they are: a server may answer them differently, and libraries that
merge them were found to lose pages.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import ada_url

from data_prep.corpus.trackers import KNOWN, Trackers

PORTS = {"http": 80, "https": 443}
LONGEST_HOST = 253  # characters, RFC 1035, section 2.3.4, without the last dot
LONGEST = 4_096  # characters; longer ones are traps for crawlers far more often than pages
UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")  # RFC 3986, section 2.3
ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):")
HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")
PARTS = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^/?#@:]+)(:\d+)?(/[^?#]*)(?:\?([^#]*))?(?:#.*)?")  # of a URL that Ada wrote
PLAIN = re.compile(  # a URL without anything to be spelled otherwise, but for its fragment
    r"(https?)://((?:(?!xn--)[a-z0-9][a-z0-9-]{0,62}\.)+(?!xn--)[a-z][a-z0-9-]{0,62})"
    r"(/[A-Za-z0-9/~!$&'()*+,;=:@._-]*)?(\?[A-Za-z0-9/~!$&()*+,;=:@._?-]*)?(?:#[^\n]*)?"
)
NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
QUERY_ESCAPED = frozenset((*range(0x21), *b"\"#<>'", *range(0x7F, 0x100)))  # bytes of a query that are percent-encoded (WHATWG URL, 1.3)
NO_HOST = re.compile(r"[\s/?#@\\%]")
MEDIA = re.compile(
    r"\.("
    r"jpg|jpeg|png|gif|webp|bmp|svg|ico|tif|tiff|avif|psd|eps"
    r"|mp3|wav|ogg|oga|flac|m4a|aac"
    r"|mp4|m4v|webm|avi|mov|wmv|mkv|flv|swf|gifv|ogv"
    r"|pdf|ps|doc|docx|xls|xlsx|ppt|pptx|odt|ods|odp|epub|mobi|djvu"
    r"|zip|gz|tgz|bz2|xz|zst|7z|rar|tar|jar|war|exe|msi|dmg|iso|apk|deb|rpm|bin|img"
    r"|css|js|mjs|woff|woff2|ttf|eot|otf"
    r")$",
    re.IGNORECASE,
)


def canonical(url: str, *, keep_tracking: bool = False, trackers: Trackers = KNOWN) -> str | None:
    """The one spelling of an http(s) URL, or None when it is none. canonical(canonical(u)) == canonical(u).

    trackers: the query parameters that are left out, unless keep_tracking.
    """
    url = url.strip()
    if (found := PLAIN.fullmatch(url)) and len(found[2]) <= LONGEST_HOST and len(url) <= LONGEST and "/." not in (found[3] or ""):
        query = found[4] or ""
        if query and not keep_tracking:
            query = _untracked(query[1:], trackers)
        return f"{found[1]}://{found[2]}{found[3] or '/'}{query if query != '?' else ''}"
    return _spelt_out(url, keep_tracking, trackers)


def _untracked(query: str, trackers: Trackers) -> str:
    """ "?" and the query without what only tracks, or nothing."""
    left = "&".join(part for part in query.split("&") if not trackers.track(part))
    return f"?{left}" if left else ""


def _spelt_out(url: str, keep_tracking: bool, trackers: Trackers = KNOWN) -> str | None:
    """As canonical, for what is not plain already."""
    try:
        return _finished(ada_url.normalize_url(url), keep_tracking, trackers)
    except ValueError:
        return None


def _finished(href: str, keep_tracking: bool, trackers: Trackers) -> str | None:
    """The canonical form of a URL that is parsed and written by the standard. One with a password or of another scheme is None."""
    found = PARTS.fullmatch(href)
    if not found:
        return None
    name, path, query = found[2].removesuffix("."), found[4], found[5] or ""
    if not name.startswith("[") and not HOST.fullmatch(name):  # the standard lets pass what no name server can know
        return None
    if "%" in path:
        path = _without_dots(ESCAPE.sub(_one_escape, path))
    if "%" in query:
        query = ESCAPE.sub(_one_escape, query)
    query = (f"?{query}" if query else "") if keep_tracking else _untracked(query, trackers)
    whole = f"{found[1]}://{name}{found[3] or ''}{path}{query}"
    return whole if len(whole) <= LONGEST else None


def joined(base: str, reference: str, *, keep_tracking: bool = False, encoding: str = "utf-8", trackers: Trackers = KNOWN) -> str | None:
    """Where a link on the page base leads, canonical; None when nowhere on the web.

    encoding: the page's, a Python codec; what is not ASCII in a query is written in it, in a path always in UTF-8 (WHATWG URL, 4.4).
    """
    try:
        if not reference.isascii() and not encoding.lower().startswith("utf"):
            reference = _query_in(reference, encoding)
        return _finished(ada_url.join_url(base, reference), keep_tracking, trackers)
    except ValueError:
        return None


def _query_in(reference: str, encoding: str) -> str:
    """The reference with its query percent-encoded in an encoding; characters that it lacks as `&#...;`, as forms have them."""
    address, hash_, fragment = reference.partition("#")
    address, mark, query = address.partition("?")

    def encoded(found: re.Match[str]) -> str:
        octets = b"".join(_octets(character, encoding) for character in found[0])
        return "".join(f"%{octet:02X}" if octet in QUERY_ESCAPED else chr(octet) for octet in octets)

    return address + mark + NOT_ASCII.sub(encoded, query) + hash_ + fragment


def _octets(character: str, encoding: str) -> bytes:
    try:
        return character.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return b"%%26%%23%d%%3B" % ord(character)


def scheme(text: str) -> str:
    """The scheme that text begins with, in small letters; "" when there is none."""
    found = SCHEME.match(text)
    return found[1].lower() if found else ""


def authority(url: str) -> str:
    """The host of a canonical URL, with its port when that is unusual."""
    return url.split("/", 3)[2]


def split_authority(url: str) -> tuple[str, int]:
    """Host name (without the brackets of IPv6) and port of a canonical URL."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or PORTS[parts.scheme]


def host_of(authority: str) -> str:
    """The host of an authority, without its port."""
    return authority if authority.endswith("]") else authority.partition(":")[0] if authority[0] != "[" else authority.rpartition(":")[0]


def path_of(url: str) -> str:
    """The path of a canonical URL, with its first slash and without its query."""
    return url[url.index("/", 8) :].partition("?")[0]


def is_media(url: str) -> bool:
    """True for a file type that holds no text worth extracting."""
    return MEDIA.search(path_of(url)) is not None


def host(name: str) -> str:
    """The one spelling of a host's name or address. Raises ValueError when it is none."""
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name.removeprefix('[').removesuffix(']')).compressed}]"
    found = None if NO_HOST.search(name) else canonical(f"http://{name}/")
    if not found:
        raise ValueError(f"no host name: {name!r}")
    return host_of(authority(found))


def _one_escape(found: re.Match[str]) -> str:
    if found[1] is None:
        return "%25"  # a bare percent sign; left alone it could become an escape when the next one is decoded
    character = chr(int(found[1], 16))
    return character if character in UNRESERVED else f"%{found[1].upper()}"


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)
