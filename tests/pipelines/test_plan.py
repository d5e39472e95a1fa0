"""The plan says what a run then does, and why; it leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.compute import LocalCompute
from infra.store import Store
from pipelines import chain, plan
from pipelines.recipe import load
from pipelines.rundir import RunDir
from pipelines.runner import plainly, recorded


def run(recipe: Path, workspace: Path, *settings: str) -> dict[str, str]:
    """A real run of the data stages; label -> state."""
    loaded = load(str(recipe), settings)
    folder = RunDir.create(workspace, "small", loaded.resolved, loaded.source, "abcdef")
    chain.run(recorded(folder, Store(workspace / "artifacts"), plainly(folder_store(workspace), LocalCompute())), loaded.recipe, "blocks")
    return {row.label: row.state for row in folder.rows}


def folder_store(workspace: Path) -> Store:
    return Store(workspace / "artifacts")


def planned(recipe: Path, workspace: Path, *settings: str) -> dict[str, tuple[str, str]]:
    return {step.label: (step.action, step.why) for step in plan.plan(load(str(recipe), settings).recipe, workspace, "blocks")}


def tree(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_before_the_first_run_all_is_to_do_and_nothing_is_written(recipe: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    assert set(planned(recipe, tmp_path / "w").values()) == {("run", "not made yet")}
    assert tree(tmp_path) == before


def test_a_changed_setting_is_named_and_only_what_follows_runs(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "w")
    before = tree(tmp_path)
    told = planned(recipe, tmp_path / "w", "corpus.filter.min_words=30")
    assert told["documents"][0] == "reuse"
    assert told["filter"] == ("run", "filter.min_words 20 -> 30")
    assert told["dedup"] == ("run", "filter changes")
    assert told["encode bytes"] == ("run", "dedup changes, tokenizer bytes changes")
    assert tree(tmp_path) == before
    states = run(recipe, tmp_path / "w", "corpus.filter.min_words=30")
    assert {label: "reuse" if state == "cached" else "run" for label, state in states.items()} == {
        k: action for k, (action, _) in told.items()
    }


def test_another_file_of_the_same_name_is_named(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "w")
    with (tmp_path / "docs.jsonl").open("a") as file:
        file.write(json.dumps({"text": "one more"}) + "\n")
    action, why = planned(recipe, tmp_path / "w")["documents"]
    assert action == "run" and why.startswith("documents.sources.0 docs.jsonl (")


def test_a_damaged_artifact_is_to_be_made_again_and_stays_where_it_is(recipe: Path, tmp_path: Path) -> None:
    run(recipe, tmp_path / "w")
    shard = next(a for a in folder_store(tmp_path / "w").all() if a.stage == "filter").shards[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    action, why = planned(recipe, tmp_path / "w")["filter"]
    assert action == "run" and "bytes instead of" in why and shard.exists()


def test_an_artifact_that_somebody_makes_just_now_is_blocked(recipe: Path, tmp_path: Path) -> None:
    from infra.lease import held

    step = plan.plan(load(str(recipe)).recipe, tmp_path / "w")[0]
    with held(tmp_path / "w" / "artifacts" / step.stage / f".{step.fingerprint}.lease"):
        action, why = planned(recipe, tmp_path / "w")["documents"]
    assert action == "blocked" and "is making it" in why


def test_what_reads_a_file_not_made_yet_has_no_fingerprint(tmp_path: Path) -> None:
    steps = {step.label: step for step in plan.plan(load("demo").recipe, tmp_path)}
    assert steps["site"].fingerprint and steps["site"].why == "not made yet"
    assert steps["links"].fingerprint == "" and steps["crawl"].why == "follows links"


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({"a": 1}, {"a": 2}, ["s.a 1 -> 2"]),
        ({"a": [1, 2]}, {"a": [1, 3]}, ["s.a [1, 2] -> [1, 3]"]),
        ({"a": {"b": "x"}}, {"a": {"b": "y"}}, ["s.a.b x -> y"]),
        ({}, {"a": None}, ["s.a is new (null)"]),
        ({"a": 1}, {}, ["s.a is gone (was 1)"]),
        ({"a": 1}, {"a": 1}, []),
    ],
)
def test_differences_are_said_in_few_words(before: dict[str, Any], now: dict[str, Any], told: list[str]) -> None:
    def record(config: dict[str, Any]) -> dict[str, Any]:
        return {"stage": "s", "version": 1, "config": config, "inputs": {}}

    assert list(plan.differences(record(before), record(now), {})) == told


def test_a_new_version_of_a_stage_is_a_reason() -> None:
    old, new = ({"stage": "s", "version": v, "config": {}, "inputs": {}} for v in (1, 2))
    assert list(plan.differences(old, new, {})) == ["s version 1 -> 2"]
