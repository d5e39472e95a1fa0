"""`textmill ui`, `textmill worker` and `textmill doctor`: the services of this machine."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.errors import ConfigError
from pipelines.cli_options import HERE, AsJson, Workspace

worker = typer.Typer(name="worker", help="The process that runs scheduled runs on this machine.", no_args_is_help=True)
Foreground = Annotated[bool, typer.Option("--foreground", help="Stay in this process, for a service manager such as systemd.")]
NOT_RUNNING = 3  # exit code of `worker status`, as systemctl has it


def ui(
    stop: Annotated[bool, typer.Option("--stop", help="End the server and the worker that textmill started.")] = False,
    foreground: Foreground = False,
    port: Annotated[int, typer.Option(help="With --foreground: the port on 127.0.0.1.")] = 4200,
) -> None:
    """Start the Prefect server with its pages on this machine, if it does not run yet, and its worker when there are schedules."""
    from pipelines import prefect_server

    if foreground:
        prefect_server.run_server(port)
    if stop:
        ended = prefect_server.stop()
        return typer.echo(f"ended: {', '.join(ended)}" if ended else "nothing of ours was running")
    api = prefect_server.connect()
    typer.echo(prefect_server.ui(api))
    pid = prefect_server.ensure_worker(api)
    return typer.echo(f"worker: process {pid} runs the schedules" if pid else "worker: not started, there are no schedules", err=True)


@worker.command("start")
def start(foreground: Foreground = False) -> None:
    """Start the worker, and the server when none answers. In the background; its log is worker.log in the state directory."""
    from pipelines import prefect_server

    if foreground:
        prefect_server.run_worker()
    api = prefect_server.connect()
    pid = prefect_server.worker(api)
    typer.echo(f"worker: process {pid}, of the server {prefect_server.ui(api)}")


@worker.command("stop")
def stop() -> None:
    """End the worker. Its runs are told to stop and save their state (60 s at most); the next run of the schedule continues."""
    from pipelines import prefect_server

    ended = prefect_server.stop(("worker",))
    typer.echo("ended: worker" if ended else "no worker of ours was running")


@worker.command("status")
def status(as_json: AsJson = False) -> None:
    """Whether server and worker run, and what waits for them. Exit code 3 when no worker runs."""
    from pipelines import doctor_server, late, prefect_server, zombies
    from pipelines.prefect_api import Api

    named = os.environ.get("PREFECT_API_URL", "")
    url = named if named and prefect_server.healthy(named) else prefect_server.running()
    told: dict[str, Any] = {"server": url, "worker": prefect_server.worker_pid(), "workers": [], "schedules": 0, "late": 0, "zombies": 0}
    if url:
        api = Api(url)
        told |= {"workers": doctor_server.workers(api), "schedules": len(late.active(api))}
        told |= {"late": len(late.late(api)), "zombies": len(zombies.find(api))}
    if as_json:
        typer.echo(json.dumps(told))
    else:
        typer.echo(f"server: {url or 'none runs (textmill ui starts it)'}")
        typer.echo(f"worker: {', '.join(told['workers']) or 'none runs (textmill worker start starts it)'}")
        typer.echo(f"{told['schedules']} schedules are active, {told['late']} runs are late, {told['zombies']} runs are zombies")
    raise typer.Exit(0 if told["workers"] else NOT_RUNNING)


@worker.command("units")
def units(
    directory: Annotated[Path, typer.Argument(help="Where the unit files go, such as ~/.config/systemd/user.")],
    user: Annotated[str, typer.Option(help="For /etc/systemd/system: the account that runs them. Without it: user units.")] = "",
    port: Annotated[int, typer.Option(help="The server's port on 127.0.0.1.")] = 4200,
) -> None:
    """Write systemd units for the server and the worker, so that schedules run after a reboot."""
    from pipelines import units as writing

    for path in writing.write(directory, user, port):
        typer.echo(str(path))
    for line in writing.next_steps(user):
        typer.echo(line, err=True)


def doctor(
    workspace: Workspace = HERE,
    as_json: AsJson = False,
    fix: Annotated[bool, typer.Option("--fix", help="Close zombie runs, skip missed runs, start a worker that schedules need.")] = False,
    host: Annotated[str, typer.Option(help="With --fix: a machine that will not come back; close its silent runs as Crashed.")] = "",
) -> None:
    """What is missing or clashes on this machine, each with its fix."""
    from dataclasses import asdict

    from rich.console import Console

    from pipelines.console import table
    from pipelines.doctor import examine

    if host and not fix:
        raise ConfigError(f"--host {host} closes the runs of that machine and needs --fix")
    if fix:
        from pipelines import doctor_server

        for line in doctor_server.repair(host) or ["nothing to fix about the server, its worker and its runs"]:
            typer.echo(f"fix: {line}", err=True)
    found = examine(workspace)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=1, ensure_ascii=False))
    else:
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
        Console(width=width).print(table("", [asdict(finding) for finding in found], ("what", "state", "found", "fix")))
    raise typer.Exit(ConfigError.exit_code if any(finding.state == "bad" for finding in found) else 0)
