"""Structure of extracted pages: recovery of broken markup, code, tables, lists, formulas, JSON-LD, XHTML and Markdown."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from data_prep.corpus import blocks, document, html, linked_data, prose, region, render, tags
from data_prep.corpus.child import Question, read_page
from data_prep.corpus.extract import ExtractConfig
from infra.errors import ConfigError

PROSE = "The ferry leaves the island at noon, and whoever misses it has to wait for the mail boat, which comes on Thursdays only."
ARTICLE = "".join(f"<p>{number}. {PROSE}</p>" for number in range(5))


def text(body: str, form: str = "text") -> str:
    return html.extract(f"<!doctype html><title>t</title><body><main>{ARTICLE}{body}</main>", form=form).text


@pytest.mark.parametrize("end", ["</body></html>", "</html>", "</body>", "</main></body></html><!-- end -->"])
def test_text_after_a_premature_end_of_the_page_is_read(end: str) -> None:
    found = html.extract(
        f"<html><body><main>{ARTICLE}{end}{ARTICLE}<p>The last words of the page are these, as every browser shows.</p>"
    ).text
    assert found.count(PROSE) == 10 and found.endswith("as every browser shows.")


def test_text_misnested_in_a_table_is_read_as_a_browser_places_it() -> None:
    found = text(f"<table><tr><p>Before: {PROSE}</p><td>cell one<td>cell two</table>")
    assert found.index("Before") < found.index("cell one\tcell two")


TAGS = ["p", "/p", "div", "/div", "b", "i", "/b", "table", "tr", "td", "/table", "ul", "li", "/body", "/html", "a", "h2"]
RAW = ["<span title='<p>'>", "&amp;lt;p>", "<script>", "</script>", "<script title='>'>", "<!--", "-->", "<style>", "</style>"]
RAW += ["<svg>", "</svg>", "<embed>", "<br>"]
words = st.lists(st.sampled_from([*(f"<{tag}>" for tag in TAGS), *RAW, "one", "two"]))


@settings(max_examples=150, deadline=None)
@drawn(words)
def test_no_word_is_lost_or_gained_between_the_tree_and_its_tags(parts: list[str]) -> None:
    page = document.parse(" ".join(f"w{at}" if part in ("one", "two") else part for at, part in enumerate(parts)) + " end")
    given = blocks.blocks(tags.tokens(page.body()), lambda _tag, _attributes: False)
    for element in page.tree.document.query_selector_all("script, style, svg"):
        element.parent.remove_child(element)
    body = page.tree.body
    assert sorted(re.findall(r"w\d+|end", " ".join(block.text for block in given))) == sorted(
        re.findall(r"w\d+|end", body.text if body is not None else "")
    )


@pytest.mark.parametrize(
    "hidden",
    [
        "<script><!-- <script>a < b</script> --> lost </script>",
        "<script>if (a < b && c > '</p>') {lost}</script>",
        "<!-- lost <p>lost</p> -->",
        "<iframe><p>lost</iframe>",
        "<select><option>lost</select>",
        "<svg><title>lost</title><style>lost</style></svg>",
        "<img alt='<p>lost'>",
    ],
)
def test_what_is_no_text_ends_where_it_ends_in_a_browser(hidden: str) -> None:
    found = text(f"<p>Before {hidden} and after: {PROSE}</p><xmp><b>bold</b> &amp;</xmp><p>{PROSE}</p>")
    assert "lost" not in found and f"Before and after: {PROSE}\n<b>bold</b> &amp;\n{PROSE}" in found


@pytest.mark.parametrize("part", ["<span class=ad>", "<div><span>", "<figure><code>", "<a><div>", "<pre><i class=ad>", "<ul><li>"])
def test_a_page_nested_without_end_is_read_in_linear_time(part: str) -> None:
    started = time.process_time()
    given = blocks.blocks(tags.tokens("<body>" + part * 20_000 + PROSE), region.drops)
    region.Region(given)
    assert time.process_time() - started < 4 and given[-1].text.endswith(PROSE)


CODE = "def tide(level):\n    if level > 3:\n\treturn 'high'\n\n    return 'low'"


@pytest.mark.parametrize(
    "markup",
    [
        "<pre><code>{}</code></pre>",
        "<pre>\n{}\n</pre>",
        "<div style='white-space: pre'>{}</div>",
        "<figure class=highlight><pre>{}</pre></figure>",
        "<table><tr><td class=gutter><pre>1\n2\n3\n4\n5</pre><td class=code><pre>{}</pre></table>",
    ],
)
def test_code_keeps_its_lines_and_indentation(markup: str) -> None:
    assert CODE in text(markup.format(CODE.replace(">", "&gt;")) + "<p>After the code there is more text, and it is a paragraph.</p>")


def test_a_line_of_code_in_an_element_of_its_own_is_a_line() -> None:
    lines = "".join(f"<div class=line>{line}</div>" for line in ("for x in y:", "    print(x)"))
    assert "\nfor x in y:\n    print(x)" in text(f"<pre>{lines}</pre>")


def test_a_table_has_a_line_per_row_and_its_columns_stay_in_place() -> None:
    table = "<table><caption>Boats</caption><tr><th>Name<th>Tons<th>Port<tr><td>Aurora<td><td>Oslo<tr><td colspan=2>Borea<td>Busan</table>"
    assert "\nBoats\nName\tTons\tPort\nAurora\t\tOslo\nBorea\t\tBusan" in text(table)
    spans = "<table><tr><td rowspan=2>1990<td>a<tr><td>b<tr><td>1991<td>c</table>"
    assert "\n1990\ta\n\tb\n1991\tc" in text(spans)


SHORT_PAGES = {
    "list, table, last line": (
        "<h1>Boats</h1><p>Three boats lie here.</p><ul><li>Aurora<li>Borea, of Busan</ul>"
        "<table><caption>Tons</caption><tr><th>Name<th>Tons<tr><td>Aurora<td>120<tr><td>Borea<td>95</table><p>The end.</p>",
        "Boats\nThree boats lie here.\n- Aurora\n- Borea, of Busan\nTons\nName\tTons\nAurora\t120\nBorea\t95\nThe end.",
        "# Boats\n\nThree boats lie here.\n\n- Aurora\n- Borea, of Busan\n\nTons\n\n"
        "| Name | Tons |\n| --- | --- |\n| Aurora | 120 |\n| Borea | 95 |\n\nThe end.",
    ),
    "table first": (
        f"<table><tr><td>a<td>b<tr><td>c<td>d</table><ol><li>{PROSE}<li>Bring a coat.</ol><p>Ask at the office.</p>",
        f"a\tb\nc\td\n- {PROSE}\n- Bring a coat.\nAsk at the office.",
        f"| a | b |\n| --- | --- |\n| c | d |\n\n1. {PROSE}\n2. Bring a coat.\n\nAsk at the office.",
    ),
    "several lists": (
        f"<p>{PROSE}</p><ul><li>one<li>two</ul><h2>More</h2><p>A line.</p><ul><li>three<li>{PROSE}</ul><p>Last.</p>",
        f"{PROSE}\n- one\n- two\nMore\nA line.\n- three\n- {PROSE}\nLast.",
        f"{PROSE}\n\n- one\n- two\n\n## More\n\nA line.\n\n- three\n- {PROSE}\n\nLast.",
    ),
}
MENU = "<header><nav><ul><li><a href=/>Start page</a><li><a href=/b>All boats</a></ul></nav></header>"


@pytest.mark.parametrize("around", ["{}", "<article>{}</article>", f"{MENU}<main>{{}}</main><footer><p>© 2024 The harbor</p></footer>"])
@pytest.mark.parametrize("name", SHORT_PAGES)
def test_a_short_page_keeps_every_line_of_its_lists_and_tables(name: str, around: str) -> None:
    body, plain, markdown = SHORT_PAGES[name]
    page = f"<!doctype html><title>t</title><body>{around.format(body)}"
    assert html.extract(page).text == plain
    assert html.extract(page, form="markdown").text == markdown


def test_a_table_that_is_retained_in_part_is_retained_as_a_whole() -> None:
    rows = "".join(f"<tr><td>Boat {n}<td>{n} tons" for n in range(4))
    given = html._blocks(document.parse(f"<body><p>{PROSE}</p><table>{rows}</table><ul><li>one<li>two</ul>"))
    partly = f"{PROSE}\n| Boat 0 | 0 tons |\n|---|---|\n| Boat 1 | 1 tons |\n"
    found = html.decided(given, [True] * len(given), "", PROSE * 9, partly)
    assert found == "\n".join([PROSE, *(f"Boat {n}\t{n} tons" for n in range(4))])


def test_a_table_of_layout_is_no_row() -> None:
    found = html.extract(f"<table><tr><td>{PROSE * 5}<td><p>{PROSE}</p><p>{PROSE}</p></table>").text
    assert "\t" not in found and found.count(PROSE) == 7


def test_markdown_has_headings_lists_tables_quotations_and_fences() -> None:
    body = (
        f"<h2>Second</h2><ul><li>one<ul><li>inner</ul><li>two<p>{PROSE}</p></ul><ol start=3><li>three<li>four</ol>"
        "<table><tr><th>a|b<th>c<tr><td>1<td>2</table>"
        f"<blockquote><p>{PROSE}</p></blockquote>"
        "<pre><code class='language-python'>x = 1\n```\n    y</code></pre><p>Line one<br>line two</p>"
    )
    given = blocks.blocks(tags.tokens(document.parse(f"<body><main>{ARTICLE}{body}</main>").body()), region.drops)
    region.Region(given)
    found = html.rendered(given, prose.by_rules(given), "markdown")
    assert "\n\n## Second\n\n- one\n    - inner\n- two\n\n" in found
    assert "\n\n3. three\n4. four\n\n" in found
    assert "\n\n| a\\|b | c |\n| --- | --- |\n| 1 | 2 |\n\n" in found
    assert f"\n\n> {PROSE}\n\n" in found
    assert "\n\n````python\nx = 1\n```\n    y\n````\n\n" in found
    assert found.endswith("Line one\\\nline two")


@pytest.mark.parametrize(
    ("markup", "tex"),
    [
        (r"<math><mi>x</mi><annotation encoding='application/x-tex'>{\displaystyle \sqrt{x}}</annotation></math>", r"\(\sqrt{x}\)"),
        (r"<math alttext='a_{1}' display=block><mi>a</mi></math>", r"\[a_{1}\]"),
        (
            "<math><mfrac><mrow><mi>b</mi><mo>&#8722;</mo><mi>h</mi></mrow><msup><mn>2</mn><mi>n</mi></msup></mfrac></math>",
            r"\(\frac{b-h}{2^n}\)",
        ),
        ("<math><mi>sin</mi><mi>&alpha;</mi><mo>&le;</mo><msqrt><mi>x</mi></msqrt></math>", r"\(\sin\alpha\leq\sqrt{x}\)"),
        ("<math><munderover><mo>&sum;</mo><mi>i</mi><mi>n</mi></munderover><msub><mi>a</mi><mi>i</mi></msub></math>", r"\(\sum_i^na_i\)"),
        ("<script type='math/tex; mode=display'>E = mc^2</script>", r"\[E = mc^2\]"),
        ("<span class=MathJax_Preview>junk</span><span class=MathJax>E=mc2</span><script type='math/tex'>E=mc^2</script>", r"\(E=mc^2\)"),
        (
            "<span class=katex><span class=katex-mathml><math><mi>y</mi><annotation encoding='application/x-tex'>y</annotation></math>"
            "</span>"
            "<span class=katex-html aria-hidden=true>yy</span></span>",
            r"\(y\)",
        ),
        (
            "<span class=mwe-math-element><span style='display:none'><math alttext='k'><mi>k</mi></math></span><img alt='k'></span>",
            r"\(k\)",
        ),
        ("<img class=latex src='/latex.php?latex=z' alt='z^2'>", r"\(z^2\)"),
    ],
)
def test_a_formula_is_its_tex(markup: str, tex: str) -> None:
    found = text(f"<p>The area is {markup} where the rest of the sentence follows, which is long enough to be text.</p>")
    assert f"The area is {tex} where the rest" in found


def test_math_that_cannot_be_converted_never_fails() -> None:
    deep = "<mrow>" * 150 + "<mi>x</mi>" + "</mrow>" * 150
    assert PROSE in text(f"<p>a <math>{deep}</math> <math></math> <math><mfrac><mi>a</mi></mfrac></math> b</p>")


def test_an_article_that_is_stated_as_data_alone_is_read() -> None:
    data = {"@context": "https://schema.org", "@graph": [{"@type": ["NewsArticle"], "articleBody": f"{PROSE}\n\n{PROSE} <end>"}]}
    shell = (
        f"<title>t</title><script type='application/ld+json'>{json.dumps(data)}</script><body><div id=app></div><footer>Imprint</footer>"
    )
    found = html.extract(shell, least=25).text
    assert found == f"{PROSE}\n{PROSE} <end>"
    marked = shell.replace(json.dumps(PROSE)[1:-1], f"<p>{PROSE}</p>", 1)
    assert html.extract(marked, least=25).text.startswith(PROSE)
    assert "Imprint" not in found


def test_data_does_not_replace_the_text_that_a_page_has() -> None:
    data = json.dumps({"@type": "Article", "articleBody": "Teaser of the article. " * 3})
    assert html.extract(f"<script type='application/ld+json'>{data}</script><main>{ARTICLE}</main>").text.count(PROSE) == 5
    for broken in ("{", "[" * 5000, '{"@type": "Article", "articleBody": 5}', '{"articleBody": "no type"}'):
        assert linked_data.article_body(f"<script type=application/ld+json>{broken} articleBody</script>") == ""


XHTML = (
    '<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-strict.dtd">'
    '<html xmlns="http://www.w3.org/1999/xhtml"><head><script src="a.js"/><title>T</title><style/></head><body><div class="x"/><textarea/>'
)


def test_a_page_served_as_xhtml_is_read_as_xml() -> None:
    page = f"{XHTML}{ARTICLE}<p>caf&eacute; &#38; more, and the words of a last paragraph.</p></body></html>"
    answer = read_page(Question("", "best", 1, is_xhtml=True), page.encode())
    assert answer.text.count(PROSE) == 5 and answer.title == "T" and "café & more" in answer.text


def test_xhtml_that_is_not_well_formed_is_read_as_html_and_entities_are_not_expanded() -> None:
    assert read_page(Question("", "best", 1, is_xhtml=True), f"<html><body>{ARTICLE}<p>open".encode()).text.count(PROSE) == 5
    bomb = '<!DOCTYPE html [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY f SYSTEM "file:///etc/passwd">]>'
    answer = read_page(Question("", "best", 1, is_xhtml=True), f"{bomb}<html><body>{ARTICLE}<p>&b;&f;</p></body></html>".encode())
    assert "root:" not in answer.text and "aaaa" not in answer.text


def test_a_lead_between_heading_and_article_belongs_to_it() -> None:
    page = f"<h1>Head</h1><div class=teaser><p>The lead, first of all: {PROSE}</p></div><div class=text>{ARTICLE}</div>"
    assert "The lead" in html.extract(f"<body>{page}<div class=teaser><p>Other story: {PROSE}</p></div>").text


def test_posts_of_a_forum_without_paragraphs_are_read() -> None:
    post = "<div class='post row{0}'><div class=who>Member {0}</div><div class=postbody>{0}: {1}<br><br>{1}</div></div>"
    posts = "".join(post.format(number, PROSE) for number in range(6))
    found = html.extract(
        f"<body><ul class=nav><li><a href=/>Home</a></ul><div id=posts>{posts}</div><p>{PROSE} Rules of the board.</p>"
    ).text
    assert all(f"{number}: {PROSE}" in found for number in range(6))
    cells = "".join(f"<tr><td>Member {n}<td>{n}: {PROSE}<br>{PROSE}" for n in range(6))
    assert html.extract(f"<body><table>{cells}</table>").text.count(PROSE) == 12


def test_formats_are_checked_before_work_starts() -> None:
    assert ExtractConfig(format="markdown").format in render.FORMATS
    with pytest.raises(ConfigError, match="unknown format 'html'; available formats: text, markdown"):
        ExtractConfig(format="html")
    with pytest.raises(ConfigError, match="engine 'resiliparse' writes plain text only"):
        ExtractConfig(format="markdown", engine="resiliparse")
