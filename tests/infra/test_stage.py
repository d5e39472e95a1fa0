"""A stage commits once, whole, and only after every shard is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from infra import finished
from infra.artifact import Artifact, Counts
from infra.compute import Compute, LocalCompute
from infra.errors import ArtifactError, StageFailed
from infra.log import attach
from infra.stage import Inputs, Stage, run
from infra.store import Store


@dataclass(frozen=True)
class Config:
    shards: int = 6
    broken: tuple[int, ...] = ()


def make(config: Config, out: Path, number: int) -> None:
    if number in config.broken and not (out / ".mended").exists():
        raise OSError(28, "No space left on device")
    with (out / ".log").open("a") as log:
        log.write(f"{number}\n")
    draft = out / f"{number}.part"
    draft.write_text(f"shard {number}")
    draft.rename(out / f"{number}.txt")
    finished.record(out / f"{number}.txt")


def work(config: Config, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    compute.map("toy", partial(make, config, out), [n for n in range(config.shards) if not (out / f"{n}.txt").exists()])
    return {"read": config.shards}


OWN = (".log", ".mended")
TOY = Stage("toy", 1, work, own=OWN)


def go(store: Store, config: Config | None = None, stage: Stage[Config] = TOY) -> Artifact:
    return run(stage, config or Config(), {}, store, LocalCompute())


def test_an_artifact_is_made_once_and_found_ever_after(store: Store) -> None:
    first = go(store)
    stamp = (first.path / "0.txt").stat().st_mtime_ns
    again = go(store)
    assert again == first
    assert (again.path / "0.txt").stat().st_mtime_ns == stamp
    assert first.counts == {"read": 6}
    assert [f["name"] for f in first.files] == [f"{n}.txt" for n in range(6)]


def test_a_failed_stage_leaves_its_finished_shards_and_no_artifact(store: Store) -> None:
    config = Config(broken=(2, 4))
    with pytest.raises(StageFailed, match=r"toy: 2 of 6 shards failed; shard 2: OSError.*shard 4: OSError"):
        go(store, config)
    key = TOY.key(config, {})
    scratch = store.root / "toy" / f".{key}"
    assert store.find("toy", key) is None
    assert sorted(p.name for p in scratch.glob("*.txt")) == ["0.txt", "1.txt", "3.txt", "5.txt"]
    (scratch / ".mended").touch()
    (scratch / ".log").unlink()
    mended = go(store, config)
    assert len(mended.files) == 6
    assert not (mended.path / ".mended").exists()


def test_the_second_try_does_only_the_rest(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(broken=(3,))
    with pytest.raises(StageFailed):
        go(store, config)
    scratch = store.root / "toy" / f".{TOY.key(config, {})}"
    (scratch / ".mended").touch()
    done: list[str] = []

    def look(config: Config, inputs: Inputs, out: Path, compute: Compute) -> Counts:
        (out / ".log").unlink()
        counts = work(config, inputs, out, compute)
        done.append((out / ".log").read_text())
        return counts

    go(store, config, Stage("toy", 1, look, own=OWN))
    assert done == ["3\n"]


def test_another_version_or_config_or_input_is_another_artifact(store: Store) -> None:
    base = go(store)
    assert go(store, stage=Stage("toy", 2, work)).fingerprint != base.fingerprint
    assert go(store, Config(shards=5)).fingerprint != base.fingerprint
    assert TOY.key(Config(), {"x": base}) != base.fingerprint


@pytest.mark.parametrize("harm", ["delete", "truncate"])
def test_a_harmed_artifact_is_set_aside_and_made_again_with_a_word_about_it(store: Store, harm: str) -> None:
    artifact = go(store)
    shard = artifact.path / "3.txt"
    shard.unlink() if harm == "delete" else shard.write_text("sh")
    told: list[str] = []
    detach = attach(lambda e: told.append(e.get("message", "")))
    try:
        again = go(store)
    finally:
        detach()
    assert (again.path / "3.txt").read_text() == "shard 3"
    assert any("3.txt" in message and "set aside" in message for message in told)
    assert list((store.root / "toy").glob(".*.damaged-0"))


def test_a_flipped_bit_is_found_by_verify(store: Store) -> None:
    artifact = go(store)
    store.verify(artifact)
    (artifact.path / "3.txt").write_text("shard 4")
    with pytest.raises(ArtifactError, match=r"3\.txt does not hash"):
        store.verify(artifact)


def test_two_tries_at_once_make_one_artifact_and_the_later_does_no_work(store: Store) -> None:
    made: list[int] = []

    def slow(config: Config, inputs: Inputs, out: Path, compute: Compute) -> Counts:
        made.append(1)
        threading.Event().wait(0.5)
        return work(config, inputs, out, compute)

    stage = Stage("toy", 1, slow)
    results: list[Artifact] = []
    threads = [threading.Thread(target=lambda: results.append(go(store, stage=stage))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert len({r.fingerprint for r in results}) == 1
    assert not list((store.root / "toy").glob(".*.lease"))


KILLED = """
import os, signal, sys
from pathlib import Path
from infra import finished
from infra.compute import LocalCompute
from infra.stage import Stage, run
from infra.store import Store

def work(config, inputs, out, compute):
    for n in range(6):
        if (out / f"{n}.txt").exists():
            continue
        if n == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        (out / f"{n}.part").write_text(f"shard {n}")
        (out / f"{n}.part").rename(out / f"{n}.txt")
        finished.record(out / f"{n}.txt")
    return {"read": 6}

run(Stage("toy", 1, work), {"shards": 6}, {}, Store(Path(sys.argv[1])), LocalCompute())
"""


def test_killed_at_any_shard_the_next_try_continues_at_once_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    listings = []
    for kills in ([], [1, 3, 5]):
        root = tmp_path / f"store{len(kills)}"
        codes = [
            subprocess.run([sys.executable, script, root, str(n)], env={**os.environ, "PYTHONPATH": "."}).returncode for n in [*kills, -1]
        ]
        assert codes == [-signal.SIGKILL] * len(kills) + [0]
        (artifact,) = Store(root).all()
        listings.append([artifact.fingerprint, artifact.files])
    assert listings[0] == listings[1]
