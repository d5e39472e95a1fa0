"""Flow runs whose process is gone: found and closed as Crashed, with their task runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.states import Crashed, State

from pipelines.rundir import status


def bury(client: SyncPrefectClient, workspace: Path, own: UUID) -> None:
    """Runs that were killed stay Running in the UI for ever: say that they crashed."""
    running = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}})
    for dead in client.read_flow_runs(flow_run_filter=running):
        folder = workspace / "runs" / dead.name
        if dead.id == own or not (folder / "status.json").exists() or status(folder)["state"] == "running":
            continue
        gone: State[Any] = Crashed(message="its process was killed")
        tasks = TaskRunFilter.model_validate({"flow_run_id": {"any_": [dead.id]}, "state": {"type": {"any_": ["RUNNING"]}}})
        for left in client.read_task_runs(task_run_filter=tasks):
            client.set_task_run_state(left.id, gone, force=True)
        client.set_flow_run_state(dead.id, gone, force=True)
