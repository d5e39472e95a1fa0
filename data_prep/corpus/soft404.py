"""Pages that say "not found" though the server said 200: little text, under a title or heading that says so.

Both must hold, so that an article about missing pages stays. A title is cut at its separators; one part must hold the phrase and not
much else. English, German, French, Spanish, Portuguese, Italian, Dutch, Nordic, Polish, Czech, Hungarian, Turkish, Russian, Korean,
Japanese, Chinese.
"""

from __future__ import annotations

import re
import unicodedata
from html import unescape

LITTLE = 1_000  # characters of main text; one of a script without spaces between words counts as two
PART = 80  # characters of the part of a title or heading in which the phrase stands
HEADINGS = 12  # that are looked at
START = 100_000  # characters of markup in which they are looked for
_HEADING = re.compile(r"<(h[123])\b[^>]{0,500}>(.{1,1000}?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_SEPARATOR = re.compile(r"\s[-\u2010-\u2015:/\\]+\s|[|»«›‹·•]|[:.!?…]\s|[。！？]")
_WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
_WHOLE = re.compile("|".join(("404", "(object )?not found", "nothing (was )?found", "nicht gefunden", "no encontrado", "não encontrado")))
_THING = r"\b(page|webpage|url|file|document|resource|content|object)\b"
_GONE = (
    r"\b(not (be )?found|can(not|'t| not) be found|could(n't| not) be found|(does not|doesn't|no longer) exists?|"
    r"(no longer|not|isn't) available|missing)\b"
)
_PHRASE = re.compile(
    "|".join(
        (
            rf"{_THING}.{{0,40}}{_GONE}",
            rf"\b(can't|cannot|can not|couldn't|could not|unable to) find .{{0,30}}{_THING}",
            r"\b404\b.{0,20}\b(not found|error|page|fehler|erreur|seite)\b",
            r"\b(error|http|fehler|erreur|status|code|page|ошибка)\W{0,3}404\b",
            r"\b(seite|datei|url|dokument|inhalt)\b.{0,40}\bnicht (mehr )?(gefunden|verfügbar|vorhanden)\b|\bseite existiert .{0,10}nicht",
            r"\b(page|contenu|document)\b.{0,40}\b(introuvable|(pas|non|plus) (été )?(trouvée?|disponible))\b|\bpage n'existe (pas|plus)\b",
            r"\bp[aáà]gina\b.{0,30}\b(no|não|non|niet|nu) (\w+ ){0,2}(encontrada|encontró|existe|esiste|trovata|gevonden|trobat|găsită)\b",
            r"\b(no|não) (se )?(encontramos|encontró|encontrou|pudimos encontrar) .{0,12}\bpágina\b",
            r"\bsid(en|an)\b.{0,20}\b(ikke|inte) (fundet|funnet|hitta)|\bnie znaleziono strony|\bstrona nie (została znaleziona|istnieje)",
            r"\bstránka (nebyla nalezena|nenalezena|neexistuje|sa nenašla)",
            r"\boldal nem található|\bsayfa bulunamadı|\bстраница не (найдена|существует)|\bсторінк[аиу] не знайдено?",
            r"(페이지|문서|파일|게시물|게시글|주소).{0,6}(찾을 ?수 ?없|존재하지 ?않)|존재하지 ?않는 ?(페이지|문서|파일|게시물|게시글|주소)",
            r"(ページ|ファイル|記事).{0,6}(見つかりません|見つかりませんでした|存在しません|ありません)",
            r"(页面|网页|頁面|網頁|文件).{0,6}(不存在|未找到|没有找到|沒有找到|找不到|已删除|不見了)|(找不到|未找到|没有找到|沒有找到).{0,8}(页面|网页|頁面|網頁)",
        )
    )
)


def is_soft_404(markup: str, title: str, text: str) -> bool:
    """Whether a page with this title and main text only says that there is none."""
    if len(text) + len(_WIDE.findall(text)) > LITTLE:
        return False
    if _says_it(title):
        return True
    found = (heading[2] for _, heading in zip(range(HEADINGS), _HEADING.finditer(markup, 0, START), strict=False))
    return any(_says_it(unescape(_TAG.sub(" ", heading))) for heading in found)


def _says_it(line: str) -> bool:
    line = " ".join(unicodedata.normalize("NFC", line[:500]).lower().replace("\u2019", "'").split())
    parts = [part.strip(" ,;.!?…-–—:\"'()[]") for part in (line, *_SEPARATOR.split(line))]
    return any(_WHOLE.fullmatch(part) or (len(part) <= PART and _PHRASE.search(part)) for part in parts)
