"""Which documents a model saw at a step: its own record names its examples and its seed, and from these the batch is computed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from data_prep import shards
from infra.artifact import Artifact
from infra.errors import ArtifactError, ConfigError
from infra.stage import Stage
from infra.store import Store
from pipelines.models import find_model

READ = ("examples", "sentences", "tokenizer")  # what a feed is opened from
LENGTHS = "examples_"  # the examples of a curriculum's other lengths
Config = TypeVar("Config")


def trace(workspace: Path, name: str, step: int) -> dict[str, Any]:
    """Documents of the global batch of a step (from 0, as in metrics.jsonl), whatever the number of ranks was.

    Raises ConfigError when the model is not known, learnt from a task's file, or has no such step; ArtifactError when an
    artifact it was made from is gone.
    """
    found = open_step(workspace, name, step)
    feed, batch = found.feed, found.batch
    places = feed.trace(batch)
    return {
        "model": f"{found.model.stage}/{found.model.fingerprint}",
        "step": step,
        "steps": found.steps,
        **feed.about(batch),
        "documents": _documents(found.inputs["sentences"], places),
    }


class Opened(NamedTuple):
    """A model's feed again, and the number of the batch that it trained on at a step."""

    model: Artifact
    inputs: dict[str, Artifact]
    feed: Any
    steps: int
    batch: int


def open_step(workspace: Path, name: str, step: int) -> Opened:
    """Raises ConfigError and ArtifactError as trace does."""
    store, model = Store(workspace / "artifacts"), find_model(workspace, name)
    read = {role: made for role, made in model.manifest["inputs"].items() if role in READ or role.startswith(LENGTHS)}
    inputs = {role: store.get(made["stage"], made["fingerprint"]) for role, made in read.items()}
    if len(inputs) < len(READ):
        raise ConfigError(f"{name} learnt from the file of a task, not from documents{_origin(model)}")
    feed, steps = _open(model, inputs)
    if not 0 <= step < steps:
        raise ConfigError(f"{name} took {steps} steps, numbered 0 to {steps - 1}; there is no step {step}")
    return Opened(model, inputs, feed, steps, _batch(model, step))


def _batch(model: Artifact, step: int) -> int:
    """The number of the batch a step trained on: another than the step's where the guard left batches out."""
    from training.card import CARD, read_card
    from training.engine.guard import batch_of

    return batch_of(step, read_card(model).get("left_out", ())) if (model.path / CARD).exists() else step


def _origin(model: Artifact) -> str:
    before = model.manifest["inputs"].get("model")
    return f"; trace the model it started from, {before['stage']}/{before['fingerprint']}" if before else ""


def _open(model: Artifact, inputs: Mapping[str, Artifact]) -> tuple[Any, int]:
    """The feed of the training, and how many steps it had. Both stages keep what they need for it in their config."""
    from distill.distill import DISTILL, DistillConfig
    from distill.distill import make_feed as student_feed
    from training.pretrain import PRETRAIN
    from training.pretrain import make_feed as model_feed
    from training.pretrain_config import PretrainConfig

    if model.stage == PRETRAIN.name:
        pretrained = _config(PRETRAIN, PretrainConfig, model)
        return model_feed(pretrained, dict(inputs), "train"), pretrained.steps
    distilled = _config(DISTILL, DistillConfig, model)
    return student_feed(distilled, dict(inputs), "train"), distilled.steps


def _config(stage: Stage[Any], kind: type[Config], model: Artifact) -> Config:
    """The config as recorded; another version of the stage may have read its examples in another way."""
    if model.manifest["version"] != stage.version:
        raise ArtifactError(
            f"{model.stage}/{model.fingerprint} was made by version {model.manifest['version']} of {stage.name}, this is version "
            f"{stage.version}: its batches may be others; trace it with the textmill that made it"
        )
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    said = {key: tuple(value) if isinstance(value, list) else value for key, value in model.config.items()}
    if strange := sorted(said.keys() - known):
        raise ArtifactError(f"{model.stage}/{model.fingerprint}: its config has {', '.join(strange)}, which this textmill does not know")
    return kind(**said)


def _documents(sentences: Artifact, places: list[tuple[str, int]]) -> list[dict[str, Any]]:
    """Rows of encode's documents side; each shard's file is opened once."""
    sides = {path.name: shards.read(path).select(["id", "url"]) for path in sentences.side("documents") if path.name in dict(places)}
    return [{"shard": shard, "row": row, **{key: sides[shard][key][row].as_py() for key in ("id", "url")}} for shard, row in places]
