from __future__ import annotations

import random
import re
import unicodedata

import datasketch
import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from data_prep.corpus import minhash, words

SPACES = "".join(chr(c) for c in range(0x3001) if chr(c).isspace())
WORDS = st.lists(st.text(alphabet="abcXYZ.,é가한漢字-_1" + SPACES, max_size=12), max_size=60)


def sets_of(texts: list[str], n: int) -> list[set[int]]:
    found = minhash.shingles(words.split_texts(texts), n)
    return [set(found.of(d).tolist()) for d in range(found.documents)]


def by_hand(text: str, n: int) -> set[tuple[str, ...]]:
    """Shingles the slow way, for texts of scripts that are written with spaces."""
    bare = [re.sub(r"[\W_]+", "", word.lower()) for word in text.split()]
    bare = [word for word in bare if word]
    if not bare:
        return set()
    return {tuple(bare[i : i + n]) for i in range(len(bare) - n + 1)} or {tuple(bare)}


def similarity(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


@drawn(st.lists(st.text(alphabet="abcXYZ.,é \n\t-_1", max_size=80), min_size=2, max_size=6), st.integers(1, 5))
def test_shingle_sets_have_the_jaccard_of_sets_made_by_hand(texts: list[str], n: int) -> None:
    ours, theirs = sets_of(texts, n), [by_hand(t, n) for t in texts]
    assert [len(s) for s in ours] == [len(s) for s in theirs]
    for i in range(len(texts)):
        for j in range(i):
            assert similarity(ours[i], ours[j]) == similarity(theirs[i], theirs[j])


@drawn(WORDS)
def test_words_of_a_batch_are_the_words_of_each_text_alone(texts: list[str]) -> None:
    together = words.split_texts(texts)
    for d, text in enumerate(texts):
        expected = words.spaced(text).split()
        got = [together.vocabulary[i] for i in together.ids[together.starts[d] : together.starts[d + 1]]]
        assert got == expected


def test_scripts_without_spaces_give_a_word_a_character() -> None:
    assert words.split_texts(["漢字かな"]).counts.tolist() == [4]
    assert words.split_texts(["한국어 문장을 띄어 쓴 글"]).counts.tolist() == [5]
    crowded = "띄어쓰기를하지않은아주긴한국어문장입니다"
    assert words.split_texts([crowded]).counts.tolist() == [len(crowded)]


@pytest.mark.parametrize(("shared", "own"), [(3, 1), (20, 5), (80, 10), (80, 80), (1600, 200)])
def test_the_sketch_estimates_jaccard_as_well_as_theory_allows(shared: int, own: int) -> None:
    rng = np.random.default_rng(shared)
    draw = rng.integers(0, 1 << 63, (200, shared + 2 * own), dtype=np.uint64)
    sets = [part for row in draw for part in (row[: shared + own], np.concatenate((row[:shared], row[shared + own :])))]
    starts = np.arange(401) * (shared + own)
    sketch = minhash.signatures(minhash.Shingles(np.concatenate(sets), starts), 112)
    true = shared / (shared + 2 * own)
    errors = np.array([minhash.estimate(sketch[2 * i], sketch[2 * i + 1]) - true for i in range(200)])
    theory = (true * (1 - true) / 112) ** 0.5
    assert abs(errors.mean()) < 4 * theory / 200**0.5
    assert np.sqrt((errors**2).mean()) < 1.15 * theory


def test_estimates_agree_with_datasketch_on_real_reviews(json_lines) -> None:
    texts = [row["text"] for row in json_lines("text/en/movie-reviews.jsonl.gz")[:60]]
    rng = random.Random(1)
    pairs = []
    for text in texts:  # real prose, with a share of its words taken out to make relatives of it
        kept = [word for word in text.split() if rng.random() > 0.01]
        pairs.append((text, " ".join(kept)))
    flat = [text for pair in pairs for text in pair]
    found = minhash.shingles(words.split_texts(flat), 5)
    sketch = minhash.signatures(found, 112)
    ours, theirs, true = [], [], []
    for i in range(0, len(flat), 2):
        a, b = by_hand(flat[i], 5), by_hand(flat[i + 1], 5)
        true.append(similarity(a, b))
        ours.append(minhash.estimate(sketch[i], sketch[i + 1]))
        oracle = []
        for shingles in (a, b):
            m = datasketch.MinHash(num_perm=112)
            m.update_batch([" ".join(s).encode() for s in sorted(shingles)])
            oracle.append(m)
        theirs.append(oracle[0].jaccard(oracle[1]))
    ours_error = np.sqrt(np.mean(np.square(np.array(ours) - true)))
    theirs_error = np.sqrt(np.mean(np.square(np.array(theirs) - true)))
    assert ours_error < 0.045
    assert ours_error < 1.3 * theirs_error


def test_a_sketch_hangs_on_nothing_but_the_set() -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    doubled = np.concatenate((values[::-1], values[:50]))
    other = rng.integers(0, 1 << 63, 40, dtype=np.uint64)
    alone = minhash.signatures(minhash.Shingles(values, np.array([0, 300])), 112)[0]
    among = minhash.signatures(minhash.Shingles(np.concatenate((other, doubled)), np.array([0, 40, 40, 390])), 112)
    assert (among[2] == alone).all()
    assert (among[1] == among[1].max()).all()  # an empty set fills no slot, and stops nobody


def test_bands_are_the_fewest_false_candidates_that_still_find_what_is_asked() -> None:
    number, rows = minhash.bands(0.8, 112)
    assert (number, rows) == (22, 5)
    assert minhash.found_at(0.8, number, rows) >= 0.999
    assert minhash.found_at(0.8, 112 // 6, 6) < 0.999
    for threshold in (0.05, 0.3, 0.5, 0.95):
        number, rows = minhash.bands(threshold, 112)
        assert 1 <= number * rows <= 112


@drawn(st.text(max_size=60))
def test_exact_keys_ignore_case_and_white_space_and_nothing_else(text: str) -> None:
    variants = [text, "  " + text.replace(" ", " \n ") + "\t", text + " extra"]
    split = words.split_texts(variants)
    keys = minhash.exact_keys(split, variants)
    if split.counts[0]:
        assert (keys[0] == keys[1]).all()
    assert not (keys[0] == keys[2]).all()


def test_composed_and_decomposed_korean_are_the_same_once_normalised() -> None:
    text = "영화가 정말 재미있었습니다"
    decomposed = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text))
    assert sets_of([text], 2) == sets_of([decomposed], 2)
