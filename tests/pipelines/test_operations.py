"""Schedules, late runs and zombie runs on a real Prefect server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError
from infra.processes import identity, machine
from pipelines import doctor_server, late, prefect_server, scheduled, schedules, zombies
from pipelines.prefect_api import Api
from pipelines.schedules import Timetable

pytestmark = pytest.mark.prefect
LONG = "tokens: 3e6"  # an hour of training
DRIVER = """\
import sys
from pathlib import Path
from pipelines import prefect_server
prefect_server.connect()
from pipelines import flows
from pipelines.runner import Order, prepare
prepared = prepare(Order(sys.argv[1], Path(sys.argv[2]), plain=True))
print(prepared.run.id, flush=True)
flows.start(prepared)
"""


@pytest.fixture
def api(server: str) -> Api:
    """The session's server, without the runs that tests before this one killed."""
    api = Api(server)
    zombies.sweep(api)
    return api


@pytest.fixture
def deploy(api: Api, recipe: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Deploy the recipe under a name; removed in the end."""
    names = []

    def call(name: str, *crons: str, intervals: tuple[str, ...] = (), zone: str = "UTC", overlap: bool = False) -> dict[str, Any]:
        from pipelines import flows

        parameters = {"recipe": str(recipe), "workspace": str(recipe.parent / "w"), "settings": [], "plain": True}
        schedules.deploy(flows.textmill, name, Timetable(crons, intervals, zone, overlap), parameters)
        names.append(name)
        return schedules.find(api, name)

    yield call
    for name in dict.fromkeys(names):
        schedules.remove(api, name)


@pytest.fixture
def driver(server: str, recipe: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], str]]]:
    """Start a long run in its own process; the process and the run's id once it trains."""
    started: list[subprocess.Popen[str]] = []

    def call(workspace: str) -> tuple[subprocess.Popen[str], str]:
        recipe.write_text(recipe.read_text().replace("tokens: 2e3", LONG))
        command = [sys.executable, "-c", DRIVER, str(recipe), str(recipe.parent / workspace)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield call
    for process in started:
        process.kill()
        process.wait()


def flow_run(api: Api, name: str) -> dict[str, Any]:
    [found] = api.every("flow_runs", flow_runs={"name": {"any_": [name]}})
    return found


def task_states(api: Api, run: dict[str, Any]) -> dict[str, str]:
    return {task["name"].split()[0]: task["state_name"] for task in api.every("task_runs", flow_runs={"id": {"any_": [run["id"]]}})}


def until(true: Callable[[], Any], seconds: float = 120.0) -> Any:
    ends = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < ends
        time.sleep(0.5)
    return found


def trains(api: Api, name: str) -> Any:
    found = list(api.every("flow_runs", flow_runs={"name": {"any_": [name]}}))
    return found and "textmill.pid" in found[0]["labels"] and task_states(api, found[0]).get("gpt") == "Running" and found[0]


def test_a_run_that_ended_while_the_server_was_away_is_closed_as_it_ended(api: Api, server: str, recipe: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from pipelines import flows
    from pipelines.runner import Order, carry_out, plainly, prepare

    prepared = prepare(Order(str(recipe), recipe.parent / "w", until="documents", plain=True))
    parameters = {"workspace": str(recipe.parent / "w")}
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(flows.textmill, name=prepared.run.id, parameters=parameters, state=Running())
    carry_out(prepared, plainly)
    assert not zombies.find(api)  # it still reports
    gone = {"textmill.machine": machine(), "textmill.pid": 2**22 + 1, "textmill.process": "ended"}
    api.send("PATCH", f"/flow_runs/{run.id}/labels", gone)
    assert zombies.sweep(api).runs == [prepared.run.id] and state(api, str(run.id)) == "Completed"


@pytest.mark.timeout(300)
def test_a_killed_run_is_closed_by_any_command_and_a_living_one_is_not(api: Api, driver: Any, textmill: Any, tmp_path: Path) -> None:
    process, name = driver("w")
    until(lambda: trains(api, name))
    assert not zombies.find(api) and not zombies.sweep(api).runs
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert flow_run(api, name)["state_name"] == "Running"
    assert [run["name"] for run in zombies.find(api)] == [name]
    rows = {seen.what: seen for seen in doctor_server.examine()}
    assert rows["zombie runs"].state == "bad" and name in rows["zombie runs"].found and "doctor --fix" in rows["zombie runs"].fix
    (tmp_path / "elsewhere").mkdir()
    textmill("status", "--workspace", "elsewhere", TEXTMILL_HOME=os.environ["TEXTMILL_HOME"])  # another workspace, which is empty
    run = flow_run(api, name)
    assert run["state_name"] == "Crashed" and "process is gone" in run["state"]["message"]
    states = task_states(api, run)
    assert states.pop("gpt") == "Crashed" and set(states.values()) == {"Completed"}


def test_a_process_id_given_away_or_of_another_container_is_not_taken_for_the_run(api: Api) -> None:
    def judged(**labels: Any) -> bool:
        return zombies.gone({"state_type": "RUNNING", "name": "x", "labels": {f"textmill.{k}": v for k, v in labels.items()}})

    me = {"machine": machine(), "pid": os.getpid(), "process": identity()}
    assert not judged(**me)
    assert judged(**{**me, "process": "an-earlier-boot:12345"})
    assert not judged(**{**me, "machine": "elsewhere/4026531836", "pid": 2**22 + 1})


def test_a_run_of_a_lost_host_is_shown_and_closed_on_request_only(api: Api, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import task
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from pipelines import flows
    from pipelines.prefect_progress import Progress

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(flows.textmill, name="far-away", state=Running())
        left = client.create_task_run(task(lambda: None, name="crawl"), flow_run_id=run.id, dynamic_key="0", state=Running())
        monkeypatch.setattr(zombies, "machine", lambda: "node7/4026531836")
        zombies.register(api, str(run.id))
        before = flow_run(api, "far-away")["labels"][zombies.HEARTBEAT]
        monkeypatch.setattr(zombies, "HEARTBEAT_S", 0.0)
        time.sleep(1.1)
        Progress(client, run.id, None).close()  # its thread reports
    assert flow_run(api, "far-away")["labels"][zombies.HEARTBEAT] > before
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="far-away reported .* s ago"):
        doctor_server.repair("node7")
    with pytest.raises(ConfigError, match="open runs on node7"):
        doctor_server.repair("node8")
    assert not [seen for seen in doctor_server.examine() if seen.what == "silent runs"]
    long_ago = (datetime.now(UTC) - timedelta(seconds=zombies.SILENT_S + 60)).isoformat()
    api.send("PATCH", f"/flow_runs/{run.id}/labels", {zombies.HEARTBEAT: long_ago})
    [row] = [seen for seen in doctor_server.examine() if seen.what == "silent runs"]
    assert row.state == "warn" and "far-away on node7, silent for 11 minutes" in row.found and "doctor --fix --host node7" in row.fix
    doctor_server.repair()  # nobody said that node7 is lost
    assert state(api, str(run.id)) == "Running"
    assert "far-away and 1 task runs" in " ".join(doctor_server.repair("node7"))
    assert state(api, str(run.id)) == "Crashed" and api.send("GET", f"/task_runs/{left.id}")["state_name"] == "Crashed"


def test_a_task_that_its_crashed_flow_left_running_is_closed(api: Api, server: str) -> None:
    from prefect import task
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed, Running

    from pipelines import flows

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(flows.textmill, name="worker-said-so", state=Running())
        left = client.create_task_run(task(lambda: None, name="crawl"), flow_run_id=run.id, dynamic_key="0", state=Running())
        client.set_flow_run_state(run.id, Crashed(), force=True)
    zombies.sweep(api)
    assert api.send("GET", f"/task_runs/{left.id}")["state_name"] == "Running"  # its last state may still be on the way
    before, zombies.SETTLES_S = zombies.SETTLES_S, 0.0
    try:
        zombies.sweep(api)
    finally:
        zombies.SETTLES_S = before
    assert api.send("GET", f"/task_runs/{left.id}")["state_name"] == "Crashed"


def test_several_schedules_of_a_recipe_are_listed_replaced_and_removed(api: Api, deploy: Any) -> None:
    deploy("nightly", "0 3 * * *", zone="Asia/Seoul")
    deploy("often", "0 * * * *", intervals=("6h", "45m"), overlap=True)
    rows = {row["name"]: row for row in schedules.rows(api)}
    assert rows["nightly"]["runs at"] == "cron 0 3 * * *" and rows["nightly"]["timezone"] == "Asia/Seoul"
    assert set(rows["often"]["runs at"].split(", ")) == {"cron 0 * * * *", "every 6h", "every 45m"}
    assert (rows["nightly"]["overlap"], rows["often"]["overlap"]) == ("skip", "allow")
    deploy("often", "30 4 * * *")
    rows = {row["name"]: row for row in schedules.rows(api)}
    assert rows["often"]["runs at"] == "cron 30 4 * * *" and rows["often"]["overlap"] == "skip"
    schedules.remove(api, "textmill/often")
    assert "often" not in {row["name"] for row in schedules.rows(api)}
    deploy("often", "30 4 * * *")
    with pytest.raises(ConfigError, match="did you mean `nightly`"):
        schedules.pause(api, "nigthly")


def due(api: Api, deployment: dict[str, Any], minutes: int) -> str:
    """A run of the schedule whose time passed so many minutes ago."""
    when = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()
    state = {"type": "SCHEDULED", "name": "Late", "state_details": {"scheduled_time": when}}
    made = api.send("POST", f"/deployments/{deployment['id']}/create_flow_run", {"state": state})
    return str(made["id"])


def state(api: Api, run: str) -> str:
    return str(api.send("GET", f"/flow_runs/{run}")["state_name"])


def test_of_the_runs_that_were_missed_the_newest_of_each_schedule_stays(api: Api, deploy: Any) -> None:
    one, other = deploy("one", "0 3 * * *"), deploy("other", "0 3 * * *")
    runs = [due(api, one, 30), due(api, one, 10), due(api, one, 20)]
    alone = due(api, other, 60)
    fresh = due(api, one, 0)  # a worker may be about to take it
    assert {run["id"] for run in late.late(api)} >= {*runs, alone} and fresh not in {run["id"] for run in late.late(api)}
    rows = {seen.what: seen for seen in doctor_server.examine()}
    assert rows["late runs"].state == "warn" and rows["worker"].state == "bad" and "one" in rows["worker"].found
    assert late.skip_missed(api) == 2
    assert [state(api, run) for run in (*runs, alone, fresh)] == ["Skipped", "Late", "Skipped", "Late", "Late"]


def test_pausing_empties_the_queue_and_resuming_makes_up_for_nothing(api: Api, deploy: Any) -> None:
    deployment = deploy("busy", "* * * * *")
    made = [due(api, deployment, 3), due(api, deployment, 2)]
    waiting = {"type": "SCHEDULED", "name": "AwaitingConcurrencySlot"}
    made.append(str(api.send("POST", f"/deployments/{deployment['id']}/create_flow_run", {"state": waiting})["id"]))
    other = due(api, deploy("idle", "0 3 * * *"), 2)
    assert schedules.pause(api, "busy") >= 3
    left = {run["id"] for run in api.every("flow_runs", deployments={"id": {"any_": [deployment["id"]]}})}
    assert not left & set(made) and state(api, other) == "Late"
    assert {row["name"]: row["next"] for row in schedules.rows(api)}["busy"] == "paused"
    assert not [one for one in late.active(api) if one["name"] == "busy"]
    schedules.resume(api, "busy")
    assert [one["name"] for one in late.active(api) if one["name"] == "busy"]
    overdue = [run for run in late.late(api) if run["deployment_id"] == deployment["id"]]
    assert not overdue


def test_the_date_of_a_run_is_that_of_its_own_schedule(api: Api, deploy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = deploy("zoned", "0 3 * * *", zone="Asia/Seoul")
    run = {"deployment_id": deployment["id"], "auto_scheduled": True, "expected_start_time": "2026-11-28T18:00:00Z"}
    run |= {"created_by": {"id": deployment["schedules"][0]["id"], "type": "SCHEDULE"}}
    real = Api.send
    monkeypatch.setattr(Api, "send", lambda self, method, path, body=None: run if "/flow_runs/" in path else real(self, method, path, body))
    assert scheduled.occasion(api, "any") == scheduled.Occasion("zoned", "2026-11-29T03:00", False)
    run["auto_scheduled"] = False
    assert scheduled.occasion(api, "any").date == ""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_worker_skips_what_overlaps_and_closes_what_is_killed(api: Api, deploy: Any, driver: Any, recipe: Path) -> None:
    """Two runs at once: one works, the other is skipped. A run of a command is killed: it is Crashed in time. The worker is stopped: its
    run saves."""
    recipe.write_text(recipe.read_text().replace("tokens: 2e3", LONG))
    deployment = deploy("long", "0 3 1 1 *")
    assert any("started a worker" in line for line in doctor_server.repair())
    assert prefect_server.worker_pid() and prefect_server.worker(api.url) == prefect_server.worker_pid()
    try:
        for _ in range(2):
            api.send("POST", f"/deployments/{deployment['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})

        def states() -> list[str]:
            return sorted(run["state_name"] for run in api.every("flow_runs", deployments={"id": {"any_": [deployment["id"]]}}))

        until(lambda: states().count("Skipped") == 1 and "Running" in states(), 180)
        (running,) = [r for r in api.every("flow_runs", deployments={"id": {"any_": [deployment["id"]]}}) if r["state_name"] == "Running"]
        process, name = driver("v")
        until(lambda: trains(api, name) and task_states(api, running).get("gpt") == "Running")
        process.kill()
        process.wait()
        killed = time.monotonic()
        until(lambda: flow_run(api, name)["state_name"] == "Crashed")
        assert time.monotonic() - killed < 120
        running = api.send("GET", f"/flow_runs/{running['id']}")  # it has its name by now
        assert running["state_name"] == "Running"
    finally:
        assert prefect_server.stop(("worker",)) == ["worker"]
    folder = recipe.parent / "w" / "runs" / running["name"]
    assert json.loads((folder / "status.json").read_text())["state"] == "preempted"  # it had time to save
    assert not prefect_server.worker_pid()
