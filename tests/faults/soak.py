"""The whole chain under Prefect and Ray is killed again and again, and must end with the bytes of an undisturbed run.

    python -m tests.faults.soak --kills 100        # `make soak`: about 40 minutes on 2 quiet cores

The recipe is tests/end_to_end/mini.py's: site, links, crawl, extract, filter, dedup, tokenizers, two pretrained models, a distilled one, a
fine-tuned and evaluated one. A run is started as a user starts it; at random moments one of its processes gets a SIGKILL, the kind that
had the fewest kills so far first. What ended is started again with the same command; a run that ended well is compared, and another
begins in an empty workspace.

driver    the command itself            raylet   Ray's node manager         rank    a rank of a training
ray       the Ray driver                gcs      Ray's head                 server  the Prefect server
worker    a worker of Ray               agent    the Prefect worker that runs scheduled runs

Compared: every file of every artifact. Exceptions, each because it records time: manifests (when it was made), a crawl's fetch times and
its position in the WARC files, and the speed in metrics.jsonl (its losses and steps are compared). Then: no process of a run that
ended is alive 60 s later, and no flow run whose process is gone is Running 120 s later.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.end_to_end import mini
from tests.end_to_end.mini import Place, content, pages

KINDS = ("driver", "ray", "worker", "raylet", "gcs", "rank", "server", "agent")
RUN = ("run", "mini.yaml", "--set", "resources.cpus=2")
STRAY_S, ZOMBIE_S, PATIENCE_S = 60.0, 120.0, 900.0
AHEAD = 2  # kills of one kind more than of another
LONGEST_S = 8.0  # from one kill to the next, or from the start of a run


@dataclass
class Seen:
    """What the soak saw."""

    kills: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)  # by the last kill and the exit code
    rounds: int = 0
    different: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    zombies: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def good(self) -> bool:
        return not (self.different or self.strays or self.zombies or self.unclear)


class Soak:
    """One directory: the undisturbed run, the rounds, and the server that all of them share."""

    def __init__(self, root: Path, reference: Path, kills: int, seed: int) -> None:
        self.root, self.reference, self.kills, self.rng = root, reference, kills, random.Random(seed)
        self.seen = Seen()
        self.ended: list[tuple[float, list[psutil.Process], str]] = []  # when, whose processes, the run's name
        self.agent: subprocess.Popen[str] | None = None

    def soak(self) -> Seen:
        undisturbed = mini.finished(self.reference)
        while not self.seen.rounds or sum(self.seen.kills.values()) < self.kills:
            self.round(undisturbed)
        self.look_back(wait=True)
        return self.seen

    def round(self, undisturbed: Place) -> None:
        """Runs in one workspace until one ends well."""
        place = Place.make(self.root / "struck")
        ends = time.monotonic() + PATIENCE_S
        while not self.attempt(place):
            assert time.monotonic() < ends, f"no run ended well in {PATIENCE_S} s"
        self.seen.rounds += 1
        self.seen.different += differences(place, undisturbed)
        say(f"round {self.seen.rounds} ended: {len(self.seen.different)} differences so far, {sum(self.seen.kills.values())} kills")
        shutil.rmtree(place.workspace)

    def attempt(self, place: Place) -> bool:
        """One run, and what is done to it; whether it ended well."""
        before = set(place.workspace.glob("runs/*"))
        process, family, last = psutil.Process((popen := place.start(*RUN)).pid), set[psutil.Process](), "none"
        due = time.monotonic() + self.rng.random() * LONGEST_S
        while popen.poll() is None:
            with suppress(psutil.Error):
                family |= set(process.children(recursive=True))
            begun = set(place.workspace.glob("runs/*/status.json")) - {run / "status.json" for run in before}
            if begun and time.monotonic() > due and sum(self.seen.kills.values()) < self.kills:
                last = self.strike(place, process, family) or last
                due = time.monotonic() + self.rng.random() * LONGEST_S
            self.look_back()
            time.sleep(0.1)
        code, said = popen.returncode, popen.communicate()[1]
        name = max((set(place.workspace.glob("runs/*")) - before), key=lambda path: path.stat().st_ctime_ns, default=Path("none")).name
        self.ended.append((time.monotonic(), [one for one in family if not is_service(one)], name))
        self.seen.codes[f"{last}: {code}"] += 1
        if code not in (0, -9) and "textmill: " not in said:
            self.seen.unclear.append(f"{last}, code {code}: {said[-300:]}")
        say(f"  run {name} ended with code {code} after {last}: {' / '.join(said.strip().splitlines())[:300]}")
        return code == 0

    def strike(self, place: Place, process: psutil.Process, family: set[psutil.Process]) -> str:
        """One kill of the kind that had the fewest; the kind, or nothing when there was nobody to kill."""
        there = {"driver": [process], "agent": self.agents(place), "server": services(place, "server")}
        for one in family:
            if (kind := kind_of(one)) and alive(one):
                there.setdefault(kind, []).append(one)
        kinds = sorted((kind for kind in KINDS if there.get(kind)), key=lambda kind: (self.seen.kills[kind], self.rng.random()))
        if not kinds or self.seen.kills[kinds[0]] > min(self.seen.kills[kind] for kind in KINDS) + AHEAD:
            return ""  # the driver is always there: the others have their turn first
        kind = kinds[0]
        victims = there[kind] if kind == "server" else [self.rng.choice(sorted(there[kind], key=lambda one: one.pid))]
        for victim in victims:
            with suppress(psutil.Error):
                victim.kill()
        self.seen.kills[kind] += 1
        say(f"  kill {sum(self.seen.kills.values())}: {kind} {[one.pid for one in victims]}")
        if kind == "server" and self.rng.random() < 0.5:
            place.start("ui")  # somebody starts it again while the run goes on
        return kind

    def agents(self, place: Place) -> list[psutil.Process]:
        """The Prefect worker, started when there is none."""
        home = place.folder / "home"
        if self.agent is None or self.agent.poll() is not None:
            with suppress(OSError, ValueError):
                api = json.loads((home / "server.json").read_text())["api"]
                command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "textmill", "--type", "process"]
                environment = {**place.environment(), "PREFECT_API_URL": api, "PREFECT_HOME": str(home / "prefect")}
                quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                self.agent = subprocess.Popen(command, cwd=home, env=environment, text=True, **quiet)
            return []
        return [psutil.Process(self.agent.pid)]

    def look_back(self, *, wait: bool = False) -> None:
        """Whether what should be gone by now is gone."""
        for entry in list(self.ended):
            when, family, name = entry
            if wait:
                time.sleep(max(0.0, when + ZOMBIE_S - time.monotonic()))
            passed = time.monotonic() - when
            if passed > STRAY_S and family:
                self.seen.strays += [f"{name}: {one}" for one in family if alive(one)]
                family.clear()
            if passed > ZOMBIE_S:
                self.ended.remove(entry)
                self.seen.zombies += [name] if self.is_running(name) else []

    def is_running(self, name: str) -> bool:
        """What the server says of a flow run; a server that was just killed is asked again after the next run started it."""
        filtered = {"flow_runs": {"name": {"any_": [name]}}}
        try:
            api = json.loads((self.root / "struck/home/server.json").read_text())["api"]
            found = httpx.post(f"{api}/flow_runs/filter", json=filtered, timeout=30).json()
        except (OSError, ValueError, httpx.HTTPError):
            return False
        return any(run["state_type"] == "RUNNING" for run in found)

    def close(self) -> None:
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
        Place.make(self.root / "struck").call("ui", "--stop")


def kind_of(process: psutil.Process) -> str:
    """Which kind of a run's processes this one is; empty for others."""
    with suppress(psutil.Error):
        name, words = process.name(), " ".join(process.cmdline())
        if name in ("raylet", "gcs_server"):
            return name.removesuffix("_server")
        if words.startswith("ray::") and not words.startswith(("ray::IDLE", "ray::Dashboard", "ray::RuntimeEnv")):
            return "worker"
        if "spawn_main" in words:
            return "rank" if "OMP_WAIT_POLICY" in process.environ() else "ray"
    return ""


def services(place: Place, name: str) -> list[psutil.Process]:
    """The Prefect server of this place and what it started."""
    with suppress(OSError, ValueError, psutil.Error):
        found = psutil.Process(json.loads((place.folder / "home" / f"{name}.json").read_text())["pid"])
        return [found, *found.children(recursive=True)]
    return []


def is_service(process: psutil.Process) -> bool:
    """Prefect's server outlives a run on purpose."""
    with suppress(psutil.Error):
        return "prefect" in " ".join(process.cmdline())
    return False


def alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def differences(place: Place, undisturbed: Place) -> list[str]:
    """Labels of stages whose output is not that of the undisturbed run."""
    found = []
    rows = {row["label"]: row for row in place.rows()}
    for expected in undisturbed.rows():
        label = expected["label"]
        here, there = place.made(rows[label]), undisturbed.made(expected)
        if rows[label]["fingerprint"] != expected["fingerprint"]:
            found.append(f"{label}: fingerprint")
        elif expected["stage"] == "crawl":
            found += [] if pages(here) == pages(there) else [label]
        elif comparable(here) != comparable(there):
            found.append(label)
    return found


def comparable(artifact: Path) -> dict[str, Any]:
    """Every file's hash; of the metrics what they say, without the speed."""
    found: dict[str, Any] = dict(content(artifact))
    for path in [path for path in found if path.endswith("metrics.jsonl")]:
        lines = (artifact / path).read_text().splitlines()
        found[path] = [{k: v for k, v in json.loads(line).items() if k not in ("tokens_per_s", "speed")} for line in lines]
    return found


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--reference", type=Path, help="a directory for the undisturbed run, which is used again when it is there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        soak = Soak(Path(folder), asked.reference or Path(folder), asked.kills, asked.seed)
        try:
            seen = soak.soak()
        finally:
            soak.close()
    minutes = (time.monotonic() - seen.began) / 60
    say(f"{sum(seen.kills.values())} kills ({', '.join(f'{count} {kind}' for kind, count in seen.kills.items())}) in {minutes:.0f} minutes")
    say(f"exit codes by last kill: {dict(seen.codes)}")
    say(f"{seen.rounds} runs ended well; {len(seen.different)} different artifacts {seen.different}")
    say(f"{len(seen.strays)} stray processes after {STRAY_S:.0f} s {seen.strays}")
    say(f"{len(seen.zombies)} zombie flow runs after {ZOMBIE_S:.0f} s {seen.zombies}")
    say(f"{len(seen.unclear)} ends without a message {seen.unclear}")
    raise SystemExit(not seen.good)


if __name__ == "__main__":
    main()
