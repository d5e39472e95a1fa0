"""Trainings as jobs of a Slurm cluster: for each one that can begin, a plan and a script for sbatch. Starts nothing."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.artifact import MANIFEST, Artifact
from infra.errors import ConfigError
from infra.stage import Stage
from infra.store import Store
from pipelines import chain
from pipelines.growth import Growth
from pipelines.rank import STAGES, write_plan
from pipelines.recipe import Recipe

FOLDER = "slurm"  # in a workspace
SCRIPT = "train.sbatch"
TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}")


@dataclass(frozen=True)
class Job:
    """What is asked of Slurm. warn_s: so long before the time is up the ranks are asked to save. restarts: of dead ranks within a job.

    more: further options of sbatch, such as "--account=physics".
    """

    nodes: int = 1
    per_node: int = 1
    gpus: bool = False
    cpus: int = 1
    time: str = "24:00:00"
    partition: str = ""
    warn_s: int = 120
    restarts: int = 2
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("per_node", 1), ("cpus", 1), ("warn_s", 1), ("restarts", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least {least}")
        if not TIME.fullmatch(self.time):
            raise ConfigError(f"--time {self.time!r} is no time of Slurm, such as 24:00:00 or 2-00:00:00")
        for option in (*self.more, *((f"--partition={self.partition}",) if self.partition else ())):
            if not option.startswith("-") or any(c in option for c in "\n\r"):
                raise ConfigError(f"--sbatch {option!r} is no option of sbatch, such as --account=physics")


@dataclass(frozen=True)
class Written:
    """A job that is ready to be handed to sbatch."""

    label: str
    script: Path


def write(recipe: Recipe, workspace: Path, job: Job) -> list[Written]:
    """A folder with plan and script for each training that is not made yet and whose inputs are. Raises ConfigError when there is none."""
    store = Store(workspace / "artifacts")
    written: list[Written] = []
    waiting: list[str] = []

    def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        key = stage.key(config, inputs)
        made = Artifact(stage.name, key, store.path(stage.name, key))
        if stage.name in STAGES and not _there(made):
            label = label or stage.name
            if chain.unmade(config) or not all(map(_there, inputs.values())):
                waiting.append(label)
            else:
                folder = workspace / FOLDER / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', label)}-{key}"
                write_plan(folder, stage, config, inputs, store)
                path = folder / SCRIPT
                path.write_text(script(label, folder, job))
                written.append(Written(label, path))
        return made

    chain.run(do, recipe, earlier=Growth(workspace, store, recipe).earlier)
    if not written:
        raise ConfigError(
            f"{', '.join(waiting)} cannot begin, the stages before are not made yet: `textmill run RECIPE --until encode` first, or "
            "run the job that is written"
            if waiting
            else "every training of this recipe is made already"
        )
    return written


def _there(artifact: Artifact) -> bool:
    return (artifact.path / MANIFEST).is_file()


def script(label: str, folder: Path, job: Job) -> str:
    """The batch script. srun starts one task a rank; when the time is nearly up, or Slurm takes the nodes away, the ranks save and the
    job is queued again."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label)
    lines = [
        f"--job-name=textmill-{name}",
        f"--nodes={job.nodes}",
        f"--ntasks-per-node={job.per_node}",
        f"--cpus-per-task={job.cpus}",
        f"--time={job.time}",
        f"--signal=B:USR1@{job.warn_s}",
        "--requeue",
        "--open-mode=append",
        f"--output={folder / 'log-%j.txt'}",
        *([f"--gpus-per-node={job.per_node}"] if job.gpus else []),
        *([f"--partition={job.partition}"] if job.partition else []),
        *job.more,
    ]
    head = "".join(f"#SBATCH {line}\n" for line in lines)
    python, root = shlex.quote(sys.executable), shlex.quote(str(Path(__file__).parents[1]))
    return (
        f"#!/bin/bash\n{head}{BODY}".replace("@PYTHON@", python)
        .replace("@ROOT@", root)
        .replace("@PLAN@", shlex.quote(str(folder)))
        .replace("@RESTARTS@", str(job.restarts))
    )


BODY = """\
# Written by `textmill slurm`. A rank needs torch, deepspeed, pyarrow and numpy: no Ray, no Prefect, no network.
python=${TEXTMILL_PYTHON:-@PYTHON@}
plan=@PLAN@
export PYTHONPATH=@ROOT@${PYTHONPATH:+:$PYTHONPATH}

asked=0
child=
stop() {
  asked=1
  [ -z "$child" ] || scancel --signal=TERM "$SLURM_JOB_ID"  # to every rank; srun itself would kill them at a SIGTERM of its own
}
trap stop USR1 TERM

for try in $(seq 0 @RESTARTS@); do
  TEXTMILL_TRY=$try srun --kill-on-bad-exit=1 "$python" -m pipelines.rank "$plan" &
  child=$!
  while wait "$child"; code=$?; [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do :; done  # a signal ends `wait`, not the child
  wait "$child"  # the code of the child itself, which bash remembers
  code=$?
  child=
  # 0 made, 2 cannot be done, 3 failed, 4 asked to stop; anything else is a rank that died
  case $code in 0 | 2 | 3 | 4) break ;; esac
  [ "$asked" = 0 ] || break
  echo "a rank died (code $code); starting again from the last checkpoint" >&2
done

if [ "$code" != 0 ] && { [ "$asked" = 1 ] || [ "$code" = 4 ]; }; then
  echo "asked to stop; queued again, it goes on from the last checkpoint" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
