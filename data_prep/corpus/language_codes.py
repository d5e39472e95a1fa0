"""Codes of languages: those that the identifiers give, and which of them a code in a recipe takes.

Groups follow ISO 639-3's macrolanguages (iso639-3.sil.org), as far as the identifiers tell members apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from infra.errors import ConfigError

# py3langid 0.3 (140, without zxx, "no language") and resiliparse 0.15 (101); a test compares
_IDENTIFIED = (
    "ace af am an ar ary arz as az ba bcl be bg bn bo br bs ca ce crh cs cv cy da de dv dz el en eo es et eu ext fa fi fo fr fuv fy ga "
    "gcf gcr gd gl gom grc gu gug guw ha hbo he hi hr ht hu hy id ig io is it ja jv ka kab kik kk km kn ko ku ky la lb lg lij ln lo lt "
    "ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu rm ro ru rw sa sc sd sdh se si sk sl sn so sq sr st sv sw "
    "ta te tg th tk tl tr tt ug uk ur uz uzs vec vi vo wa wuu xh yi yo yue zh zu"
)
IDENTIFIED = frozenset(_IDENTIFIED.split())
# A macrolanguage takes its members too. The identifiers call Bokmål `no` and Nynorsk `nn`.
MEMBERS = {
    "no": ("nn",),
    "zh": ("wuu", "yue"),
    "ar": ("ary", "arz"),
    "ku": ("sdh",),
    "uz": ("uzs",),
    "lv": ("ltg",),
    "sh": ("bs", "hr", "sr"),
}
# Other codes of what an identifier names otherwise.
ALIASES = {
    "nb": "no",
    "cmn": "zh",
    "arb": "ar",
    "fil": "tl",
    "ki": "kik",
    "kok": "gom",
    "ff": "fuv",
    "gn": "gug",
    "iw": "he",
    "in": "id",
    "ji": "yi",
    "jw": "jv",
    "mo": "ro",
}


def accepted(wanted: Iterable[str]) -> frozenset[str]:
    """The identifiers' codes that these codes take: a macrolanguage its members, `nb` what is called `no`.

    Raises ConfigError for a code that the identifiers never give, with codes that look like it.
    """
    found: set[str] = set()
    for code in wanted:
        if code in ALIASES:
            found.add(ALIASES[code])
        elif code in MEMBERS:
            found.update(MEMBERS[code], {code} & IDENTIFIED)
        elif code in IDENTIFIED:
            found.add(code)
        else:
            raise ConfigError(f"filter: languages: {code!r} is no language that can be identified{_hint(code)}")
    return frozenset(found)


def _hint(code: str) -> str:
    known = sorted(IDENTIFIED | set(ALIASES) | set(MEMBERS))
    base = code.lower().replace("_", "-").partition("-")[0]
    near = [base] if base in known and base != code else get_close_matches(code, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else f"; known codes: {', '.join(known)}"
