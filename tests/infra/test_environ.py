"""Variables come and go again, whatever happens meanwhile."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from infra.environ import holding

NAMES = ("TEXTMILL_TEST_A", "TEXTMILL_TEST_B", "TEXTMILL_TEST_C")
SETTINGS = st.dictionaries(st.sampled_from(NAMES), st.text("ab", max_size=3))


@given(SETTINGS, SETTINGS, st.booleans())
def test_what_was_set_before_is_set_after_and_nothing_else(before: dict[str, str], wanted: dict[str, str], fails: bool) -> None:
    for name in NAMES:
        os.environ.pop(name, None)
    os.environ.update(before)
    whole = dict(os.environ)
    try:
        with holding(wanted):
            assert dict(os.environ) == whole | wanted
            if fails:
                raise LookupError
    except LookupError:
        assert fails
    assert dict(os.environ) == whole
    for name in NAMES:
        os.environ.pop(name, None)


def test_a_variable_taken_away_meanwhile_is_no_error() -> None:
    with holding({NAMES[0]: "1"}):
        del os.environ[NAMES[0]]
    assert NAMES[0] not in os.environ
