"""A growing corpus: each date builds on the one before it, whatever order they are run in, and says so when that is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from infra.artifact import Artifact
from infra.errors import ArtifactError, ConfigError
from infra.stage import Stage
from infra.store import Store
from pipelines import chain
from pipelines.growth import Growth
from pipelines.plan import plan
from pipelines.recipe import Recipe, load
from pipelines.runner import Order, carry_out, plainly, prepare
from pipelines.verify import verify
from tests.end_to_end.mini import content

GROWS = """\
name: days
corpus:
  grow: true
  sources:
    - {kind: documents, path: "day*.jsonl"}
  filter: {languages: [], min_words: 3, min_stop_words: null}
"""


def text_of(number: int) -> str:
    """Forty words that no other number has."""
    return " ".join(f"word{number}x{place}" for place in range(40)) + "."


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "days.yaml").write_text(GROWS)
    add(tmp_path, 1, text_of(1), text_of(2))
    return tmp_path


def add(place: Path, day: int, *texts: str) -> None:
    (place / f"day{day}.jsonl").write_text("".join(json.dumps({"id": f"{day}-{n}", "text": t}) + "\n" for n, t in enumerate(texts)))


def recipe(place: Path, date: str = "", *more: str) -> Recipe:
    return load(str(place / "days.yaml"), ((f"date={date}",) if date else ()) + more).recipe


def go(place: Path, date: str, *more: str, until: str = "dedup") -> dict[str, Artifact]:
    order = Order(str(place / "days.yaml"), place / "work", (f"date={date}", *more), until, plain=True)
    return carry_out(prepare(order), plainly).artifacts


def asked(recipe: Recipe, earlier: dict[str, Artifact]) -> dict[str, dict[str, Artifact]]:
    """Label -> inputs."""
    told: dict[str, dict[str, Artifact]] = {}

    def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        told[label] = inputs
        return Artifact(stage.name, stage.key(config, inputs), Path("nowhere"))

    chain.run(do, recipe, "dedup", earlier=earlier)
    return told


def test_links_crawl_and_dedup_get_what_the_date_before_made_and_nothing_else_does() -> None:
    demo = load("demo").recipe
    earlier = {name: Artifact(name, "0" * 12, Path("nowhere")) for name in ("links", "crawl", "dedup")}
    told = asked(demo, earlier)
    assert {label: inputs["earlier"] for label, inputs in told.items() if "earlier" in inputs} == earlier
    assert not any("earlier" in inputs for inputs in asked(demo, {}).values())


def test_a_growing_corpus_without_a_date_is_refused_and_nothing_is_written(place: Path) -> None:
    with pytest.raises(ConfigError, match="give the date"):
        prepare(Order(str(place / "days.yaml"), place / "work", plain=True))
    assert not (place / "work").exists()


def test_each_date_is_noted_with_what_it_made_and_builds_on_the_last_one_before_it(place: Path) -> None:
    first = go(place, "2026-11-24")["dedup"]
    add(place, 2, text_of(3))
    second = go(place, "2026-11-25")["dedup"]
    assert second.manifest["inputs"]["earlier"]["fingerprint"] == first.fingerprint
    noted = json.loads((place / "work" / "corpora" / "days.json").read_text())
    noted.pop("xxh3")
    assert noted == {"2026-11-24": {"dedup": first.fingerprint}, "2026-11-25": {"dedup": second.fingerprint}}
    again = go(place, "2026-11-24")  # the past does not build on the future
    assert "earlier" not in again["dedup"].manifest["inputs"]


def test_a_run_that_stops_before_dedup_is_no_part(place: Path) -> None:
    go(place, "2026-11-24", until="filter")
    assert not (place / "work" / "corpora").exists()


def test_the_plan_knows_what_a_date_would_build_on(place: Path) -> None:
    go(place, "2026-11-24")
    add(place, 2, text_of(3))
    steps = {step.label: step for step in plan(recipe(place, "2026-11-25"), place / "work", "dedup")}
    assert steps["dedup"].action == "run"
    go(place, "2026-11-25")
    steps = {step.label: step for step in plan(recipe(place, "2026-11-25"), place / "work", "dedup")}
    assert steps["dedup"].action == "reuse"


def days(place: Path) -> dict[str, dict[str, str]]:
    """Run three days; what the last one built, by label."""
    for number, date in enumerate(("2026-11-24", "2026-11-25", "2026-11-26"), 1):
        add(place, number, text_of(number), text_of(number + 10))
        made = go(place, date)
    return {label: content(artifact.path) for label, artifact in made.items()}


def part(place: Path, date: str) -> Path:
    """Where the corpus of a date is stored."""
    return place / "work/artifacts/dedup" / json.loads((place / "work/corpora/days.json").read_text())[date]["dedup"]


def flip_shard(folder: Path) -> None:
    path = sorted(folder.glob("*.arrow"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.unlink()  # it may be a hard link of another date's
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [pytest.param("removed", marks=pytest.mark.prove), "a flipped bit", pytest.param("both dates before", marks=pytest.mark.prove)],
)
def test_an_earlier_date_is_rebuilt_with_everything_built_from_it(place: Path, damage: str) -> None:
    """From the files that it read, though the recipe's pattern finds those of later days too."""
    wanted = days(place)
    listed = (place / "work/corpora/days.json").read_text()
    shutil.rmtree(part(place, "2026-11-26"))  # so that something has to be built
    second = part(place, "2026-11-25")
    shutil.rmtree(second) if damage == "removed" else flip_shard(second)
    if damage == "both dates before":
        flip_shard(part(place, "2026-11-24"))
    made = go(place, "2026-11-26")
    assert {label: content(artifact.path) for label, artifact in made.items()} == wanted
    assert (place / "work/corpora/days.json").read_text() == listed
    states = {row["label"]: row["state"] for row in json.loads((newest(place) / "stages.json").read_text())}
    assert states["dedup of 2026-11-25"] == "done" and states["documents of 2026-11-25"] == "cached", states
    assert ("dedup of 2026-11-24" in states) == (damage == "both dates before")
    assert verify(Store(place / "work/artifacts")).damaged == []


def newest(place: Path) -> Path:
    return max((place / "work/runs").iterdir(), key=lambda path: (path.stat().st_ctime_ns, path.name))


def test_an_earlier_date_that_cannot_be_rebuilt_says_what_to_do(place: Path) -> None:
    days(place)
    shutil.rmtree(part(place, "2026-11-26"))
    shutil.rmtree(part(place, "2026-11-25"))
    (place / "day2.jsonl").unlink()
    with pytest.raises(ArtifactError, match=r"corpus of 2026-11-25 .* cannot be rebuilt as it was: dedup would differ.*put back the files"):
        go(place, "2026-11-26")
    for run in (place / "work/runs").iterdir():
        shutil.rmtree(run)
    with pytest.raises(ArtifactError, match=r"no run in .* says how it was built; .*`textmill run days --set date=2026-11-25`"):
        go(place, "2026-11-26")
    with pytest.raises(ArtifactError, match=r"corpus of 2026-11-25 needs dedup/.* a run of 2026-11-26 rebuilds it"):
        plan(recipe(place, "2026-11-26"), place / "work", "dedup")


def test_a_torn_list_of_parts_is_told(place: Path) -> None:
    (place / "work" / "corpora").mkdir(parents=True)
    (place / "work" / "corpora" / "days.json").write_text("{")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Growth(place / "work", Store(place / "work" / "artifacts"), recipe(place, "2026-11-25"))


def test_a_corpus_that_does_not_grow_builds_on_nothing_and_is_not_noted(place: Path) -> None:
    go(place, "2026-11-24", "corpus.grow=false")
    assert not (place / "work" / "corpora").exists()


def test_a_list_of_what_has_to_go_stands_beside_the_recipe_and_is_read_before_any_work(place: Path) -> None:
    (place / "gone.txt").write_text("id:1-0\n")
    made = go(place, "2026-11-24", "corpus.takedown=gone.txt", until="takedown")
    assert made["takedown"].counts["removed.id"] == 1
    (place / "gone.txt").write_text("no such thing\n")
    with pytest.raises(ConfigError, match=r"gone\.txt:1"):
        prepare(Order(str(place / "days.yaml"), place / "elsewhere", ("date=2026-11-24", "corpus.takedown=gone.txt"), plain=True))
    with pytest.raises(ConfigError, match=r"corpus\.takedown: there is no file"):
        recipe(place, "2026-11-24", "corpus.takedown=missing.txt")


def test_a_list_of_parts_that_was_changed_is_refused(place: Path) -> None:
    """A flipped bit of a date or of a fingerprint would build on something else."""
    first = go(place, "2026-11-24")["dedup"]
    path = place / "work" / "corpora" / "days.json"
    text = path.read_text()
    for old, new in (("2026-11-24", "2026-11-04"), (first.fingerprint, first.fingerprint[::-1])):
        path.write_text(text.replace(old, new))
        with pytest.raises(ArtifactError, match="its own hash differs"):
            go(place, "2026-11-25")
    path.write_text(text)
