"""Zombie flow runs: Running on the Prefect server although their process is gone. Found, and closed with their task runs.

Each run labels its flow run with its host and process. A process of this machine can be looked up, so nothing here guesses: a
run that is slow, or cut off from the server, is never closed. The worker sweeps every 20 s, every command of textmill once.

A run of another machine reports that it lives once a minute. One that has been silent for ten minutes is shown by doctor, and closed only
when somebody says that its host will not come back: from here a lost host and a host that is cut off look the same.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from infra.errors import ConfigError
from infra.processes import identity, machine
from pipelines.prefect_api import Api, ServerError
from pipelines.rundir import status

SWEEP_S = 20.0
STARTS_S = 600.0  # a worker that took a run and did not start it in this time is gone
SETTLES_S = 30.0  # the last states of tasks may reach the server after the end of their flow
HEARTBEAT_S = 60.0
SILENT_S = 600.0  # ten heartbeats, far beyond what clocks of two machines may differ by
HEARTBEAT = "textmill.heartbeat"
OPEN = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
CLOSED = {"state": {"type": {"any_": ["CRASHED", "CANCELLED", "FAILED", "COMPLETED"]}}}


@dataclass
class Swept:
    """Names of the flow runs, and the number of task runs, that were closed."""

    runs: list[str] = field(default_factory=list)
    tasks: int = 0

    def __str__(self) -> str:
        return f"{', '.join(self.runs) or 'no flow run'} and {self.tasks} task runs"


def register(api: Api, flow_run: str) -> None:
    """Label the flow run with the process that calls this. A server that does not answer is left alone."""
    labels = {"textmill.machine": machine(), "textmill.pid": os.getpid(), "textmill.process": identity(), **heartbeat()}
    with suppress(ServerError):
        api.send("PATCH", f"/flow_runs/{flow_run}/labels", labels)


def heartbeat() -> dict[str, Any]:
    """The label of a run that lives now."""
    return {HEARTBEAT: datetime.now(UTC).isoformat(timespec="seconds")}


def find(api: Api) -> list[dict[str, Any]]:
    """The flow runs whose process is known to be gone."""
    return [run for run in api.every("flow_runs", flow_runs=OPEN) if gone(run)]


@dataclass(frozen=True)
class Silent:
    """A flow run of another machine, which has not reported for `seconds`. run: as the server has it."""

    run: dict[str, Any]
    host: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.run['name']} on {self.host}, silent for {self.seconds / 60:.0f} minutes"


def silent(api: Api) -> list[Silent]:
    """The open flow runs of other machines without a heartbeat for SILENT_S."""
    return [one for one in _elsewhere(api) if one.seconds > SILENT_S]


def close_host(api: Api, host: str) -> Swept:
    """Close the silent runs of a machine that will not come back. Raises ConfigError when one of its runs reports, or none is open."""
    known = list(_elsewhere(api))
    found = [one for one in known if one.host == host]
    if not found:
        there = f"; there are open runs on {', '.join(sorted({one.host for one in known}))}" if known else ""
        raise ConfigError(f"--host {host}: no run of another machine of that name is open{there}")
    alive = [one for one in found if one.seconds <= SILENT_S]
    if alive:
        raise ConfigError(
            f"--host {host}: its run {alive[0].run['name']} reported {alive[0].seconds:.0f} s ago; a host counts as lost after"
            f" {SILENT_S / 60:.0f} minutes without a report. Cancel a run that lives in the UI, or stop it on {host}"
        )
    swept = Swept()
    for one in found:
        kind = "CANCELLED" if one.run["state_type"] == "CANCELLING" else "CRASHED"
        _close(api, one.run, kind, f"its host {host} was declared lost", swept)
    return swept


def _elsewhere(api: Api) -> Iterator[Silent]:
    """The open flow runs of other machines, with the time since they reported last."""
    for run in api.every("flow_runs", flow_runs=OPEN):
        labels = run.get("labels") or {}
        where = str(labels.get("textmill.machine") or "")
        host = where.rpartition("/")[0] if where else str(run.get("infrastructure_pid") or "").rpartition(":")[0]
        if not host or (where == machine() if where else host == platform.node()):
            continue
        heard = datetime.fromisoformat(labels.get(HEARTBEAT) or run["state"]["timestamp"])
        yield Silent(run, host, (datetime.now(UTC) - heard).total_seconds())


def sweep(api: Api) -> Swept:
    """Close every zombie: Crashed, Cancelled where that was requested, or as its run directory says that it ended.

    Raises ServerError when the server does not answer.
    """
    swept = Swept()
    for run in find(api):
        _close(api, run, *_ending(run), swept)
    settled = (datetime.now(UTC) - timedelta(seconds=SETTLES_S)).isoformat()
    swept.tasks += _close_tasks(api, {**CLOSED, "end_time": {"before_": settled}})
    return swept


def sweep_quietly(url: str) -> None:
    """As `sweep`, for commands that have other work: a server that does not answer at once is left alone."""
    with suppress(ServerError, KeyError, TypeError, ValueError):  # another server may listen there by now
        sweep(Api(url, timeout_s=2.0))


def gone(run: dict[str, Any]) -> bool:
    """Whether the process of an open flow run is known to have ended; False also when nobody here can know."""
    labels = run.get("labels") or {}
    if "textmill.pid" in labels:
        return labels["textmill.machine"] == machine() and labels["textmill.process"] != identity(int(labels["textmill.pid"]))
    host, _, pid = str(run.get("infrastructure_pid") or "").rpartition(":")
    if host and pid.isdigit():
        return host == platform.node() and not identity(int(pid))
    if run["state_type"] == "PENDING":
        since = datetime.fromisoformat(run["state"]["timestamp"])
        return datetime.now(UTC) - since > timedelta(seconds=STARTS_S)
    return _recorded(run) == "killed"


def _close(api: Api, run: dict[str, Any], kind: str, message: str, swept: Swept) -> None:
    """Set the state of a flow run and of its open task runs."""
    state = {"type": kind, "name": kind.capitalize(), "message": message}
    api.send("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    swept.tasks += _close_tasks(api, {"id": {"any_": [run["id"]]}})
    swept.runs.append(str(run["name"]))


def _ending(run: dict[str, Any]) -> tuple[str, str]:
    """The state of a run whose process is gone, and its message. One that ended while no server answered has recorded how."""
    ended = {"done": "COMPLETED", "failed": "FAILED"}.get(_recorded(run))
    if ended:
        return ended, "its process ended while the server did not answer"
    return "CANCELLED" if run["state_type"] == "CANCELLING" else "CRASHED", "its process is gone"


def _recorded(run: dict[str, Any]) -> str:
    """The state in the run's own directory, which is there before the flow run is labeled; empty when it cannot be read."""
    workspace = (run.get("parameters") or {}).get("workspace")
    folder = Path(str(workspace)) / "runs" / str(run["name"])
    try:
        return str(status(folder)["state"])
    except (OSError, ValueError, KeyError):
        return ""


def _close_tasks(api: Api, flow_runs: dict[str, Any]) -> int:
    running = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    found = list(api.every("task_runs", flow_runs=flow_runs, task_runs=running))
    for task in found:
        state = {"type": "CRASHED", "name": "Crashed", "message": "the process of its flow run is gone"}
        api.send("POST", f"/task_runs/{task['id']}/set_state", {"state": state, "force": True})
    return len(found)
