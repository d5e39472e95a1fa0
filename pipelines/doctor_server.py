"""What `textmill doctor` finds about the Prefect server, the worker and its runs, and how `doctor --fix` repairs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from infra.errors import ConfigError
from pipelines import late, prefect_server, zombies
from pipelines.prefect_api import Api, ServerError

FIX = "textmill doctor --fix"


class Seen(NamedTuple):
    """A row of doctor: what, state (ok, warn, bad), found, fix."""

    what: str
    state: str
    found: str
    fix: str = ""


def examine() -> Iterator[Seen]:
    """The server, and when it answers its worker, late runs and zombie runs. Starts and changes nothing."""
    named = os.environ.get("PREFECT_API_URL", "")
    url = named if named and prefect_server.healthy(named) else prefect_server.running()
    if named:
        yield (
            Seen("Prefect server", "ok", named)
            if url == named
            else Seen(
                "Prefect server",
                "warn",
                f"{named} (PREFECT_API_URL) does not answer",
                "start it; until then a run starts one on this machine",
            )
        )
    elif url or not prefect_server.started_before():
        yield Seen("Prefect server", "ok", url or "none yet: the first run starts one on this machine")
    else:
        yield Seen("Prefect server", "warn", "stopped: schedules wait until it runs again", "textmill ui")
    if url:
        try:
            yield from _runs(Api(url))
        except ServerError as error:
            yield Seen("Prefect server", "warn", str(error), "textmill ui --stop, then textmill ui")


def _runs(api: Api) -> Iterator[Seen]:
    schedules, online = late.active(api), workers(api)
    if schedules and not online:
        names = ", ".join(one["name"] for one in schedules)
        yield Seen("worker", "bad", f"none runs, but there are schedules: {names}", f"textmill worker start, or {FIX}")
    else:
        yield Seen("worker", "ok", ", ".join(online) or "none, and no schedule that needs one")
    waiting = late.late(api)
    since = f", the oldest since {waiting[0]['next_scheduled_start_time'][:16]}" if waiting else ""
    yield Seen(
        "late runs", "warn" if waiting else "ok", f"{len(waiting)}{since}", f"{FIX} runs the newest of each schedule" if waiting else ""
    )
    dead = zombies.find(api)
    names = f": {', '.join(run['name'] for run in dead[:3])}" if dead else ""
    yield Seen("zombie runs", "bad" if dead else "ok", f"{len(dead)}{names}", f"{FIX} (closes them as Crashed)" if dead else "")
    for host, lost in groupby(sorted(zombies.silent(api), key=lambda one: one.host), key=lambda one: one.host):
        runs = list(lost)
        yield Seen("silent runs", "warn", "; ".join(map(str, runs[:3])), f"if {host} will not come back: {FIX} --host {host}")


def workers(api: Api) -> list[str]:
    """The workers of textmill's pool that are alive: one of this machine by its process, others by their heartbeats."""
    pid = prefect_server.worker_pid()
    own = [f"process {pid} on this machine"] if pid else []
    try:
        found = api.send("POST", f"/work_pools/{prefect_server.POOL}/workers/filter", {})
    except ServerError as error:
        if error.code == 404:  # no pool yet
            return own
        raise
    here = prefect_server.worker_name()
    return own + [str(one["name"]) for one in found if one["status"] == "ONLINE" and one["name"] != here]


def repair(host: str = "") -> list[str]:
    """Close zombies, skip missed runs, start server and worker where schedules need them; one line for each thing done.

    host: a machine that will not come back, whose runs are closed too. Raises ConfigError when one of them still reports.
    """
    done = []
    named = os.environ.get("PREFECT_API_URL", "")
    url = named if named and prefect_server.healthy(named) else prefect_server.running()
    if not url and prefect_server.started_before():
        url = prefect_server.local()
        done.append(f"started the Prefect server on {prefect_server.ui(url)}")
    if not url and host:
        raise ConfigError(f"--host {host}: no Prefect server answers; name it in PREFECT_API_URL, or start it with `textmill ui`")
    if not url:
        return done
    api = Api(url)
    swept = zombies.sweep(api)
    if swept.runs or swept.tasks:
        done.append(f"closed as Crashed: {swept}")
    if host:
        done.append(f"closed as Crashed, of {host}: {zombies.close_host(api, host)}")
    if skipped := late.skip_missed(api):
        done.append(f"skipped {skipped} missed runs; the newest of each schedule is run")
    if not workers(api) and (pid := prefect_server.ensure_worker(url)):
        done.append(f"started a worker (process {pid})")
    return done
