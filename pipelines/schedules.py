"""Deployments: recipes that the Prefect server schedules; listed, paused, resumed and removed."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from infra.errors import ConfigError
from pipelines import late, recipe_checks, scheduled
from pipelines.prefect_api import Api
from pipelines.prefect_server import POOL

UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
PASSES = 3  # the server may have been creating runs while it was told to pause


@dataclass(frozen=True)
class Timetable:
    """When a recipe runs. intervals: such as 30m, 6h, 1d, counted from now. overlap: start a run although the last one still runs."""

    crons: tuple[str, ...]
    intervals: tuple[str, ...]
    timezone: str
    overlap: bool = False

    def __post_init__(self) -> None:
        if not self.crons and not self.intervals:
            raise ConfigError("specify when the recipe runs: --cron '0 3 * * *' (every night at three) or --interval 6h")
        for text in self.intervals:
            interval(text)
        check_zone(self.timezone)


def interval(text: str) -> timedelta:
    """30m, 6h, 1d. Raises ConfigError."""
    found = re.fullmatch(r"([1-9]\d{0,4})([mhd])", text)
    if not found:
        raise ConfigError(f"--interval {text!r} must be a number with m, h or d, such as 30m, 6h or 1d")
    return int(found[1]) * UNITS[found[2]]


def check_zone(name: str) -> None:
    """Raises ConfigError when there is no such time zone."""
    from zoneinfo import available_timezones

    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"--timezone {name!r}: unknown time zone{recipe_checks.meant(name, sorted(available_timezones()))}") from error


def deploy(flow: Any, name: str, timetable: Timetable, parameters: dict[str, Any]) -> str:
    """Create or replace the deployment `textmill/<name>`, which a process worker runs; returns that name.

    The server's own concurrency limit is not used: a run whose lease cannot be renewed, as after a restart of the server, would
    be cancelled. `scheduled.claim` lets one run work at a time.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.schedules import Cron, Interval
    from prefect.types.entrypoint import EntrypointType

    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    try:
        schedules = [Cron(cron, timezone=timetable.timezone) for cron in timetable.crons]
    except ValueError as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"--cron: {why}; it has five fields, such as '0 3 * * *' for every night at three") from error
    schedules += [Interval(interval(text), timezone=timetable.timezone) for text in timetable.intervals]
    made: Any = flow.to_deployment(  # a coroutine only where an event loop runs
        name,
        schedules=schedules,
        work_pool_name=POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,
        tags=[scheduled.ALLOW] if timetable.overlap else [],
        parameters=parameters,
    )
    identifier = made.apply()
    Api().send("PATCH", f"/deployments/{identifier}", {"concurrency_limit": None, "paused": False})  # one of an earlier version had a limit
    return f"textmill/{name}"


def find(api: Api, name: str) -> dict[str, Any]:
    """The deployment, by its name with or without `textmill/`. Raises ConfigError when there is none."""
    known = {one["name"]: one for one in api.every("deployments")}
    short = name.removeprefix("textmill/")
    if short not in known:
        there = f"; there is {', '.join(sorted(known))}" if known else "; there is none, `textmill deploy` creates one"
        raise ConfigError(f"no schedule {name!r}{recipe_checks.meant(short, known) or there}")
    return known[short]


def pause(api: Api, name: str) -> int:
    """No further runs; those that wait, late ones too, are deleted. Returns their number. A run that has started goes on."""
    found = find(api, name)
    before = len(_waiting(api, found["id"]))
    api.send("POST", f"/deployments/{found['id']}/pause_deployment")
    for _ in range(PASSES):
        for run in _waiting(api, found["id"]):
            api.send("DELETE", f"/flow_runs/{run['id']}")
    return before


def resume(api: Api, name: str) -> None:
    """Runs from now on; what was missed meanwhile is not made up for."""
    api.send("POST", f"/deployments/{find(api, name)['id']}/resume_deployment")


def remove(api: Api, name: str) -> int:
    """Delete the deployment and its waiting runs, whose number is returned. Runs that were started, and their artifacts, stay."""
    found = find(api, name)
    waiting = pause(api, name)
    api.send("DELETE", f"/deployments/{found['id']}")
    return waiting


def rows(api: Api) -> list[dict[str, Any]]:
    """Every deployment with its schedules, its next run and what became of its last one."""
    overdue = [run["deployment_id"] for run in late.late(api)]
    told = []
    for one in sorted(api.every("deployments"), key=lambda one: str(one["name"])):
        mine = {"deployments": {"id": {"any_": [one["id"]]}}, "limit": 1}
        ended = {**mine, "flow_runs": {"start_time": {"is_null_": False}}, "sort": "START_TIME_DESC"}
        last = api.send("POST", "/flow_runs/filter", ended)
        coming = sorted(str(run["next_scheduled_start_time"]) for run in _waiting(api, one["id"]))
        schedules = [s["schedule"] for s in one["schedules"] if s["active"]]
        told.append(
            {
                "name": one["name"],
                "runs at": ", ".join(map(_when, schedules)),
                "timezone": ", ".join(sorted({str(s.get("timezone") or "UTC") for s in schedules})),
                "next": "paused" if one["paused"] else coming[0][:16] if coming else "",
                "late": overdue.count(one["id"]),
                "last run": f"{last[0]['name']}: {last[0]['state_name']}" if last else "",
                "overlap": "allow" if scheduled.ALLOW in one["tags"] else "skip",
                "recipe": one["parameters"].get("recipe", ""),
                "workspace": one["parameters"].get("workspace", ""),
            }
        )
    return told


def _waiting(api: Api, deployment: str) -> list[dict[str, Any]]:
    waiting = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    found = api.every("flow_runs", flow_runs=waiting, deployments={"id": {"any_": [deployment]}})
    return [run for run in found if not run["run_count"]]


def _when(schedule: dict[str, Any]) -> str:
    if "cron" in schedule:
        return f"cron {schedule['cron']}"
    seconds = float(schedule.get("interval") or 0)
    name, unit = next(((n, u) for n, u in reversed(UNITS.items()) if seconds % u.total_seconds() == 0), ("m", UNITS["m"]))
    return f"every {seconds / unit.total_seconds():g}{name}" if seconds else "by a rule"
