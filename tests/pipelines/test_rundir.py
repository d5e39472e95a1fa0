"""A run's folder says where the run stands, to people and programs, also after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.artifact import Artifact
from infra.errors import ConfigError
from infra.log import attach, event
from pipelines import rundir
from pipelines.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "demo", "name: demo\n", "name: demo # mine\n", "abcdef123")


def read(path: Path) -> object:
    return json.loads(path.read_text())


def test_a_new_run_has_its_recipe_its_environment_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    monkeypatch.setattr(sys, "argv", ["textmill", "run", "demo", "--set", "corpus.crawl.contact=hunter2"])
    run = RunDir.create(tmp_path, "demo", "resolved", "input", "abcdef123")
    assert run.id.endswith("-demo-abcdef")
    assert (run.path / "recipe.yaml").read_text() == "resolved" and (run.path / "recipe.input.yaml").read_text() == "input"
    environment = (run.path / "env.json").read_text()
    assert "hunter2" not in environment and '"prefect": "3.8.8"' in environment


def test_two_runs_in_one_second_have_two_folders(tmp_path: Path) -> None:
    ids = {RunDir.create(tmp_path, "demo", "", "", "abcdef").id for _ in range(3)}
    assert len(ids) == 3


def test_stages_name_what_they_were_made_from(run: RunDir) -> None:
    links = Artifact("links", "aa", run.workspace / "artifacts" / "links" / "aa")
    row = run.begin("links", "links", "aa", links.path, {}, cached=True)
    run.end(row, "cached", 0.0, {})
    row = run.begin("crawl", "crawl", "bb", run.workspace / "artifacts" / "crawl" / "bb", {"links": links}, cached=False)
    run.end(row, "done", 1.5, {"read": 3})
    assert read(run.path / "stages.json") == [
        {"label": "links", "stage": "links", "fingerprint": "aa", "path": "artifacts/links/aa", "state": "cached", "seconds": 0.0, "inputs": {}},  # noqa: E501
        {"label": "crawl", "stage": "crawl", "fingerprint": "bb", "path": "artifacts/crawl/bb", "state": "done", "seconds": 1.5,
         "inputs": {"links": "links"}},
    ]  # fmt: skip


def test_events_become_lines_and_progress_moves_the_status(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rundir, "STATUS_EVERY_S", 0.0)
    detach = attach(run.listen)
    run.begin("crawl", "crawl", "bb", run.path, {}, cached=False)
    event("progress", stage="crawl", done=3, total=9, unit="pages")
    detach()
    event("note", message="nobody hears this")
    kinds = [json.loads(line)["kind"] for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert kinds == ["stage", "progress"]
    found = rundir.status(run.path)
    assert found["state"] == "running" and found["stage"] == "crawl"
    assert found["progress"] == {"done": 3, "total": 9, "unit": "pages"}


def test_a_run_whose_process_is_gone_is_told_as_killed(run: RunDir) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    record = read(run.path / "status.json")
    assert isinstance(record, dict) and record["pid"] == os.getpid()
    (run.path / "status.json").write_text(json.dumps({**record, "pid": gone.pid}))
    assert rundir.status(run.path)["state"] == "killed"


def test_the_newest_run_is_found_and_others_by_a_part_of_their_name(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("20260101-000000-demo-aaaaaa", "20260102-000000-demo-bbbbbb"):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "status.json").write_text("{}")
    assert rundir.find_run(tmp_path).name.endswith("bbbbbb")
    assert rundir.find_run(tmp_path, "aaaaaa").name.startswith("20260101")
    with pytest.raises(ConfigError, match="several runs fit"):
        rundir.find_run(tmp_path, "2026")
    with pytest.raises(ConfigError, match="no run `x`"):
        rundir.find_run(tmp_path, "x")


def test_a_workspace_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        RunDir.create(tmp_path / "file", "demo", "", "", "abcdef")
