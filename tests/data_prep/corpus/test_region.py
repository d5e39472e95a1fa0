from __future__ import annotations

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from lxml.html import tostring

from data_prep.corpus import region

PROSE = "The harbour lay still in the early light, and the fishermen had not yet come down from the village to mend their nets."
ARTICLE = "".join(f"<p>{number}. {PROSE}</p>" for number in range(8))
MENU = "<div class=menu>" + "".join(f"<p><a href=/{n}>Menu {n}</a></p>" for n in range(30)) + "</div>"


def text(found: object) -> str:
    return found if isinstance(found, str) else tostring(found, encoding="unicode")


def test_the_innermost_element_with_nearly_all_prose_is_all_that_stays() -> None:
    found = text(region.prose(f"<html><body>{MENU}<div><div id=in><h2>Head</h2>{ARTICLE}<ul><li>Item</ul></div>tail</div></body></html>"))
    assert found.count(PROSE) == 8
    assert "Menu" not in found and "tail" not in found
    assert "Head" in found and "Item" in found


def test_prose_in_two_places_keeps_what_is_around_both() -> None:
    found = text(region.prose(f"<html><body><div id=all><div>{ARTICLE}</div><div>{ARTICLE}</div></div>{MENU}</body></html>"))
    assert found.count(PROSE) == 16 and "Menu" not in found


def test_a_page_of_few_long_paragraphs_stays_whole() -> None:
    found = text(region.prose(f"<html><body>{MENU}<div><p>{PROSE}</p></div><pre>code</pre></body></html>"))
    assert "Menu 29" in found and "code" in found


@pytest.mark.parametrize("kind", ["dd", "pre", "blockquote"])
def test_prose_that_is_no_paragraph_is_not_cut_off(kind: str) -> None:
    rest = "".join(f"<{kind}>{number}: {PROSE} It is told in no paragraph.</{kind}>" for number in range(3))
    assert text(region.prose(f"<html><body><div>{ARTICLE}</div><div>{rest}</div></body></html>")).count("told in no") == 3


@drawn(st.text(alphabet="<>/p div=\"'&#x0é한", max_size=200))
def test_broken_markup_is_given_back_or_parsed(markup: str) -> None:
    text(region.prose(markup))
