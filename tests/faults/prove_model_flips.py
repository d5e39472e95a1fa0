"""A flipped bit in every file that a training, a score or a command reads, and in the checkpoints of a killed training: `make prove`."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.artifact import SEAL, Artifact
from infra.compute import LocalCompute
from infra.errors import ArtifactError, ConfigError, DamagedInput
from infra.stage import Inputs, Stage
from infra.stage import run as run_stage
from infra.store import Store
from pipelines import chain, runner
from pipelines.models import export_to
from pipelines.runner import Order
from tests.end_to_end import mini
from tests.end_to_end.mini import Place
from tests.faults.bit_flips import flip
from tests.faults.test_kill import _untimed, strike

READERS = ("pretrain", "distill", "finetune", "evaluate", "encode", "blocks", "pairs")
IMPORTED = """\
  given: {{family: gpt2, size: tiny, tokenizer: bytes, init: {folder}}}
  more: {{family: gpt2, size: tiny, tokenizer: bytes, init: {folder}, pretrain: *short}}
"""


class Began(Exception):
    """A stage began to build from its inputs."""


class Quarantined(Exception):
    """An artifact that was there is not found any more: it is quarantined."""


class Reader:
    """The stages of a recipe in one place. wanted: the label of the one that reads; everything before it is only found."""

    def __init__(self, place: Place, recipe: str = "mini.yaml") -> None:
        self.place = place
        self.loaded = runner.check(Order(str(place.folder / recipe), place.workspace, plain=True))
        self.inputs: dict[str, dict[str, Artifact]] = {}

    def build(self, stages: tuple[str, ...]) -> None:
        """Find every stage, and build those of these names that are missing; fills `inputs`. Stages after a missing one are left out."""
        store, known = Store(self.place.workspace / "artifacts"), LocalCompute()

        def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
            key = stage.key(config, inputs)
            if all(store.here(one.stage, one.fingerprint) for one in inputs.values()):
                self.inputs[label or stage.name] = inputs
            found = store.find(stage.name, key, inputs)
            if found is None and stage.name in stages:
                return run_stage(stage, config, inputs, store, known)
            return found or Artifact(stage.name, key, store.path(stage.name, key))

        chain.run(do, self.loaded.recipe)

    def read(self, wanted: str, workspace: Path) -> None:
        """Raises DamagedInput or Quarantined when damage was found, Began when the stage would have worked."""
        store = Store(workspace / "artifacts")

        def refuse(config: Any, inputs: Inputs, out: Path, compute: Any) -> dict[str, int]:
            raise Began

        def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
            if (label or stage.name) == wanted:
                return run_stage(replace(stage, work=refuse), config, inputs, store, LocalCompute())
            key = stage.key(config, inputs)
            if found := store.find(stage.name, key, inputs):
                return found
            if Artifact(stage.name, key, Path()) in needed:
                raise Quarantined
            return Artifact(stage.name, key, store.path(stage.name, key))

        needed = set(self.inputs[wanted].values())
        chain.run(do, self.loaded.recipe)


def copied(place: Place, workspace: Path, inputs: dict[str, Artifact], damaged: Artifact) -> Path:
    """A workspace with what a stage reads, the site and, as a real copy, the artifact that is to be damaged."""
    shutil.rmtree(workspace, ignore_errors=True)
    sites = (place.workspace / "artifacts/site").glob("[!.]*")
    for path in {one.path for one in inputs.values()} | set(sites):
        target = workspace / "artifacts" / path.parent.name / path.name
        shutil.copytree(path, target, copy_function=shutil.copy2 if path == damaged.path else os.link)
    return workspace / "artifacts" / damaged.stage / damaged.fingerprint


def files_of(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flips(reader: Reader, label: str, workspace: Path, rng: random.Random) -> Iterator[tuple[str, str]]:
    """(kind of file, detected or harmless) for one bit of every file of every input of a stage."""
    inputs = reader.inputs[label]
    for source in {one.path: one for one in inputs.values()}.values():
        for name in files_of(source.path):
            folder = copied(reader.place, workspace, inputs, source)
            kind = flip(folder / name, rng)
            try:
                reader.read(label, workspace)
            except (DamagedInput, Quarantined):
                assert not folder.exists(), f"{source.stage}/{name}: it is still in its place"
                yield kind, "detected"
                continue
            except Began:
                pass
            now, then = Artifact(source.stage, source.fingerprint, folder).manifest, source.manifest
            same = name.name == "manifest.json" and {**then, SEAL: ""} == {key: now.get(key, "") for key in then} | {SEAL: ""}
            assert same, f"{label}: work began with a flipped bit in {source.stage}/{name}"
            yield kind, "harmless"


def readers(place: Place) -> list[str]:
    return [row["label"] for row in place.rows() if row["stage"] in READERS]


@pytest.fixture(scope="module")
def imported(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """The same recipe with two more models, of one exported: one as it is, one trained further."""
    place = finished.twin(tmp_path_factory.mktemp("imported") / "twin")
    shutil.copytree(finished.workspace / "runs", place.workspace / "runs")
    exported = export_to(place.workspace, "gpt", place.folder / "exported")
    text = mini.RECIPE.replace("students:\n", IMPORTED.format(folder=exported) + "students:\n")
    (place.folder / "more.yaml").write_text(text)
    reader = Reader(place, "more.yaml")
    reader.build(("import",))
    return reader


@pytest.mark.timeout(3600)
def test_nothing_is_trained_or_scored_from_a_flipped_bit(finished: Place, tmp_path: Path) -> None:
    reader = Reader(finished)
    reader.build(())
    found: Counter[tuple[str, str]] = Counter()
    for label in readers(finished):
        found.update(flips(reader, label, tmp_path / "flipped", random.Random(label)))
    print(dict(found))
    assert {kind for kind, _ in found} >= {".safetensors", ".json", ".jsonl", ".arrow"}
    assert sum(number for (_, how), number in found.items() if how == "detected") > 100


@pytest.mark.timeout(3600)
def test_nothing_is_trained_from_a_flipped_bit_of_an_imported_model(imported: Reader, tmp_path: Path) -> None:
    assert imported.inputs["more"]["init"].stage == "import"
    found: Counter[tuple[str, str]] = Counter()
    for label in ("more", *(label for label, inputs in imported.inputs.items() if label.startswith("evaluate") and "given" in label)):
        found.update(flips(imported, label, tmp_path / "flipped", random.Random(label)))
    print(dict(found))
    assert found[".safetensors", "detected"] >= 1


@pytest.mark.timeout(3600)
def test_no_command_uses_a_model_with_a_flipped_bit(finished: Place, tmp_path: Path) -> None:
    """generate, fill, predict and export all find their model by `model_folder`."""
    found: Counter[str] = Counter()
    trained = [row for row in finished.rows() if row["stage"] in ("pretrain", "distill", "finetune")]
    for row in trained:
        source = Artifact(row["stage"], row["fingerprint"], finished.made(row))
        for name in files_of(source.path):
            folder = copied(finished, tmp_path / "one", {"model": source}, source)
            shutil.copytree(finished.workspace / "runs", tmp_path / "one/runs")
            kind = flip(folder / name, random.Random(str(name)))
            try:
                export_to(tmp_path / "one", row["label"], tmp_path / "exported")
            except (ArtifactError, ConfigError):
                assert not (tmp_path / "exported").exists()
                found[kind] += 1
                continue
            assert name.name == "manifest.json", f"{row['label']}: {name} was exported with a flipped bit"
            shutil.rmtree(tmp_path / "exported")
    print(dict(found))
    assert found[".safetensors"] == len(trained) and found[".jsonl"]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("label", "sample"), [("gpt", 0), ("half", 6), ("package half", 6)])
def test_a_flipped_bit_of_an_unfinished_training_changes_no_weight(finished: Place, tmp_path: Path, label: str, sample: int) -> None:
    """Checkpoints, their manifests, the log of metrics, the list of inputs: damage costs steps, or the whole training, and no byte."""
    rows = {row["label"]: row for row in finished.rows()}
    [row] = [row for row in finished.rows() if row["label"] == label]
    dead = finished.twin(tmp_path / "dead")
    shutil.rmtree(dead.made(row))
    words = (*mini.RUN, "--until", row["stage"])
    strike(dead, label, 0.3, words)
    scratch = dead.made(row).with_name(f".{row['fingerprint']}")
    assert scratch.is_dir() and list(scratch.rglob("manifest.json")), "it was killed before its first checkpoint, or too late"
    names = files_of(scratch)
    rng, tried = random.Random(label), Counter[str]()
    for name in rng.sample(names, min(sample, len(names))) if sample else names:
        here = dead.twin(tmp_path / "flipped")
        shutil.rmtree(here.made(row).with_name(scratch.name), ignore_errors=True)
        shutil.copytree(scratch, here.made(row).with_name(scratch.name))
        tried[flip(here.made(row).with_name(scratch.name) / name, rng)] += 1
        made = {one["label"]: one for one in here.run(*words)}
        assert made[label]["state"] == "done", name
        assert _untimed(here.made(made[label])) == _untimed(finished.made(rows[label])), name
        shutil.rmtree(here.folder)
    print(f"{label}: {dict(tried)}")
