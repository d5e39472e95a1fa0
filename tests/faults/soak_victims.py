"""Whom the soak kills: the processes of a run and of its services, by kind."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from random import Random

import psutil

from tests.end_to_end.mini import Place

KINDS = ("driver", "ray", "worker", "mailbox", "raylet", "gcs", "rank", "server", "agent")
SERVICES = ("server", "worker")  # files with their process ids


def by_kind(place: Place, driver: psutil.Process, family: Iterable[psutil.Process]) -> dict[str, list[psutil.Process]]:
    """The living processes of each kind that has any."""
    found: dict[str, list[psutil.Process]] = {"driver": [driver], "server": service(place, "server"), "agent": service(place, "worker")[:1]}
    for one in family:
        if (kind := kind_of(one)) and alive(one):
            found.setdefault(kind, []).append(one)
    return {kind: processes for kind, processes in found.items() if processes}


def choose(found: Mapping[str, list[psutil.Process]], kills: Mapping[str, int], rng: Random) -> tuple[str, list[psutil.Process]]:
    """The kind with the fewest kills among those alive, and one of its processes; of the server all."""
    kind = min(found, key=lambda kind: (kills.get(kind, 0), rng.random()))
    processes = sorted(found[kind], key=lambda one: one.pid)
    return kind, processes if kind == "server" else [rng.choice(processes)]


def kind_of(process: psutil.Process) -> str:
    """Which kind of a run's processes this one is; empty for others."""
    with suppress(psutil.Error):
        name, words = process.name(), " ".join(process.cmdline())
        if name in ("raylet", "gcs_server"):
            return name.removesuffix("_server")
        if words.startswith("ray::"):  # Ray's own agents and workers without work are nobody's loss
            return "" if words.startswith(("ray::IDLE", "ray::Dashboard", "ray::RuntimeEnv")) else _of_ray(words)
        if "spawn_main" in words:
            return "rank" if "OMP_WAIT_POLICY" in process.environ() else "ray"
    return ""


def _of_ray(words: str) -> str:
    return "rank" if "_Rank" in words else "mailbox" if "_Mailbox" in words else "worker"


def service(place: Place, name: str) -> list[psutil.Process]:
    """A service of this place and what it started: the Prefect server, or the worker that runs scheduled runs."""
    with suppress(OSError, ValueError, KeyError, psutil.Error):
        found = psutil.Process(json.loads((place.folder / "home" / f"{name}.json").read_text())["pid"])
        if is_service(found) and alive(found):
            return [found, *found.children(recursive=True)]
    return []


def is_service(process: psutil.Process) -> bool:
    """Prefect's server and worker outlive a run on purpose."""
    with suppress(psutil.Error):
        words = " ".join(process.cmdline())
        return "prefect" in words or "pipelines.worker_process" in words
    return False


def alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
