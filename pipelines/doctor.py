"""What is missing or clashes on this machine, each with its fix; starts nothing and changes nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pipelines import doctor_server, prefect_server

GIB = 1 << 30
DISK_GIB = 5  # the demo's workspace, Ray's and Prefect's files, with room to spare
MEMORY_GIB = 4  # measured: the demo's peak with Ray and the Prefect server


@dataclass(frozen=True)
class Finding:
    """One thing looked at. state: ok, warn (works, but), bad (will not work)."""

    what: str
    state: str
    found: str
    fix: str = ""


def examine(workspace: Path) -> list[Finding]:
    """Every check, in order; none of them imports a heavy library."""
    checks: tuple[Callable[[Path], Iterator[Finding]], ...] = (_python, _packages, _machine, _disk, _folders, _server)
    return [finding for check in checks for finding in check(workspace)]


def _python(_: Path) -> Iterator[Finding]:
    good = sys.version_info >= (3, 11)
    yield Finding("python", "ok" if good else "bad", platform.python_version(), "" if good else "install Python 3.11 or newer")


def _packages(_: Path) -> Iterator[Finding]:
    """Installed versions against our own ranges: newer fastapi or SQLAlchemy install cleanly and then break schedules."""
    try:
        wanted = requires("textmill") or []
    except PackageNotFoundError:
        yield Finding("textmill", "bad", "not installed", "pip install -e .  in the project's folder")
        return
    for line in wanted:
        if "extra ==" not in line:
            yield from _package(line)


def _package(line: str) -> Iterator[Finding]:
    from packaging.requirements import Requirement

    wanted = Requirement(line)
    if wanted.marker is not None and not wanted.marker.evaluate():
        return
    fix = "pip install '" + re.sub(r"\s+", "", line.partition(";")[0]) + "'"
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        yield Finding(wanted.name, "bad", "not installed", fix)
        return
    if wanted.specifier.contains(found, prereleases=True):
        yield Finding(wanted.name, "ok", found)
    else:
        yield Finding(wanted.name, "bad", f"{found}, but {wanted.specifier} is needed", fix)


def _machine(_: Path) -> Iterator[Finding]:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", "ok" if cores > 1 else "warn", str(cores), "" if cores > 1 else "it works, slowly; set resources.ranks to 1")
    free = psutil.virtual_memory().available / GIB
    state = "ok" if free >= MEMORY_GIB else "warn"
    yield Finding(
        "memory",
        state,
        f"{free:.1f} GiB free",
        "" if state == "ok" else f"{MEMORY_GIB} GiB are wanted for the demo; close something or use --plain",
    )
    shared = Path("/dev/shm")
    if shared.is_dir():
        room = shutil.disk_usage(shared).free / GIB
        state = "ok" if room > 0.5 else "warn"
        yield Finding(
            "shared memory",
            state,
            f"{room:.1f} GiB in {shared}",
            "" if state == "ok" else "Ray falls back to the disk; in a container start with --shm-size=1g",
        )


def _disk(workspace: Path) -> Iterator[Finding]:
    there = next(p for p in (workspace.absolute(), *workspace.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free / GIB
    state = "ok" if free >= DISK_GIB else "warn"
    yield Finding("disk", state, f"{free:.1f} GiB free at {there}", "" if state == "ok" else "name another folder with --workspace")


def _folders(workspace: Path) -> Iterator[Finding]:
    for what, folder, way in (("workspace", workspace, "--workspace"), ("state folder", prefect_server.state_folder(), "TEXTMILL_HOME")):
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        good = os.access(there, os.W_OK)
        yield Finding(what, "ok" if good else "bad", str(folder), "" if good else f"cannot be written; name another folder with {way}")


def _server(_: Path) -> Iterator[Finding]:
    for seen in doctor_server.examine():
        yield Finding(*seen)
