from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep.corpus import html
from data_prep.corpus.child import Answer, Question, read_page
from data_prep.corpus.soft404 import is_soft_404

SENTENCE = "The harbour lay still in the early light, and the fishermen had not yet come down from the village to mend their nets. "
MENU = "<nav><ul><li><a href=/>Home</a><li><a href=/blog>Blog</a><li><a href=/about>About us</a></ul></nav>"

TITLES = """404|404 Not Found|Error 404|404 - Page not found|Page not found|Page not found | My Site|My Site: Page not found
Page not found – My Blog|Page Not Found · Project Pages|Oops! That page can’t be found.|Nothing Found|Not Found|Object not found!
The page you are looking for could not be found|Sorry, this page isn't available.|HTTP 404 Error|We couldn't find that page
This page does not exist|404: This page could not be found|Seite nicht gefunden|Fehler 404 - Seite nicht gefunden
Die Seite wurde nicht gefunden – Stadt am Hafen|Die angeforderte Seite konnte nicht gefunden werden.|Page introuvable|Erreur 404
Cette page n'existe pas|Page non trouvée - Mairie|Página no encontrada|La página no existe|Página não encontrada|Pagina non trovata
Pagina niet gevonden|페이지를 찾을 수 없습니다|요청하신 페이지를 찾을 수 없습니다.|존재하지 않는 페이지입니다|ページが見つかりません
お探しのページは見つかりませんでした|页面不存在|抱歉，找不到您要访问的页面|找不到網頁|Страница не найдена|Nie znaleziono strony
Sayfa bulunamadı|Stránka nenalezena|Siden blev ikke fundet"""
SAID = [line for row in TITLES.replace("\n", "|").split("|") for line in [row.strip()] if line and line != "My Site"]
ARTICLES = """How to design an error page|The page that changed history|Missing|Fehler im System|Lost and found|Nothing else matters
Page 40 of the report|La página|Product not found in stores|Not found in the wild: the last tiger|Seite|Room 404|찾을 수 없는 것들
Peugeot 404 review|Contact"""
OTHERS = [line.strip() for row in ARTICLES.splitlines() for line in row.split("|")]


@pytest.mark.parametrize("line", SAID)
def test_a_title_or_a_heading_that_says_not_found_over_little_text_is_a_soft_404(line: str) -> None:
    assert is_soft_404("<p>x</p>", line, "Try the search.")
    for level in (1, 2, 3):
        assert is_soft_404(f"{MENU}<h{level} class=a><b>{line}</b></h{level}>", "My Site", "")
    assert not is_soft_404(f"<h1>{line}</h1>", line, SENTENCE * 9)


@pytest.mark.parametrize("line", OTHERS)
def test_other_titles_over_little_text_are_none(line: str) -> None:
    assert not is_soft_404(f"<h1>{line}</h1>", line, "Little text.")


def test_an_article_about_missing_pages_stays() -> None:
    assert not is_soft_404("<h1>What the missing page taught a generation of readers about the life of links not found</h1>", "", "Short.")
    assert not is_soft_404("<p>404 not found</p>", "News", "The words 404 not found in the text alone say nothing.")


def page(title: str, body: str) -> str:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{body}</body></html>"


ERROR_PAGES = {
    "apache": page(
        "404 Not Found",
        "<h1>Not Found</h1><p>The requested URL was not found on this server.</p><hr><address>Apache/2.4 at h.test Port 80</address>",
    ),
    "nginx": page("404 Not Found", "<center><h1>404 Not Found</h1></center><hr><center>nginx</center>"),
    "iis": page(
        "404 - File or directory not found.",
        "<div id=header><h1>Server Error</h1></div><div id=content><fieldset><h2>404 - File or directory not found.</h2>"
        "<h3>The resource you are looking for might have been removed.</h3></fieldset></div>",
    ),
    "blog": page(
        "Page not found &#8211; Harbour Notes",
        f"{MENU}<main class=error-404><header><h1>Oops! That page can&rsquo;t be found.</h1></header>"
        "<div class=page-content><p>It looks like nothing was found at this location. Maybe try one of the links below or a search?</p>"
        "<form><input type=search></form><h2>Archives</h2><ul><li><a href=/2020>2020</a></ul></div></main><footer>By hand</footer>",
    ),
    "portal": page(
        "Seite nicht gefunden | Hafenstadt",
        f"{MENU}<div id=main-content><h1>Seite nicht gefunden</h1><p>Die angeforderte Seite /foo konnte nicht gefunden werden. "
        "Bitte versuchen Sie es über die Suche oder die Startseite noch einmal.</p></div>",
    ),
    "shop": page(
        "항구 상점",
        f"{MENU}<div class=wrap><h2>페이지를 찾을 수 없습니다.</h2><p>주소가 올바른지 다시 한번 확인해 주시기 바랍니다.</p></div>",
    ),
    "single": page("404: This page could not be found", "<div id=app><h1>404</h1><h2>This page could not be found.</h2></div>"),
}


@pytest.mark.parametrize("kind", ERROR_PAGES)
@pytest.mark.parametrize("engine", html.ENGINES)
def test_the_error_pages_of_servers_and_of_page_builders_are_recognised(kind: str, engine: str) -> None:
    assert read_page(Question("utf-8", engine, 25), ERROR_PAGES[kind].encode()) == Answer(reason="soft_404")


def test_no_real_page_is_taken_for_one_but_those_that_are(data: Path) -> None:
    bodies = {path.name: gzip.decompress(path.read_bytes()) for path in sorted((data / "web/articles/html").glob("*.html.gz"))}
    for name in ("web/snippet-pages/pages.tar.gz", "web/readability-pages/pages.tar.gz", "web/site-flink.apache.org.tar.gz"):
        with tarfile.open(data / name) as archive:
            bodies |= {
                f"{name}/{m.name}": archive.extractfile(m).read() for m in archive if m.isfile() and m.name.endswith((".html", ".htm"))
            }
    said, refreshed = [], 0
    for name, body in bodies.items():
        answer = read_page(Question("", "resiliparse", 1), body)
        refreshed += answer.reason == "meta_refresh"
        if answer.reason == "soft_404":
            said.append(name.removeprefix("web/site-flink.apache.org.tar.gz/").removeprefix("./"))
    assert sorted(said) == ["404.html", "zh/404.html"]
    assert refreshed == 263
    assert len(bodies) >= 79 + 137 + 218 + 633


@drawn(st.text(max_size=200), st.text(alphabet="<>h123/ not found404페이지\n", max_size=300))
def test_no_title_and_no_markup_make_it_fail(title: str, markup: str) -> None:
    assert is_soft_404(markup, title, "") in (True, False)


@pytest.mark.timeout(60)  # a quadratic search would take hours
@pytest.mark.parametrize("part", ["<h1>", "<h1 ", "<h1>page ", "page not ", "404 ", "페이지", " - ", "no se "])
def test_a_hostile_page_costs_no_more_than_its_length(part: str) -> None:
    long = part * (1_000_000 // len(part))
    assert not is_soft_404(long, long, "")
