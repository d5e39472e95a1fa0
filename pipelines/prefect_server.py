"""A Prefect server on this machine for those who have none: found, or started in the background on loopback.

Nothing here imports prefect: the server and the worker are processes of their own (`python -m prefect ...`), which
outlive the run that started them, so that the next run starts at once and its pages stay open.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from infra.errors import ConfigError, PipelineError
from infra.log import event
from infra.processes import identity
from infra.store import write_whole

PORT = 4200
POOL = "textmill"
SAVES_S = 60.0  # for a run that is told to stop
WORKER = ["pipelines.worker_process"]
START_S = 120.0  # migrations on a first start took up to 29 s on a loaded machine
SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # the second UI asks an outside host even with analytics off, and draws artifacts badly
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # few runs are created ahead: what falls due while the server is down is bounded
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_SCHEDULED_TIME": "PT2M",
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
        api = _start()
    if pid := ensure_worker(api):
        event("note", message=f"worker {pid} runs the schedules of this server")
    return api


def running() -> str:
    """The API address of our own server if it is alive, else an empty text."""
    found = _read("server")
    return str(found["api"]) if found and healthy(found["api"]) else ""


def recorded() -> str:
    """The API address of our own server if its process lives, whether or not it answers; nothing is asked."""
    found = _read("server")
    return str(found["api"]) if found and _lives(found) else ""


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
        if found and found["api"] == api and _lives(found):
            return int(found["pid"])
        process = _spawn(WORKER, "worker.log", {"PREFECT_API_URL": api})
        _record("worker", process.pid, api)
        return process.pid


def worker_pid() -> int:
    """The process id of the worker that was started here, 0 when it does not run."""
    found = _read("worker")
    return int(found["pid"]) if found and _lives(found) else 0


def worker_name() -> str:
    """The name under which the worker of this machine stands on the server."""
    return f"textmill-{platform.node()}"


def started_before() -> bool:
    """Whether a server of textmill has run on this machine and was not ended with `textmill ui --stop`."""
    return _read("server") is not None


def ensure_worker(api: str) -> int:
    """The process id of a worker, started if need be and when there are schedules for it; 0 when there are none."""
    from pipelines import late
    from pipelines.prefect_api import Api

    return worker(api) if late.active(Api(api)) else 0


def run_server(port: int) -> NoReturn:
    """Become the server: this process is replaced, for a service manager that watches it."""
    with _one_at_a_time():
        if api := running():
            raise ConfigError(f"a Prefect server of textmill runs already on {ui(api)}; end it first (`textmill ui --stop`)")
        if not _free(port):
            raise ConfigError(f"port {port} is taken by another process; name another one with --port")
        api = f"http://127.0.0.1:{port}/api"
        _record("server", os.getpid(), api)
    _become(_server_command(port), {"PREFECT_API_URL": api})


def run_worker() -> NoReturn:
    """Become the worker, as `run_server`. It waits for the server that PREFECT_API_URL names, or that was started here last."""
    with _one_at_a_time():
        if pid := worker_pid():
            raise ConfigError(f"a worker runs already (process {pid}); end it first (`textmill worker stop`)")
        api = os.environ.get("PREFECT_API_URL") or str((_read("server") or {}).get("api") or f"http://127.0.0.1:{PORT}/api")
        _record("worker", os.getpid(), api)
    _become(WORKER, {"PREFECT_API_URL": api})


def stop(names: tuple[str, ...] = ("worker", "server")) -> list[str]:
    """End the worker and the server that we started; the names of those ended."""
    ended = []
    for name in names:
        found = _read(name)
        if found and _lives(found):
            if name == "worker":
                _end_runs(found["pid"])
            _signal(found["pid"], signal.SIGTERM)
            _wait_gone(found["pid"])
            ended.append(name)
        (state_folder() / f"{name}.json").unlink(missing_ok=True)
    return ended


def pids() -> set[int]:
    """The processes that are to outlive a run."""
    return {int(found["pid"]) for name in ("server", "worker") if (found := _read(name))}


def _start() -> str:
    before = int((_read("server") or {}).get("api", f":{PORT}/").rpartition(":")[2].partition("/")[0])
    port = next((port for port in (before, PORT) if _free(port)), 0) or _any_port()  # pages stay where they were
    api = f"http://127.0.0.1:{port}/api"
    event("note", message=f"starting a Prefect server on {ui(api)} (once; it stays for later runs)")
    # without this the server's own client would ask whatever server a profile names
    process = _spawn(_server_command(port), "server.log", {"PREFECT_API_URL": api})
    _record("server", process.pid, api)
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        if healthy(api):
            return api
        if process.poll() is not None:
            break
        time.sleep(0.25)
    log = state_folder() / "server.log"
    (state_folder() / "server.json").unlink(missing_ok=True)
    raise PipelineError(
        f"the Prefect server did not start: {_last_line(log)} (see {log}); `textmill doctor` checks its libraries, --plain runs without it"
    )


def _server_command(port: int) -> list[str]:
    return ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]


def _spawn(module: list[str], log: str, more: dict[str, str]) -> subprocess.Popen[bytes]:
    with (state_folder() / log).open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            env=_environment(more), cwd=state_folder(), stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def _become(module: list[str], more: dict[str, str]) -> NoReturn:
    os.chdir(state_folder())
    os.execve(sys.executable, [sys.executable, "-m", *module], _environment(more))


def _environment(more: dict[str, str]) -> dict[str, str]:
    environment = {**os.environ, **SETTINGS, "PREFECT_HOME": str(_home()), **more}
    environment.pop("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", None)
    return environment


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


def _record(name: str, pid: int, api: str) -> None:
    write_whole(state_folder() / f"{name}.json", json.dumps({"pid": pid, "process": identity(pid), "api": api}))


def _lives(found: dict[str, Any]) -> bool:
    """A process id may have been given away since, as after a reboot."""
    return bool(found.get("process")) and identity(found["pid"]) == found["process"]


def _signal(pid: int, number: int) -> None:
    """To the process with its children when it leads a group of its own, as those that were started in the background do."""
    with suppress(ProcessLookupError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)


def _end_runs(worker: int) -> None:
    """Let the runs of the worker save their state: Prefect's worker would kill them when it ends."""
    import psutil

    try:
        runs = psutil.Process(worker).children()
    except psutil.Error:
        return
    for run in runs:
        with suppress(psutil.Error):
            run.terminate()
    psutil.wait_procs(runs, SAVES_S)


def _wait_gone(pid: int, seconds: float = 15.0) -> None:
    import psutil

    try:
        psutil.Process(pid).wait(seconds)
    except psutil.TimeoutExpired:
        _signal(pid, signal.SIGKILL)
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
