"""Our dependency ranges still carry a Prefect server: newer ones install and import cleanly, and then break it.

fastapi 0.151 breaks `deployment ls`, fastapi 0.155 the server, SQLAlchemy 2.1 silently stops schedules.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from packaging.requirements import Requirement

from pipelines import prefect_server

PINNED = {"prefect": "3.8.8", "fastapi": "0.151", "sqlalchemy": "2.1"}
FIRES_S = 130


def test_the_ranges_keep_out_what_breaks() -> None:
    ranges = {one.name.lower(): one for one in map(Requirement, requires("textmill") or [])}
    assert ranges["prefect"].specifier.contains("3.8.8") and not ranges["prefect"].specifier.contains("3.9.0")
    assert not ranges["fastapi"].specifier.contains("0.151.0") and not ranges["sqlalchemy"].specifier.contains("2.1.0")
    for name in PINNED:
        assert ranges[name].specifier.contains(version(name))


@pytest.mark.prefect
def test_the_server_answers_on_loopback_only_and_shows_the_first_ui(server: str) -> None:
    assert server.startswith("http://127.0.0.1:") and prefect_server.healthy(server)
    with urllib.request.urlopen(prefect_server.ui(server), timeout=10) as page:
        assert page.status == 200 and not page.geturl().rstrip("/").endswith("/v2")
    with urllib.request.urlopen(server + "/admin/settings", timeout=10) as answer:
        settings = answer.read().decode()
    assert '"analytics_enabled":false' in settings.replace(" ", "")


@pytest.mark.prefect
def test_a_second_call_finds_the_same_server(server: str) -> None:
    assert prefect_server.connect() == server == prefect_server.running()
    assert not prefect_server._free(int(server.rpartition(":")[2].partition("/")[0]))


@pytest.mark.prefect
def test_deployments_can_be_listed(server: str) -> None:
    command = [sys.executable, "-m", "prefect", "deployment", "ls"]
    told = subprocess.run(command, env={**os.environ, "PREFECT_API_URL": server}, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.prefect
@pytest.mark.slow
@pytest.mark.timeout(FIRES_S + 240)
def test_a_deployed_recipe_fires_every_minute_with_its_own_crawl_date(server: str, recipe: Path, textmill: Any) -> None:
    """`textmill deploy`, a worker, a cron of one minute: a run appears, is carried out, and carries its logical date."""
    settings = ["--set", "models={}", "--set", "tokenizers={}"]
    there = {"TEXTMILL_HOME": os.environ["TEXTMILL_HOME"], "PREFECT_API_URL": server}
    told = textmill("deploy", str(recipe), "--cron", "* * * * *", "--timezone", "Asia/Seoul", "--no-ray", *settings, **there)
    assert told.returncode == 0, told.stderr
    assert "textmill/small runs at '* * * * *' (Asia/Seoul)" in told.stdout
    try:
        run = wait_for_run(server, FIRES_S)
        (row,) = json.loads(textmill("schedule", "list", "--json", **there).stdout)
        assert (row["name"], row["timezone"], row["overlap"], row["late"]) == ("small", "Asia/Seoul", "skip", 0)
        assert json.loads(textmill("worker", "status", "--json", **there).stdout)["schedules"] == 1
    finally:
        told = textmill("schedule", "remove", "small", **there)
    assert told.returncode == 0 and "removed, with" in told.stdout, told.stderr
    assert run.state_name == "Completed", run.state.message
    folder = recipe.parent / "workspace" / "runs" / run.name
    local = run.expected_start_time.astimezone(ZoneInfo("Asia/Seoul")).strftime("%Y-%m-%dT%H:%M")
    assert f"date: {local}" in (folder / "recipe.yaml").read_text().replace("'", "")
    assert (folder / "report.html").exists()


def wait_for_run(api: str, seconds: float) -> Any:
    """The first scheduled run that has ended."""
    from prefect.client.orchestration import get_client

    ends = time.monotonic() + seconds
    seen = ""
    with get_client(sync_client=True) as client:
        while time.monotonic() < ends:
            scheduled = [run for run in client.read_flow_runs(limit=200) if run.auto_scheduled]
            for run in scheduled:
                if run.state is not None and run.state.is_final():
                    return run
            seen = str(sorted({str(run.state_name) for run in scheduled}))
            time.sleep(1)
    raise AssertionError(f"no scheduled run ended within {seconds} s; states seen: {seen}; worker: {log()}")


def log() -> str:
    return (prefect_server.state_folder() / "worker.log").read_text()[-2000:]
