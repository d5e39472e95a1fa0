"""Stages as Prefect tasks, seen through the API of a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.log import event
from pipelines.runner import Order, Prepared, prepare

pytestmark = pytest.mark.prefect


@pytest.fixture(scope="module")
def client(server: str) -> Any:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as found:
        yield found


@pytest.fixture
def two_runs(server: str, recipe: Path) -> list[Prepared]:
    """The same recipe twice, as far as deduplication, without Ray."""
    from pipelines import flows

    made = []
    for _ in range(2):
        prepared = prepare(Order(str(recipe), recipe.parent / "w", until="dedup", plain=True))
        flows.start(prepared)
        made.append(prepared)
    return made


def flow_run(client: Any, name: str) -> Any:
    from prefect.client.schemas.filters import FlowRunFilter

    [found] = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate({"name": {"any_": [name]}}))
    return found


def task_runs(client: Any, run: Any) -> dict[str, Any]:
    from prefect.client.schemas.filters import TaskRunFilter

    found = client.read_task_runs(task_run_filter=TaskRunFilter.model_validate({"flow_run_id": {"any_": [run.id]}}))
    return {task.name: task for task in found}


def artifacts(client: Any, run: Any) -> dict[str, Any]:
    from prefect.client.schemas.filters import ArtifactFilter

    found = client.read_artifacts(artifact_filter=ArtifactFilter.model_validate({"flow_run_id": {"any_": [run.id]}}))
    return {artifact.key: artifact for artifact in found if artifact.key}


def test_a_run_is_a_flow_run_of_its_name_and_a_second_one_is_cached(client: Any, two_runs: list[Prepared]) -> None:
    first, second = (flow_run(client, prepared.run.id) for prepared in two_runs)
    assert first.state.name == second.state.name == "Completed"
    assert first.parameters["until"] == "dedup"
    tasks, again = task_runs(client, first), task_runs(client, second)
    assert {t.state.name for t in tasks.values()} == {"Completed"}
    assert {t.state.name for t in again.values()} == {"Cached"}
    assert set(tasks) == set(again)
    assert {f"{row.label} {row.fingerprint[:6]}" for row in two_runs[0].run.rows} == set(tasks)


def test_arrows_follow_the_artifacts(client: Any, two_runs: list[Prepared]) -> None:
    for prepared in two_runs:
        tasks = task_runs(client, flow_run(client, prepared.run.id))
        names = {str(task.id): name.split()[0] for name, task in tasks.items()}
        before = {name.split()[0]: [names[str(i.id)] for one in task.task_inputs.values() for i in one] for name, task in tasks.items()}
        assert before == {"documents": [], "filter": ["documents"], "dedup": ["filter"]}


def test_funnel_report_and_lineage_are_artifacts_of_the_run(client: Any, two_runs: list[Prepared]) -> None:
    found = artifacts(client, flow_run(client, two_runs[0].run.id))
    assert [row["stage"] for row in json.loads(found["funnel"].data)] == ["documents", "filter", "dedup"]
    assert len(found["report"].data) < 200_000 and two_runs[0].run.id in found["report"].data
    assert found["lineage"].data.startswith("```mermaid\ngraph LR")


def test_progress_is_rounded_seldom_and_ends_at_100(client: Any, two_runs: list[Prepared], monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect import flow, get_run_logger, task
    from prefect.context import FlowRunContext, TaskRunContext

    from pipelines import prefect_progress

    sent: list[float] = []

    @task(name="crawl")
    def crawl(progress: prefect_progress.Progress) -> None:
        context = TaskRunContext.get()
        assert context is not None
        with progress.of("crawl", context.task, context.task_run):
            for done in range(1, 1000):
                event("progress", stage="crawl", done=done, total=1003, unit="pages")
            progress._round()

    @flow(name="progress")
    def told() -> Any:
        context = FlowRunContext.get()
        assert context is not None and context.flow_run is not None
        progress = prefect_progress.Progress(client, context.flow_run.id, get_run_logger())
        real = client.create_artifact
        monkeypatch.setattr(client, "create_artifact", lambda artifact: (sent.append(artifact.data), real(artifact))[1])
        crawl(progress)
        progress.close()
        return context.flow_run

    monkeypatch.setattr(prefect_progress, "EVERY_S", 60.0)
    found = artifacts(client, told())["crawl-progress"]
    assert sent == [99.6] and found.data == 100.0 and found.description == "999 of 1,003 pages"


def test_a_failed_stage_fails_its_task_once_and_the_run(client: Any, recipe: Path) -> None:
    from infra.errors import PipelineError
    from pipelines import flows

    prepared = prepare(Order(str(recipe), recipe.parent / "w", ("corpus.filter.min_words=5000",), until="tokenizer", plain=True))
    with pytest.raises(PipelineError, match="no text to train on"):
        flows.start(prepared)
    run = flow_run(client, prepared.run.id)
    states = {name.split()[0]: (task.state.name, task.run_count) for name, task in task_runs(client, run).items()}
    assert run.state.name == "Failed" and states["tokenizer"] == ("Failed", 1) and states["dedup"] == ("Completed", 1)


def test_the_progress_of_training_is_told_with_loss_and_speed(tmp_path: Path) -> None:
    """In the last of a step's events: Prefect's artifact shows that one."""
    import torch

    from infra.log import attach
    from pipelines import prefect_progress
    from training.engine.measure import Journal
    from training.engine.rank import Rank

    told: list[dict[str, Any]] = []
    detach = attach(told.append)
    journal = Journal(tmp_path / "metrics.jsonl", "pretrain", Rank(0, 1, torch.device("cpu")), 100, 0)
    journal.passed(5000, 2.0)
    journal.tell(49, None, {}, loss=3.25, parts={})
    detach()
    assert prefect_progress.words(told[-1], told[-1]["done"]) == "50 of 100 steps, loss 3.250, 2,500 tokens/s"


def test_a_run_that_was_killed_is_told_as_crashed_by_the_next(client: Any, recipe: Path) -> None:
    from prefect.client.schemas.objects import TaskRun
    from prefect.states import Running

    from pipelines import flows

    dead = prepare(Order(str(recipe), recipe.parent / "w", until="documents", plain=True))
    run = client.create_flow_run(flows.textmill, name=dead.run.id, parameters={"workspace": str(recipe.parent / "w")}, state=Running())
    task: TaskRun = client.create_task_run(_a_task(), flow_run_id=run.id, dynamic_key="0", state=Running())
    status = json.loads((dead.run.path / "status.json").read_text())
    (dead.run.path / "status.json").write_text(json.dumps({**status, "pid": 2**22 + 1}))
    flows.start(prepare(Order(str(recipe), recipe.parent / "w", until="documents", plain=True)))
    assert client.read_flow_run(run.id).state.name == "Crashed"
    assert client.read_task_run(task.id).state.name == "Crashed"


def _a_task() -> Any:
    from prefect import task

    return task(lambda: None, name="crawl")


def test_keys_and_tables_are_what_the_api_takes() -> None:
    from pipelines import prefect_progress

    assert prefect_progress.slug("Encode bytes_2") == "encode-bytes-2" and prefect_progress.slug("") == "stage"
    assert prefect_progress.table([{"a": float("nan"), "b": 1.23456, "c": [1], "d": None}]) == [
        {"a": None, "b": 1.2346, "c": "[1]", "d": None}
    ]
