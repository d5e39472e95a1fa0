"""Everything a run reports to the Prefect server, from a thread of its own: no stage waits for the server.

A server that does not answer is warned about once. The thread goes on asking, and when the server is back it reports what was missed:
progress, artifacts, and the states of task runs. The same thread notices a cancellation from the UI or the API.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import Task
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import TaskRunFilter
from prefect.client.schemas.objects import TaskRun
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import State

from infra.log import Event, attach, event
from pipelines import zombies
from pipelines.runner import Outcome

EVERY_S = 2.0  # between two updates of one progress artifact, and between two questions to a server that is gone
REQUEST_S = 10.0  # for an answer to one request
CLOSE_S = 20.0  # for the last reports at the end of a run


@dataclass
class _Bar:
    """The progress of one task run, and how much of it the server knows."""

    stage: str
    task_run: UUID
    percent: float = 0.0
    words: str = ""
    sent: float = -1.0
    artifact: UUID | None = None
    done: bool = False


class Progress:
    """Turns events into progress artifacts and log lines. Its methods return at once, whatever the server does; close waits CLOSE_S.

    cancel is called once, from the thread, when somebody cancels the flow run; None where the run's worker sees to that.
    """

    def __init__(self, client: SyncPrefectClient, flow_run: UUID, logger: Any, cancel: Callable[[], None] | None = None) -> None:
        self.client, self.flow_run, self.logger, self.cancel = client, flow_run, logger, cancel
        self.lost = False  # the server, now
        self.interrupted = False  # it was lost at some time: events that Prefect itself sends may be late by minutes
        self._beat = time.monotonic()  # `zombies.register` has just reported
        self._bars: list[_Bar] = []
        self._tasks: dict[UUID, tuple[Task[..., Any], TaskRun]] = {}
        self._artifacts: list[ArtifactCreate] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._detach = attach(self._listen)
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def of(self, stage: str, task: Task[..., Any], task_run: TaskRun) -> Progress:
        """Within this context events are the progress of this task run."""
        with self._lock:
            self._tasks[task_run.id] = (task, task_run)
            self._bars.append(_Bar(stage, task_run.id))
        return self

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._lock:
            bar = self._bars[-1]
            bar.percent, bar.done = 100.0 if kind is None and bar.words else bar.percent, True

    def publish(self, outcome: Outcome) -> None:
        """Funnel, scores, report and lineage as artifacts of the flow run."""
        from pipelines.report import markdown

        page = json.loads((outcome.run.path / "report.json").read_text())
        made = [("report", "markdown", markdown(outcome.run.path)), ("lineage", "markdown", lineage(outcome.run.path))]
        made += [(name, "table", json.dumps(table(page[name]))) for name in ("funnel", "scores") if page.get(name)]
        words = {"lineage": "which stage fed which"}
        with self._lock:
            for key, kind, data in made:
                description = words.get(key, f"{key} of {outcome.run.id}")
                self._artifacts.append(ArtifactCreate(key=key, type=kind, description=description, data=data, flow_run_id=self.flow_run))

    def close(self) -> None:
        """Report what is left, if the server takes it in time."""
        self._detach()
        self._stop.set()
        self._thread.join(CLOSE_S)

    def cancelled(self) -> bool:
        """Whether the server says that the flow run was cancelled; False when it does not answer."""
        try:
            state = self.client.read_flow_run(self.flow_run).state
        except Exception:
            return False
        return state is not None and (state.is_cancelling() or state.is_cancelled())

    def _listen(self, told: Event) -> None:
        kind = told["kind"]
        with self._lock:
            bar = self._bars[-1] if self._bars and not self._bars[-1].done else None
            if bar and kind in ("progress", "train") and told.get("total"):
                done = int(told.get("done") or told.get("step") or 0)
                bar.percent, bar.words = round(100 * done / told["total"], 1), words(told, done)
        if kind in ("note", "warning"):
            log = self.logger.warning if kind == "warning" else self.logger.info
            log("%s%s", f"{bar.stage}: " if bar else "", told["message"])
        elif kind == "stage":
            self.logger.info("%s: %s%s", told["label"], told["state"], f" in {told['seconds']:.1f} s" if told["seconds"] else "")

    def _loop(self) -> None:
        settings = {PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: REQUEST_S}
        with temporary_settings(updates=settings):
            last = False
            while not last:
                last = self._stop.wait(EVERY_S)
                self._round(last)

    def _round(self, last: bool = False) -> None:
        """Everything that the server does not know yet. What fails is tried in the next round."""
        try:
            if self.lost or (last and self.interrupted):
                self._reconcile()
            self._send()
            if time.monotonic() - self._beat > zombies.HEARTBEAT_S:
                self.client.update_flow_run_labels(self.flow_run, zombies.heartbeat())
                self._beat = time.monotonic()
            if self.cancel is not None and self.cancelled():
                cancel, self.cancel = self.cancel, None
                cancel()
        except httpx.TransportError as error:
            if not self.lost:
                self.lost = self.interrupted = True
                event("warning", message=f"the Prefect server at {self.client.api_url} does not answer ({type(error).__name__}); {LOST}")
        except Exception as error:  # a server that refuses a report must not end the work
            self.logger.debug("not reported: %s", error)
        else:
            if self.lost:
                self.lost = False
                event("note", message="the Prefect server answers again; what it missed was reported")

    def _send(self) -> None:
        with self._lock:
            bars, artifacts = list(self._bars), list(self._artifacts)
        for bar in bars:
            if bar.words and bar.percent != bar.sent:
                percent, description = bar.percent, bar.words
                if bar.artifact is None:
                    ids: dict[str, Any] = {"flow_run_id": self.flow_run, "task_run_id": bar.task_run}
                    made = ArtifactCreate(key=f"{slug(bar.stage)}-progress", type="progress", description=description, data=percent, **ids)
                    bar.artifact = self.client.create_artifact(made).id
                else:
                    self.client.update_artifact(bar.artifact, ArtifactUpdate(data=percent, description=description))
                bar.sent = percent
        for artifact in artifacts:
            self.client.create_artifact(artifact)
            with self._lock:
                self._artifacts.remove(artifact)
        with self._lock:
            self._bars = [bar for bar in self._bars if not bar.done or (bar.words and bar.percent != bar.sent)]

    def _reconcile(self) -> None:
        """Task runs whose events were lost with the server get their states."""
        with self._lock:
            tasks = dict(self._tasks)
        filtered = TaskRunFilter.model_validate({"flow_run_id": {"any_": [self.flow_run]}})
        there = {run.id: run for run in self.client.read_task_runs(task_run_filter=filtered)}
        for task, run in tasks.values():
            if run.state is None:
                continue
            state: State[Any] = State(type=run.state.type, name=run.state.name, message=run.state.message, timestamp=run.state.timestamp)
            if run.id not in there:
                more: dict[str, Any] = {"id": run.id, "name": run.name, "task_inputs": run.task_inputs}
                self.client.create_task_run(task, self.flow_run, run.dynamic_key, state=state, **more)
            if run.id not in there or there[run.id].state_name != state.name:
                self.client.set_task_run_state(run.id, state, force=True)


LOST = "the run continues without it, and reports what it missed when it is back"


def words(told: Event, done: int) -> str:
    """`50 of 100 steps, loss 3.250, 2,500 tokens/s`."""
    loss = f", loss {told['loss']:.3f}" if isinstance(told.get("loss"), float) else ""
    speed = f", {told['tokens_per_s']:,.0f} tokens/s" if told.get("tokens_per_s") else ""
    return f"{done:,} of {told['total']:,} {told.get('unit', 'steps')}{loss}{speed}"


def slug(name: str) -> str:
    """Artifact keys allow lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "stage"


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


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else json.dumps(value)
