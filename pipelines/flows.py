"""Watched and scheduled: Prefect's only door.

One flow run a run, one task run a stage (never one a shard). Our manifests know what is done, so Prefect's own cache
stays off: it would not hit across runs, and would hit on an output that was deleted.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import Task, flow, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import ObjectAlreadyExists, TerminationSignal
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Completed, State
from prefect.types.entrypoint import EntrypointType

from infra.artifact import Artifact
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError, Preempted, StageFailed
from infra.log import event
from infra.stage import Inputs, Stage
from infra.stage import run as run_stage
from infra.store import Store
from pipelines import runner
from pipelines.ending import (
    CANCELLED,
    DISK_FULL,
    KILLED,
    NO_RAM,
    Terminated,
    cancel,
    describe,
    exit_at_once,
    exit_state,
    flow_state,
    listen,
)
from pipelines.prefect_progress import Progress
from pipelines.prefect_server import POOL
from pipelines.rundir import status
from pipelines.runner import Carry, Order, Outcome, Prepared

CLIENT_RETRIES = 2  # of the flow's own requests at its start and end: 6 seconds
RETRIES = 2
OURS = (ConfigError, ArtifactError, Preempted)  # raised on purpose: a second try would end the same way

_ATTEMPT: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)


@flow(name="textmill", description="A list of links becomes pretrained, distilled and evaluated language models.", persist_result=False)
def textmill(
    recipe: str = "demo",
    workspace: str = "workspace",
    settings: list[str] | None = None,
    until: str = "",
    ray: str = "",
    plain: bool = False,
) -> str | State[Any]:
    """The whole chain; returns the folder of the run, or the state of the flow run where `start` called it."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    flow_run = context.flow_run
    attempt = _ATTEMPT.get()
    prepared = attempt.prepared if attempt else None
    if prepared is None:  # a worker started us
        date = _logical_date(flow_run)
        order = Order(recipe, Path(workspace), (*(settings or ()), *date), until, ray, plain)
        prepared = runner.prepare(order)
    with get_client(sync_client=True) as client:
        with suppress(httpx.TransportError):  # gone since the flow run began: `progress` warns about it
            client.set_flow_run_name(flow_run.id, prepared.run.id)
            _bury(client, prepared.run.workspace, flow_run.id)
        progress = Progress(client, flow_run.id, get_run_logger(), cancel if attempt else None)
        try:
            if attempt:
                return attempt.carry_out(prepared, progress)
            outcome = runner.carry_out(prepared, partial(as_task, progress=progress))
            progress.publish(outcome)
        except TerminationSignal:  # the worker's, which ends the flow run as it was asked to
            if progress.cancelled():
                prepared.run.stands("cancelled", error=CANCELLED.message)
            raise
        finally:
            progress.close()
    return str(prepared.run.path)


class _Attempt:
    """A run in this process: how it ended is kept here and only reported to Prefect, so that a lost server cannot change it."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None
        self.lost = False

    def carry_out(self, prepared: Prepared, progress: Progress) -> State[Any]:
        """The run's work; returns the state of its flow run."""
        listen()  # in place of Prefect's handler: a signal ends the run as it would without Prefect
        try:
            self.outcome = runner.carry_out(prepared, partial(as_task, progress=progress))
            progress.publish(self.outcome)
        except BaseException as error:
            self.error = error
        finally:
            progress.close()
            self.lost = progress.lost
        found = exit_state(self.error)
        return State(type=StateType[found.prefect.upper()], name=found.prefect, message=describe(self.error) if self.error else None)


def start(prepared: Prepared) -> Outcome:
    """Run the flow in this process. Without a server the work is done all the same, and ends as it would with one."""
    attempt, order = _Attempt(prepared), prepared.order
    given, raising = _ATTEMPT.set(attempt), logging.raiseExceptions
    logging.raiseExceptions = False  # Prefect's log thread would print to the terminal that it lost the server
    try:
        with temporary_settings(updates={PREFECT_CLIENT_MAX_RETRIES: CLIENT_RETRIES}):
            run = textmill.with_options(flow_run_name=prepared.run.id)
            run(order.recipe, str(order.workspace), list(order.settings), order.until, order.ray, order.plain, return_state=True)
    except TerminationSignal:  # before or after the work
        raise Terminated from None
    except Exception as error:  # of Prefect, not of the run
        attempt.lost = True
        if attempt.outcome is None and attempt.error is None:
            event("warning", message=f"Prefect did not start the run ({type(error).__name__}: {error}); it is done without Prefect")
            attempt.outcome = runner.carry_out(prepared, runner.plainly)
    finally:
        _ATTEMPT.reset(given)
        logging.raiseExceptions = raising
        if attempt.lost:
            exit_at_once()
    if attempt.error is not None:
        raise attempt.error
    assert attempt.outcome is not None
    return attempt.outcome


def as_task(store: Store, compute: Compute, progress: Progress) -> Carry:
    """Each stage as a task run named by its label and short fingerprint; a done one shows as Cached."""

    states: dict[tuple[str, str], State[Any]] = {}

    def carry(stage: Stage[Any], config: Any, inputs: Inputs, label: str, key: str, found: Artifact | None) -> Artifact:
        def work() -> Artifact | State[Artifact]:
            if found is not None:
                return Completed(name="Cached", message="made by an earlier run", data=found)
            context = TaskRunContext.get()
            assert context is not None
            with progress.of(stage.name, context.task, context.task_run):
                return run_stage(stage, config, inputs, store, compute)

        name = f"{label} {key[:6]}".replace("{", "(").replace("}", ")")  # braces would be filled in by Prefect
        wrapped = Task(work, name=stage.name, task_run_name=name, **TASK)
        # named as what was waited for, not passed: Prefect finds arrows by the id of an object, and ids are used again
        before = [states[a.stage, a.fingerprint] for a in inputs.values() if (a.stage, a.fingerprint) in states]
        states[stage.name, key] = state = wrapped(wait_for=before, return_state=True)
        return state.result()  # type: ignore[return-value,no-any-return]  # synchronous here

    return carry


def deploy(recipe: str, workspace: Path, settings: tuple[str, ...], cron: str, timezone: str, name: str, *, plain: bool) -> str:
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
    made: Any = textmill.to_deployment(  # a coroutine only where an event loop runs

        name, schedule=schedule, work_pool_name=POOL, entrypoint_type=EntrypointType.MODULE_PATH, concurrency_limit=1,
        parameters={"recipe": recipe, "workspace": str(workspace), "settings": list(settings), "plain": plain},
    )  # fmt: skip
    made.apply()
    return f"textmill/{name}"


def _worth_a_retry(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a second attempt may succeed: after a system failure (a full queue, a lost connection), not after a refusal of our own."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, BaseException) and exit_state(error) in (DISK_FULL, NO_RAM):
        return False  # nobody frees space or memory within seconds
    if isinstance(error, StageFailed):
        return any(isinstance(e, OSError) for e in error.failures.values())
    return isinstance(error, OSError) and not isinstance(error, OURS)


# no cache and no stored results: the manifests know what is done
TASK: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": 2,
    "retry_condition_fn": _worth_a_retry,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


def _bury(client: SyncPrefectClient, workspace: Path, own: UUID) -> None:
    """Runs that were killed, or that ended while the server was gone, stay Running in the UI for ever: report how they ended."""
    running = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING"]}}})
    for ended in client.read_flow_runs(flow_run_filter=running):
        folder = workspace / "runs" / ended.name
        if ended.id == own or not (folder / "status.json").exists() or (found := status(folder))["state"] == "running":
            continue
        name = flow_state(found["state"])
        message = found.get("error") or ("its process was killed" if found["state"] == KILLED.state else "reported later")
        state: State[Any] = State(type=StateType[name.upper()], name=name, message=message)
        tasks = TaskRunFilter.model_validate({"flow_run_id": {"any_": [ended.id]}, "state": {"type": {"any_": ["RUNNING", "PENDING"]}}})
        for left in client.read_task_runs(task_run_filter=tasks):
            client.set_task_run_state(left.id, state, force=True)
        client.set_flow_run_state(ended.id, state, force=True)


def _logical_date(flow_run: Any) -> tuple[str, ...]:
    """The moment a scheduled run stands for: its crawl is new, whenever it is really carried out."""
    if not flow_run.auto_scheduled or flow_run.expected_start_time is None:
        return ()
    return (f"date={flow_run.expected_start_time.strftime('%Y-%m-%dT%H:%M')}",)
