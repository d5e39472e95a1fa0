from __future__ import annotations

import re

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep.corpus import blocks, document, html, prose, region, render, tags

PROSE = "The harbour lay still in the early light, and the fishermen had not yet come down from the village to mend their nets."
ARTICLE = "".join(f"<p>{number}. {PROSE}</p>" for number in range(8))
MENU = "<div class=top>" + "".join(f"<p><a href=/{n}>Menu {n}</a></p>" for n in range(30)) + "</div>"


def text(body: str) -> str:
    return of_rules(f"<html><body>{body}</body></html>".encode())


def of_rules(markup: bytes) -> str:
    given = blocks.blocks(tags.tokens(document.parse(markup.decode("utf-8", "replace")).body()), region.drops)
    region.Region(given)
    return render.render([block for block, is_text in zip(given, prose.by_rules(given), strict=True) if is_text])


def test_the_innermost_element_with_nearly_all_prose_is_all_that_stays() -> None:
    page = f"{MENU}<div>Outside, and long enough to be a paragraph of its own, were it not for the region.<div id=in>"
    found = text(f"{page}<h2>Head</h2>{ARTICLE}<ul><li>Item</ul></div>tail</div>")
    assert found.count(PROSE) == 8
    assert found.startswith("Head\n0. The harbour")
    assert found.endswith("\n- Item")


def test_prose_in_two_places_keeps_what_is_around_both() -> None:
    found = text(f"<div id=all><div>{ARTICLE}</div><p>between</p><div>{ARTICLE}</div></div>{MENU}")
    assert found.count(PROSE) == 16
    assert "between" in found and "Menu" not in found


def test_a_page_of_few_long_paragraphs_is_looked_at_whole() -> None:
    found = text(f"{MENU}<div><p>{PROSE}</p></div><pre>one\n  two</pre>")
    assert "Menu" not in found
    assert found.endswith("\none\n  two")


@pytest.mark.parametrize("kind", ["dd", "pre", "blockquote"])
def test_prose_that_is_no_paragraph_is_not_cut_off(kind: str) -> None:
    rest = "".join(f"<{kind}>{number}: {PROSE} It is told in no paragraph.</{kind}>" for number in range(3))
    assert text(f"<div>{ARTICLE}</div><div>{rest}</div>").count("told in no") == 3


def test_text_between_line_breaks_counts_where_there_are_no_paragraphs() -> None:
    lines = "<br><br>".join(f"{number}. {PROSE}" for number in range(8))
    found = text(f"{MENU}<div class=left>{PROSE}</div><div class=post>{lines}</div>")
    assert found.count("\n") == 7 or found.count(PROSE) == 9
    assert all(f"{number}. {PROSE}" in found for number in range(8))


@pytest.mark.parametrize("name", ["comments", "related-posts", "sidebar", "cookie-notice", "share_buttons", "visually-hidden"])
def test_what_calls_itself_something_else_is_left_out(name: str) -> None:
    for attribute in ("class", "id"):
        found = text(f"<main>{ARTICLE}<div {attribute}='{name}'><p>{PROSE} Elsewhere.</p></div><p>After.</p></main>")
        assert "Elsewhere" not in found and found.endswith("After.")


@pytest.mark.parametrize("role", ["class='post comments-open related'", "class=sidebar-layout", "id=newsletter", "style='display: none'"])
def test_no_name_throws_out_most_of_a_page(role: str) -> None:
    assert text(f"<div {role}>{ARTICLE}</div>{MENU}").count(PROSE) == 8


@pytest.mark.parametrize("attributes", ["hidden", "aria-hidden=true", "style='display:none'", "style='Visibility : hidden'"])
def test_hidden_text_is_left_out(attributes: str) -> None:
    tail = "Seen tail, which is a part of the article and not of the paragraph before it that is hidden."
    found = text(f"<article>{ARTICLE}<p {attributes}>Unseen words.</p>{tail}</article>")
    assert "Unseen" not in found and "Seen tail" in found


def test_an_anchor_made_of_a_headings_words_is_no_name() -> None:
    found = text(f"<div><section id=sharing-of-the-related-comments>{ARTICLE}</section><section>{ARTICLE * 9}</section></div>")
    assert found.count(PROSE) == 80


def test_headings_need_text_under_them() -> None:
    found = text(f"<main><h1>Title</h1><h2>First</h2>{ARTICLE}<h2>See also</h2><ul><li><a href=/>Other</a></ul><h2>Next</h2></main>")
    assert found.startswith("Title\nFirst\n0.") and found.endswith(PROSE)


def test_lists_of_links_and_cells_of_links_go_and_lists_of_words_stay() -> None:
    links = "".join(f"<li><a href=/{n}>Another story {n}</a> new" for n in range(4))
    words = "".join(f"<li>Net {n}, mended <a href=/>here</a>" for n in range(4))
    found = text(f"<main>{ARTICLE}<ul>{links}</ul><ol>{words}</ol><table><tr><td><a href=/>Up</a><tr><td><a href=/>Down</a></table></main>")
    assert "Another" not in found and "Up" not in found and "Down" not in found
    assert found.endswith("- Net 2, mended here\n- Net 3, mended here")


def test_a_copyright_notice_is_no_text_and_a_sentence_about_copyright_is() -> None:
    found = text(f"{ARTICLE}<p>© 2024 The Harbour Foundation. {'All rights reserved. ' * 9}</p><p>{PROSE * 4} The © has a history.</p>")
    assert "reserved" not in found and "history" in found


def test_a_character_of_chinese_or_korean_counts_as_two() -> None:
    assert region.size(" 漁港の朝 ") == 8
    assert region.size("어부들") == 6
    assert region.size("Škoda é ") == 7
    chinese = "清晨的港口一片寂静，渔夫们还没有从村子里下来修补他们的渔网，只有海鸥在桅杆之间盘旋。"
    assert text(f"{MENU}<div id=in>{f'<p>{chinese}</p>' * 8}</div><div>外面的话</div>").count(chinese) == 8


@pytest.mark.parametrize("markup", [b"", b" ", b"<", b"<!--", b"<?xml", b"<html>", b"<frameset><frame></frameset>"])
def test_a_page_of_nothing_has_no_text(markup: bytes) -> None:
    assert of_rules(markup) == ""


@drawn(st.text(alphabet="<>/p div=\"'&#x0é한h1ulia", max_size=200))
def test_broken_markup_is_read(markup: str) -> None:
    found = of_rules(markup.encode())
    assert "\0" not in found and not re.search(r"\n\n|^\n|\n$", found)


POSTS = [
    f"Answer {number}: the pick-up tube of that tank is known to crack above the bend, so that it draws air at low tide."
    for number in range(9)
]


@pytest.mark.parametrize("name", ["comment", "comment-body", "reply", "post"])
@pytest.mark.parametrize("part", ["<div class={}><p><a href=/u>user</a><p>{}</div>", "<ul><li class={}>{}</ul>"])
def test_the_posts_of_a_thread_are_its_text(name: str, part: str) -> None:
    thread = "<h1>Why does the engine stall?</h1><div id=thread>" + "".join(part.format(name, post) for post in POSTS) + "</div>"
    found = html.extract(f"<title>t</title><body>{MENU}{thread}<div class=cookies><p>{PROSE}</div>").text
    assert all(post in found for post in POSTS) and "Menu 3" not in found and PROSE not in found


@pytest.mark.parametrize("name", ["comments", "commentlist"])
def test_comments_under_an_article_are_not_its_text(name: str) -> None:
    below = "".join(f"<div class=comment><p>{post}</div>" for post in POSTS[:2])
    found = html.extract(f"<title>t</title><body>{MENU}<article>{ARTICLE}</article><div class={name}>{below}</div>").text
    assert PROSE in found and not any(post in found for post in POSTS)


@pytest.mark.parametrize(
    "page", ["<body class=print>{}", "<body><div id=print>{}</div>", "<body><font size=2>{}</font>", "<body><pre>{}</pre>"]
)
@pytest.mark.parametrize("between", ["<br>", "<p>", "<hr>"])
def test_the_paragraphs_of_a_print_page_are_its_text(page: str, between: str) -> None:
    found = html.extract("<title>t</title>" + page.format("<h1>Engines</h1>" + between.join(POSTS))).text
    assert all(post in found for post in POSTS)
