"""The whole chain under Prefect and Ray is killed again and again, and must end with the bytes of an undisturbed run.

    python -m tests.faults.soak --kills 100        # `make soak`
    python -m tests.faults.soak --folder D         # goes on where a soak in D was stopped; D/soak.jsonl has what it saw

The recipe is tests/end_to_end/mini.py's: site, links, crawl, extract, filter, dedup, tokenizers, two pretrained models, a distilled one, a
fine-tuned and evaluated one. A run is started as a user starts it. In every stage comes a moment (soak_moments.py) when one of the
processes gets a SIGKILL: of the kinds that live at that time the one that had the fewest kills so far. What ended is started again with
the same command; a run that ended well is compared (soak_compare.py), and another begins in an empty workspace.

driver    the command itself     raylet    Ray's node manager          rank      a rank of a training
ray       the Ray driver         gcs       Ray's head                  server    the Prefect server
worker    a worker of Ray        mailbox   Ray's actor for reports     agent     the worker that runs scheduled runs

Then: no process of a run that ended is alive 60 s later, and no flow run whose process is gone is Running 120 s later.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import httpx
import psutil

from tests.end_to_end.mini import Place
from tests.faults import soak_moments, soak_victims
from tests.faults.soak_compare import differences
from tests.faults.soak_moments import Follower, Moment, Plan
from tests.faults.soak_record import Record

SMALLER = (  # than the recipe of the tests: kills count here, not steps
    "students.half.control=false", "models.gpt.pretrain.tokens=8192", "models.bert.pretrain.tokens=8192", "students.half.tokens=8192",
    "tasks.package.epochs=2",
)  # fmt: skip
COMMAND = ("run", "mini.yaml", *(word for setting in ("resources.cpus=2", *SMALLER) for word in ("--set", setting)))
STRAY_S, ZOMBIE_S = 60.0, 120.0
SILENT_S = 400.0  # a run without an event for so long hangs
POLL_S, LOOK_S = 0.05, 0.5


class Soak:
    """One directory: the undisturbed run, the rounds, and the server that all of them share."""

    def __init__(self, root: Path, kills: int, seed: int) -> None:
        self.root, self.kills, self.seed = root, kills, seed
        self.record = Record(root / "soak.jsonl")
        self.rng, self.plan = Random(seed), Plan(Random(seed), {})
        self.ended: list[tuple[float, list[psutil.Process], str]] = []  # when, whose processes, the run's name
        self.helpers: list[subprocess.Popen[str]] = []
        self.driver: subprocess.Popen[str] | None = None

    def soak(self) -> Record:
        undisturbed = self.reference()
        lengths = soak_moments.lengths((undisturbed.workspace / "runs").iterdir())
        while not self.record.of("round") or self.left() > 0:
            number = len(self.record.of("round"))
            self.rng = Random(f"{self.seed}/{number}/{len(self.record.rows)}")
            self.plan = Plan.draw(self.rng, lengths, self.plan.owed)
            self.round(undisturbed)
        self.look_back(wait=True)
        return self.record

    def reference(self) -> Place:
        """The run without kills, in one process."""
        place = Place.make(self.root / "reference")
        if not (place.folder / "complete").exists():
            done = place.call(*COMMAND, "--plain", timeout=1800)
            assert done.returncode == 0, done.stderr
            (place.folder / "complete").touch()
        return place

    def left(self) -> int:
        return self.kills - len(self.record.of("kill"))

    def round(self, undisturbed: Place) -> None:
        """Runs in one workspace until one ends well."""
        place = Place.make(self.root / "killed")
        while not self.attempt(place):
            pass
        found = differences(place, undisturbed)
        for one in found:
            self.record.add("different", round=len(self.record.of("round")), artifact=one)
        self.record.add("round", differences=len(found), kills=len(self.record.of("kill")))
        if found:
            place.workspace.rename(self.root / f"different-{len(self.record.of('round'))}")
        else:
            shutil.rmtree(place.workspace)

    def attempt(self, place: Place) -> bool:
        """One run, and the kills in it; whether it ended well."""
        before = {path.name for path in place.workspace.glob("runs/*")}
        self.driver = popen = place.start(*COMMAND)
        process, family, last, looked, run = psutil.Process(popen.pid), set[psutil.Process](), "none", 0.0, None
        follower = Follower(self.plan.lengths)
        while popen.poll() is None:
            if time.monotonic() - looked > LOOK_S:
                with suppress(psutil.Error):
                    family |= set(process.children(recursive=True))
                run = run or _new(place, before)
                self.serve(place)
                self.look_back()
                looked = time.monotonic()
            follower.read(run)
            self.skip(follower)
            if self.left() > 0 and (moment := self.plan.due(follower)):
                last = self.kill(place, process, family, moment) or last
            if time.monotonic() - follower.changed > SILENT_S:
                self.record.add("hang", stage=follower.label, last=last, run=run.name if run else "")
                popen.kill()
                popen.wait()
            time.sleep(POLL_S)
        return self.end(place, popen, family, last, run or _new(place, before))

    def end(self, place: Place, popen: subprocess.Popen[str], family: set[psutil.Process], last: str, run: Path | None) -> bool:
        """Record how a run ended, and remember to look for what it leaves."""
        message, name = popen.communicate()[1].strip(), run.name if run else ""
        self.ended.append((time.monotonic(), [one for one in family if not soak_victims.is_service(one)], name))
        self.record.add("exit", last=last, code=popen.returncode, run=name, message=" / ".join(message.splitlines())[-300:])
        if popen.returncode not in (0, -9) and "textmill: " not in message:
            self.record.add("unclear", last=last, code=popen.returncode, message=message[-1000:])
        return popen.returncode == 0

    def skip(self, follower: Follower) -> None:
        """Give the moments of stages that ended without them to later stages."""
        order = (soak_moments.START, *self.plan.lengths, soak_moments.END)
        if lost := self.plan.missed(order, follower.label):
            self.record.add("missed", count=len(lost), stages=" ".join(moment.label for moment in lost))

    def kill(self, place: Place, process: psutil.Process, family: set[psutil.Process], moment: Moment) -> str:
        """One kill; its kind."""
        with suppress(psutil.Error):
            family |= set(process.children(recursive=True))
        kind, victims = soak_victims.choose(soak_victims.by_kind(place, process, family), self.record.kills(), self.rng)
        for victim in victims:
            with suppress(psutil.Error):
                victim.kill()
        self.plan.used(moment)
        number = len(self.record.of("kill")) + 1
        self.record.add("kill", number=number, stage=moment.label, kind=kind, moment=str(moment), pids=[one.pid for one in victims])
        if kind == "server" and self.rng.random() < 0.5:
            self.helpers.append(place.start("ui"))  # somebody starts it again while the run goes on
        return kind

    def serve(self, place: Place) -> None:
        """Keep the worker alive, as a service manager does. One that starts is waited for."""
        self.helpers = [helper for helper in self.helpers if helper.poll() is None]
        if not self.helpers and soak_victims.service(place, "server") and not soak_victims.service(place, "worker"):
            self.helpers.append(place.start("worker", "start"))

    def look_back(self, *, wait: bool = False) -> None:
        """Whether what should be gone by now is gone."""
        for entry in list(self.ended):
            when, family, name = entry
            if wait:
                time.sleep(max(0.0, when + ZOMBIE_S - time.monotonic()))
            passed = time.monotonic() - when
            if passed > STRAY_S and family:
                for one in family:
                    if soak_victims.alive(one):
                        self.record.add("stray", run=name, process=str(one))
                family.clear()
            if passed > ZOMBIE_S and (running := self.is_running(name, wait)) is not None:
                self.ended.remove(entry)
                if running:
                    self.record.add("zombie", run=name)

    def is_running(self, name: str, wait: bool) -> bool | None:
        """What the server says of a flow run; None when none answers: it is asked again later."""
        if not name:
            return False
        filtered = {"flow_runs": {"name": {"any_": [name]}}}
        place = Place(self.root / "killed")
        if wait:
            place.call("ui")
        try:
            api = json.loads((place.folder / "home/server.json").read_text())["api"]
            found = httpx.post(f"{api}/flow_runs/filter", json=filtered, timeout=5).json()
            return any(run["state_type"] == "RUNNING" for run in found)
        except (OSError, ValueError, TypeError, KeyError, httpx.HTTPError):
            return None

    def close(self) -> None:
        if self.driver is not None and self.driver.poll() is None:  # the soak itself was stopped
            self.driver.terminate()
            self.driver.communicate()
        for helper in self.helpers:
            helper.wait()
        Place.make(self.root / "killed").call("ui", "--stop")


def _new(place: Place, before: set[str]) -> Path | None:
    """The directory of a run that started since."""
    runs = [path for path in place.workspace.glob("runs/*") if path.name not in before and (path / "status.json").exists()]
    return max(runs, key=lambda path: path.stat().st_ctime_ns, default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--folder", type=Path, help="where runs and results go, and are found again; without it they are removed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command with the same --folder goes on"))
    with tempfile.TemporaryDirectory(prefix="soak") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        soak = Soak(folder.resolve(), options.kills, options.seed)
        try:
            record = soak.soak()
        finally:
            soak.close()
            print(soak.record.figures(), flush=True)
    raise SystemExit(not record.good)


if __name__ == "__main__":
    main()
