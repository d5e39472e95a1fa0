from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from data_prep.tokenizer.catalog import LOADERS, load
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig, sample, sampled
from infra.artifact import Artifact, Counts
from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.stage import run
from infra.store import Store

KINDS = list(LOADERS)
Documents = Callable[..., Artifact]


def contents(artifact: Artifact) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((artifact.path / "tokenizer").iterdir())}


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_number_of_shards_change_no_byte(store: Store, documents: Documents, texts: list[str], kind: str) -> None:
    shuffled = random.Random(1).sample(texts, len(texts))
    config = TokenizerConfig(kind, 450)
    made = [
        run(TOKENIZER, config, {"documents": documents(t, count, f"d{count}")}, Store(store.root / str(count)), LocalCompute())
        for t, count in ((texts, 1), (shuffled, 5))
    ]
    assert contents(made[0]) == contents(made[1])


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_makes_the_same_bytes(trained: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """Hash maps are seeded anew in each process: what depends on their order shows here."""
    here = Path(__file__).parent
    code = "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import conftest as c; "
    code += "c.TRAINERS[sys.argv[2]](c.make_texts(), Path(sys.argv[3]))"
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        subprocess.run(
            [sys.executable, "-c", code, str(here), kind, str(folder)],
            check=True,
            cwd=here.parents[2],
            env={"PYTHONHASHSEED": str(attempt)},
        )
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in trained[kind].iterdir()}


def test_counts_say_what_was_read_and_what_came_of_it(store: Store, documents: Documents, texts: list[str]) -> None:
    made = run(TOKENIZER, TokenizerConfig(vocab=400), {"documents": documents(texts)}, store, LocalCompute())
    counts = made.counts
    size = sum(len(t.encode()) for t in texts)
    assert (counts["documents"], counts["bytes"], counts["sampled_documents"], counts["sampled_bytes"]) == (300, size, 300, size)
    ids = load(made).encode_batch(sorted(texts))
    assert counts["measured_tokens"] == sum(map(len, ids)) and counts["measured_bytes"] == size and counts["vocab"] == 400


def test_a_corpus_too_small_for_its_vocabulary_is_recorded(store: Store, documents: Documents) -> None:
    made = run(TOKENIZER, TokenizerConfig(vocab=5000), {"documents": documents(["aab aab", "aab"], 1)}, store, LocalCompute())
    assert made.counts["vocab"] == load(made).vocab < 265 and made.counts["vocab_asked"] == 5000


def test_what_a_killed_try_left_is_not_committed(store: Store, documents: Documents, texts: list[str]) -> None:
    source, config = documents(texts), TokenizerConfig(vocab=300)
    left = store.root / "tokenizer" / f".{TOKENIZER.key(config, {'documents': source})}" / ".tokenizer.99999"
    left.mkdir(parents=True)
    (left / "tokenizer.json").write_text("{half")
    made = run(TOKENIZER, config, {"documents": source}, store, LocalCompute())
    names = ["meta.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert [f["name"] for f in made.files] == [f"tokenizer/{name}" for name in names]


def test_the_sample_is_chosen_by_document_not_by_place(documents: Documents, texts: list[str], tmp_path: Path) -> None:
    def taken(texts: list[str], count: int, name: str, limit: int) -> tuple[list[str], Counts]:
        paths, scratch = documents(texts, count, name).shards, tmp_path / name
        counts = sample(paths, limit, scratch, LocalCompute())
        assert counts == sample(paths, limit, scratch, LocalCompute())  # a second try takes what the first one wrote
        return sampled([scratch / path.name for path in paths]), counts

    limit = 5000
    one, counts = taken(texts, 1, "a", limit)
    two, others = taken(texts[::-1], 7, "b", limit)
    assert one == two and counts == others and limit <= counts["sampled_bytes"] < limit + 400
    assert counts["sampled_documents"] == len(one) < 60 and counts["sampled_bytes"] == sum(len(text.encode()) for text in one)

    def hashed(text: str) -> int:
        return xxhash.xxh3_64_intdigest(b"tokenizer sample " + xxhash.xxh3_64_hexdigest(text.encode()).encode())

    assert sorted(one) == sorted(sorted(texts, key=hashed)[: len(one)])
    assert set(taken(texts, 1, "a2", 2 * limit)[0]) > set(one)
    assert sorted(taken(texts, 3, "all", 10**9)[0]) == sorted(texts)


def test_two_ray_workers_make_the_bytes_that_one_process_makes(store: Store, documents: Documents, texts: list[str]) -> None:
    from infra.ray_compute import RayCompute

    source = documents(texts, 5)
    with RayCompute(cpus=2) as ray:
        for kind in KINDS:
            config = TokenizerConfig(kind, 450, sample_bytes=12_000)
            here = run(TOKENIZER, config, {"documents": source}, Store(store.root / "here"), LocalCompute())
            there = run(TOKENIZER, config, {"documents": source}, Store(store.root / "there"), ray)
            assert contents(here) == contents(there) and 12_000 <= here.counts["sampled_bytes"] < 12_400 < here.counts["bytes"]


def test_impossible_wishes_are_refused(store: Store, documents: Documents, texts: list[str]) -> None:
    for wrong in ({"kind": "bpe"}, {"vocab": 256}, {"sample_bytes": 0}, {"coverage": 0.2}):
        with pytest.raises(ConfigError):
            TokenizerConfig(**wrong)  # type: ignore[arg-type]
    for kind in KINDS[1:]:
        with pytest.raises(ConfigError, match="vocab 12"):
            run(TOKENIZER, TokenizerConfig(kind, 12), {"documents": documents(texts, 1, kind)}, store, LocalCompute())
    with pytest.raises(ConfigError, match="no text"):
        run(TOKENIZER, TokenizerConfig(), {"documents": documents([], 1, "none")}, store, LocalCompute())
