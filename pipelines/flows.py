"""A run as a Prefect flow; schedules.py is the other door to Prefect.

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

import httpx
from prefect import Task, flow, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Completed, State

from infra.artifact import Artifact
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError, Preempted, StageFailed
from infra.log import event
from infra.stage import Inputs, Stage
from infra.stage import run as run_stage
from infra.store import Store
from pipelines import runner, scheduled, zombies
from pipelines.ending import (
    CANCELLED,
    DISK_FULL,
    NO_RAM,
    Terminated,
    cancel,
    describe,
    exit_at_once,
    exit_state,
    listen,
)
from pipelines.prefect_api import Api
from pipelines.prefect_progress import Progress
from pipelines.runner import Carry, Order, Outcome, Prepared

CLIENT_RETRIES = 2  # of the flow's own requests at its start and end: 6 seconds
RETRIES = 2
OURS = (ConfigError, ArtifactError, Preempted)  # raised on purpose: a second try would end the same way
PERMANENT = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)  # of the system, until somebody changes a file

_ATTEMPT: ContextVar[_Attempt | None] = ContextVar("attempt", default=None)


@flow(name="textmill", description="A list of links becomes pretrained, distilled and evaluated language models.", persist_result=False)
def textmill(
    recipe: str = "demo",
    workspace: str = "workspace",
    settings: list[str] | None = None,
    until: str = "",
    ray: str = "",
    plain: bool = False,
) -> Any:
    """The whole chain; returns the directory of the run, or the state of the flow run where `start` called it or it was skipped."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    flow_run = context.flow_run
    attempt = _ATTEMPT.get()
    prepared = attempt.prepared if attempt else None
    if prepared is None:  # a worker started us
        due = scheduled.occasion(Api(), str(flow_run.id))
        if not due.overlap and not scheduled.claim(Path(workspace), due.deployment):
            scheduled.rename(Api(), str(flow_run.id), f"{due.deployment}-skipped")
            return Cancelled(name="Skipped", message=f"the last run of {due.deployment} is still at work in {workspace}")
        order = Order(recipe, Path(workspace), (*(settings or ()), *([f"date={due.date}"] if due.date else [])), until, ray, plain)
        prepared = runner.prepare(order)
    with get_client(sync_client=True) as client:
        with suppress(httpx.TransportError):  # gone since the flow run began: `progress` warns about it
            client.set_flow_run_name(flow_run.id, prepared.run.id)
        zombies.register(Api(str(client.api_url)), str(flow_run.id))
        zombies.sweep_quietly(str(client.api_url))
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
        self.interrupted = False  # the server did not answer at some time

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
            self.interrupted = progress.interrupted
        found = exit_state(self.error)
        return State(type=StateType[found.prefect.upper()], name=found.prefect, message=describe(self.error) if self.error else None)


def start(prepared: Prepared) -> Outcome:
    """Run the flow in this process. Without a server the work is done all the same, and ends as it would with one."""
    attempt, order = _Attempt(prepared), prepared.order
    given = _ATTEMPT.set(attempt)
    logging.raiseExceptions = False  # and stays so: Prefect's log thread, which outlives the run, would print that it lost the server
    try:
        with temporary_settings(updates={PREFECT_CLIENT_MAX_RETRIES: CLIENT_RETRIES}):
            run = textmill.with_options(flow_run_name=prepared.run.id)
            run(order.recipe, str(order.workspace), list(order.settings), order.until, order.ray, order.plain, return_state=True)
    except TerminationSignal:  # before or after the work
        raise Terminated from None
    except Exception as error:  # of Prefect, not of the run
        attempt.interrupted = True
        if attempt.outcome is None and attempt.error is None:
            event("warning", message=f"Prefect did not start the run ({type(error).__name__}: {error}); it is done without Prefect")
            attempt.outcome = runner.carry_out(prepared, runner.plainly)
    finally:
        _ATTEMPT.reset(given)
        if attempt.interrupted:
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


def _worth_a_retry(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether a second attempt may succeed: after a system failure (a full queue, a lost connection), not after a refusal of our own."""
    error = state.result(raise_on_failure=False)
    if isinstance(error, BaseException) and exit_state(error) in (DISK_FULL, NO_RAM):
        return False  # nobody frees space or memory within seconds
    if isinstance(error, StageFailed):
        return any(map(_is_transient, error.failures.values()))
    return _is_transient(error)


def _is_transient(error: Any) -> bool:
    """Whether the system may not report this error again, such as a lost connection or a full queue."""
    return isinstance(error, OSError) and not isinstance(error, (*OURS, *PERMANENT))


# no cache and no stored results: the manifests know what is done
TASK: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": 2,
    "retry_condition_fn": _worth_a_retry,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
