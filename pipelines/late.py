"""Scheduled runs that are due and wait: late ones are counted, and of those that were missed only the newest is run."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.prefect_api import Api

GRACE_S = 30.0  # a worker asks every 15 s


def active(api: Api) -> list[dict[str, Any]]:
    """The deployments of textmill that have a schedule and are not paused."""
    return [one for one in api.every("deployments") if not one["paused"] and any(s["active"] for s in one["schedules"])]


def late(api: Api) -> list[dict[str, Any]]:
    """Scheduled runs whose time has passed by more than a worker needs to take them, oldest first."""
    due = (datetime.now(UTC) - timedelta(seconds=GRACE_S)).isoformat()
    waiting = {"state": {"type": {"any_": ["SCHEDULED"]}}, "next_scheduled_start_time": {"before_": due}}
    found = [run for run in api.every("flow_runs", flow_runs=waiting) if run.get("deployment_id")]
    return sorted(found, key=lambda run: str(run["next_scheduled_start_time"]))


def skip_missed(api: Api) -> int:
    """Cancel all late runs of each deployment but the newest, which stands for them; the number cancelled."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in late(api):
        groups[run["deployment_id"]].append(run)
    skipped = 0
    for runs in groups.values():
        for run in runs[:-1]:
            message = "missed: nothing could run it in time, and a later run of its schedule is due"
            state = {"type": "CANCELLED", "name": "Skipped", "message": message}
            api.send("POST", f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
            skipped += 1
    return skipped
