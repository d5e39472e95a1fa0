from __future__ import annotations

import pytest

from data_prep.corpus.filter import FilterConfig
from data_prep.corpus.language import detect
from data_prep.corpus.language_codes import ALIASES, IDENTIFIED, MEMBERS, accepted
from infra.errors import ConfigError

BOKMAAL = (
    "I går snakket vi lenge om hvorfor den gamle brua skulle stenges. Mange i bygda mener at den bør settes i stand, men ingen vet hva "
    "det vil koste. Møtet fortsetter i morgen kveld, og da kommer også ordføreren."
)
NYNORSK = (
    "Eg veit ikkje kvifor den gamle brua skulle stengjast. Mange i bygda meiner at ho bør setjast i stand, men ingen veit kva det vil "
    "koste. Møtet held fram i morgon kveld, og då kjem òg ordføraren, seier dei."
)


def test_the_codes_are_those_that_the_identifiers_give() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier
    from resiliparse.parse.lang import supported_langs

    labels = set(LanguageIdentifier.from_model_file(MODEL_FILE).nb_classes) - {"zxx"}
    assert labels | set(supported_langs()) == IDENTIFIED
    assert set(ALIASES.values()) <= IDENTIFIED and not set(ALIASES) & IDENTIFIED
    assert {code for codes in MEMBERS.values() for code in codes} <= IDENTIFIED


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("nb", {"no"}),
        ("nn", {"nn"}),
        ("no", {"no", "nn"}),
        ("zh", {"zh", "wuu", "yue"}),
        ("yue", {"yue"}),
        ("ar", {"ar", "ary", "arz"}),
        ("sh", {"bs", "hr", "sr"}),
    ],
)
def test_a_macrolanguage_takes_its_members(wanted: str, found: set[str]) -> None:
    assert accepted([wanted]) == found


@pytest.mark.parametrize(
    ("code", "hint"),
    [("lzh", "lzh"), ("en-US", "did you mean en"), ("EN", "did you mean en"), ("eng", "did you mean en"), ("", "known codes")],
)
def test_a_code_that_is_never_given_is_refused(code: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"no language that can be identified|{hint}"):
        FilterConfig(languages=(code,))


def test_bokmaal_and_nynorsk_are_told_apart() -> None:
    assert (detect(BOKMAAL), detect(NYNORSK)) == ("no", "nn")
