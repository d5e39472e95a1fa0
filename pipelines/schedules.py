"""Deployments and their schedules on the Prefect server."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.types.entrypoint import EntrypointType

from infra.errors import ConfigError
from pipelines.prefect_server import POOL


def deploy(flow: Any, recipe: str, workspace: Path, settings: tuple[str, ...], cron: str, timezone: str, name: str, *, plain: bool) -> str:
    """A deployment that a process worker runs when cron says so; returns `textmill/<name>`."""
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    from prefect.schedules import Cron

    try:
        schedule = Cron(cron, timezone=timezone)
    except ValueError as error:
        raise ConfigError(
            f"--cron {cron!r}: {' '.join(str(error).split())}; it has five fields, such as '0 3 * * *' for every night at three"
        ) from error
    made: Any = flow.to_deployment(  # a coroutine only where an event loop runs

        name, schedule=schedule, work_pool_name=POOL, entrypoint_type=EntrypointType.MODULE_PATH, concurrency_limit=1,
        parameters={"recipe": recipe, "workspace": str(workspace), "settings": list(settings), "plain": plain},
    )  # fmt: skip
    made.apply()
    return f"textmill/{name}"


def logical_date(flow_run: Any) -> tuple[str, ...]:
    """The moment a scheduled run stands for: its crawl is new, whenever it is really carried out."""
    if not flow_run.auto_scheduled or flow_run.expected_start_time is None:
        return ()
    return (f"date={flow_run.expected_start_time.strftime('%Y-%m-%dT%H:%M')}",)
