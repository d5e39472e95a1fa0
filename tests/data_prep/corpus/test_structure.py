"""Structure of extracted pages: recovery of broken markup, code, tables, lists, formulas, JSON-LD, XHTML and Markdown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from resiliparse.extract.html2text import extract_plain_text

from data_prep.corpus import blocks, document, html, linked_data, prose, region, render
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
words = st.lists(st.sampled_from([*(f"<{tag}>" for tag in TAGS), "one", "two"]))


@settings(max_examples=60, deadline=None)
@drawn(words)
def test_no_word_is_lost_between_the_two_parsers(parts: list[str]) -> None:
    markup = " ".join(f"w{at}" if part in ("one", "two") else part for at, part in enumerate(parts)) + " end"
    page = document.parse(markup)
    root = page.root()
    expected = extract_plain_text(page.tree, main_content=False, preserve_formatting=False, list_bullets=False)
    assert sorted("".join(root.itertext()).replace("w", " w").replace("end", " end").split()) == sorted(
        expected.replace("w", " w").replace("end", " end").split()
    )


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
    root = document.parse(f"<body><main>{ARTICLE}{body}</main>").root()
    given = blocks.blocks(root, region.drops)
    region.Region(root, given)
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
