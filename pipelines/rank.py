"""One rank of a training that torchrun or Slurm starts: `torchrun --nproc-per-node 8 -m pipelines.rank PLAN`.

PLAN is a folder or file that `textmill slurm` wrote: a stage, its config and its inputs in a store beside it. Training by it needs
torch, DeepSpeed, pyarrow, numpy and what these bring; no Ray, no Prefect, no network. The first rank commits the artifact, and the next
`textmill run` of the recipe finds it made. Exit codes: 0 ok, 2 the plan cannot be carried out, 3 failed, 4 asked to stop, state saved.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from infra.artifact import Artifact
from infra.errors import ConfigError, PipelineError
from infra.launched import environment
from infra.log import attach
from infra.stage import Stage
from infra.store import Store

PLAN = "plan.json"
FORM = 1
STAGES = {  # those that train: the module, the stage in it, the class of its config
    "pretrain": ("training.pretrain", "PRETRAIN", "training.pretrain_config", "PretrainConfig"),
    "distill": ("distill.distill", "DISTILL", "distill.distill", "DistillConfig"),
    "finetune": ("training.finetune", "FINETUNE", "training.finetune", "FinetuneConfig"),
}


def write_plan(folder: Path, stage: Stage[Any], config: Any, inputs: dict[str, Artifact], store: Store) -> Path:
    """Everything a rank needs to know. Paths are relative to the plan, so that a workspace may be copied whole to another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {
        "form": FORM,
        "stage": stage.name,
        "key": stage.key(config, inputs),
        "config": dataclasses.asdict(config),
        "inputs": {name: {"stage": a.stage, "fingerprint": a.fingerprint} for name, a in inputs.items()},
        "store": os.path.relpath(store.root, folder),
    }
    path = folder / PLAN
    path.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    return path


def read_plan(path: Path) -> tuple[Stage[Any], Any, dict[str, Artifact], Store]:
    """Raises ConfigError when it is no plan, or not one of this version of the code; ArtifactError when an input is not there."""
    from pydantic import TypeAdapter, ValidationError

    path = path / PLAN if path.is_dir() else path
    try:
        said = json.loads(path.read_text())
        home, name, config_home, config_name = STAGES[said["stage"]]
        made = getattr(import_module(config_home), config_name)
        config = TypeAdapter(made).validate_python(said["config"])
        store = Store((path.parent / said["store"]).resolve())
        inputs = {name: store.get(one["stage"], one["fingerprint"]) for name, one in said["inputs"].items()}
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(f"{path}: no plan of a training ({error}); write it again with `textmill slurm`") from error
    stage: Stage[Any] = getattr(import_module(home), name)
    if said["form"] != FORM or stage.key(config, inputs) != said["key"]:
        raise ConfigError(f"{path} was written by another version of textmill; write it again with `textmill slurm`")
    return stage, config, inputs, store


def work(path: Path) -> None:
    """Be a rank. Raises PipelineError."""
    os.environ.update(environment(os.environ))
    if os.environ["RANK"] == "0":
        attach(_tell)
    stage, config, inputs, store = read_plan(path)
    from training.launched import carry

    made = carry(stage, config, inputs, store)
    if made is not None:
        _tell({"kind": "note", "message": f"made {made.stage}/{made.fingerprint}"})


def _tell(told: dict[str, Any]) -> None:
    """What a person reads in a job's log, a line each."""
    if told["kind"] in ("note", "warning"):
        sys.stderr.write(f"{told['kind']}: {told['message']}\n")
    elif told["kind"] in ("train", "eval"):
        fields = ", ".join(f"{name} {told[name]:.6g}" for name in ("loss", "lr", "tokens_per_s") if isinstance(told.get(name), float))
        sys.stderr.write(f"{told.get('stage', '')} step {told.get('step')}: {fields}\n")


def main(words: list[str] | None = None) -> int:
    """The program; returns the exit code."""
    given = sys.argv[1:] if words is None else words
    if len(given) != 1 or given[0] in ("-h", "--help"):
        sys.stderr.write(__doc__ or "")
        return 0 if given and given[0] in ("-h", "--help") else 2
    try:
        work(Path(given[0]))
    except PipelineError as error:
        sys.stderr.write(f"rank {os.environ.get('RANK', '?')}: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
