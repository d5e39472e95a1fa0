"""Damage of every kind in a workspace: found before anything is built from it, quarantined with its descendants, rebuilt by a run."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import ArtifactError, DamagedInput, Unreadable
from infra.lineage import name_of
from infra.store import Store
from pipelines import runner
from pipelines.runner import Order
from pipelines.verify import verify
from tests.end_to_end.mini import Place, content
from tests.faults.tiny import text

RECIPE = """\
name: damage
corpus:
  sources:
    - {kind: documents, path: docs.jsonl, shards: 2}
  filter: {languages: [], min_words: 10, top_ngrams: [], duplicate_ngrams: []}
  takedown: gone.txt
tokenizers:
  bytes: {kind: byte_bpe, vocab: 300}
models:
  gpt: {family: gpt2, size: tiny, tokenizer: bytes, pretrain: {length: 16, batch_tokens: 64, tokens: 256}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    rng = random.Random(3)
    lines = [json.dumps({"text": text(rng), "id": str(n)}) for n in range(12)]
    (tmp_path / "docs.jsonl").write_text("\n".join([*lines, lines[0]]) + "\n")
    (tmp_path / "gone.txt").write_text("id:3\n")
    (tmp_path / "damage.yaml").write_text(RECIPE)
    return Place(tmp_path)


def built(place: Place, until: str, *, cached: int | None = None) -> dict[str, Path]:
    """Run the recipe in this process; where each label's artifact is."""
    prepared = runner.prepare(Order(str(place.folder / "damage.yaml"), place.workspace, until=until, plain=True))
    runner.carry_out(prepared, runner.plainly)
    if cached is not None:
        assert sum(row["state"] == "cached" for row in place.rows()) == cached, place.states()
    return {row["label"]: place.made(row) for row in place.rows()}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    with path.open("r+b") as file:
        file.write(data)


def shard(folder: Path) -> Path:
    return folder / "00001.arrow"


HARMS: dict[str, Callable[[Path], None]] = {
    "a flipped bit": lambda folder: flip(shard(folder)),
    "a flipped bit of the manifest": lambda folder: flip(folder / "manifest.json"),
    "truncated": lambda folder: os.truncate(shard(folder), shard(folder).stat().st_size - 9),
    "removed": lambda folder: shard(folder).unlink(),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "another file in its place": lambda folder: shard(folder).write_bytes(b"x" * shard(folder).stat().st_size),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_run_rebuilds_a_damaged_input_and_all_that_was_built_from_it(place: Place, harm: str) -> None:
    made = built(place, "takedown")
    wanted = {label: content(path) for label, path in made.items()}
    HARMS[harm](made["filter"])
    made["takedown"].rename(place.folder / "elsewhere")  # so that something has to be built
    made["dedup"].rename(place.folder / "elsewhere-2")
    again = built(place, "takedown")
    assert {label: content(path) for label, path in again.items()} == wanted
    assert list(made["filter"].parent.glob(".*.damaged-0")), "nothing is deleted"
    assert place.states() == {"documents": "cached", "filter": "done", "dedup": "done", "takedown": "done"}


def test_what_was_built_from_a_damaged_artifact_does_not_stay_cached(place: Place) -> None:
    made = built(place, "tokenizer")
    flip(shard(made["filter"]))
    store = Store(place.workspace / "artifacts")
    found = verify(store)
    names = [name_of(one.artifact).partition("/")[0] for one in found.quarantined]
    assert names == ["tokenizer", "takedown", "dedup", "filter"], "descendants first"
    by_stage = {row["artifact"].partition("/")[0]: row for row in found.as_json()["quarantined"]}
    assert [name.partition("/")[0] for name in by_stage["tokenizer"]["lineage"]] == ["filter", "dedup", "takedown", "tokenizer"]
    assert by_stage["filter"]["because"] == "" and "does not hash" in by_stage["filter"]["problem"]
    note = json.loads((Path(by_stage["dedup"]["moved_to"]) / "quarantine.json").read_text())
    assert note["because"] == by_stage["filter"]["artifact"]
    assert verify(Store(store.root)).damaged == []
    built(place, "tokenizer", cached=1)
    assert verify(Store(store.root)).damaged == []


def test_a_shared_file_takes_every_artifact_that_holds_it(place: Place) -> None:
    """What takedown has nothing to remove from is a hard link of dedup's."""
    (place.folder / "gone.txt").write_text("id:nobody\n")
    made = built(place, "takedown")
    assert shard(made["takedown"]).samefile(shard(made["dedup"]))
    flip(shard(made["takedown"]))
    found = verify(Store(place.workspace / "artifacts"))
    assert {name_of(one.artifact).partition("/")[0] for one in found.quarantined} == {"dedup", "takedown"}
    built(place, "takedown", cached=2)


def test_an_input_written_to_while_a_stage_works_is_not_built_from(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = built(place, "filter")
    wanted = content(built(place, "dedup")["dedup"])
    (place.workspace / "artifacts/dedup").rename(place.folder / "elsewhere")
    from data_prep.corpus import dedup

    real, seen = dedup.DEDUP.work, []

    def meddled(*args):
        counts = real(*args)
        if not seen:
            seen.append(flip(shard(made["filter"])))
        return counts

    object.__setattr__(dedup.DEDUP, "work", meddled)
    try:
        again = built(place, "dedup")
    finally:
        object.__setattr__(dedup.DEDUP, "work", real)
    assert content(again["dedup"]) == wanted and place.states()["filter"] == "done"


def test_an_artifact_made_from_other_content_is_rebuilt(place: Place) -> None:
    """A kill between the quarantine of a descendant and of what it was built from, a mirror, a removal by hand: all look like this."""
    made = built(place, "takedown")
    manifest = json.loads((made["dedup"] / "manifest.json").read_text())
    from infra.artifact import seal

    manifest["inputs"]["documents"]["content"] = "0" * 12
    manifest["xxh3"] = seal(manifest)
    (made["dedup"] / "manifest.json").write_text(json.dumps(manifest))
    built(place, "takedown", cached=2)
    assert verify(Store(place.workspace / "artifacts")).damaged == []


def test_files_are_hashed_once_in_a_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra import store as module

    hashed: list[Path] = []
    real = module.digest

    def counted(path: Path) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(module, "digest", counted)
    built(place, "takedown")
    assert not [path for path in hashed if path.suffix == ".arrow"], "what this run wrote was hashed when it was written"
    for stage in ("dedup", "takedown"):
        (place.workspace / "artifacts" / stage).rename(place.folder / stage)
    hashed.clear()
    built(place, "takedown")
    assert len(hashed) == len(set(hashed)) and all("/filter/" in str(path) for path in hashed)


def test_a_file_that_may_not_be_read_is_neither_damaged_nor_quarantined(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may be root, whom no mode keeps out: the refusal is put in."""
    made = built(place, "filter")
    from infra import store as module

    real = module.digest

    def refused(path: Path) -> str:
        if path == shard(made["filter"]):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(module, "digest", refused)
    with pytest.raises(Unreadable, match=r"00001\.arrow: Permission denied; give this user the right"):
        built(place, "dedup")
    assert made["filter"].exists() and not list(made["filter"].parent.glob(".*damaged*"))


def test_a_disk_that_returns_other_bytes_each_time_ends_the_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = built(place, "filter")

    def damaged(self: Store, artifacts):
        for artifact in artifacts:
            if artifact.stage == "filter":
                raise DamagedInput("bad", name_of(artifact))

    monkeypatch.setattr(Store, "check", damaged)
    with pytest.raises(ArtifactError, match="damaged each time; check the disk and the memory"):
        built(place, "dedup")
    assert made["filter"].exists()
