"""Which language a text is in, with models that come inside their wheels.

Two identifiers, the fast one first. Right answers, and texts a second on one core (tests/benchmarks/bench_filter.py; UDHR are 128 texts
of the Declaration of Human Rights in the languages that py3langid knows, 1000 and 60 characters of each):

    resiliparse detect_fast where it lies nearer than 600   UDHR 0.70, 0.93   Korean lines 0.99   film reviews 1.00 at 44,000
    the same, nearer than 400                               UDHR 0.92, 0.93   Korean lines 0.99   film reviews 1.00 at 44,000
    py3langid alone                                         UDHR 0.91, 0.93   Korean lines 0.99   film reviews 1.00 at 900
    fastText lid.176 (ftz), for comparison                  UDHR 0.74, 0.67   Korean lines 0.96

detect_fast says how far the text lies from the nearest profile. English, German and the other languages that it knows lie below 400 once
the text is in lower case, but their relatives that it does not know lie little further away, a script it has no profile for answers "en"
at 1015, and a short line lies far from everything. So what lies nearer than NEAR is believed, and py3langid is asked about the rest.
"""

from __future__ import annotations

from functools import lru_cache

import py3langid
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from resiliparse.parse.lang import detect_fast

NEAR = 400
FAST_CHARACTERS = 4000
SLOW_CHARACTERS = 2000
UNSURE = frozenset({"unknown", "no"})  # it has one profile for Bokmål and Nynorsk
UNKNOWN = "und"  # ISO 639-2 for undetermined


def detect(text: str) -> str:
    """The ISO 639-1 code (a longer one where there is none); "und" for a text without a letter."""
    start = text[:FAST_CHARACTERS].lower()  # capitals are foreign to the profiles: a speech in capitals was taken for Chinese
    code, distance = detect_fast(start, cutoff=NEAR)
    if code not in UNSURE and distance <= NEAR:
        return str(code)
    if not any(map(str.isalpha, start)):
        return UNKNOWN
    return str(py3langid.classify(start[:SLOW_CHARACTERS])[0])


def score(text: str, code: str) -> float:
    """How probable it is to py3langid that the text is in this language, of all it knows (from 0 to 1); nan if it does not know it."""
    return float(_ranked(text[:SLOW_CHARACTERS].lower()).get(code, "nan"))


@lru_cache(maxsize=4)
def _ranked(start: str) -> dict[str, float]:
    return dict(_identifier().rank(start))


@lru_cache(maxsize=1)
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
