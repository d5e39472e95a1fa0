"""Which language a text is in, with models that come inside their wheels.

Two identifiers, the fast one first. Measured on one core with the test data (UDHR, presidents' addresses, film reviews,
Korean reviews), right answers and texts a second:

    resiliparse detect_fast   English 1.00, Korean (joined) 1.00, UDHR 1000 characters 0.976, Korean of one line 0.28   40,000-280,000
    py3langid                 English 1.00, Korean (joined) 1.00, UDHR 1000 characters 0.966, Korean of one line 0.99    500-30,000

detect_fast says how far the text lies from the nearest profile: the right answers lie below 600 in 90% and more of the
cases once the text is in lower case, while a script it has no profile for answers "en" at 1015, and a short line lies
far from everything. So what lies nearer than NEAR is believed, and py3langid is asked about the rest.
"""

from __future__ import annotations

from functools import lru_cache

import py3langid
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from resiliparse.parse.lang import detect_fast

NEAR = 600
FAST_CHARACTERS = 4000
SLOW_CHARACTERS = 2000
UNKNOWN = "und"  # ISO 639-2 for undetermined


def detect(text: str) -> str:
    """The ISO 639-1 code (a longer one where there is none); "und" for a text without a letter."""
    start = text[:FAST_CHARACTERS].lower()  # capitals are foreign to the profiles: a speech in capitals was taken for Chinese
    code, distance = detect_fast(start, cutoff=NEAR)
    if code != "unknown" and distance <= NEAR:
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
