"""Main text of pages from sites that no constant was chosen on: at least as good as the gates of the benchmark.

    make prove PROVE=tests/prove_extraction.py
    python tests/benchmarks/bench_extract.py --cross-validate       the same, with the tables printed

Leave-one-site-out cross-validation over three sets of pages (benchmarks/extract_sites.py), about half a minute of CPU time.
TEXTMILL_TEST_DATA names the folder of the pages.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import bench_extract

ARTICLES = 0.970  # mean F1


@pytest.mark.timeout(1800)
def test_on_sites_that_chose_nothing_extraction_is_better_than_trafilatura(data: Path) -> None:
    sets = bench_extract.every_set(data)
    scored, _ = bench_extract.cross_validated(sets, (bench_extract.PEER,))
    found, theirs = (sum((sums for _, sums in rows), Counter()) for rows in scored.values())
    assert found["article_f1"] / found["articles"] >= ARTICLES
    assert found["article_f1"] > theirs["article_f1"]
    assert found["wanted"] > theirs["wanted"] and found["unwanted"] < theirs["unwanted"]
    assert found["wanted_total"] == theirs["wanted_total"] > 300 and found["articles"] == len(sets["articles"])
