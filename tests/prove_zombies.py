"""A killed run is Crashed within 120 s on a machine whose worker lives: three kills, no other command after them.

Not collected by `make test`: `make prove PROVE=tests/prove_zombies.py` prints the three times.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.prefect_api import Api
from tests.prove_operations import RECIPE, TEXTS, until

KILLS, WITHIN_S = 3, 120.0


@pytest.mark.timeout(1800)
def test_a_killed_run_is_crashed_in_time_by_the_worker_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, workspace = tmp_path / "home", tmp_path / "workspace"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {"TEXTMILL_HOME": str(home)}
    rows = [{"text": " ".join(TEXTS[n % 7 :] + TEXTS[: n % 11] + [str(n)])} for n in range(60)]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "long.yaml").write_text(RECIPE)

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipelines.cli", *words]
        return subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    seconds = []
    try:
        assert start("worker", "start").wait(300) == 0
        api = Api(json.loads((home / "server.json").read_text())["api"])
        for _ in range(KILLS):
            known = {path.name for path in workspace.glob("runs/*")}
            driver = start("run", "long.yaml")

            def training(known: set[str] = known) -> str:
                runs = [path for path in workspace.glob("runs/*") if path.name not in known and (path / "events.jsonl").exists()]
                return next((run.name for run in runs if '"train"' in (run / "events.jsonl").read_text()), "")

            def state(name: str) -> str:
                return next((str(run["state_name"]) for run in api.every("flow_runs", flow_runs={"name": {"any_": [name]}})), "")

            name = until(training, 300)
            assert state(name) == "Running"
            driver.kill()
            driver.wait()
            killed = time.monotonic()
            until(lambda name=name: state(name) == "Crashed", WITHIN_S)
            seconds.append(round(time.monotonic() - killed, 1))
    finally:
        start("ui", "--stop").wait(120)
    with capsys.disabled():
        sys.stdout.write(f"\na killed run was Crashed after {seconds} s\n")
    assert max(seconds) < WITHIN_S
