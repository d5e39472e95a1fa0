"""Stage 12: a pretrained model learns a task.

The body is the pretrained one, the head is fresh (BERT, section 4; its NSP pooler goes on). The dev file chooses nothing: epochs
are fixed beforehand and the last weights are scored on it once. from_scratch trains the same shape from random weights: what
pretraining is worth is the distance between the two.
Nothing here imports torch before a rank runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.tokenizer import catalog as tokenizers
from infra.artifact import Artifact, Counts, SourceFile, how
from infra.compute import Compute
from infra.errors import ConfigError
from infra.log import event
from infra.stage import Inputs, Stage
from training.backbone.config import BackboneConfig
from training.card import CARD, MODEL, check_tokenizer, export_model, read_card, write_json
from training.pretrain import RESUMED
from training.tasks.catalog import task
from training.tasks.classify import encode
from training.tasks.task import Columns, Examples, read_examples

if TYPE_CHECKING:
    from torch import Tensor

    from training.engine.loop import LoopConfig, Trained
    from training.objectives.tower import Tower
    from training.tasks.feed import TaskFeed


@dataclass(frozen=True)
class FinetuneConfig:
    """text, pair, label: names of columns; pair is empty for tasks about one text. Defaults lie on BERT's grid (appendix A.3)."""

    train: SourceFile
    dev: SourceFile
    task: str = "classify"
    text: str = "text"
    label: str = "label"
    pair: str = ""
    epochs: float = 3.0
    batch: int = 32
    length: int = 128
    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01
    schedule: str = "linear"
    warmup: float = 0.1
    min_ratio: float = 0.0
    clip: float = 1.0
    from_scratch: bool = False
    zero: int = how(1)
    precision: str = "fp32"
    seed: int = 1
    micro_batch: int = 32
    log_every: int = 10
    save_every: int = how(200)
    samples: int = 1000  # bootstrap draws for the dev score

    def __post_init__(self) -> None:
        task(self.task)
        for name in ("epochs", "batch", "length", "lr", "micro_batch", "log_every", "save_every", "samples"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"finetune.{name} is {getattr(self, name)}; it must be above 0")

    @property
    def columns(self) -> Columns:
        return Columns(self.text, self.label, self.pair)

    def steps(self, examples: int) -> int:
        return max(1, round(self.epochs * examples / self.batch))


def work(config: FinetuneConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Inputs: model, tokenizer."""
    card = read_card(inputs["model"])
    check_tokenizer(inputs["model"], inputs["tokenizer"])
    if config.length > card["backbone"]["positions"]:
        raise ConfigError(f"finetune.length {config.length} is more than the model's {card['backbone']['positions']} positions")
    if config.batch < compute.ranks:
        raise ConfigError(f"finetune.batch {config.batch} is too small for {compute.ranks} ranks; raise it to at least {compute.ranks}")
    train, dev, labels = read_both(config)
    tell_corrupt("finetune", {"train": train, "dev": dev})
    return compute.gang("finetune", partial(train_rank, config, dict(inputs), labels, out))[0]


FINETUNE = Stage(name="finetune", version=3, work=work, own=RESUMED)


def read_both(config: FinetuneConfig) -> tuple[Examples, Examples, tuple[str, ...]]:
    """Train, dev and the labels of train."""
    train = read_examples(config.train, config.columns)
    labels = task(config.task).labels(train)
    train = task(config.task).known(train, labels)
    return train, task(config.task).known(read_examples(config.dev, config.columns), labels), labels


def tell_corrupt(stage: str, files: dict[str, Examples]) -> None:
    """A warning for every file with rows that are skipped, score as wrong, or occur twice."""
    for name, examples in files.items():
        if examples.corrupt:
            skipped = sum(examples.corrupt.values())
            event("warning", message=f"{stage}: {skipped} of {examples.read} rows of {name} are skipped: {examples.problems()}")
        if examples.unknown:
            labels = ", ".join(f"{label} ({count})" for label, count in examples.unknown.items())
            count = sum(examples.unknown.values())
            event("warning", message=f"{stage}: {count} rows of {name} have labels unknown in training and score as wrong: {labels}")
        if examples.duplicate_ids:
            event("warning", message=f"{stage}: {examples.duplicate_ids} rows of {name} have the id of an earlier row; they are used")


def make_feed(
    examples: Examples, labels: Sequence[str], model: Artifact, tokenizer: Artifact, *, batch: int, length: int, seed: int, shuffle: bool
) -> TaskFeed:
    """The examples as this model reads them; every text is encoded once, however often it occurs."""
    from training.families import catalog
    from training.feed.batch import IGNORE
    from training.tasks.feed import TaskFeed

    backbone, meta = BackboneConfig(**read_card(model)["backbone"]), tokenizers.meta(tokenizer)
    frame = catalog.family_of(model.path / MODEL).frame(backbone, meta.specials)
    pad = meta.specials.get("pad", meta.separator)
    engine = tokenizers.load(tokenizer)
    texts = sorted({text for row in examples.rows for text in (row.text, row.pair) if text is not None})
    ids = dict(zip(texts, engine.encode_batch(texts), strict=True))
    encoded = [encode(row, ids.__getitem__, frame, length) for row in examples.rows]
    numbers = {label: number for number, label in enumerate(labels)}
    classes = [numbers.get(row.label, IGNORE) for row in examples.rows]
    return TaskFeed(encoded, classes, batch_size=batch, length=length, pad=pad, segments=frame.segments, seed=seed, shuffle=shuffle)


def train_rank(config: FinetuneConfig, inputs: dict[str, Artifact], labels: tuple[str, ...], out: Path) -> Counts:
    """One rank of the gang; the first scores the dev file and writes the model."""
    from training.engine.loop import train

    examples, dev, _ = read_both(config)
    feed = partial(_feed, config, inputs, labels, examples, True)
    held = partial(_feed, config, inputs, labels, dev, False)
    tower = partial(make_tower, config, inputs["model"], len(labels))
    trained = train(tower, feed, held, loop_config(config, config.steps(len(examples.rows))), out, "finetune", imported=True)
    if trained.weights is None:
        return {}
    return publish(config, inputs, labels, {"train": examples, "dev": dev}, out, trained, trained.weights)


def _feed(config: FinetuneConfig, inputs: dict[str, Artifact], labels: tuple[str, ...], examples: Examples, shuffle: bool) -> TaskFeed:
    model, tokenizer = inputs["model"], inputs["tokenizer"]
    return make_feed(examples, labels, model, tokenizer, batch=config.batch, length=config.length, seed=config.seed, shuffle=shuffle)


def make_tower(config: FinetuneConfig, model: Artifact, classes: int) -> Tower:
    """The pretrained body, or the same shape from random weights, under a fresh head; the same head for both."""
    import torch

    from training.families import catalog

    family = catalog.family_of(model.path / MODEL)
    tower = family.load(model.path / MODEL)
    if config.from_scratch:
        tower = family.build(tower.config, seed=config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return family.task_tower(tower, classes)


def loop_config(config: FinetuneConfig, steps: int) -> LoopConfig:
    """What the one loop is told."""
    from training.engine.loop import LoopConfig
    from training.engine.optim import OptimConfig

    optimiser = OptimConfig(config.lr, config.betas, config.eps, config.weight_decay, config.schedule, config.warmup, config.min_ratio)
    return LoopConfig(
        steps=steps,
        micro_batch=config.micro_batch,
        zero=config.zero,
        precision=config.precision,
        optimiser=optimiser,
        clip=config.clip,
        seed=config.seed,
        log_every=config.log_every,
        save_every=config.save_every,
    )


def publish(
    config: FinetuneConfig,
    inputs: dict[str, Artifact],
    labels: tuple[str, ...],
    files: dict[str, Examples],
    out: Path,
    trained: Trained,
    weights: dict[str, Tensor],
) -> Counts:
    """model/ as transformers' AutoModelForSequenceClassification loads it, and the card with the dev score."""
    from training.backbone.transformer import count_parameters
    from training.families import catalog
    from training.families.family import Use
    from training.tasks.feed import predict

    model, base = inputs["model"], read_card(inputs["model"])
    family = catalog.family_of(model.path / MODEL)
    tower = make_tower(config, model, len(labels))
    tower.load_state_dict(weights)
    gold, said = predict(tower, _feed(config, inputs, labels, files["dev"], False))
    score = task(config.task).score(gold, said, labels, config.samples, config.seed)
    use = Use(length=config.length, retained=classes_of(labels))
    export_model(family, tower, out, inputs["tokenizer"], use)
    parameters = count_parameters(tower)
    kept: dict[str, Any] = {key: base[key] for key in ("family", "size", "backbone", "tokenizer_fingerprint") if key in base}
    corrupt = {name: examples.corrupt for name, examples in files.items()}
    card: dict[str, Any] = {
        **kept,
        "heads": ["class"],
        "task": config.task,
        "labels": list(labels),
        "columns": {"text": config.text, "label": config.label, "pair": config.pair},
        "parameters": parameters,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "length": config.length,
        "loss": trained.loss,
        "from_scratch": config.from_scratch,
        "dev": score,
        "corrupt": corrupt,
        "files": {name: examples.record() for name, examples in files.items()},
        "method": base.get("method", ""),
        "control": base.get("control", False),
    }
    write_json(out / CARD, card)
    bad = {f"corrupt.{name}": sum(reasons.values()) for name, reasons in corrupt.items()}
    return {"steps": trained.steps, "train": len(files["train"].rows), "dev": len(files["dev"].rows), **bad}


def classes_of(labels: Sequence[str]) -> dict[str, Any]:
    """The labels' own names as config.json has them."""
    names = {"id2label": {str(i): name for i, name in enumerate(labels)}, "label2id": {name: i for i, name in enumerate(labels)}}
    return {**names, "problem_type": "single_label_classification"}
