"""Trainings as jobs of a Slurm cluster: for each one that can begin, a plan and a script for sbatch. Starts nothing."""

from __future__ import annotations

import re
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
NAME = re.compile(r"[\w.,+-]*")
MEMORY = re.compile(r"(\d+[KMGT]?)?")
RUNTIMES = ("apptainer", "pyxis")
LONGEST_WARNING_S = 65535  # Slurm's own limit for --signal


@dataclass(frozen=True)
class Job:
    """What is requested of Slurm. warn_s: seconds before the time limit at which the ranks are told to save. restarts: of crashed ranks
    within a job. requeues: of the job itself. more: further options of sbatch, such as "--comment=first".

    setup: lines of bash that run on the first node before the ranks start, such as "module load cuda/12".
    container: an image; the ranks run in it by runtime, apptainer or pyxis.
    """

    nodes: int = 1
    per_node: int = 1
    gpus: bool = False
    cpus: int = 1
    time: str = "24:00:00"
    partition: str = ""
    warn_s: int = 120
    restarts: int = 2
    requeues: int = 100
    account: str = ""
    qos: str = ""
    mem: str = ""
    setup: tuple[str, ...] = ()
    container: str = ""
    runtime: str = "apptainer"
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("per_node", 1), ("cpus", 1), ("warn", 1), ("restarts", 0), ("requeues", 0)):
            value = self.warn_s if name == "warn" else getattr(self, name)
            if value < least:
                raise ConfigError(f"--{name.replace('_', '-')} {value} must be at least {least}")
        limit = seconds(self.time)
        if self.warn_s > LONGEST_WARNING_S or (limit and self.warn_s >= limit):
            raise ConfigError(
                f"--warn {self.warn_s} (seconds) must be less than the time limit of {self.time} and than {LONGEST_WARNING_S + 1}"
            )
        for name in ("partition", "account", "qos"):
            if not NAME.fullmatch(getattr(self, name)):
                raise ConfigError(f"--{name} {getattr(self, name)!r} must be made of letters, digits and _ . , + -")
        if not MEMORY.fullmatch(self.mem):
            raise ConfigError(f"--mem {self.mem!r} must be a number with K, M, G or T, such as 64G (of each node)")
        if self.runtime not in RUNTIMES:
            raise ConfigError(f"--container-runtime {self.runtime!r} must be one of {', '.join(RUNTIMES)}")
        for option in self.more:
            if not option.startswith("-") or any(c in option for c in "\n\r"):
                raise ConfigError(f"--sbatch {option!r} is no option of sbatch, such as --comment=first")


def seconds(time: str) -> int:
    """Seconds of a time limit as Slurm reads it: minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]].

    0 for no limit. Raises ConfigError.
    """
    if not TIME.fullmatch(time):
        raise ConfigError(f"--time {time!r} is no time of Slurm, such as 24:00:00 or 2-00:00:00")
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, rest_s = [*parts, 0, 0][:3]
    else:
        hours, minutes, rest_s = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + rest_s


@dataclass(frozen=True)
class Written:
    """A job that is ready to be handed to sbatch."""

    label: str
    script: Path


def write(recipe: Recipe, workspace: Path, job: Job) -> list[Written]:
    """A folder with plan and script for each training that is not made yet and whose inputs are. Raises ConfigError when there is none."""
    if "\n" in str(workspace):
        raise ConfigError(f"--workspace {str(workspace)!r}: a batch script cannot name a path with a line break")
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
    """The batch script. srun starts one task per rank; when the time is nearly up, or Slurm takes the nodes away, the ranks save and the
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
        f"--output={_quoted(str(folder).replace('%', '%%') + '/log-%j.txt')}",
        *([f"--gpus-per-node={job.per_node}"] if job.gpus else []),
        *(f"--{key}={value}" for key in ("partition", "account", "qos", "mem") if (value := getattr(job, key))),
        *job.more,
    ]
    values = {
        "HEAD": "".join(f"#SBATCH {line}\n" for line in lines),
        "SETUP": "".join(f"{line}\n" for line in job.setup),
        "PYTHON": "python3" if job.container else _bash(sys.executable),
        "ROOT": _bash(str(ROOT)),
        "PLAN": _bash(str(folder)),
        "RANK": _ranks(folder, job),
        "RESTARTS": str(job.restarts),
        "REQUEUES": str(job.requeues),
    }
    return re.sub("@([A-Z]+)@", lambda found: values[found[1]], BODY)


def _quoted(text: str) -> str:
    """As sbatch reads the value of an option in an #SBATCH line; plain where nothing needs quotes."""
    if re.fullmatch(r"[\w%+,./:@=-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bash(text: str) -> str:
    """As bash reads one word; in double quotes, since shellcheck takes a $ in single quotes for a mistake."""
    return text if re.fullmatch(r"[\w%+,./:@=-]+", text) else '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'


def _ranks(folder: Path, job: Job) -> str:
    """What srun starts: options of its own, then the command of a rank."""
    rank = '"$python" -m pipelines.rank "$plan"'
    if not job.container:
        return rank
    workspace, image = str(folder.parent.parent), _bash(job.container)
    places = [_bash(place) for place in dict.fromkeys((workspace, str(ROOT)))]
    if job.runtime == "pyxis":
        mounts = ",".join(f"{place}:{place}" for place in places)
        return f"--container-image={image} --container-mounts={mounts} {rank}"
    return f"apptainer exec {'--nv ' if job.gpus else ''}{' '.join(f'--bind {place}' for place in places)} {image} {rank}"


ROOT = Path(__file__).parents[1]
BODY = """\
#!/bin/bash
@HEAD@# Written by `textmill slurm`. A rank needs torch, deepspeed, pyarrow and numpy: no Ray, no Prefect, no network.
python=${TEXTMILL_PYTHON:-@PYTHON@}
plan=@PLAN@
export PYTHONPATH=@ROOT@${PYTHONPATH:+:$PYTHONPATH}
@SETUP@
stopping=0
child=
# shellcheck disable=SC2317,SC2329  # the trap calls it
stop() {
  stopping=1
  [ -z "$child" ] || scancel --signal=TERM "$SLURM_JOB_ID"  # to every rank; srun itself would kill them at a SIGTERM of its own
}
trap stop USR1 TERM

for attempt in $(seq 0 @RESTARTS@); do
  TEXTMILL_TRY=$attempt srun --kill-on-bad-exit=1 @RANK@ &
  child=$!
  while wait "$child"; code=$?; [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do :; done  # a signal ends `wait`, not the child
  wait "$child"  # the code of the child itself, which bash remembers
  code=$?
  child=
  # 0 done, 2 cannot be done, 3 failed, 4 told to stop; anything else is a rank that crashed
  case $code in 0 | 2 | 3 | 4) break ;; esac
  [ "$stopping" = 0 ] || break
  echo "a rank crashed (code $code); starting again from the last checkpoint" >&2
done

if [ "$code" != 0 ] && { [ "$stopping" = 1 ] || [ "$code" = 4 ]; }; then
  if [ "${SLURM_RESTART_COUNT:-0}" -ge @REQUEUES@ ]; then
    echo "told to stop; not queued again, that happened @REQUEUES@ times (--requeues); sbatch continues from the last checkpoint" >&2
  else
    echo "told to stop; queued again, it continues from the last checkpoint" >&2
    scontrol requeue "$SLURM_JOB_ID"
  fi
fi
exit "$code"
"""
