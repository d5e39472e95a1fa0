"""An artifact made here is found there, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from infra.artifact import Artifact, Counts
from infra.compute import Compute, LocalCompute
from infra.errors import ArtifactError
from infra.mirror import Mirror
from infra.stage import Stage, run
from infra.store import Store


def work(config: Mapping[str, str], inputs: Mapping[str, Artifact], out: Path, compute: Compute) -> Counts:
    (out / "model").mkdir(exist_ok=True)
    (out / "model" / "weights.txt").write_text(config["text"])
    return {"read": 1}


TOY = Stage("toy", 1, work)
CONFIG = {"text": "seven"}


def refuse(config: Mapping[str, str], inputs: Mapping[str, Artifact], out: Path, compute: Compute) -> Counts:
    raise AssertionError("made again although the mirror has it")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/bucket"


def test_another_machine_fetches_instead_of_making(tmp_path: Path, url: str) -> None:
    here = run(TOY, CONFIG, {}, Store(tmp_path / "here", Mirror(url)), LocalCompute())
    there = run(Stage("toy", 1, refuse), CONFIG, {}, Store(tmp_path / "there", Mirror(url)), LocalCompute())
    assert (there.path / "model" / "weights.txt").read_text() == "seven"
    assert there == here


def test_without_its_manifest_nothing_is_there(tmp_path: Path, url: str) -> None:
    here = run(TOY, CONFIG, {}, Store(tmp_path / "here", Mirror(url)), LocalCompute())
    (tmp_path / "bucket" / "toy" / here.fingerprint / "manifest.json").unlink()
    assert Store(tmp_path / "there", Mirror(url)).find("toy", here.fingerprint) is None


def test_a_broken_file_on_the_mirror_is_told_and_not_used(tmp_path: Path, url: str) -> None:
    here = run(TOY, CONFIG, {}, Store(tmp_path / "here", Mirror(url)), LocalCompute())
    (tmp_path / "bucket" / "toy" / here.fingerprint / "model" / "weights.txt").write_text("eight")
    with pytest.raises(ArtifactError, match=r"model/weights\.txt does not hash"):
        Store(tmp_path / "there", Mirror(url)).find("toy", here.fingerprint)
    assert not list((tmp_path / "there").rglob("weights.txt"))


def test_a_hostile_manifest_cannot_write_elsewhere(tmp_path: Path, url: str) -> None:
    here = run(TOY, CONFIG, {}, Store(tmp_path / "here", Mirror(url)), LocalCompute())
    manifest = tmp_path / "bucket" / "toy" / here.fingerprint / "manifest.json"
    record = json.loads(manifest.read_text())
    record["shards"][0]["name"] = "../../../evil.txt"
    manifest.write_text(json.dumps(record))
    with pytest.raises(ArtifactError, match="outside its artifact"):
        Store(tmp_path / "there", Mirror(url)).find("toy", here.fingerprint)
