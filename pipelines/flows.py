"""A run as a Prefect flow; schedules.py is the other door to Prefect.

One flow run a run, one task run a stage (never one a shard). Our manifests know what is done, so Prefect's own cache
stays off: it would not hit across runs, and would hit on an output that was deleted.
"""

from __future__ import annotations

import json
import math
import re
import threading
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Task, flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext, TaskRunContext
from prefect.states import Cancelled, Completed, State

from infra.artifact import Artifact
from infra.compute import Compute
from infra.errors import ArtifactError, ConfigError, Preempted, StageFailed
from infra.log import Event, attach
from infra.stage import Inputs, Stage
from infra.stage import run as run_stage
from infra.store import Store
from pipelines import runner, scheduled, zombies
from pipelines.prefect_api import Api
from pipelines.runner import Carry, Order, Outcome, Prepared

EVERY_S = 2.0  # between two updates of one progress artifact
RETRIES = 2
OURS = (ConfigError, ArtifactError, Preempted)  # raised on purpose: a second try would end the same way

_PREPARED: ContextVar[Prepared | None] = ContextVar("prepared", default=None)
_OUTCOME: ContextVar[list[Outcome] | None] = ContextVar("outcome", default=None)


@flow(name="textmill", description="A list of links becomes pretrained, distilled and evaluated language models.", persist_result=False)
def textmill(
    recipe: str = "demo",
    workspace: str = "workspace",
    settings: list[str] | None = None,
    until: str = "",
    ray: str = "",
    plain: bool = False,
) -> Any:
    """The whole chain; returns the directory of the run."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    flow_run = context.flow_run
    prepared = _PREPARED.get()
    if prepared is None:  # a worker started us
        due = scheduled.occasion(Api(), str(flow_run.id))
        if not due.overlap and not scheduled.claim(Path(workspace), due.deployment):
            scheduled.rename(Api(), str(flow_run.id), f"{due.deployment}-skipped")
            return Cancelled(name="Skipped", message=f"the last run of {due.deployment} is still at work in {workspace}")
        order = Order(recipe, Path(workspace), (*(settings or ()), *([f"date={due.date}"] if due.date else [])), until, ray, plain)
        prepared = runner.prepare(order)
    with get_client(sync_client=True) as client:
        client.set_flow_run_name(flow_run.id, prepared.run.id)
        zombies.register(Api(str(client.api_url)), str(flow_run.id))
        zombies.sweep_quietly(str(client.api_url))
        progress = Progress(client, flow_run.id, get_run_logger())
        try:
            outcome = runner.carry_out(prepared, partial(as_task, progress=progress))
        finally:
            progress.close()
    publish(outcome)
    if (into := _OUTCOME.get()) is not None:
        into.append(outcome)
    return str(prepared.run.path)


def start(prepared: Prepared) -> Outcome:
    """Run the flow in this process."""
    results: list[Outcome] = []
    given, out = _PREPARED.set(prepared), _OUTCOME.set(results)
    order = prepared.order
    try:
        run = textmill.with_options(flow_run_name=prepared.run.id)
        run(order.recipe, str(order.workspace), list(order.settings), order.until, order.ray, order.plain)
    finally:
        _PREPARED.reset(given)
        _OUTCOME.reset(out)
    return results[0]


def as_task(store: Store, compute: Compute, progress: Progress) -> Carry:
    """Each stage as a task run named by its label and short fingerprint; a done one shows as Cached."""

    states: dict[tuple[str, str], State[Any]] = {}

    def carry(stage: Stage[Any], config: Any, inputs: Inputs, label: str, key: str, found: Artifact | None) -> Artifact:
        def work() -> Artifact | State[Artifact]:
            if found is not None:
                return Completed(name="Cached", message="made by an earlier run", data=found)
            context = TaskRunContext.get()
            assert context is not None
            with progress.of(stage.name, context.task_run.id):
                return run_stage(stage, config, inputs, store, compute)

        name = f"{label} {key[:6]}".replace("{", "(").replace("}", ")")  # braces would be filled in by Prefect
        wrapped = Task(work, name=stage.name, task_run_name=name, **TASK)
        # named as what was waited for, not passed: Prefect finds arrows by the id of an object, and ids are used again
        before = [states[a.stage, a.fingerprint] for a in inputs.values() if (a.stage, a.fingerprint) in states]
        states[stage.name, key] = state = wrapped(wait_for=before, return_state=True)
        return state.result()  # type: ignore[return-value,no-any-return]  # synchronous here

    return carry


class Progress:
    """Turns events into progress artifacts and log lines, from a thread of its own: no stage waits for the API."""

    def __init__(self, client: SyncPrefectClient, flow_run: UUID, logger: Any) -> None:
        self.client, self.flow_run, self.logger = client, flow_run, logger
        self._stage, self._task = "", flow_run
        self._artifact: UUID | None = None
        self._share, self._words, self._sent = 0.0, "", -1.0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._detach = attach(self._listen)
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def of(self, stage: str, task_run: UUID) -> Progress:
        with self._lock:
            self._stage, self._task, self._artifact, self._share, self._words, self._sent = stage, task_run, None, 0.0, "", -1.0
        return self

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            if kind is None and self._artifact is not None:
                self._share = 100.0
        self._send()

    def close(self) -> None:
        self._detach()
        self._stop.set()
        self._thread.join(10)

    def _listen(self, told: Event) -> None:
        kind = told["kind"]
        if kind in ("progress", "train") and told.get("total"):
            with self._lock:
                done = int(told.get("done") or told.get("step") or 0)
                self._share, self._words = round(100 * done / told["total"], 1), _words(told, done)
        elif kind in ("note", "warning"):
            say = self.logger.warning if kind == "warning" else self.logger.info
            say("%s%s", f"{self._stage}: " if self._stage else "", told["message"])
        elif kind == "stage":
            self.logger.info("%s: %s%s", told["label"], told["state"], f" in {told['seconds']:.1f} s" if told["seconds"] else "")

    def _loop(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._send()

    def _send(self) -> None:
        with self._lock:
            if self._share == self._sent or not self._words:
                return
            self._sent = self._share
            try:
                if self._artifact is None:
                    made = ArtifactCreate(
                        key=f"{slug(self._stage)}-progress", type="progress", description=self._words, data=self._share,
                        flow_run_id=self.flow_run, task_run_id=self._task,
                    )  # fmt: skip
                    self._artifact = self.client.create_artifact(made).id
                else:
                    self.client.update_artifact(self._artifact, ArtifactUpdate(data=self._share, description=self._words))
            except Exception as error:  # a server that is gone must not end the work it only watches
                self.logger.debug("no progress sent: %s", error)


def publish(outcome: Outcome) -> None:
    """Funnel, scores and the report as artifacts of the flow run."""
    from pipelines.report import markdown

    page = json.loads((outcome.run.path / "report.json").read_text())
    for name, rows in (("funnel", page.get("funnel")), ("scores", page.get("scores"))):
        if rows:
            create_table_artifact(table(rows), key=name, description=f"{name} of {outcome.run.id}")
    create_markdown_artifact(markdown(outcome.run.path), key="report", description=f"report of {outcome.run.id}")
    create_markdown_artifact(lineage(outcome.run.path), key="lineage", description="which stage fed which")


def table(rows: Any) -> list[dict[str, Any]]:
    """Rows a table artifact can show: a list of flat dictionaries without NaN (JSON has none)."""
    if isinstance(rows, dict):
        rows = [{"name": key, **value} if isinstance(value, dict) else {"name": key, "value": value} for key, value in rows.items()]
    return [{key: _cell(value) for key, value in row.items()} for row in rows or [] if isinstance(row, dict)]


def lineage(run: Path) -> str:
    """The run's stages as a mermaid graph."""
    rows = json.loads((run / "stages.json").read_text())
    names = {row["label"]: f"s{number}" for number, row in enumerate(rows)}
    lines = [f'  {names[row["label"]]}["{row["label"]}<br/>{row["fingerprint"][:6]}"]' for row in rows]
    arrows = [f"  {names[source]} --> {names[row['label']]}" for row in rows for source in row["inputs"].values() if source in names]
    return "\n".join(["```mermaid", "graph LR", *lines, *dict.fromkeys(arrows), "```"])


def slug(name: str) -> str:
    """Artifact keys allow lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "stage"


def _worth_a_retry(_task: Any, _run: Any, state: State[Any]) -> bool:
    """System failures pass (a full queue, a lost connection); what our own checks refuse does not."""
    error = state.result(raise_on_failure=False)
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


def _words(told: Event, done: int) -> str:
    loss = f", loss {told['loss']:.3f}" if isinstance(told.get("loss"), float) else ""
    speed = f", {told['tokens_per_s']:,.0f} tokens/s" if told.get("tokens_per_s") else ""
    return f"{done:,} of {told['total']:,} {told.get('unit', 'steps')}{loss}{speed}"


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else json.dumps(value)
