"""One run from a recipe to a report: where it writes, what carries its stages, and how it ends.

Prefect is not known here: `make_carry` decides whether a stage is called plainly or as somebody's task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.corpus.crawl import CRAWL
from infra.artifact import Artifact, fingerprint
from infra.compute import Compute, LocalCompute
from infra.errors import ConfigError, PipelineError
from infra.log import attach, event
from infra.mirror import Mirror
from infra.stage import Inputs, Stage
from infra.stage import run as run_stage
from infra.store import Store
from pipelines import chain, plan_checks, recipe_shapes
from pipelines.ending import describe, exit_state, locate
from pipelines.growth import Growth
from pipelines.plan import plan
from pipelines.rebuild import Earlier, rebuilding
from pipelines.recipe import Loaded, load
from pipelines.rundir import RunDir
from pipelines.tensorboard import Board

# how one stage that is not done yet is carried out, and what is told when it is done already
Carry = Callable[[Stage[Any], Any, Inputs, str, str, Artifact | None], Artifact]
MakeCarry = Callable[[Store, Compute], Carry]


@dataclass(frozen=True)
class Order:
    """What the user asked for."""

    recipe: str
    workspace: Path = Path("workspace")
    settings: tuple[str, ...] = ()
    until: str = ""
    ray: str = ""
    plain: bool = False
    profile: str = ""


@dataclass(frozen=True)
class Prepared:
    """A checked recipe and the run directory made for it."""

    order: Order
    loaded: Loaded
    run: RunDir
    store: Store
    growth: Growth


@dataclass
class Outcome:
    """What a finished run has to show."""

    run: RunDir
    store: Store
    artifacts: dict[str, Artifact]
    seconds: float
    report: Path | None = None
    ui: str = ""
    notes: list[str] = field(default_factory=list)


def check(order: Order) -> Loaded:
    """The recipe, with everything wrong in it told at once; nothing is written."""
    loaded = load(order.recipe, order.settings, order.profile)
    chain.check_until(order.until)
    plan_checks.check(loaded, order.until)
    chain.rehearse(loaded.recipe)
    if loaded.recipe.resources.mirror:
        Mirror(loaded.recipe.resources.mirror).check()
    return loaded


def prepare(order: Order) -> Prepared:
    """Raises ConfigError before anything is written when the recipe is wrong."""
    loaded = check(order)
    if order.ray and not order.plain:
        from infra.ray_compute import check_address

        check_address(order.ray)
    if not order.ray and chain.trains(loaded.recipe, order.until):  # what only makes text never loads torch
        _check_machine(loaded, order)
    workspace = order.workspace.absolute()
    digest = fingerprint(loaded.recipe.model_dump(mode="json"))
    mirror = _mirror(loaded)
    store = Store(workspace / "artifacts", mirror)
    growth = Growth(workspace, store, loaded.recipe)
    run = RunDir.create(workspace, loaded.recipe.name, loaded.resolved, loaded.source, digest)
    return Prepared(order, loaded, run, store, growth)


def _mirror(loaded: Loaded) -> Mirror | None:
    resources = loaded.recipe.resources
    if not resources.mirror:
        return None
    mirror = Mirror(resources.mirror, resources.mirror_required)
    mirror.open()
    return mirror


def _check_machine(loaded: Loaded, order: Order) -> None:
    """Raises ConfigError where a training has still to be done that this machine cannot do: not after the crawl, and not for a model
    that another machine has made. A cluster's machines look for themselves, in each rank."""
    if refused := recipe_shapes.not_here(loaded.recipe):
        todo = {step.label for step in plan(loaded.recipe, order.workspace.absolute(), order.until) if step.action != "reuse"}
        if problems := [f"{loaded.place(('models', name))}: models.{name}: {why}" for name, why in refused.items() if name in todo]:
            raise ConfigError("\n".join(problems))


def plainly(store: Store, compute: Compute) -> Carry:
    """Stages as function calls in this process."""

    def carry(stage: Stage[Any], config: Any, inputs: Inputs, label: str, key: str, found: Artifact | None) -> Artifact:
        return found or run_stage(stage, config, inputs, store, compute)

    return carry


def carry_out(prepared: Prepared, make_carry: MakeCarry) -> Outcome:
    """Do the whole chain and write the report. However it ends, status.json says so."""
    run, begun = prepared.run, time.monotonic()
    with ExitStack() as stack:
        stack.callback(attach(run.listen))
        board = Board(run.path, prepared.store)
        stack.callback(board.close)
        stack.callback(attach(board.listen))
        for warning in plan_checks.warnings(prepared.loaded):
            event("warning", message=warning)
        compute = stack.enter_context(_compute(prepared))
        do = recorded(run, prepared.store, make_carry(prepared.store, compute))
        try:
            growth, serve = prepared.growth, partial(served, prepared.store, compute)
            recipe, until = prepared.loaded.recipe, prepared.order.until
            parts = Earlier(growth, run.workspace, do, serve)
            artifacts = rebuilding(growth, lambda earlier: chain.run(do, recipe, until, serve, earlier=earlier, note=growth.note), parts)
            if prepared.store.mirror:
                prepared.store.mirror.finish()
            outcome = Outcome(run, prepared.store, artifacts, time.monotonic() - begun)
            run.stands("done", stage="", progress=None, seconds=round(outcome.seconds, 1))
        except BaseException as error:
            locate(error, run.workspace)
            run.stands(exit_state(error).state, error=describe(error), seconds=round(time.monotonic() - begun, 1))
            with suppress(Exception):  # the page of a broken run is a courtesy: it must not hide the error
                _report(prepared)
            raise
        outcome.report = _report(prepared)
        return outcome


def recorded(run: RunDir, store: Store, carry: Carry) -> chain.Do:
    """`do` that writes what happens into the run directory, whatever carries the stage."""

    def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        key, label = stage.key(config, inputs), label or stage.name
        found = store.find(stage.name, key, inputs)
        row = run.begin(label, stage.name, key, store.path(stage.name, key), inputs, cached=found is not None)
        begun = time.monotonic()
        try:
            artifact = carry(stage, config, inputs, label, key, found)
        except BaseException as error:
            run.end(row, "failed", time.monotonic() - begun, {})
            if isinstance(error, Exception) and not isinstance(error, PipelineError):  # ours name their stage
                error.add_note(f"in stage {label}")
            raise
        run.end(row, "done" if found is None else "cached", time.monotonic() - begun, artifact.counts)
        return artifact

    return do


@contextmanager
def served(store: Store, compute: Compute, site: Artifact, crawl: str) -> Iterator[None]:
    """Serve the demo's own web while it is crawled, and tell compute where its hosts are reached."""
    if store.find(CRAWL.name, crawl):
        yield
        return
    from pipelines.site_server import serving

    before = compute.addresses
    with serving(site) as server:
        compute.addresses = {**server.connect_to, **before}
        try:
            yield
        finally:
            compute.addresses = before


def _compute(prepared: Prepared) -> Any:
    resources, order = prepared.loaded.recipe.resources, prepared.order
    addresses = dict(resources.connect_to)
    if order.plain:
        return _Closing(LocalCompute(resources.ranks, resources.restarts, addresses, resources.rank_cpus))
    from infra.ray_compute import RayCompute

    return RayCompute(
        address=order.ray or None,
        cpus=resources.cpus or None,
        ranks=resources.ranks,
        restarts=resources.restarts,
        addresses=addresses,
        min_ranks=resources.min_ranks,
        rank_cpus=resources.rank_cpus,
        log=prepared.run.path / "ray.log",
    )


class _Closing:
    """LocalCompute has nothing to close; this lets both kinds stand in one `with`."""

    def __init__(self, compute: LocalCompute) -> None:
        self.compute = compute

    def __enter__(self) -> LocalCompute:
        return self.compute

    def __exit__(self, *_: object) -> None:
        return None


def _report(prepared: Prepared) -> Path:
    from pipelines.report import build

    return build(prepared.run.path, prepared.store)
