"""Stage 11: a trained teacher becomes a smaller student.

The control is the same student without its teacher: the same start, the same batches in the same order, the data's labels alone.
Only against it can be said what the teacher gave; a student started from the teacher's layers is good already before any lesson.
Nothing here imports torch before a rank runs: plans are made from this file too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.tokenizer import catalog as tokenizers
from distill.recipes import check_teacher, method
from infra.artifact import Artifact, Counts, how
from infra.compute import Compute
from infra.errors import ConfigError
from infra.stage import Inputs, Stage
from training.card import CARD, MODEL, check_tokenizer, export_model, read_card, write_json
from training.pretrain import RESUMED, held_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.engine.loop import LoopConfig, Trained
    from training.feed.loader import Feed
    from training.objectives.tower import Tower

STUDENT = "student."  # what the tower of two prefixes its trained half's names with


@dataclass(frozen=True)
class DistillConfig:
    """layers: 0 half the teacher's, a number that many, or the ones to start from. kd, data, cosine: how much each loss counts.
    only_predicted: soft targets at the masked places alone. On a small model most of a step is scoring the vocabulary: a step of
    BERT mini then takes 0.49 CPU-s instead of 0.88 (2048 tokens, 8192 pieces), for a KL a third higher after as many steps.

    Weights of losses and the optimiser are those of DistilBERT's code and its README's command; the paper (Sanh et al. 2019,
    section 3) names the losses only.
    """

    method: str = "distilbert"
    layers: int | tuple[int, ...] = 0
    kd: float = 5.0
    data: float = 2.0
    cosine: float = 1.0
    temperature: float = 2.0
    only_predicted: bool = False
    control: bool = False
    tokens: int = 1_000_000
    batch_tokens: int = 16_384
    length: int = 128
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.0
    schedule: str = "linear"
    warmup: float = 0.05
    min_ratio: float = 0.0
    clip: float = 5.0
    zero: int = how(1)
    precision: str = "fp32"
    seed: int = 1
    micro_batch: int = 16
    log_every: int = 10
    save_every: int = how(100)
    valid_every: int = 0
    valid_batches: int = 8
    keep_best: bool = False  # the student is that of the lowest validation loss, not of the last step
    patience: int = 0  # validations without a lower loss after which training ends; 0: never

    def __post_init__(self) -> None:
        method(self.method)
        for name in ("tokens", "batch_tokens", "length", "micro_batch", "log_every", "save_every", "lr", "temperature"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"distill.{name} is {getattr(self, name)}; it must be above 0")
        if self.patience < 0:
            raise ConfigError(f"distill.patience is {self.patience}; it must be 0 or more")
        for name in ("keep_best", "patience"):
            if getattr(self, name) and not self.valid_every:
                raise ConfigError(f"distill.{name} needs validations to compare: set valid_every of the student to a number of steps")
        if min(self.kd, self.data, self.cosine) < 0 or self.kd + self.data + self.cosine <= 0:
            raise ConfigError(f"distill: kd {self.kd}, data {self.data}, cosine {self.cosine}: none may be negative, one must be above 0")
        if self.batch_tokens < self.length:
            raise ConfigError(
                f"distill.batch_tokens {self.batch_tokens} holds no sequence of length {self.length}; raise it or lower length"
            )

    @property
    def batch_size(self) -> int:
        return self.batch_tokens // self.length

    @property
    def steps(self) -> int:
        return max(1, round(self.tokens / (self.batch_size * self.length)))


def work(config: DistillConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Inputs: teacher (a model), examples, sentences, tokenizer."""
    check(config, inputs, compute.ranks)
    return compute.gang("distill", partial(train_rank, config, dict(inputs), out))[0]


DISTILL = Stage(name="distill", version=4, work=work, own=RESUMED)


def check(config: DistillConfig, inputs: Inputs, ranks: int) -> None:
    """Raises ConfigError or ArtifactError before any rank starts: everything that can be known to be impossible is told here."""
    from distill.student import layer_map

    teacher, chosen, card = inputs["teacher"], method(config.method), read_card(inputs["teacher"])
    check_teacher(chosen, str(card["family"]))
    check_tokenizer(teacher, inputs["tokenizer"], inputs["sentences"])
    layer_map(card["backbone"]["layers"], config.layers)
    loop_config(config)
    if (config.keep_best or config.patience) and not held_rows(inputs):
        raise ConfigError("distill.keep_best and patience compare validation losses, but no document is held out; raise encode.valid_share")
    if chosen.objective == "next" and inputs["examples"].stage != "blocks":
        raise ConfigError(f"{chosen.name} learns the next token from blocks, it was given {inputs['examples'].stage}")
    if config.length > card["backbone"]["positions"]:
        raise ConfigError(f"distill.length {config.length} is more than the teacher's {card['backbone']['positions']} positions; lower it")
    if config.batch_size < ranks:
        raise ConfigError(
            f"distill.batch_tokens {config.batch_tokens} makes {config.batch_size} sequences a step, too few for {ranks} ranks; "
            f"raise it to at least {ranks * config.length}"
        )


def train_rank(config: DistillConfig, inputs: dict[str, Artifact], out: Path) -> Counts:
    """One rank of the gang; the first writes the model."""
    from training.engine.loop import train

    feed = partial(make_feed, config, inputs, "train")
    valid = partial(make_feed, config, inputs, "valid") if held_rows(inputs) else None
    trained = train(partial(make_tower, config, inputs), feed, valid, loop_config(config), out, "distill", imported=True)
    if trained.weights is None:
        return {}
    return publish(config, inputs, out, trained, trained.weights)


def make_tower(config: DistillConfig, inputs: dict[str, Artifact]) -> nn.Module:
    """Teacher and student, or for a control the student alone: both start alike."""
    from distill.student import layer_map, start_from
    from distill.tower import Alphas, TeacherStudent
    from training.families import catalog

    teacher = catalog.load(inputs["teacher"].path / MODEL)
    student = start_from(teacher, layer_map(teacher.config.layers, config.layers))
    if config.control:
        return student
    vocab = tokenizers.meta(inputs["tokenizer"]).vocab
    alphas = Alphas(config.kd, config.data, config.cosine)
    return TeacherStudent(teacher, student, alphas, temperature=config.temperature, vocab=vocab, only_predicted=config.only_predicted)


def make_feed(config: DistillConfig, inputs: dict[str, Artifact], split: str) -> Feed:
    """The batches of student and control are the same: nothing of the teacher goes into them."""
    from training.feed.loader import FeedConfig, open_feed

    chosen = method(config.method)
    settings = FeedConfig(config.batch_size, config.length, config.seed, chosen.objective)
    return open_feed(inputs["examples"], inputs["sentences"], inputs["tokenizer"], settings, split)


def loop_config(config: DistillConfig) -> LoopConfig:
    """What the one loop is told."""
    from training.engine.checkpoint import Keep
    from training.engine.loop import LoopConfig
    from training.engine.optim import OptimConfig

    optimiser = OptimConfig(config.lr, config.betas, config.eps, config.weight_decay, config.schedule, config.warmup, config.min_ratio)
    return LoopConfig(
        steps=config.steps,
        micro_batch=config.micro_batch,
        zero=config.zero,
        precision=config.precision,
        optimiser=optimiser,
        seed=config.seed,
        log_every=config.log_every,
        save_every=config.save_every,
        valid_every=config.valid_every,
        valid_batches=config.valid_batches,
        patience=config.patience,
        keep=Keep(best=config.keep_best),
        clip=config.clip,
    )


def publish(config: DistillConfig, inputs: dict[str, Artifact], out: Path, trained: Trained, weights: dict[str, Tensor]) -> Counts:
    """model/ in Hugging Face's format, and the card."""
    from distill.student import empty_student, layer_map
    from training.backbone.transformer import count_parameters
    from training.families import catalog

    chosen, card = method(config.method), read_card(inputs["teacher"])
    teacher = catalog.load(inputs["teacher"].path / MODEL)
    layers = layer_map(teacher.config.layers, config.layers)
    student = empty_student(teacher.config, layers, teacher.language_head().name)
    student.load_state_dict({name.removeprefix(STUDENT): value for name, value in weights.items()})
    export_model(catalog.family(chosen.family), student, out, inputs["tokenizer"])
    parameters = {"student": count_parameters(student), "teacher": count_parameters(teacher)}
    write_json(out / CARD, student_card(config, student, trained, teacher=card, layers=layers, parameters=parameters))
    return {"steps": trained.steps, "tokens": trained.tokens, "parameters": parameters["student"]}


def student_card(
    config: DistillConfig, student: Tower, trained: Trained, *, teacher: dict[str, Any], layers: tuple[int, ...], parameters: dict[str, int]
) -> dict[str, Any]:
    """Like every model's card, and of whom it learnt."""
    return {
        "family": method(config.method).family,
        "size": teacher.get("size", ""),
        "backbone": asdict(student.config),
        "heads": [head.name for head in student.heads],
        "tokenizer_fingerprint": teacher["tokenizer_fingerprint"],
        "parameters": parameters["student"],
        "steps": trained.steps,
        "tokens": trained.tokens,
        "length": config.length,
        "loss": trained.loss,
        "parts": trained.parts,
        "valid_loss": trained.valid.loss if trained.valid else None,
        **({"best_step": trained.best.step, "last_valid_loss": trained.best.last_loss} if trained.best else {}),
        "method": config.method,
        "control": config.control,
        "teacher": {"family": teacher["family"], "parameters": parameters["teacher"], "layers_taken": list(layers)},
    }
