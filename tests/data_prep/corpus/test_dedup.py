from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pytest

from data_prep import schemas, shards
from data_prep.corpus import html
from data_prep.corpus.dedup import DEDUP, DedupConfig
from data_prep.corpus.filter import FILTER, FilterConfig
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store

Groups = set[frozenset[str]]


def shingles(text: str, n: int = 5) -> set[tuple[str, ...]]:
    text = re.sub("([\u3040-\u30ff\u4e00-\u9fff])", r" \1 ", text)
    text = re.sub("[\uac00-\ud7a3]{13,}", lambda run: " " + " ".join(run[0]) + " ", text)  # Korean typed without spaces
    bare = [w for w in (re.sub(r"[\W_]+", "", word.lower()) for word in text.split()) if w]
    return {tuple(bare[i : i + n]) for i in range(len(bare) - n + 1)} or ({tuple(bare)} if bare else set())


def brute_force(texts: dict[str, str], threshold: float, n: int = 5) -> set[frozenset[str]]:
    """Every pair at or above the threshold, by counting common shingles: no hashing, no sketch."""
    sets = {name: shingles(text, n) for name, text in texts.items()}
    holders: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, found in sets.items():
        for shingle in found:
            holders[shingle].append(name)
    common = Counter(pair for names in holders.values() if len(names) > 1 for pair in itertools.combinations(sorted(names), 2))
    return {frozenset((a, b)) for (a, b), n in common.items() if n / (len(sets[a]) + len(sets[b]) - n) >= threshold}


def joined(pairs: set[frozenset[str]]) -> Groups:
    """Connected components, one merge at a time."""
    groups: list[set[str]] = []
    for pair in pairs:
        touching = [g for g in groups if g & pair]
        groups = [g for g in groups if not g & pair] + [set(pair).union(*touching)]
    return {frozenset(g) for g in groups}


def groups_of(table: list[dict]) -> Groups:
    found: dict[str, set[str]] = defaultdict(set)
    for row in table:
        found[row["cluster"]].add(row["document"])
    return {frozenset(names) for names in found.values()}


def test_the_ten_planted_pairs_are_found_and_nothing_else(articles, given, rows, store, local) -> None:
    documents, truth = articles
    config = DedupConfig(jaccard=0.5)
    made = run(DEDUP, config, {"documents": given([documents[:300], documents[300:]])}, store, local)
    found = groups_of(rows(made.side("clusters")))
    assert found == joined(brute_force({d["id"]: d["text"] for d in documents}, 0.5))
    assert found == truth
    assert made.counts["kept"] == 990
    assert made.counts["removed.near"] + made.counts["removed.exact"] == 10


def test_the_real_duplicates_among_film_reviews_are_those_of_brute_force(json_lines, given, rows, store, local) -> None:
    reviews = json_lines("text/en/movie-reviews.jsonl.gz")
    documents = [{"id": str(row["id"]), "text": row["text"]} for row in reviews]
    expected = joined(brute_force({d["id"]: d["text"] for d in documents}, 0.61))
    made = run(DEDUP, DedupConfig(jaccard=0.61), {"documents": given([documents[i::3] for i in range(3)])}, store, local)
    table = rows(made.side("clusters"))
    assert len(expected) == 8
    assert groups_of(table) == expected
    assert min(row["jaccard"] for row in table) >= 0.61
    strict = run(DEDUP, DedupConfig(jaccard=1.0), {"documents": given([documents[i::3] for i in range(3)])}, store, local)
    assert strict.counts["removed.near"] == 0
    assert strict.counts["removed.exact"] <= 2


def test_near_duplicates_of_a_real_web_site_are_those_of_brute_force(data: Path, given, rows, store, local) -> None:
    texts: dict[str, str] = {}
    with tarfile.open(data / "web/site-flink.apache.org.tar.gz") as tar:
        for member in tar:
            if member.name.endswith(".html"):
                markup = tar.extractfile(member).read().decode("utf-8", "replace")
                if len(text := html.extract(markup, "resiliparse").text) > 500:
                    texts[member.name] = text
    expected = joined(brute_force(texts, 0.78))
    documents = [{"id": name, "text": text} for name, text in texts.items()]
    made = run(DEDUP, DedupConfig(jaccard=0.78), {"documents": given([documents[::2], documents[1::2]])}, store, local)
    assert len(expected) >= 4
    assert groups_of(rows(made.side("clusters"))) == expected


@pytest.mark.parametrize(("jaccard", "ngram"), [(0.8, 5), (0.5, 2), (0.5, 1)])
def test_short_korean_reviews_are_grouped_as_by_brute_force(json_lines, given, rows, store, local, jaccard: float, ngram: int) -> None:
    reviews = [{"id": row["id"], "text": row["text"] or ""} for row in json_lines("text/ko/naver-movie-reviews.jsonl.gz")[::24]]
    texts = {row["id"]: row["text"] for row in reviews}
    expected = brute_force(texts, jaccard, ngram)
    equal: dict[object, list[str]] = defaultdict(list)
    for name, text in texts.items():
        equal[tuple(text.lower().split()) or text].append(name)  # those without a letter have no shingles
    expected |= {frozenset((first, other)) for first, *others in equal.values() for other in others}
    made = run(DEDUP, DedupConfig(jaccard=jaccard, ngram=ngram), {"documents": given([reviews[i::3] for i in range(3)])}, store, local)
    assert groups_of(rows(made.side("clusters"))) == joined(expected)
    assert made.counts["kept"] == len(reviews) - sum(len(group) - 1 for group in joined(expected))


def family(rng: random.Random, number: int) -> list[dict]:
    """A text, an equal one, a near one and a stranger."""
    base = [f"w{rng.randrange(5000)}" for _ in range(120)]
    near = [*base]
    near[3] = "changed"
    texts = [" ".join(base), "  ".join(base).upper(), " ".join(near) + " tail", " ".join(f"x{rng.randrange(5000)}" for _ in range(80))]
    karma = [None, 7, 3, 1]
    return [{"url": f"http://h{number}.test/{i}", "text": t, "karma": k} for i, (t, k) in enumerate(zip(texts, karma, strict=True))]


def corpus(families: int = 12) -> list[dict]:
    rng = random.Random(11)
    return [row for number in range(families) for row in family(rng, number)]


def test_the_kept_set_does_not_hang_on_the_order_or_the_number_of_shards(given, rows, store, local) -> None:
    documents = corpus()
    kept, seen = [], []
    for seed, parts in ((0, 1), (1, 3), (2, 7), (3, 48)):
        shuffled = random.Random(seed).sample(documents, len(documents))
        made = run(DEDUP, DedupConfig(), {"documents": given([shuffled[i::parts] for i in range(parts)])}, store, local)
        kept.append(sorted(row["url"] for row in rows(made.shards)))
        seen.append(sorted((r["cluster"], r["document"], r["survivor"], r["jaccard"]) for r in rows(made.side("clusters"))))
        assert made.counts["read"] == 48
        assert (made.counts["kept"], made.counts["removed.near"] + made.counts["removed.exact"]) == (24, 24)
    assert all(k == kept[0] for k in kept)
    assert all(s == seen[0] for s in seen)


def test_the_survivor_is_the_longest_then_the_one_with_most_karma_then_the_smallest_id(given, rows, store, local) -> None:
    base = " ".join(f"word{i}" for i in range(50))
    same = [{"id": "c", "text": base, "karma": 5}, {"id": "b", "text": base, "karma": 9}, {"id": "a", "text": base, "karma": 9}]
    made = run(DEDUP, DedupConfig(), {"documents": given([same])}, store, local)
    assert [row["id"] for row in rows(made.shards)] == ["a"]
    longer = [*same, {"id": "z", "text": base + " word50", "karma": None}]
    made = run(DEDUP, DedupConfig(), {"documents": given([longer])}, store, local)
    assert [row["id"] for row in rows(made.shards)] == ["z"]
    made = run(DEDUP, DedupConfig(survivor=("karma", "id")), {"documents": given([longer])}, store, local)
    assert [row["id"] for row in rows(made.shards)] == ["a"]
    assert {row["survivor_id"] for row in rows(made.side("duplicates"))} == {"a"}


def test_sides_tell_what_went_and_for_whom(given, rows, store, local) -> None:
    documents = corpus(3)
    made = run(DEDUP, DedupConfig(), {"documents": given([documents[:7], documents[7:]])}, store, local)
    gone, table, kept = rows(made.side("duplicates")), rows(made.side("clusters")), rows(made.shards)
    assert {row["url"] for row in gone} | {row["url"] for row in kept} == {row["url"] for row in documents}
    assert {row["survivor_id"] for row in gone} <= {row["id"] for row in kept}
    assert sum(row["survivor"] for row in table) == 3
    assert all(row["jaccard"] == 1.0 for row in table if row["survivor"])
    assert shards.read(made.shards[0]).schema.remove_metadata() == schemas.DOCUMENTS
    assert shards.read(made.side("duplicates")[0]).schema.remove_metadata() == schemas.DUPLICATES


def test_short_texts_korean_and_chinese_are_compared_too(given, rows, store, local) -> None:
    korean = "이 영화는 정말 재미있게 봤습니다 배우들의 연기도 훌륭했고 음악도 아주 좋았습니다 다시 보고 싶은 영화입니다 추천합니다"
    chinese = "这部电影非常好看我很喜欢里面的音乐和演员的表演都非常出色希望以后还能看到这样的作品推荐大家去看一看"
    crowded = korean.replace(" ", "")
    texts = ["Good film.", "good film", "Bad film.", "!!!", "???", korean, korean + " 꼭", chinese, chinese + "吧", crowded, crowded + "꼭"]
    made = run(DEDUP, DedupConfig(), {"documents": given([[{"id": str(i), "text": t} for i, t in enumerate(texts)]])}, store, local)
    assert groups_of(rows(made.side("clusters"))) == {frozenset(p) for p in (("0", "1"), ("5", "6"), ("7", "8"), ("9", "10"))}


def test_documents_go_together_through_one_between_them(given, rows, store, local) -> None:
    line = [f"w{i}" for i in range(104)]
    texts = {"a": line[:100], "b": line + [f"p{i}" for i in range(12)], "c": line[12:] + [f"p{i}" for i in range(20)]}
    pairs = brute_force({k: " ".join(v) for k, v in texts.items()}, 0.75)
    assert pairs == {frozenset("ab"), frozenset("bc")}
    documents = given([[{"id": k, "text": " ".join(v)} for k, v in texts.items()]])
    made = run(DEDUP, DedupConfig(jaccard=0.75), {"documents": documents}, store, local)
    assert groups_of(rows(made.side("clusters"))) == {frozenset("abc")}


@pytest.mark.timeout(120)
def test_a_crowd_of_equal_and_nearly_equal_pages_takes_linear_time(given, store, local) -> None:
    page = " ".join(f"menu{i}" for i in range(200))
    documents = [{"url": f"http://s.test/{i}", "text": f"{page} number {i}"} for i in range(1500)]
    documents += [{"url": f"http://e.test/{i}", "text": page} for i in range(1500)]
    made = run(DEDUP, DedupConfig(), {"documents": given([documents])}, store, local)
    assert made.counts["kept"] == 1


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"jaccard": 0.0}, {"jaccard": 1.2}, {"ngram": 0}, {"permutations": 0}, {"survivor": ("newest",)}):
        with pytest.raises(ConfigError):
            DedupConfig(**wrong)


def test_an_empty_corpus_and_empty_shards_are_fine(given, store, local) -> None:
    assert run(DEDUP, DedupConfig(), {"documents": given([[], []])}, store, local).counts["kept"] == 0
    assert run(DEDUP, DedupConfig(), {"documents": given([[], corpus(1), []])}, store, local).counts["kept"] == 2


KILLED = """
import os, pickle, signal, sys
from data_prep import shards
from data_prep.corpus.dedup import DEDUP, DedupConfig
from infra.compute import LocalCompute
from infra.stage import run
from infra.store import Store
documents, root, left = pickle.loads(bytes.fromhex(sys.argv[1])), sys.argv[2], int(sys.argv[3])
write = shards.write
def counted(*args, **more):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    write(*args, **more)
shards.write = counted
run(DEDUP, DedupConfig(), {"documents": documents}, Store(root), LocalCompute())
"""


def test_killed_after_any_write_it_continues_and_ends_with_the_same_bytes(given, content, store, tmp_path: Path) -> None:
    import pickle

    documents = given([corpus(4)[:9], corpus(4)[9:]])
    whole = content(run(DEDUP, DedupConfig(), {"documents": documents}, store, LocalCompute()))
    root = tmp_path / "killed"
    tries = 0
    for left in itertools.cycle((3, 1, 8, 5)):
        tries += 1
        args = [sys.executable, "-c", KILLED, pickle.dumps(documents).hex(), str(root), str(left)]
        done = subprocess.run(args, env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        assert tries < 40
    assert tries > 3
    again = Store(root)
    assert content(again.all()[0]) == whole


@pytest.mark.ray
def test_filter_and_dedup_give_the_same_bytes_on_ray(given, content, store, tmp_path: Path) -> None:
    from infra.ray_compute import RayCompute

    documents = given([[*corpus(6)[i::5], {"url": f"http://short.test/{i}", "text": "Short."}] for i in range(5)])
    config = FilterConfig(languages=(), min_mean_word=None, min_stop_words=None)

    def both(root: Path, compute) -> list[dict[str, bytes]]:
        there = Store(root)
        good = run(FILTER, config, {"documents": documents}, there, compute)
        return [content(good), content(run(DEDUP, DedupConfig(), {"documents": good}, there, compute))]

    here = both(tmp_path / "here", LocalCompute())
    with RayCompute(cpus=2) as ray:
        assert both(tmp_path / "ray", ray) == here
    assert pa.ipc.open_file(here[1]["00000.arrow"]).read_all().num_rows > 0
