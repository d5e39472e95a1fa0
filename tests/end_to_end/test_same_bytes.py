"""The same recipe makes the same bytes, whatever carries it: this process alone, Ray on one CPU, Ray on two, under Prefect."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.end_to_end.growing import DAYS, Days, made, put_list, write
from tests.end_to_end.mini import DATA, Place, content, counts, table

pytestmark = [pytest.mark.ray, pytest.mark.prefect]


@pytest.fixture(scope="module")
def there(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Place]]:
    """there("name", "crawl") is a place that starts from this stage's artifacts; all share one Prefect server."""
    folder = tmp_path_factory.mktemp("ray")
    (folder / "home").mkdir()

    def make(name: str, *stages: str) -> Place:
        place = finished.twin(folder / name, *stages)
        (place.folder / "home").symlink_to(folder / "home")
        return place

    yield make
    assert Place(folder).call("ui", "--stop").returncode == 0


@pytest.mark.parametrize("cpus", [pytest.param(1, marks=pytest.mark.prove), 2])
def test_ray_makes_the_same_bytes_as_one_process(there: Callable[..., Place], finished: Place, cpus: int) -> None:
    """From the same committed crawl: it alone is not made anew, for no two are alike in time."""
    carried = there(f"cpus-{cpus}", "crawl")
    plain = {row["label"]: row for row in finished.rows()}
    made = {row["label"]: row for row in carried.run("run", "mini.yaml", "--until", "pairs", "--set", f"resources.cpus={cpus}")}
    assert {row["stage"] for row in made.values()} == set(DATA)
    assert {label for label, row in made.items() if row["state"] == "cached"} == {"crawl"}
    for label, row in made.items():
        assert row["fingerprint"] == plain[label]["fingerprint"], label
        assert content(carried.made(row)) == content(finished.made(plain[label])), label
        assert counts(carried.made(row)) == counts(finished.made(plain[label])), label


def test_a_crawl_that_ray_made_gives_the_same_documents(there: Callable[..., Place], finished: Place) -> None:
    """Another crawl of the same web, from the links on: other times, other WARC files, the same documents to the byte."""
    fresh = there("fresh", "site")
    rows = fresh.run("run", "mini.yaml", "--until", "dedup", "--set", "resources.cpus=2")
    plain = {row["label"]: finished.made(row) for row in finished.rows()}
    for row in rows:
        if row["label"] == "crawl":
            assert content(fresh.made(row)) != content(plain["crawl"])
            assert len(table(sorted(fresh.made(row).glob("*.arrow")))) == counts(plain["crawl"])["read"]
        else:
            assert content(fresh.made(row)) == content(plain[row["label"]]), row["label"]


@pytest.mark.prove
def test_a_corpus_that_grew_on_ray_has_the_same_bytes(there: Callable[..., Place], days: Days) -> None:
    """Two days, from the same committed crawls."""
    folder = there("days", "site").folder  # with the shared server
    carried = days.grown.twin(folder, "links", "crawl")
    recipe = write(carried, days.web, "days.yaml", "day*.txt", grow=True)
    for number in (0, 1):
        put_list(carried, DAYS[number], days.lists[number])
        carried.run("run", recipe, "--until", "dedup", "--set", f"date={DAYS[number]}", "--set", "resources.cpus=2")
        for label, artifact in made(carried).items():
            assert artifact.name == days.seen[number].made[label].name, label
            assert content(artifact) == content(days.seen[number].made[label]), label
