"""Full and read-only disks, few file descriptors, little address space, clocks that jump, two runs at once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import finished, lease
from infra.errors import ConfigError
from pipelines.recipe_yaml import read as read_yaml
from tests.end_to_end.mini import Place, content
from tests.faults.test_damage import RECIPE, place

__all__ = ["place"]
TEXT = RECIPE[: RECIPE.index("tokenizers:")]
SCRIPT = """
import json, random, sys
from functools import partial
from pathlib import Path
from tests.faults.crash_points import forked
from tests.faults.tiny import tiny
folder, told = Path(sys.argv[1]), []
with tiny(folder / "tiny") as corpus:
    for label in ("documents", "links", "crawl", "dedup", "tokenizer", "blocks"):
        calm = folder / label / "calm"
        corpus.prepare(label, calm)
        points = len(forked(partial(corpus.work, label, calm), calm).operations)
        rng = random.Random(label)
        for refusal in map(int, sys.argv[2:]):
            root = folder / label / str(refusal)
            corpus.prepare(label, root)
            first = forked(partial(corpus.work, label, root), root, rng.randrange(points * 9 // 10), refusal)
            second = forked(partial(corpus.work, label, root), root)
            same = second.code == 0 and corpus.look(label, root) == corpus.look(label, calm)
            told.append([label, refusal, first.code, first.error, second.code, second.error, same])
print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_full_or_read_only_disk_ends_a_stage_with_the_path_and_costs_no_byte(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(errno.ENOSPC), str(errno.EROFS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for label, refusal, code, error, again, what, same in json.loads(done.stdout.splitlines()[-1]):
        last = error.strip().splitlines()[-1] if error else ""
        assert again == 0 and same, (label, refusal, what)
        if code == 0:  # what was refused was tidying up: the artifact is there
            continue
        assert os.strerror(refusal) in last and str(tmp_path) in last, (label, refusal, error)


def test_an_error_without_a_path_is_given_one(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '.*/x'") as caught, finished.naming(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("limit", ["-v 524288", "-n 64"])
def test_text_is_made_under_low_limits(place: Place, limit: str) -> None:
    """512 MB of address space leave no room for torch: a run that only makes text does not load it."""
    (place.folder / "damage.yaml").write_text(TEXT)
    command = f"ulimit {limit} && exec {sys.executable} -m pipelines.cli run damage.yaml --plain"
    environment = {name: value for name, value in place.environment().items() if name not in ("OMP_NUM_THREADS",)}
    done = subprocess.run(["bash", "-c", command], cwd=place.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_two_runs_on_one_workspace_end_well_and_work_once(place: Place) -> None:
    (place.folder / "damage.yaml").write_text(TEXT)
    both = [place.start("run", "damage.yaml", "--plain") for _ in range(2)]
    told = [one.communicate(timeout=300) for one in both]
    assert [one.returncode for one in both] == [0, 0], told
    runs = [json.loads(path.read_text()) for path in sorted(place.workspace.glob("runs/*/stages.json"))]
    assert len(runs) == 2 and [row["fingerprint"] for row in runs[0]] == [row["fingerprint"] for row in runs[1]]
    assert not list(place.workspace.glob("artifacts/*/.*"))
    alone = content(place.made(runs[0][-1]))
    verified = [place.start("verify"), place.start("run", "damage.yaml", "--plain")]  # verify beside a run
    assert [one.wait(300) for one in verified] == [0, 0]
    assert content(place.made(runs[0][-1])) == alone


def test_a_clock_that_is_set_costs_no_living_holder_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil reckons when a process started from the wall clock: set by an hour, every holder looked like another process."""
    import psutil

    real = psutil.Process.create_time
    with lease.held(tmp_path / "x.lease"):
        for hours in (-1, 1):
            monkeypatch.setattr(psutil.Process, "create_time", lambda self, hours=hours: real(self) + 3600 * hours)
            monkeypatch.setattr(time, "time", lambda hours=hours, now=time.time(): now + 3600 * hours)
            holder = json.loads((tmp_path / "x.lease").read_text())
            assert not lease._gone(holder)
            lease.bury(tmp_path / "x.lease")
            assert (tmp_path / "x.lease").exists()


def test_a_holder_that_was_outlived_leaves_the_new_lease_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.02)
    path = tmp_path / "x.lease"
    with lease.held(path):
        path.write_text(json.dumps({"pid": os.getpid(), "host": "elsewhere", "id": "other"}))
        time.sleep(0.2)
        assert json.loads(path.read_text())["id"] == "other"
    assert json.loads(path.read_text())["id"] == "other"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (BOMB, r"r\.yaml:6: with its aliases this has more than 100,000 values"),
        ("name: x\na: &a\n  b: *a\n", r"r\.yaml:2: an alias within `&a` names `&a` itself"),
        ("name: x\na: " + "[" * 5000 + "]" * 5000, r"r\.yaml:2: more than 100 levels"),
        ("# " + "x" * (2 << 20), r"r\.yaml: 2,097,154 characters are more than"),
    ],
)
def test_a_recipe_that_unfolds_beyond_measure_is_refused_by_its_line(recipe: str, line: str) -> None:
    begun = time.process_time()
    with pytest.raises(ConfigError, match=line):
        read_yaml(recipe, "r.yaml")
    assert time.process_time() - begun < 10
    assert read_yaml("a: &a [1, 2]\nb: {c: *a, d: *a}\n", "r.yaml").value == {"a": [1, 2], "b": {"c": [1, 2], "d": [1, 2]}}
