"""A run that a schedule started: the date that it stands for, and whether it may run beside the one before."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO
from zoneinfo import ZoneInfo

from pipelines.prefect_api import Api

ALLOW = "overlap:allow"  # a tag of the deployment
_LOCKS: list[TextIO] = []  # locked until the process ends, however it ends


@dataclass(frozen=True)
class Occasion:
    """date: of the schedule's time zone, empty for a run that somebody started by hand. overlap: whether it may run beside another."""

    deployment: str
    date: str
    overlap: bool


def occasion(api: Api, flow_run: str) -> Occasion:
    """Why the flow run exists. Raises ServerError when the server does not answer."""
    run = api.send("GET", f"/flow_runs/{flow_run}")
    deployment = api.send("GET", f"/deployments/{run['deployment_id']}")
    date = ""
    if run["auto_scheduled"] and run["expected_start_time"]:
        date = local_date(datetime.fromisoformat(run["expected_start_time"]), _zone(run, deployment["schedules"]))
    return Occasion(deployment["name"], date, ALLOW in deployment["tags"])


def rename(api: Api, flow_run: str, name: str) -> None:
    """Give the flow run a name that says more than the server's random one."""
    api.send("PATCH", f"/flow_runs/{flow_run}", {"name": name})


def local_date(moment: datetime, zone: str) -> str:
    """The moment on the clocks of the zone, to the minute; later moments give later texts.

    When clocks go back, the repeated minutes follow the last one before: 01:00 is `T01:59+01min` if clocks went back at 02:00.
    """
    local = moment.astimezone(ZoneInfo(zone))
    text = local.strftime("%Y-%m-%dT%H:%M")
    if not local.fold:
        return text
    last = moment.astimezone(UTC)  # the last minute of the first pass
    while last.astimezone(ZoneInfo(zone)).fold:
        last -= timedelta(minutes=1)
    passed = (moment.astimezone(UTC) - last) // timedelta(minutes=1)
    return f"{last.astimezone(ZoneInfo(zone)).strftime('%Y-%m-%dT%H:%M')}+{passed:02d}min"


def claim(workspace: Path, deployment: str) -> bool:
    """Whether no other run of the deployment is at work in this workspace; the claim ends with this process, even when it is killed."""
    folder = workspace / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / f".{deployment.replace('/', '_')}.lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _LOCKS.append(file)
    return True


def _zone(run: dict[str, Any], schedules: list[dict[str, Any]]) -> str:
    """The time zone of the schedule that created the run; of the first one when that was removed since."""
    creator = (run.get("created_by") or {}).get("id")
    ordered = sorted(schedules, key=lambda one: one["id"] != creator)
    return str((ordered[0]["schedule"].get("timezone") if ordered else "") or "UTC")
