"""Stage 13: what a model is worth, in numbers that can be compared.

language: loss on the held-out side of the examples with fixed masks, beside the loss of knowing only how frequent each token is;
bits per byte for models that read left to right (the one number that does not depend on the tokenizer); accuracy of NSP and SOP;
for ELECTRA the generator's masked tokens and the discriminator's replaced tokens.
compare: a teacher, its student and a control on the very same batches: loss, agreement, KL, and how much of the teacher's gain
over the unigram is kept. task: a fine-tuned model on a dev file. Every figure comes with a bootstrap interval; all go to scores.json.
Nothing here imports torch before the rank runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep import shards
from data_prep.tokenizer import catalog as tokenizers
from infra.artifact import Artifact, Counts, SourceFile
from infra.compute import Compute
from infra.errors import ConfigError
from infra.log import event
from infra.stage import Inputs, Stage
from training.card import MODEL, check_tokenizer, read_card, write_json
from training.evaluation import metrics
from training.finetune import make_feed, tell_corrupt
from training.tasks.catalog import task
from training.tasks.task import Columns, Examples, read_examples

if TYPE_CHECKING:
    from training.evaluation.language import Sums
    from training.families.family import Family

KINDS = ("language", "compare", "task")
SCORES = "scores.json"
DATA = ("examples", "sentences", "tokenizer")  # inputs that are no models


@dataclass(frozen=True)
class EvaluateConfig:
    """length 0: the blocks' own, or what the model was trained with. batches 0: the whole held-out side. samples: bootstrap draws."""

    kind: str = "language"
    batch: int = 32
    length: int = 0
    batches: int = 0
    seed: int = 1
    samples: int = 1000
    dev: SourceFile | None = None
    text: str = ""  # columns; empty: those the model was fine-tuned with
    label: str = ""
    pair: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"evaluate.kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.batch < 1 or self.samples < 1 or min(self.length, self.batches) < 0:
            raise ConfigError(f"evaluate: batch {self.batch} and samples {self.samples} must be above 0, length and batches not below")
        if (self.kind == "task") != (self.dev is not None):
            raise ConfigError("evaluate: a dev file belongs to kind `task`, and to no other")


def work(config: EvaluateConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Inputs: model (language, task) or teacher and any number of others (compare); tokenizer; but for task also examples, sentences."""
    for name, model in models(config, inputs).items():
        check_tokenizer(model, inputs["tokenizer"], inputs.get("sentences"))
        if config.kind == "task" and "labels" not in read_card(model):
            raise ConfigError(f"{name} is not fine-tuned: it has no labels; run finetune first")
    measure = {"language": measure_language, "compare": measure_compare, "task": measure_task}[config.kind]
    return compute.gang("evaluate", partial(measure, config, dict(inputs), out), ranks=1)[0]


EVALUATE = Stage(name="evaluate", version=3, work=work)


def models(config: EvaluateConfig, inputs: Inputs) -> dict[str, Artifact]:
    """The inputs that are models, the teacher first."""
    wanted = ("teacher",) if config.kind == "compare" else ("model",)
    if missing := [name for name in wanted if name not in inputs]:
        raise ConfigError(f"evaluate {config.kind} needs the input {missing[0]}; it has {', '.join(inputs)}")
    others = [name for name in sorted(inputs) if name not in (*wanted, *DATA)]
    if config.kind == "compare" and not others:
        raise ConfigError("evaluate compare needs a model beside the teacher (student=..., control=...)")
    return {name: inputs[name] for name in (*wanted, *(others if config.kind == "compare" else ()))}


def measure_language(config: EvaluateConfig, inputs: dict[str, Artifact], out: Path) -> Counts:
    """One model on the held-out side."""
    from training.evaluation.language import UNIGRAM, summary, tokens_per_byte

    if lacking := no_language_head(inputs["model"]):
        event("warning", message=f"evaluate: {lacking}")
        write_json(out / SCORES, {"kind": "language", "model": about(inputs["model"]), "scores": {}, "skipped": lacking})
        return {"sequences": 0, "predicted": 0}
    sums, objective = held_out(config, inputs, "")
    scores = summary(sums["model"], config.samples, config.seed)
    base = summary(sums[UNIGRAM], config.samples, config.seed)
    scores |= {"unigram": base, "below_unigram": round(base["loss"]["value"] - scores["loss"]["value"], 6)}
    if objective == "next":
        per_byte = tokens_per_byte(inputs["sentences"]) / math.log(2)
        scores["bits_per_byte"] = {name: round(value * per_byte, 6) for name, value in scores["loss"].items()}
    write_json(out / SCORES, {"kind": "language", "objective": objective, "model": about(inputs["model"]), "scores": scores})
    return {"sequences": scores["sequences"], "predicted": scores["predicted"]}


def no_language_head(model: Artifact) -> str:
    """Why a model cannot be scored on plain text, such as an imported ELECTRA discriminator without its generator; "" when it can."""
    from training.families import catalog

    heads = [head.name for head in catalog.load(model.path / MODEL).heads]
    if {"next", "mlm"} & set(heads):
        return ""
    return (
        f"{model.stage}/{model.fingerprint} has no head that predicts tokens ({', '.join(heads) or 'no head at all'}); no language scores"
    )


def measure_compare(config: EvaluateConfig, inputs: dict[str, Artifact], out: Path) -> Counts:
    """Others against their teacher, and against one another, sequence by sequence."""
    from training.evaluation.language import UNIGRAM, difference, summary

    sums, objective = held_out(config, inputs, "teacher")
    draw = {"samples": config.samples, "seed": config.seed}
    scores = {name: summary(one, **draw) for name, one in sums.items()}
    others = [name for name in models(config, inputs) if name != "teacher"]
    parameters = read_card(inputs["teacher"])["parameters"]
    for name in others:
        scores[name]["gain_kept"] = gain_kept(sums["teacher"], sums[name], sums[UNIGRAM], config)
        scores[name]["accuracy_kept"] = round(scores[name]["accuracy"]["value"] / max(scores["teacher"]["accuracy"]["value"], 1e-9), 6)
        scores[name]["parameters_kept"] = round(read_card(inputs[name])["parameters"] / parameters, 6)
    record: dict[str, Any] = {"kind": "compare", "objective": objective, "scores": scores}
    record["models"] = {name: about(model) for name, model in models(config, inputs).items()}
    if "control" in others:
        pairs = {"loss": "nats", "kl": "kl", "agreement": "agree"}
        record["minus_control"] = {
            name: {told: difference(sums[name], sums["control"], above, **draw) for told, above in pairs.items()}
            for name in others
            if name != "control"
        }
    write_json(out / SCORES, record)
    return {"sequences": scores["teacher"]["sequences"], "predicted": scores["teacher"]["predicted"]}


def gain_kept(teacher: Sums, student: Sums, unigram: Sums, config: EvaluateConfig) -> dict[str, float]:
    """The share of what the teacher knows beyond frequencies that the student knows too."""

    def kept(rows: Any) -> float:
        base = unigram["nats"][rows].sum()
        return float((base - student["nats"][rows].sum()) / (base - teacher["nats"][rows].sum() or 1e-9))

    return metrics.bootstrap(kept, len(teacher["nats"]), samples=config.samples, seed=config.seed).record()


def held_out(config: EvaluateConfig, inputs: dict[str, Artifact], teacher: str) -> tuple[dict[str, Sums], str]:
    """Every model's sums over the same fixed batches, and what was predicted."""
    from training.engine.rank import choose_matmul_mode
    from training.evaluation.language import tally, unigram
    from training.families import catalog
    from training.feed.loader import FeedConfig, open_feed

    choose_matmul_mode()
    named = models(config, inputs)
    towers = {name: catalog.load(model.path / MODEL) for name, model in named.items()}
    lead = next(iter(named))
    block = block_length(inputs["examples"])
    family, card = catalog.family_of(named[lead].path / MODEL), read_card(named[lead])
    objective: str = family.objective.partition("+")[0] if block else family.objective  # blocks hold no pairs
    masks: dict[str, Any] = {} if family.masking is None else {"masking": family.masking, "mask_rate": mask_rate(family, card)}
    settings = FeedConfig(config.batch, length_of(config, card, block, objective), config.seed, objective, **masks)
    feed = open_feed(inputs["examples"], inputs["sentences"], inputs["tokenizer"], settings, "valid")
    vocab = tokenizers.meta(inputs["tokenizer"]).vocab
    prior = unigram(inputs["examples"], inputs["sentences"], vocab)
    return tally(feed, towers, teacher=teacher, unigram=prior, vocab=vocab, batches=config.batches), objective


def mask_rate(family: Family, card: dict[str, Any]) -> float | None:
    """The share of tokens that the paper masked at this size; None: the family's. A recipe's own masks do not change what is measured."""
    return family.preset(str(card.get("size", ""))).mask_rate


def block_length(examples: Artifact) -> int:
    """Tokens in a block, or the most in one; 0 for pairs."""
    return int(examples.config["length"]) if "tokens" in shards.read(examples.shards[0]).schema.names else 0


def length_of(config: EvaluateConfig, card: dict[str, Any], block: int, objective: str) -> int:
    """Asked for, or the blocks' own (masked ones may be framed by two tokens), or the length that the model was trained with."""
    trained = int(card.get("length") or card["backbone"]["positions"])
    if block and not (objective == "mlm" and trained == block + 2):
        trained = block
    return config.length or trained


def measure_task(config: EvaluateConfig, inputs: dict[str, Artifact], out: Path) -> Counts:
    """A fine-tuned model on a dev file."""
    from training.families import catalog
    from training.tasks.feed import predict

    model, card = inputs["model"], read_card(inputs["model"])
    kind, labels, examples = read_dev(config, card)
    feed = make_feed(
        examples, labels, model, inputs["tokenizer"], batch=config.batch, length=config.length or card["length"], seed=0, shuffle=False
    )
    gold, said = predict(catalog.load(model.path / MODEL), feed)
    scores = task(kind).score(gold, said, labels, config.samples, config.seed)
    write_json(
        out / SCORES,
        {
            "kind": "task",
            "task": kind,
            "model": about(model),
            "scores": scores,
            "corrupt": examples.corrupt,
            "files": {"dev": examples.record()},
        },
    )
    unknown = {"unknown_labels": sum(examples.unknown.values())} if examples.unknown else {}
    return {
        "read": examples.read,
        "kept": len(examples.rows),
        **unknown,
        **{f"set_aside.{reason}": n for reason, n in examples.corrupt.items()},
    }


def read_dev(config: EvaluateConfig, card: dict[str, Any]) -> tuple[str, list[str], Examples]:
    """The task, its labels and the rows of the dev file that have one of them."""
    if config.dev is None:
        raise ConfigError("evaluate task needs a dev file")
    said = {name: getattr(config, name) or card["columns"][name] for name in ("text", "label", "pair")}
    examples = task(card["task"]).known(read_examples(config.dev, Columns(**said)), card["labels"])
    tell_corrupt("evaluate", {"dev": examples})
    return card["task"], card["labels"], examples


def about(model: Artifact) -> dict[str, Any]:
    """What identifies a model in a table of scores."""
    card = read_card(model)
    kept = ("family", "size", "parameters", "steps", "tokens", "method", "control", "from_scratch", "labels")
    return {"fingerprint": model.fingerprint, "stage": model.stage} | {name: card[name] for name in kept if name in card}
