"""The `textmill` command. Heavy libraries are imported only by the commands that use them: --help answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.environ import fit_address_space
from infra.errors import ConfigError, PipelineError
from infra.log import event
from pipelines.cli_generate import fill, generate
from pipelines.cli_options import HERE, AsJson, RecipeArgument, Settings, Workspace, console, print_json
from pipelines.cli_plan import plan
from pipelines.cli_predict import predict
from pipelines.cli_recipes import recipes
from pipelines.cli_schedule import deploy, schedule
from pipelines.cli_show import show, trace
from pipelines.cli_slurm import slurm
from pipelines.cli_worker import doctor, ui, worker
from pipelines.ending import FAILED, INTERRUPTED, TERMINATED, describe, end_children, exit_state, leave, listen

LOOKS_ONLY = {"--help", "-h", "--plain", "plan", "recipes", "doctor"}  # these change nothing on a Prefect server

if TYPE_CHECKING:
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
    screen = console()
    from pipelines.console import watching

    with watching(screen):
        outcome = carry_out(prepared, plainly) if plain else _under_prefect(prepared)
    from pipelines.summary import tell

    tell(screen, outcome)


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


app.command()(recipes)
app.command()(plan)
app.command()(slurm)
app.command()(generate)
app.command()(fill)
app.command()(predict)


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
        return print_json(found)
    at = found.get("progress") or {}
    progress = f", {at['done']:,} of {at['total']:,} {at['unit']}" if at.get("total") else ""
    where = f" in {found['stage']}{progress}" if found.get("stage") else ""
    typer.echo(f"{found['run']}: {found['state']}{where}")
    if found.get("error"):
        typer.echo(f"  {found['error']}")
    return console().print(table("", found["stages"], ("label", "state", "seconds", "fingerprint")))


@app.command()
def report(run: Annotated[str, typer.Argument(help="A run's id; the newest when left out.")] = "", workspace: Workspace = HERE) -> None:
    """Write a run's page anew and say where it is."""
    from infra.store import Store
    from pipelines.report import build
    from pipelines.rundir import find_run

    typer.echo(build(find_run(workspace.absolute(), run), Store(workspace.absolute() / "artifacts")))


app.command()(show)
app.command()(trace)


@app.command()
def verify(workspace: Workspace = HERE, as_json: AsJson = False) -> None:
    """Hash every file of every artifact again; damage is quarantined with all that was built from it, and the next run rebuilds it."""
    from infra.store import Store
    from pipelines.verify import verify as examine

    found = examine(Store(workspace.absolute() / "artifacts"))
    if as_json:
        print_json(found.as_json())
    for problem in found.damaged:
        typer.echo(f"textmill: {problem}; the next run rebuilds it", err=True)
    for problem in found.unreadable:
        typer.echo(f"textmill: {problem}", err=True)
    if not as_json and not found.damaged and not found.unreadable:
        typer.echo(f"{found.num_artifacts} artifacts, every file as its manifest says")
    raise typer.Exit(3 if found.damaged or found.unreadable else 0)


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
        return print_json(told)
    with_heads = f"heads {', '.join(told['heads'])}" if told["heads"] else "no head"
    return typer.echo(
        f"{folder}: {told['family']}, {told['parameters']:,} parameters, {with_heads}, {told['vocab']:,} {told['tokenizer']} pieces"
        + (f", {told['padded_vocab'] - told['vocab']} padding rows retained and masked" if "padded_vocab" in told else "")
    )


app.command()(deploy)
app.command()(ui)
app.command()(doctor)
app.add_typer(schedule)
app.add_typer(worker)


def main() -> None:
    """The console script: exit codes 0 ok, 2 usage or recipe, 3 a stage failed, 4 preempted and resumable, 130 interrupted."""
    debug = "--debug" in sys.argv
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    listen()
    fit_address_space()
    try:
        code = int(app(arguments, standalone_mode=False) or 0)  # what a command raised as typer.Exit comes back as a number
    except BaseException as error:
        code = _tell(error, debug=debug)
    if code == INTERRUPTED.code:  # typer makes a number of Ctrl-C itself
        _complain(describe(KeyboardInterrupt()))
    if "pipelines.runner" in sys.modules:
        _end_children(code)
    if not LOOKS_ONLY & set(arguments):
        _close_zombies()
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


def _close_zombies() -> None:
    """Flow runs whose process was killed; the server of this machine alone is asked, when it runs."""
    from pipelines.prefect_server import recorded

    if api := recorded():
        from pipelines.zombies import sweep_quietly

        sweep_quietly(api)


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


if __name__ == "__main__":
    main()
