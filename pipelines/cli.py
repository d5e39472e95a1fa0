"""The `textmill` command. Heavy libraries are imported only by the commands that use them: --help answers at once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.errors import ConfigError, PipelineError
from infra.log import event
from pipelines.cli_generate import fill, generate
from pipelines.cli_options import HERE, AsJson, RecipeArgument, Settings, Workspace
from pipelines.cli_slurm import slurm
from pipelines.ending import FAILED, INTERRUPTED, TERMINATED, describe, end_children, exit_state, leave, listen

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.runner import Order, Outcome, Prepared

app = typer.Typer(
    name="textmill",
    help="A list of web links in; small, evaluated, Hugging Face-loadable language models out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def run(
    recipe: RecipeArgument,
    settings: Settings = None,
    workspace: Workspace = HERE,
    until: Annotated[str, typer.Option(metavar="STAGE", help="Stop after this stage, such as dedup.")] = "",
    ray: Annotated[str, typer.Option(metavar="ADDRESS", help="A running Ray cluster; without it one is started here.")] = "",
    plain: Annotated[bool, typer.Option("--plain", help="No Prefect, no Ray: everything in this process.")] = False,
    profile: Annotated[str, typer.Option(metavar="N:M", help="Steps N to M-1 of every pretraining are profiled by torch.")] = "",
    ranks: Annotated[int | None, typer.Option(help="Ranks of every training; resources.ranks when left out.")] = None,
    min_ranks: Annotated[int | None, typer.Option(help="With --ray: as few will do when nodes are lost; resources.min_ranks.")] = None,
    rank_cpus: Annotated[int | None, typer.Option(help="CPUs and threads of a rank; resources.rank_cpus (0: shared alike).")] = None,
    restarts: Annotated[int | None, typer.Option(help="Deaths of ranks in a row before it is given up; resources.restarts.")] = None,
) -> None:
    """Do everything the recipe says; what is done already is not done again."""
    from pipelines.runner import Order, carry_out, plainly, prepare

    given = {"ranks": ranks, "min_ranks": min_ranks, "rank_cpus": rank_cpus, "restarts": restarts}
    resources = tuple(f"resources.{name}={value}" for name, value in given.items() if value is not None)
    prepared = prepare(Order(recipe, workspace, (*(settings or ()), *resources), until, ray, plain, profile))
    console = _console()
    from pipelines.console import watching

    with watching(console):
        outcome = carry_out(prepared, plainly) if plain else _under_prefect(prepared)
    from pipelines.summary import tell

    tell(console, outcome)


def _under_prefect(prepared: Prepared) -> Outcome:
    """Do the work as a flow run; where no server can be started, without one."""
    from pipelines import prefect_server, runner

    try:
        api = prefect_server.connect()
    except ConfigError:
        raise
    except PipelineError as error:
        event("warning", message=f"{error}; the run continues without Prefect")
        return runner.carry_out(prepared, runner.plainly)
    from pipelines import flows

    outcome = flows.start(prepared)
    outcome.ui = prefect_server.ui(api)
    return outcome


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that comes with textmill.")] = "",
    settings: Settings = None,
    workspace: Workspace = HERE,
    until: str = "",
    model: Annotated[str, typer.Option(metavar="FAMILY/SIZE", help="Instead of a recipe: what a model costs, such as gpt3/175b.")] = "",
    ranks: Annotated[int, typer.Option(help="With --model: ranks that share the memory.")] = 1,
    precision: Annotated[str, typer.Option(help="With --model: fp32, bf16 or fp16.")] = "fp32",
    length: Annotated[int, typer.Option(help="With --model: tokens of a sequence; its paper's when left out.")] = 0,
    micro_batch: Annotated[int, typer.Option(help="With --model: sequences a rank puts through at once.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="With --model: activations as a GPU keeps them.")] = False,
    on: Annotated[str, typer.Option(metavar="GPU", help="Time on so many of these as there are ranks, such as H100; else here.")] = "",
    mfu: Annotated[float, typer.Option(help="With --on: the share of the GPU's rate that training reaches.")] = 0.4,
    measure: Annotated[bool, typer.Option("--measure", help="Take some steps of each model on this machine; time and memory so.")] = False,
    activation_checkpointing: Annotated[int, typer.Option(help="With --model: every so many-th layer is computed again.")] = 0,
    offload: Annotated[str, typer.Option(help="With --model: optimizer or parameters in the host's memory.")] = "",
    as_json: AsJson = False,
) -> None:
    """What a run would do, stage by stage, and why, and what its pretraining costs; or what a model would cost. Starts nothing of it."""
    if model:
        if measure:
            raise ConfigError("--measure takes steps of a recipe's models, whose vocabulary and batches it knows: name a recipe")
        from pipelines import plan_model

        more: dict[str, Any] = {"gpu": gpu, "on": on, "mfu": mfu, "activation_checkpointing": activation_checkpointing, "offload": offload}
        told = plan_model.plan_model(model, ranks=ranks, precision=precision, length=length, micro_batch=micro_batch, **more)
        return _print_json(told) if as_json else _tell_cost(told)
    if not recipe:
        raise ConfigError("name a recipe (`textmill plan demo`) or a model (`textmill plan --model gpt2/124m`)")
    from dataclasses import asdict

    from pipelines import plan as planning
    from pipelines import plan_recipe
    from pipelines.console import table

    loaded = _checked(_order(recipe, workspace, settings, until))
    steps = planning.plan(loaded.recipe, workspace.absolute(), until)
    costs = plan_recipe.costs(loaded.recipe, on, mfu, measure) if any(step.stage == "pretrain" for step in steps) else {}
    if as_json:
        return _print_json([asdict(s) | ({"cost": costs[s.label]} if s.stage == "pretrain" and s.label in costs else {}) for s in steps])
    rows = [{"stage": step.label, "action": step.action, "why": step.why, "fingerprint": step.fingerprint[:6]} for step in steps]
    _console().print(table("", rows, ("stage", "action", "why", "fingerprint")))
    if costs:
        typer.echo(plan_recipe.line(costs))
        _console().print(table("", plan_recipe.rows(costs), tuple(plan_recipe.rows(costs)[0])))
    todo = sum(step.action != "reuse" for step in steps)
    return typer.echo(f"{todo} of {len(steps)} stages to run")


def _tell_cost(told: dict[str, Any]) -> None:
    from pipelines import plan_model
    from pipelines.console import table

    for line in plan_model.lines(told):
        typer.echo(line)
    rows = plan_model.rows(told)
    _console().print(table("", rows, tuple(rows[0])))


app.command()(slurm)
app.command()(generate)
app.command()(fill)


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="A run's id; the newest when left out.")] = "",
    workspace: Workspace = HERE,
    as_json: AsJson = False,
) -> None:
    """Where a run stands."""
    from pipelines import rundir
    from pipelines.console import table

    found = rundir.status(rundir.find_run(workspace, run))
    if as_json:
        return _print_json(found)
    at = found.get("progress") or {}
    progress = f", {at['done']:,} of {at['total']:,} {at['unit']}" if at.get("total") else ""
    where = f" in {found['stage']}{progress}" if found.get("stage") else ""
    typer.echo(f"{found['run']}: {found['state']}{where}")
    if found.get("error"):
        typer.echo(f"  {found['error']}")
    return _console().print(table("", found["stages"], ("label", "state", "seconds", "fingerprint")))


@app.command()
def report(run: Annotated[str, typer.Argument(help="A run's id; the newest when left out.")] = "", workspace: Workspace = HERE) -> None:
    """Write a run's page anew and say where it is."""
    from infra.store import Store
    from pipelines.report import build
    from pipelines.rundir import find_run

    typer.echo(build(find_run(workspace.absolute(), run), Store(workspace.absolute() / "artifacts")))


@app.command()
def show(
    what: Annotated[
        str, typer.Argument(help="A stage (dedup), a label of the newest run (gpt), stage/fingerprint, a URL, or a document's id.")
    ],
    workspace: Workspace = HERE,
    as_json: AsJson = False,
) -> None:
    """An artifact: its manifest, counts, lineage and samples. A URL or a document: where it came from, and what became of it."""
    from infra.store import Store
    from pipelines import show as showing

    found = showing.show(Store(workspace.absolute() / "artifacts"), workspace.absolute() / "runs", what)
    if as_json:
        return _print_json(found)
    return showing.render(found, _console())


@app.command()
def trace(
    model: Annotated[str, typer.Argument(help="A model of the newest run (gpt), or stage/fingerprint.")],
    step: Annotated[int, typer.Option(help="The step's number, from 0, as in metrics.jsonl.")],
    workspace: Workspace = HERE,
    as_json: AsJson = False,
) -> None:
    """The documents that a model learnt from at one step."""
    from pipelines import trace as tracing
    from pipelines.console import table

    found = tracing.trace(workspace.absolute(), model, step)
    if as_json:
        return _print_json(found)
    _console().print(table("", found["documents"], ("shard", "row", "id", "url")))
    told = f"{len(found['documents'])} documents in the {found['sequences']} sequences of step {step} of {found['steps']}"
    return typer.echo(f"{told}, epoch {found['epoch']} ({found['model']})")


@app.command()
def verify(workspace: Workspace = HERE, as_json: AsJson = False) -> None:
    """Hash every file of every artifact again; a damaged one is set aside, so that the next run makes it again."""
    from infra.errors import ArtifactError
    from infra.store import Store

    store, damaged = Store(workspace.absolute() / "artifacts"), []
    artifacts = store.all()
    for artifact in artifacts:
        try:
            store.verify(artifact)
        except ArtifactError as error:
            damaged.append(f"{error}; set aside as {store.set_aside(artifact).name}")
    if as_json:
        _print_json({"artifacts": len(artifacts), "damaged": damaged})
    for problem in damaged:
        typer.echo(f"textmill: {problem}; the next run makes it again", err=True)
    if not as_json and not damaged:
        typer.echo(f"{len(artifacts)} artifacts, every file as its manifest says")
    raise typer.Exit(3 if damaged else 0)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A model of the newest run, such as gpt.")],
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    workspace: Workspace = HERE,
) -> None:
    """Copy a model out in Hugging Face format: transformers.AutoModel.from_pretrained(FOLDER) loads it."""
    from pipelines.models import export_to

    typer.echo(export_to(workspace.absolute(), model, folder))


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A folder that transformers saved: config.json, safetensors, vocabulary files.")],
    folder: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Its vocab.txt is lower-cased (uncased); other files say it.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a published model one of textmill's: generate and recipes (models.NAME.init) then open FOLDER."""
    from pipelines.models import import_from

    told = import_from(source, folder, lowercase)
    if as_json:
        return _print_json(told)
    with_heads = f"heads {', '.join(told['heads'])}" if told["heads"] else "no head"
    return typer.echo(
        f"{folder}: {told['family']}, {told['parameters']:,} parameters, {with_heads}, {told['vocab']:,} {told['tokenizer']} pieces"
    )


@app.command()
def ui(stop: Annotated[bool, typer.Option("--stop", help="End the server and the worker that textmill started.")] = False) -> None:
    """Start the Prefect server with its pages on this machine, if it does not run yet, and say where."""
    from pipelines import prefect_server

    if stop:
        ended = prefect_server.stop()
        return typer.echo(f"ended: {', '.join(ended)}" if ended else "nothing of ours was running")
    return typer.echo(prefect_server.ui(prefect_server.connect()))


@app.command()
def deploy(
    recipe: RecipeArgument,
    cron: Annotated[str, typer.Option(help="When, as five cron fields: '0 3 * * *' is every night at three.")],
    timezone: Annotated[str, typer.Option(help="Whose three o'clock, such as Asia/Seoul.")] = "UTC",
    settings: Settings = None,
    workspace: Workspace = HERE,
    plain: Annotated[bool, typer.Option("--no-ray", help="Scheduled runs do without Ray.")] = False,
) -> None:
    """Schedule a recipe on the Prefect server; every run crawls anew. A worker on this machine carries it out."""
    from pipelines import prefect_server

    loaded = _checked(_order(recipe, workspace, settings))
    api = prefect_server.connect()
    from pipelines import flows

    path = recipe if loaded.builtin else str(Path(recipe).absolute())
    name = flows.deploy(path, workspace.absolute(), tuple(settings or ()), cron, timezone, loaded.recipe.name, plain=plain)
    worker = prefect_server.worker(api)
    typer.echo(f"{name} runs at '{cron}' ({timezone}); worker {worker}, pages at {prefect_server.ui(api)}/deployments")


@app.command()
def doctor(workspace: Workspace = HERE, as_json: AsJson = False) -> None:
    """What is missing or clashes on this machine, each with its fix."""
    from dataclasses import asdict

    from pipelines.console import table
    from pipelines.doctor import examine

    found = examine(workspace)
    if as_json:
        _print_json([asdict(finding) for finding in found])
    else:
        _console().print(table("", [asdict(finding) for finding in found], ("what", "state", "found", "fix")))
    raise typer.Exit(2 if any(finding.state == "bad" for finding in found) else 0)


def main() -> None:
    """The console script: exit codes 0 ok, 2 usage or recipe, 3 a stage failed, 4 preempted and resumable, 130 interrupted."""
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    listen()
    try:
        code = int(app(arguments, standalone_mode=False) or 0)  # what a command raised as typer.Exit comes back as a number
    except BaseException as error:
        code = _tell(error, debug=debug)
    if code == INTERRUPTED.code:  # typer makes a number of Ctrl-C itself
        _complain(describe(KeyboardInterrupt()))
    if "pipelines.runner" in sys.modules:
        _end_children(code)
    leave(code)


def _tell(error: BaseException, *, debug: bool) -> int:
    """One clear line on stderr for each thing that is wrong; the exit code."""
    if debug and not isinstance(error, SystemExit):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # typer's own: a wrong option, an unknown command
        error.show()
        return int(error.exit_code)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED.code
    _complain(describe(error))
    return exit_state(error).code


def _complain(text: str) -> None:
    for line in text.splitlines():
        typer.echo(f"textmill: {line}", err=True)


def _end_children(code: int) -> None:
    from pipelines.prefect_server import pids

    if code in (FAILED.code, TERMINATED.code, INTERRUPTED.code):
        end_children(pids())


def _order(recipe: str, workspace: Path, settings: list[str] | None, until: str = "") -> Order:
    from pipelines.runner import Order

    return Order(recipe, workspace, tuple(settings or ()), until)


def _checked(order: Order) -> Any:
    from pipelines.runner import check

    return check(order)


def _console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(width=width)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=str))


if __name__ == "__main__":
    main()
