"""Parts of the soak, without processes: moments that follow a run, victims that even out, a comparison that sees one changed row."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from tests.faults import soak_compare, soak_moments, soak_victims
from tests.faults.soak_moments import Follower, Length, Moment, Plan
from tests.faults.soak_record import Record

LENGTHS = {"crawl": Length(2.0, 4), "gpt": Length(9.0, 24)}


def write(run: Path, *events: dict[str, Any]) -> None:
    run.mkdir(exist_ok=True)
    with (run / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def stage(label: str, state: str) -> dict[str, Any]:
    return {"kind": "stage", "label": label, "state": state, "seconds": 1.0}


def test_a_moment_passes_within_its_stage_only(tmp_path: Path) -> None:
    follower, moment = Follower(dict(LENGTHS)), Moment("gpt", events=2)
    assert follower.label == soak_moments.START and not follower.passed(moment)
    write(tmp_path / "run", stage("crawl", "running"), *[{"kind": "progress"}] * 3)
    follower.read(tmp_path / "run")
    assert follower.label == "crawl" and follower.passed(Moment("crawl", events=3)) and not follower.passed(Moment("crawl", events=4))
    write(tmp_path / "run", stage("crawl", "done"), stage("gpt", "running"), {"kind": "train"})
    follower.read(tmp_path / "run")
    assert not follower.passed(moment)
    write(tmp_path / "run", {"kind": "train"})
    follower.read(tmp_path / "run")
    assert follower.passed(moment)
    write(tmp_path / "run", stage("gpt", "done"))
    follower.read(tmp_path / "run")
    assert follower.label == soak_moments.END and not follower.passed(moment)


def test_a_moment_that_never_came_is_owed_to_a_later_stage(tmp_path: Path) -> None:
    plan, follower = Plan.draw(Random(1), dict(LENGTHS)), Follower(dict(LENGTHS))
    order = (soak_moments.START, *LENGTHS, soak_moments.END)
    for label in order:
        assert len(plan.moments[label]) == 1 and plan.moments[label][0].events <= LENGTHS.get(label, Length(0, 0)).events
    write(tmp_path / "run", stage("crawl", "running"), stage("crawl", "done"), stage("gpt", "running"), *[{"kind": "train"}] * 24)
    follower.read(tmp_path / "run")
    assert [moment.label for moment in plan.missed(order, follower.label)] == [soak_moments.START, "crawl"] and plan.owed == 2
    follower.since -= 100
    taken = []
    while moment := plan.due(follower):
        taken.append(moment)
        plan.used(moment)
    assert [moment.label for moment in taken] == ["gpt"] * 3 and not plan.owed  # its own, and the two


def test_the_kind_with_the_fewest_kills_is_next() -> None:
    found: dict[str, Any] = {kind: [] for kind in ("driver", "rank")}
    with pytest.raises(IndexError):  # a rank was chosen, and there is no process of it here
        soak_victims.choose(found, {"driver": 3, "rank": 2}, Random(1))
    assert soak_victims.choose({**found, "server": []}, {"driver": 3, "rank": 2}, Random(1)) == ("server", [])


def artifact(folder: Path, name: str, fetched: str, url: str, speed: float) -> Path:
    made = folder / "crawl" / name
    made.mkdir(parents=True)
    table = pa.table({"url": [url], "fetched_at": [fetched], "warc_offset": [len(fetched)]})
    with pa.OSFile(str(made / "00000.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (made / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0, "tokens_per_s": speed}) + "\n")
    shards = [{"name": "00000.arrow", "rows": 1, "bytes": 7, "xxh3": fetched}]
    (made / "manifest.json").write_text(json.dumps({"created": fetched, "xxh3": fetched, "inputs": {}, "shards": shards}))
    return made


def test_records_of_time_are_the_only_differences_that_do_not_count(tmp_path: Path) -> None:
    first = soak_compare.comparable(artifact(tmp_path, "a", "2026", "http://a.test/", 10.0))
    assert first == soak_compare.comparable(artifact(tmp_path, "b", "2027!", "http://a.test/", 20.0))
    other = soak_compare.comparable(artifact(tmp_path, "c", "2026", "http://b.test/", 10.0))
    assert [name for name in first if first[name] != other[name]] == ["00000.arrow"]


def test_figures_are_those_of_all_calls(tmp_path: Path) -> None:
    Record(tmp_path / "soak.jsonl").add("kill", stage="gpt", kind="rank")
    record = Record(tmp_path / "soak.jsonl")
    record.add("exit", last="rank", code=0)
    assert record.kills() == {"rank": 1} and record.good and "1 kills in 0 complete rounds and 1 runs" in record.figures()
    record.add("zombie", run="x")
    assert not record.good
