"""A Prefect server on this machine for those who have none: found, or started in the background on loopback.

Nothing here imports prefect: the server and the worker are processes of their own (`python -m prefect ...`), which
outlive the run that started them, so that the next run starts at once and its pages stay open.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, PipelineError
from infra.log import event
from infra.store import write_whole

PORT = 4200
POOL = "textmill"
START_S = 120.0  # migrations on a first start took up to 29 s on a loaded machine
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # the second UI asks an outside host even with analytics off, and draws artifacts badly
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
# the terminal is ours: Prefect's own lines go to its UI only
QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # of its threads, each event that a server which is gone did not take
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def state_folder() -> Path:
    """Where the server keeps its database and we its address: the same for every workspace of a user."""
    if named := os.environ.get("TEXTMILL_HOME"):
        return Path(named)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "textmill"


def connect() -> str:
    """The API address of a server that answers, started if need be; Prefect in this process is told of it."""
    named = os.environ.get("PREFECT_API_URL", "")
    if named and healthy(named):
        api = named
    else:
        if named:
            event("warning", message=f"no Prefect server answers at {named} (PREFECT_API_URL); using one of our own on this machine")
        api = local()
    os.environ.update({**SETTINGS, **QUIET, "PREFECT_API_URL": api})
    os.environ.setdefault("PREFECT_HOME", str(_home()))
    return api


def local() -> str:
    """The API address of the server we started before, or start now."""
    with _one_at_a_time():
        if api := running():
            return api
        return _start()


def running() -> str:
    """The API address of our own server if it is alive, else an empty text."""
    found = _read("server")
    return str(found["api"]) if found and healthy(found["api"]) else ""


def healthy(api: str) -> bool:
    """Whether a server answers there."""
    try:
        # the machine's proxy is not asked about loopback
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(api.rstrip("/") + "/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def ui(api: str) -> str:
    """The address of the pages of the server with this API."""
    return api.removesuffix("/api")


def worker(api: str) -> int:
    """The process id of a worker that runs scheduled runs, started if need be."""
    with _one_at_a_time():
        found = _read("worker")
        if found and found["api"] == api and _is_ours(found["pid"], "worker"):
            return int(found["pid"])
        command = ["worker", "start", "--pool", POOL, "--type", "process", "--name", "textmill"]
        process = _spawn(command, "worker.log", {"PREFECT_API_URL": api})
        _write("worker", {"pid": process.pid, "api": api})
        return process.pid


def stop() -> list[str]:
    """End the server and the worker that we started; the names of those ended."""
    ended = []
    for name in ("worker", "server"):
        found = _read(name)
        if found and _is_ours(found["pid"], name):
            os.killpg(found["pid"], signal.SIGTERM)
            _wait_gone(found["pid"])
            ended.append(name)
        (state_folder() / f"{name}.json").unlink(missing_ok=True)
    return ended


def pids() -> set[int]:
    """The processes that are to outlive a run."""
    return {int(found["pid"]) for name in ("server", "worker") if (found := _read(name))}


def _start() -> str:
    port = PORT if _free(PORT) else _any_port()
    api = f"http://127.0.0.1:{port}/api"
    event("note", message=f"starting a Prefect server on {ui(api)} (once; it stays for later runs)")
    # without this the server's own client would ask whatever server a profile names
    process = _spawn(["server", "start", "--host", "127.0.0.1", "--port", str(port)], "server.log", {"PREFECT_API_URL": api})
    _write("server", {"pid": process.pid, "api": api, "port": port})
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        if healthy(api):
            return api
        if process.poll() is not None:
            break
        time.sleep(0.25)
    log = state_folder() / "server.log"
    raise PipelineError(
        f"the Prefect server did not start: {_last_line(log)} (see {log}); `textmill doctor` checks its libraries, --plain runs without it"
    )


def _spawn(words: list[str], log: str, more: dict[str, str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **SETTINGS, "PREFECT_HOME": str(_home()), **more}
    environment.pop("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", None)
    with (state_folder() / log).open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "prefect", *words],
            env=environment, cwd=state_folder(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def _home() -> Path:
    return state_folder() / "prefect"


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    folder = state_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _home().mkdir(exist_ok=True)
        file = (folder / "lock").open("w")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); name another folder in TEXTMILL_HOME, or use --plain") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((state_folder() / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    return found


def _write(name: str, record: dict[str, Any]) -> None:
    write_whole(state_folder() / f"{name}.json", json.dumps(record))


def _is_ours(pid: int, name: str) -> bool:
    """A process id may have been given away since: only one that runs `prefect <name>` counts."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and {"prefect", name} <= set(process.cmdline())
    except psutil.Error:
        return False


def _wait_gone(pid: int, seconds: float = 15.0) -> None:
    import psutil

    try:
        psutil.Process(pid).wait(seconds)
    except psutil.TimeoutExpired:
        os.killpg(pid, signal.SIGKILL)
    except psutil.NoSuchProcess:
        return


def _free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _any_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
