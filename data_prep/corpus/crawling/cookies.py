"""Cookies within one chain of redirects, and the text of a response's fields."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
from yarl import URL

from data_prep.corpus import urls


def header_text(value: str) -> str:
    """A field's value with what is UTF-8 as such, and other bytes percent-encoded: the address in a Location as Chromium reads it."""
    value = value.strip()
    if value.isascii():
        return value
    octets = value.encode("utf-8", "surrogateescape")
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return "".join(chr(octet) if octet < 0x80 else f"%{octet:02X}" for octet in octets)


class Cookies:
    """What the hosts of one chain of redirects have set; a host gets back what it set itself, and nothing outlives the chain."""

    def __init__(self) -> None:
        self.jars: dict[str, aiohttp.CookieJar] = {}

    def take(self, url: str, headers: Mapping[str, str]) -> None:
        """Remember what an answer sets."""
        fields = [value for name, value in headers.items() if name.lower() == "set-cookie"]
        if fields:
            jar = self.jars.setdefault(urls.authority(url), aiohttp.CookieJar(unsafe=True))  # unsafe: hosts that are addresses too
            jar.update_cookies_from_headers(fields, URL(url, encoded=True))

    def header(self, url: str) -> str:
        """The Cookie field of a request for the URL; "" when there is none."""
        jar = self.jars.get(urls.authority(url))
        return "; ".join(f"{m.key}={m.coded_value}" for m in jar.filter_cookies(URL(url, encoded=True)).values()) if jar else ""
