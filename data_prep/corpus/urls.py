"""One spelling for each URL.

Two spellings become one only where RFC 3986 (section 6.2.2, 6.2.3) says that they are the same resource, and where a
parameter is known to do nothing but track. Order of parameters, doubled and trailing slashes, http and https all
stay as they are: a server may answer them differently, and libraries that merge them were found to lose pages.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urlsplit

import idna

PORTS = {"http": 80, "https": 443}
LONGEST_HOST = 253  # characters, RFC 1035, section 2.3.4, without the last dot
LONGEST = 4_096  # characters; longer ones are traps for crawlers far more often than pages
UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")  # RFC 3986, section 2.3
PATH_SAFE = "/%!$&'()*+,;=:@~-._"
QUERY_SAFE = PATH_SAFE + "?[]|"
ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):")
HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*")
TRACKING = re.compile(r"(utm_\w+|[gdf]clid|gclsrc|fbclid|msclkid|yclid|twclid|mc_[ce]id|igshid|_hsenc|_hsmi|mkt_tok)(=|$)", re.IGNORECASE)
TRACKERS = re.compile(r"[?&](?=[ufmytgdi_])", re.IGNORECASE)  # where a parameter may begin that TRACKING knows
PLAIN = re.compile(  # a URL without anything to be spelt otherwise, but for its fragment
    r"(https?)://((?:[a-z0-9][a-z0-9-]{0,62}\.)+[a-z][a-z0-9-]{0,62})"
    r"(/[A-Za-z0-9/~!$&'()*+,;=:@._-]*)?(\?[A-Za-z0-9/~!$&'()*+,;=:@._?-]*)?(?:#[^\n]*)?"
)
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


def canonical(url: str, *, keep_tracking: bool = False) -> str | None:
    """The one spelling of an http(s) URL, or None when it is none. canonical(canonical(u)) == canonical(u)."""
    url = url.strip()
    if (found := PLAIN.fullmatch(url)) and len(found[2]) <= LONGEST_HOST and len(url) <= LONGEST and "/." not in (found[3] or ""):
        query = found[4] or ""
        if not keep_tracking and query and (query == "?" or TRACKERS.search(query)):
            query = _untracked(query[1:])
        return f"{found[1]}://{found[2]}{found[3] or '/'}{query if query != '?' else ''}"
    return _spelt_out(url, keep_tracking)


def _untracked(query: str) -> str:
    """ "?" and the query without what only tracks, or nothing."""
    left = "&".join(part for part in query.split("&") if not TRACKING.match(part))
    return f"?{left}" if left else ""


def _spelt_out(url: str, keep_tracking: bool) -> str | None:
    """As canonical, for what is not plain already."""
    try:
        parts = urlsplit(url)
        name, port = host(parts.hostname or ""), parts.port
        path, query = _escaped(parts.path, PATH_SAFE), _escaped(parts.query, QUERY_SAFE)
    except ValueError:  # urlsplit's, idna's and quote's way to say: no URL
        return None
    if parts.scheme not in PORTS or not name or parts.username is not None:
        return None
    query = (f"?{query}" if query else "") if keep_tracking else _untracked(query)
    where = name if port in (None, PORTS[parts.scheme]) else f"{name}:{port}"
    whole = f"{parts.scheme}://{where}{_without_dots(path) or '/'}{query}"
    return whole if len(whole) <= LONGEST else None


def joined(base: str, reference: str, *, keep_tracking: bool = False) -> str | None:
    """Where a link on the page base leads, canonical; None when nowhere on the web.

    RFC 3986, section 5.2.2. The standard library's urljoin also drops a final ";" and doubled slashes.
    """
    try:
        page, link = urlsplit(base), urlsplit(reference.strip())
    except ValueError:
        return None
    if link.scheme:
        return canonical(reference, keep_tracking=keep_tracking)
    if link.netloc:
        return canonical(f"{page.scheme}:{reference.strip()}", keep_tracking=keep_tracking)
    path, query = link.path, link.query
    if not path:
        path, query = page.path, query or page.query
    elif not path.startswith("/"):
        path = f"{page.path.rpartition('/')[0]}/{path}"
    return canonical(f"{page.scheme}://{page.netloc}{path}?{query}", keep_tracking=keep_tracking)


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
        return f"[{ipaddress.IPv6Address(name).compressed}]"
    name = name.removesuffix(".")
    if not name.isascii():
        name = _ascii(name)
    name = name.lower()
    if not HOST.fullmatch(name):
        raise ValueError(f"no host name: {name!r}")
    last = name.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):  # 127.1, 0x7f.1 and 2130706433 are spellings of an address: only the plain one may pass
        return str(ipaddress.IPv4Address(name))
    return name


def _ascii(name: str) -> str:
    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError:  # emoji and underscores live in the wild though IDNA 2008 has no place for them
        return name.encode("idna").decode()


def _escaped(text: str, safe: str) -> str:
    """Percent-escapes in one form: what need not be escaped is not, what must be is, hexadecimal digits are capital."""
    return ESCAPE.sub(_one_escape, quote(text, safe=safe))


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
