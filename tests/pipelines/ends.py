"""Real runs that are held at a known point, ended in a real way, and looked at from outside: exit code, status.json, Prefect, processes.

Run as a program this is the `textmill` command with one more: `run-no-ray`, under Prefect but without Ray, as `deploy --no-ray` runs.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from pipelines import cli, prefect_server
from pipelines.cli_options import HERE, RecipeArgument, Settings, Workspace
from tests.faults.web import Web, page

PATIENCE_S = 180.0
ROOT = Path(__file__).parents[2]
MODES = ("plain", "prefect", "ray")
WORDS = "the of and to in is that with for as it on was are by this be at from have not language model data text page link".split()  # noqa: SIM905
RECIPE = """\
name: ends
corpus:
  sources: [{{kind: urls, path: urls.txt}}]
  links: {{shards: 2}}
  crawl: {{contact: https://textmill.test/about, per_host_delay_s: 0.0, allow_networks: [127.0.0.0/8]}}
  filter: {{languages: [], min_words: 20}}
tokenizers:
  bytes: {{kind: byte_bpe, vocab: 300}}
models:
  gpt: {{family: gpt2, size: tiny, tokenizer: bytes, pretrain: {{tokens: 4e3, batch_tokens: 512, length: 32, lr: 6e-4, log_every: 1}}}}
resources: {{cpus: 2, connect_to: {{"*": "{where}"}}}}
"""


class Scene:
    """A directory with a recipe, and the small web that its links lead to, whose last page is sent when `gate` opens."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.web = directory, Web()
        self.held, self.gate = threading.Event(), threading.Event()
        rng = random.Random(7)
        urls = [f"http://site{n % 3}.test/{n}" for n in range(12)]
        for n, url in enumerate(urls):
            text = "".join(f"<p>{' '.join(rng.choice(WORDS) for _ in range(40))}.</p>" for _ in range(4)).encode()
            body = page(b"<html><body><article><h1>A page</h1>" + text + b"</article></body></html>")
            self.web.pages[f"site{n % 3}.test", f"/{n}"] = self._hold(body) if n == len(urls) - 1 else body
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "urls.txt").write_text("\n".join(urls) + "\n")
        (directory / "ends.yaml").write_text(RECIPE.format(where=self.web.where))
        threading.Thread(target=self.web.server.serve_forever, daemon=True).start()

    def _hold(self, send: Callable[[Any], None]) -> Callable[[Any], None]:
        def held(handler: Any) -> None:
            self.held.set()
            self.gate.wait(PATIENCE_S)
            send(handler)

        return held

    def start(self, mode: str, *words: str, until: str = "dedup", **environment: str) -> Run:
        """The command in a process group of its own, as a shell starts it."""
        how = {"plain": ["run", "ends.yaml", "--plain"], "prefect": ["run-no-ray", "ends.yaml"], "ray": ["run", "ends.yaml"]}[mode]
        command = [sys.executable, "-m", "tests.pipelines.ends", *how, "--until", until, *words]
        more = {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT), **environment}
        out = (self.directory / "out").open("w+")
        err = (self.directory / "err").open("w+")
        process = subprocess.Popen(
            command, cwd=self.directory, env={**os.environ, **more}, stdout=out, stderr=err, start_new_session=True, text=True
        )
        return Run(self, process)

    def close(self) -> None:
        self.gate.set()
        self.web.server.shutdown()
        self.web.server.server_close()


class Run:
    """One started command."""

    def __init__(self, scene: Scene, process: subprocess.Popen[str]) -> None:
        self.scene, self.process = scene, psutil.Process(process.pid)
        self._popen = process
        self.family: set[psutil.Process] = set()

    def until_held(self) -> None:
        """Until the crawl waits for its last page."""
        self.until(self.scene.held.is_set)

    def until(self, true: Callable[[], Any]) -> None:
        ends = time.monotonic() + PATIENCE_S
        while not true():
            assert self._popen.poll() is None, self.err() + self.out()
            assert time.monotonic() < ends, self.out()
            time.sleep(0.1)
        self._look()

    def send(self, number: int) -> None:
        self._look()
        self.process.send_signal(number)

    def kill(self, name: str) -> None:
        """SIGKILL to the processes of this name among the run's own."""
        self._look()
        found = [one for one in self.family if _says(one, name)]
        assert found, name
        for one in found:
            one.kill()

    def wait(self) -> int:
        self._look()
        return self._popen.wait(PATIENCE_S)

    def out(self) -> str:
        return (self.scene.directory / "out").read_text()

    def err(self) -> str:
        return (self.scene.directory / "err").read_text()

    def status(self) -> dict[str, Any]:
        return json.loads((self.path() / "status.json").read_text())  # type: ignore[no-any-return]

    def path(self) -> Path:
        return max((self.scene.directory / "workspace/runs").iterdir(), key=lambda path: path.stat().st_ctime_ns)

    def strays(self, seconds: float = 20.0) -> list[psutil.Process]:
        """Processes of the run that are left after so long; a Prefect server that it started is not one."""
        return psutil.wait_procs([one for one in self.family if one.is_running() and not _says(one, "prefect")], seconds)[1]

    def _look(self) -> None:
        with suppress(psutil.Error):
            self.family |= set(self.process.children(recursive=True))


def _says(process: psutil.Process, word: str) -> bool:
    try:
        return word == process.name() or word in " ".join(process.cmdline())
    except psutil.Error:
        return False


class Server:
    """A Prefect server of a test's own, which may be killed and started again with the same database and address."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self.environment = {"TEXTMILL_HOME": str(home), "PREFECT_HOME": str(home / "prefect"), "PREFECT_API_URL": ""}
        self.api = ""
        self.home = home
        self.start()

    def start(self) -> None:
        port = self.api.rpartition(":")[2].partition("/")[0] or str(_free_port())
        self.api = f"http://127.0.0.1:{port}/api"
        self.environment["PREFECT_API_URL"] = self.api
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        log = (self.home / "server.log").open("a")
        self.process = psutil.Popen(command, env={**os.environ, **self.environment}, stdout=log, stderr=log, cwd=self.home)
        ends = time.monotonic() + PATIENCE_S
        while not prefect_server.healthy(self.api):
            assert self.process.poll() is None and time.monotonic() < ends, (self.home / "server.log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        tree = [*self.process.children(recursive=True), self.process]
        for one in tree:
            one.kill()
        psutil.wait_procs(tree, 10)


@contextmanager
def own_server(home: Path) -> Iterator[Server]:
    server = Server(home)
    try:
        yield server
    finally:
        with suppress(psutil.Error):
            server.kill()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def flow_run(api: str, name: str) -> dict[str, Any]:
    """The flow run of this name, by the server's own interface."""
    [found] = ask(api, "flow_runs", {"flow_runs": {"name": {"any_": [name]}}})
    return found  # type: ignore[no-any-return]


def task_runs(api: str, flow: str) -> dict[str, str]:
    found = ask(api, "task_runs", {"flow_runs": {"id": {"any_": [flow]}}})
    return {run["name"].split()[0]: run["state_name"] for run in found}


def ask(api: str, what: str, filtered: dict[str, Any]) -> list[Any]:
    import httpx

    answer = httpx.post(f"{api}/{what}/filter", json=filtered, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def cancel(api: str, flow: str) -> None:
    """What the button of the UI does."""
    import httpx

    state = {"type": "CANCELLING", "name": "Cancelling"}
    assert httpx.post(f"{api}/flow_runs/{flow}/set_state", json={"state": state}, timeout=30).status_code < 300


def main() -> None:
    @cli.app.command("run-no-ray")
    def run_no_ray(recipe: RecipeArgument, settings: Settings = None, workspace: Workspace = HERE, until: str = "") -> None:
        from pipelines.console import watching
        from pipelines.runner import Order, prepare

        prepared = prepare(Order(recipe, workspace, tuple(settings or ()), until, plain=True))
        with watching(cli._console()):
            prefect_server.connect()
            from pipelines import flows

            flows.start(prepared)

    cli.main()


if __name__ == "__main__":
    if space := os.environ.get("TEXTMILL_TEST_ADDRESS_SPACE"):
        resource.setrlimit(resource.RLIMIT_AS, (int(space), int(space)))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test runner in the background may have it ignored
    main()
