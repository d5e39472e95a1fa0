"""What one run leaves behind for people and programs: its recipe, its environment, its events, where it stands.

`<workspace>/runs/<id>/`; stages.json and status.json are replaced whole, events.jsonl only grows.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from infra.artifact import Artifact
from infra.errors import ConfigError
from infra.log import Event, event
from infra.store import write_whole

PACKAGES = ("textmill", "torch", "deepspeed", "ray", "prefect", "pyarrow", "numpy", "tokenizers", "sentencepiece", "pydantic")
STATUS_EVERY_S = 1.0


@dataclass
class Row:
    """One stage of a run."""

    label: str
    stage: str
    fingerprint: str
    path: str
    state: str
    seconds: float = 0.0
    inputs: dict[str, str] = field(default_factory=dict)


class RunDir:
    """One run's folder. Its methods may be called from any thread."""

    def __init__(self, workspace: Path, run: str) -> None:
        self.workspace, self.id = workspace, run
        self.path = workspace / "runs" / run
        self.rows: list[Row] = []
        self._labels: dict[tuple[str, str], str] = {}
        self._lock = threading.RLock()
        self._status: dict[str, Any] = {}
        self._told = 0.0

    @classmethod
    def create(cls, workspace: Path, name: str, recipe: str, source: str, digest: str) -> RunDir:
        """Make the folder. recipe is the resolved text, source the user's own."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        run = cls(workspace, f"{stamp}-{name}-{digest[:6]}")
        number = 1
        while True:  # two runs of one recipe in one second
            try:
                run.path.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
                run = cls(workspace, f"{stamp}-{name}-{digest[:6]}-{number}")
            except OSError as error:
                raise ConfigError(f"workspace {workspace} cannot be written ({error.strerror}); choose one with --workspace") from error
        (run.path / "recipe.yaml").write_text(recipe)
        (run.path / "recipe.input.yaml").write_text(source)
        write_whole(run.path / "env.json", json.dumps(environment(), indent=1))
        run._status = {"run": run.id, "name": name, "pid": os.getpid(), "host": platform.node(), "started": _now()}
        run.stages_changed()
        run.stands("running")
        return run

    def stands(self, state: str, **more: Any) -> None:
        """Record where the run is: running, or a state of pipelines/ending.py's table."""
        with self._lock:
            self._status |= {"state": state, "updated": _now(), **more}
            _replace(self.path / "status.json", json.dumps(self._status, indent=1, ensure_ascii=False))
            self._told = time.monotonic()

    def begin(self, label: str, stage: str, key: str, folder: Path, inputs: Mapping[str, Artifact], *, cached: bool) -> Row:
        """Note that a stage starts, or that it was done before."""
        with self._lock:
            sources = {name: self._labels.get((a.stage, a.fingerprint), a.stage) for name, a in inputs.items()}
            relative = os.path.relpath(folder, self.workspace)
            row = Row(label, stage, key, relative, "cached" if cached else "running", inputs=sources)
            self._labels[(stage, key)] = label
            self.rows = [old for old in self.rows if old.label != label]  # a run that starts over (rebuild.py) meets its stages again
            self.rows.append(row)
            self.stages_changed()
        event("stage", label=label, stage=stage, fingerprint=key, state=row.state, seconds=0.0)
        return row

    def end(self, row: Row, state: str, seconds: float, counts: Mapping[str, int]) -> None:
        """Note how a stage ended: cached, done or failed."""
        with self._lock:
            row.state, row.seconds = state, round(seconds, 3)
            self.stages_changed()
        if state != "cached":
            event(
                "stage",
                label=row.label,
                stage=row.stage,
                fingerprint=row.fingerprint,
                state=state,
                seconds=row.seconds,
                counts=dict(counts),
            )

    def stages_changed(self) -> None:
        with self._lock:
            _replace(self.path / "stages.json", json.dumps([asdict(row) for row in self.rows], indent=1, ensure_ascii=False))

    def listen(self, told: Event) -> None:
        """A listener for the event bus: every event becomes a line, progress also moves status.json."""
        line = json.dumps(told, ensure_ascii=False, default=str)
        with self._lock:
            with (
                suppress(OSError),
                (self.path / "events.jsonl").open("a", encoding="utf-8") as file,
            ):  # a full disk: the stage will report it
                file.write(line + "\n")
            if told["kind"] == "stage":
                self.stands("running", stage=told["label"], progress=None)
            elif told["kind"] in ("progress", "train") and time.monotonic() - self._told > STATUS_EVERY_S:
                done, total = told.get("done", told.get("step")), told.get("total")
                self.stands("running", progress={"done": done, "total": total, "unit": told.get("unit", "steps")})


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically; on a full disk in place, because how a run ended must be readable there too."""
    try:
        write_whole(path, text)
    except OSError:
        with suppress(OSError), path.open("r+b") as file:
            file.write(text.encode())
            file.truncate()


def all_runs(workspace: Path) -> list[Path]:
    """The folders of all runs, oldest first."""
    return sorted(path.parent for path in (workspace / "runs").glob("*/status.json"))


def find_run(workspace: Path, run: str = "") -> Path:
    """The folder of a run by its id or the beginning or end of it; the newest when none is named."""
    folders = all_runs(workspace)
    found = [p for p in folders if p.name == run] or [p for p in folders if p.name.startswith(run) or p.name.endswith(run)]
    if not folders:
        raise ConfigError(f"no runs in {workspace}; start one with `textmill run RECIPE`, or name its folder with --workspace")
    if not found or (run and len(found) > 1 and found[-1].name != run):
        some = ", ".join(p.name for p in (found or folders)[-4:])
        raise ConfigError(f"{'several runs fit' if found else 'no run'} `{run}`; there is {some}")
    return found[-1]


def status(folder: Path) -> dict[str, Any]:
    """status.json with the stages in it; a run whose process is gone is told as `killed`."""
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    if found["state"] == "running" and found.get("host") == platform.node() and not _alive(found["pid"]):
        found["state"] = "killed"
    return {**found, "stages": json.loads((folder / "stages.json").read_text())}


def environment() -> dict[str, Any]:
    """Versions, hardware and the code's commit. No environment variables: they may hold secrets."""
    import psutil

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "cpu": {"cores": os.cpu_count(), "model": _cpu_model(), "memory_bytes": psutil.virtual_memory().total},
        "git": _git(),
        "command": [Path(sys.argv[0]).name, *_no_values(sys.argv[1:])],
    }


def _no_values(arguments: list[str]) -> list[str]:
    """The words of a command line; what follows `=` may be a secret and stands, checked, in recipe.yaml."""
    return [word.partition("=")[0] + "=…" if "=" in word else word for word in arguments]


def _git() -> dict[str, Any] | None:
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None

    def ask(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
