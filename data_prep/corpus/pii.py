"""Marks of persons in a text (e-mail addresses, public IP addresses, phone numbers) and what is written in their place.

What looks like one and is none stays: version numbers, private addresses, dates, prices, names of files. The replacements are those
reserved for examples (RFC 2606 domains, RFC 5737 and RFC 3849 addresses, 555-0100 numbers), so that the text keeps its shape.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

KINDS = ("emails", "ips", "phones")
EMAIL, IP, IP6, PHONE = "email@example.com", "192.0.2.1", "2001:db8::1", "555-0100"

_EMAIL = re.compile(r"(?<![\w.+%-])[\w+%-][\w.+%-]{0,63}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}([^\W\d_]{2,24})(?![\w-]|\.\w)")
_FILES = frozenset({"png", "jpg", "jpeg", "gif", "svg", "webp", "js", "css", "html", "json", "py"})  # icon@2x.png
_IP = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){3,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_RELEASE = r"\b(?:versions?|ver|v|releases?|rev|build|sections?|chapter|firmware|clause|§)[\s.:#]*"
_VERSION = re.compile(rf"(?:{_RELEASE}|[A-Za-z]/)$", re.IGNORECASE)
_PRODUCT = re.compile(r"\b[A-Z]\w*\s$")  # "Player 10.1.53.64"
_ADDRESS = re.compile(
    r"(?:\b(?:ips?|ipv4|address(?:es)?|addr|hosts?|servers?|dns|nameservers?|gateway|ping|proxy|from|at|to)\b[^.\n]{0,12}|://|@)$",
    re.IGNORECASE,
)
_PORT = re.compile(r":\d{2,5}\b|/\d{1,2}\b")
_SEPARATED = r"[ .\-\u00a0\u2011]"
_BEFORE, _AFTER = r"(?<![^\W\uac00-\ud7a3])(?<![.+/=#$€£-])", r"(?![^\W\uac00-\ud7a3]|/|[.\-]\d)"  # Korean particles follow at once
_PHONE = re.compile(
    rf"{_BEFORE}(?:"
    rf"(?:\+|00)[1-9]\d{{0,2}}(?:{_SEPARATED}?\(\d{{1,4}}\)|{_SEPARATED}?\d){{7,14}}"  # ITU E.164, with a plus or 00
    rf"|(?:1{_SEPARATED})?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .\-])[2-9]\d\d[.\- ]\d{{4}}"  # North America
    r"|\(?0(?:2|[3-6][1-5]|70|50\d|80|1[016-9])(?:\) ?|[ .\-])\d{3,4}[ .\-]\d{4}"  # Korea: area, internet, free, mobile
    r"|01[016-9]\d{7,8}"  # a Korean mobile number in one piece
    r"|1[5689]\d\d-\d{4}"  # Korean service numbers
    rf"|01[5-7]\d(?:{_SEPARATED}?/?{_SEPARATED}?\d){{7,8}}"  # German mobile
    rf"|\(?0[2-9]\d{{1,3}}\)?(?: ?/ ?|-| - )[1-9]\d(?:{_SEPARATED}?\d){{3,7}}"  # German area code, a slash or hyphen
    rf"){_AFTER}"
)
_LABELS = (
    r"tel|telefon|telefonnummer|phone|telephone|téléphone|fax|mobile|mobil|cell|call|handy|rufnummer|hotline"
    r"|전화|전화번호|휴대폰|핸드폰|연락처|문의|팩스|대표번호|☎|☏|✆"
)
_CALLED = re.compile(
    rf"((?:(?:\b|(?<=[\uac00-\ud7a3]))(?:{_LABELS}))\.?(?: ?(?:number|nummer|no\.?|nr\.?|us at))?[:\s]{{0,3}}(?<![^\W\uac00-\ud7a3]))"
    rf"(\(?0?\d(?:{_SEPARATED}?[()/]?{_SEPARATED}?\d){{6,14}}){_AFTER}",
    re.IGNORECASE,
)
_GROUPS = re.compile(r"\d+")
_YEARS = re.compile(r"(\d{4})-(\d{4})")
_NUMBER_BEFORE, _NUMBER_AFTER = re.compile(r"\d[,;]?[ \t]+$"), re.compile(r"[,;]?[ \t]+\d")
LAST_YEAR = 2100
_LIST_CHARACTERS = frozenset("0123456789 ")  # nothing but blanks between digits: a list of numbers looks the same
_DATE = re.compile(r"(?:19|20)\d\d[.\- ](?:0?[1-9]|1[0-2])[.\- ]\d")


Chooser = Callable[[re.Match[str]], str | None]


def mask(text: str, kinds: tuple[str, ...]) -> tuple[str, dict[str, int]]:
    """The text with each mark replaced, and how many of each kind were."""
    counts: dict[str, int] = {}
    if "emails" in kinds and "@" in text:
        text, counts["emails"] = _replaced(_EMAIL, text, _email)
    if "ips" in kinds:
        text, four = _replaced(_IP, text, _ip)
        text, six = _replaced(_IP6, text, _ip6) if text.count(":") > 2 else (text, 0)
        counts["ips"] = four + six
    if "phones" in kinds:
        text, bare = _replaced(_PHONE, text, _phone)
        text, called = _replaced(_CALLED, text, _called)
        counts["phones"] = bare + called
    return text, {kind: number for kind, number in counts.items() if number}


def _replaced(pattern: re.Pattern[str], text: str, choose: Chooser) -> tuple[str, int]:
    pieces, done, number = [], 0, 0
    for found in pattern.finditer(text):
        if (instead := choose(found)) is not None:
            pieces += [text[done : found.start()], instead]
            done, number = found.end(), number + 1
    return "".join((*pieces, text[done:])), number


def _email(found: re.Match[str]) -> str | None:
    return None if found[1].lower() in _FILES or found[0] == EMAIL else EMAIL


def _ip(found: re.Match[str]) -> str | None:
    """A dotted quad is also a version: the words before it decide, and, where they are silent, whether all numbers are small."""
    if not _is_public(found[0]):
        return None
    before, after = found.string[max(0, found.start() - 24) : found.start()], found.string[found.end() : found.end() + 6]
    if _VERSION.search(before):
        return None
    if _ADDRESS.search(before) or _PORT.match(after):
        return IP
    small = all(len(part) < 3 for part in found[0].split("."))
    return None if small or _PRODUCT.search(before) else IP


def _ip6(found: re.Match[str]) -> str | None:
    parts = [part for part in found[0].split(":") if part]
    told = len(parts) >= 4 and any(character.isdigit() for character in found[0])
    return IP6 if told and found[0] != IP6 and _is_public(found[0]) else None


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
        return found.is_global and not found.is_multicast
    except ValueError:
        return False


def _phone(found: re.Match[str]) -> str | None:
    return PHONE if _is_phone(found[0], found) else None


def _called(found: re.Match[str]) -> str | None:
    return found[1] + PHONE if _is_phone(found[2], found) and not _DATE.match(found[2]) and found[2] != PHONE else None


def _is_phone(number: str, found: re.Match[str]) -> bool:
    """Whether digits of a telephone's shape are one: not one digit again and again, single digits, years, or part of a list of numbers."""
    groups = _GROUPS.findall(number)
    digits = "".join(groups)
    if not 7 <= len(digits) <= 15 or len(set(digits)) < 2:
        return False
    if len(groups) > 4 and sum(len(group) == 1 for group in groups) > len(groups) // 2:
        return False
    if (years := _YEARS.fullmatch(number)) and int(years[1]) <= int(years[2]) < LAST_YEAR:
        return False
    if not set(number) <= _LIST_CHARACTERS:
        return True
    before, after = found.string[max(0, found.start() - 8) : found.start()], found.string[found.end() : found.end() + 8]
    return not (_NUMBER_BEFORE.search(before) or _NUMBER_AFTER.match(after))
