"""Leave-one-site-out cross-validation of the constants of extraction, for bench_extract.py --cross-validate.

The constants of region.py and html.py on the grid below are chosen anew for every site, on all others; the site is scored with these.
A third of the sites, by a hash of their names, takes no part in any choice: it is scored with the constants that the others choose.
What is maximized: mean F1 of articles, plus the share of wanted and minus the share of unwanted snippets, plus half the mean F1 of the
agreement with Readability (a tool's output, hence half).
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import xxhash

REGIONS = [{"SHARE": share, "USUAL": usual} for share in (0.9, 0.95, 0.98) for usual in (0.3, 0.6, 0.9)]
CHECKS = [{"LESS": less, "MORE": more} for less in (0.6, 0.7, 0.8) for more in (1.05, 1.1, 1.2)]
GRID = list(itertools.product(range(len(REGIONS)), range(len(CHECKS))))
Sums = collections.Counter[str]
Score = Callable[[str, Any], Sums]


@dataclass(frozen=True)
class Candidate:
    """A page under one choice for the region: scores where the rules are believed and where they are doubted, two lengths, is_short."""

    believed: Sums
    doubted: Sums
    length: int
    main: int
    is_short: bool

    def scores(self, less: float, more: float) -> Sums:
        """The sums of the page under one choice of the check."""
        return self.believed if self.is_short or less * self.main <= self.length <= more * self.main else self.doubted


def reported_only(site: str) -> bool:
    """Whether a site is in the fixed third that no choice sees."""
    return xxhash.xxh3_64_intdigest(site.encode()) % 3 == 0


def objective(sums: Sums) -> float:
    """What a choice maximizes; see the module."""
    return (
        sums["article_f1"] / max(1, sums["articles"])
        + sums["wanted"] / max(1, sums["wanted_total"])
        - sums["unwanted"] / max(1, sums["unwanted_total"])
        + 0.5 * sums["readability_f1"] / max(1, sums["readability"])
    )


def candidates(pages: list[Any], score: Score) -> list[list[Candidate]]:
    """By page, the candidate of each choice of REGIONS."""
    from resiliparse.extract.html2text import extract_plain_text

    from data_prep.corpus import blocks, document, html, prose, region, tags

    found = []
    for page in pages:
        parsed = document.parse(page.markup)
        main = extract_plain_text(parsed.tree, main_content=True, alt_texts=False, preserve_formatting=True)
        given = blocks.blocks(tags.tokens(parsed.body()), region.drops)
        slow = html._trafilatura(parsed.markup, fast=True)
        row, known = [], {}
        before = {name: getattr(region, name) for name in REGIONS[0]}
        for choice in REGIONS:
            for name, value in choice.items():
                setattr(region, name, value)
            region.Region(given)
            ours = prose.with_outside(given, prose.by_rules(given), main)
            if tuple(ours) not in known:
                text = html.rendered(given, ours)
                doubted = html.decided(given, ours, text or html.clean(main), main, slow)
                is_short = html.is_short(given, ours, text, main)
                known[tuple(ours)] = Candidate(score(text, page), score(doubted, page), len(text), len(main), is_short)
            row.append(known[tuple(ours)])
        for name, value in before.items():
            setattr(region, name, value)
        found.append(row)
    return found


def cross_validate(pages: list[Any], score: Score) -> tuple[list[tuple[str, Sums]], dict[str, float], collections.Counter[str]]:
    """Sums by page scored without its site, with its site's name; the constants that all open sites choose; choices by how often."""
    rows = candidates(pages, score)
    table = [[row[r].scores(**{k.lower(): v for k, v in CHECKS[c].items()}) for r, c in GRID] for row in rows]
    of_site: dict[str, list[Sums]] = {}
    for page, row in zip(pages, table, strict=True):
        sums = of_site.setdefault(page.site, [collections.Counter() for _ in GRID])
        for total, each in zip(sums, row, strict=True):
            total.update(each)
    open_sites = sorted(site for site in of_site if not reported_only(site))
    total = [sum((of_site[site][at] for site in open_sites), collections.Counter()) for at in range(len(GRID))]

    def best(without: str = "") -> int:
        def value(at: int) -> float:
            sums = collections.Counter(total[at])
            if without:
                sums.subtract(of_site[without][at])
            return objective(sums)

        return max(range(len(GRID)), key=lambda at: (value(at), -at))

    chosen = {site: best("" if reported_only(site) else site) for site in of_site}
    named = collections.Counter(str(_constants(chosen[site])) for site in open_sites)
    return [(page.site, row[chosen[page.site]]) for page, row in zip(pages, table, strict=True)], _constants(best()), named


def _constants(at: int) -> dict[str, float]:
    region, check = GRID[at]
    return REGIONS[region] | CHECKS[check]


def report(scored: list[tuple[str, Sums]], name: str) -> list[str]:
    """Lines of a Markdown table: all sites, those that choose, the third that is only reported."""
    lines = []
    for title, wanted in (("all", (True, False)), ("choosing", (False,)), ("reported only", (True,))):
        sums = sum((each for site, each in scored if reported_only(site) in wanted), collections.Counter())
        lines.append(
            f"| {name} | {title} | {sums['article_f1'] / max(1, sums['articles']):.4f} | {sums['wanted']} of {sums['wanted_total']} "
            f"| {sums['unwanted']} of {sums['unwanted_total']} | {sums['readability_f1'] / max(1, sums['readability']):.4f} |"
        )
    return lines


def f1(found: collections.Counter[str], gold: collections.Counter[str]) -> float:
    """Of two bags of words."""
    total = sum(found.values()) + sum(gold.values())
    return 2 * sum((found & gold).values()) / total if total else 1.0
