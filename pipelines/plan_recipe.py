"""What the training of a recipe's models and students costs: parameters, memory of a rank, time here or on a cluster of known GPUs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from infra.compute import LocalCompute, cores
from infra.errors import ConfigError
from pipelines.plan_model import ROOM, gib, share_of, span
from pipelines.recipe import Model, Recipe, Resources
from pipelines.recipe_extend import taken
from pipelines.recipe_shapes import CONTROL, shape_of, vocab_of

if TYPE_CHECKING:
    from distill.distill import DistillConfig
    from training.cost import Memory, Setting
    from training.families.family import Family
    from training.objectives.tower import Tower
    from training.pretrain_config import PretrainConfig


@dataclass(frozen=True)
class New:
    """What a training adds to those steps that it takes over from another: of most trainings all.

    parts: the lengths of its sequences, each with its share.
    """

    config: PretrainConfig
    steps: int
    tokens: int
    parts: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, config: PretrainConfig, taken: int) -> New:
        """taken: steps that are taken over."""
        said = tuple((int(part["length"]), part["share"]) for part in config.parts) or ((config.length, 1.0),)
        share, before, left = taken / config.steps, 0.0, []
        for length, own in said:
            left.append((length, max(0.0, before + own - max(before, share)) / (1 - share)))
            before += own
        parts = tuple(left) if taken else said
        return cls(config, config.steps - taken, config.tokens - config.ramp.before(taken), parts)


def costs(recipe: Recipe, on: str = "", mfu: float | None = None, measure: bool = False) -> dict[str, dict[str, Any]]:
    """Every model, by name; of one that is imported and stays as it is its parameters alone.

    on: a GPU of training/engine/ceiling.py in place of this machine's device.

    measure: some steps of each model are taken on this machine, and time and memory are told as they were.
    Bytes, seconds and plain numbers. Raises ConfigError for a GPU nobody knows, and for what it cannot multiply.
    """
    share_of(mfu, 1)
    if measure and on:
        raise ConfigError(f"--measure takes steps on this machine, not on {on}: leave one of the two out")
    return {
        name: _cost(recipe, model, on, mfu, measure) if model.trained else _imported(recipe, name) for name, model in recipe.models.items()
    }


def student_costs(recipe: Recipe, on: str = "", mfu: float | None = None) -> dict[str, dict[str, Any]]:
    """Every student and every control, by name, as `costs` has models; the teacher's forward passes and memory are the student's.

    Raises ConfigError for a GPU nobody knows.
    """
    found = dict[str, dict[str, Any]]()
    for name, student in recipe.students.items():
        if shape_of(recipe, name) and shape_of(recipe, student.teacher):
            found[name] = _student_cost(recipe, name, on, mfu)
            if student.control:
                found[f"{name}{CONTROL}"] = _student_cost(recipe, name, on, mfu, control=True)
    return found


def _student_cost(recipe: Recipe, name: str, on: str, mfu: float | None, control: bool = False) -> dict[str, Any]:
    from distill.recipes import method
    from pipelines.chain import student_config
    from training import cost
    from training.families import catalog
    from training.pace import on_cpu, on_gpu

    student, ranks = recipe.students[name], recipe.resources.ranks
    config, teacher = student_config(recipe, student), catalog.family(recipe.models[student.teacher].family)
    family, device = catalog.family(method(config.method).family), _device(on, config.precision, ranks)
    shape, above = (cost.shape_of(kind, shape_of(recipe, one)) for kind, one in ((family, name), (teacher, student.teacher)))  # type: ignore[arg-type]
    rows = -(-config.batch_size // ranks)
    micro = min(config.micro_batch, rows)
    at = cost.Setting(config.length, ranks, device["precision"], micro, device["gpu"], accumulated=rows > micro)
    rate = device["flops"] / ranks
    learning, asking = (
        on_gpu(kind, tower, at, rate, mfu) if device["gpu"] else on_cpu(kind, tower, at, rate, cores() / ranks)
        for kind, tower in ((family, shape), (teacher, above))
    )
    memory = cost.memory(family, shape, at, config.zero)
    if not control:
        memory = _taught(memory, cost.count_parameters(above) * cost.BYTES[at.precision], _judged(config, family, shape.config.vocab, at))
    micro_seconds = learning.micro + (0 if control else asking.micro / 3)  # a forward pass is a third of a training
    seconds = config.steps * (-(-rows // micro) * micro_seconds + learning.update)
    asked = 0 if control else cost.forward_flops(teacher, above, config.length)
    flops = config.tokens * (cost.training_flops(family, shape, config.length) + asked)
    return {
        "family": family.name,
        "teacher": student.teacher,
        "parameters": cost.count_parameters(shape),
        "setting": asdict(at) | {"zero": config.zero},
        "memory": {**asdict(memory), "total": memory.total},
        "steps": config.steps,
        "tokens": config.tokens,
        "training_flops": flops,
        "device": device,
        "fits": not device["memory"] or memory.total <= ROOM * device["memory"],
        "seconds": seconds,
        "mfu": flops / (seconds * device["flops"]),
    }


def _judged(config: DistillConfig, family: Family, vocab: int, at: Setting) -> int:
    """Bytes of student's and teacher's logits and of the loss's slope in float32, at every token or at the masked ones alone."""
    from training.cost import BYTES, share_predicted

    tokens = at.length * at.micro_batch * (share_predicted(family) if config.only_predicted else 1.0)
    return round(tokens * vocab * (2 * BYTES[at.precision] + 4))


def _taught(memory: Memory, weights: int, judged: int) -> Memory:
    """The student's memory with its teacher's weights and the logits of both."""
    return replace(memory, weights=memory.weights + weights, buffers=max(memory.buffers, judged))


def _imported(recipe: Recipe, name: str) -> dict[str, Any]:
    """What is known of weights that stay as they are."""
    from training.families import catalog

    shape = shape_of(recipe, name)
    return {"parameters": catalog.family(recipe.models[name].family).parameters(shape) if shape else 0, "imported": True}


def _cost(recipe: Recipe, model: Model, on: str, mfu: float | None, measure: bool) -> dict[str, Any]:
    from training import cost
    from training.settings import loop_config, masked_as, model_of

    config = model.training(recipe.seed)
    found, backbone = model_of(config, vocab_of(recipe.tokenizers[model.tokenizer]))
    family, ranks = masked_as(config, found), recipe.resources.ranks
    tower, device = cost.shape_of(family, backbone), _device(on, config.precision, ranks)
    micro = min(loop_config(config).micro_batch, -(-config.batch_size // ranks))
    setting = cost.Setting(
        config.length,
        ranks,
        device["precision"],
        micro,
        device["gpu"],
        recompute=config.activation_checkpointing,
        offload=config.offload,
        accumulated=-(-config.batch_size // ranks) > micro,
    )
    # a length's micro-batch is cut by the same number of sequences, so its memory is that of the longest
    longest = replace(setting, length=max(config.lengths))
    memory = cost.memory(family, tower, longest, config.zero)
    new = New.of(config, taken(recipe, model))
    flops = _flops(new, lambda length: cost.training_flops(family, tower, length), backbone.layers)
    seconds = _foretold(new, family, tower, setting, device, mfu)
    return {
        "parameters": family.parameters(backbone),
        "setting": asdict(longest) | {"zero": config.zero},
        "memory": {**asdict(memory), "total": memory.total},
        "steps": new.steps,
        "tokens": new.tokens,
        "training_flops": flops,
        "device": device,
        "fits": not device["memory"] or memory.total <= ROOM * device["memory"],
        "seconds": seconds,
        "mfu": flops / (seconds * device["flops"]),
        **({"measured": _measured(new, backbone.vocab, recipe.resources)} if measure else {}),
    }


def _foretold(new: New, family: Family, tower: Tower, setting: Setting, device: dict[str, Any], mfu: float | None) -> float:
    """Seconds of the whole run, on so many GPUs or on this machine's CPU, which the ranks share."""
    from training.pace import on_cpu, on_gpu
    from training.rehearsal import rows_at

    ranks = setting.ranks
    paces = {}
    for length in new.config.lengths:
        at = replace(setting, length=length, micro_batch=rows_at(new.config, length, ranks))
        rate = device["flops"] / ranks
        pace = on_gpu(family, tower, at, rate, mfu) if device["gpu"] else on_cpu(family, tower, at, rate, cores() / ranks)
        paces[length] = pace.micro, pace.update
    return _whole(new, ranks, paces)


def _measured(new: New, vocab: int, resources: Resources) -> dict[str, Any]:
    """Seconds of the whole run and a rank's bytes, from steps that were taken here."""
    from training.rehearsal import rehearse

    found = rehearse(new.config, vocab, LocalCompute(resources.ranks, restarts=0, rank_cpus=resources.rank_cpus))
    seconds = _whole(new, resources.ranks, {length: (one.micro, one.rest) for length, one in found.items()})
    return {"seconds": seconds, "memory": max(one.peak for one in found.values())}


def _whole(new: New, ranks: int, paces: dict[int, tuple[float, float]]) -> float:
    """Seconds of a run whose micro-batches and rests of steps take so long, by the length of their rows."""
    from training.rehearsal import pieces

    micro_batches = new.tokens / new.config.batch_tokens * pieces(new.config, ranks)
    lasting = ((share, *paces[length]) for length, share in new.parts)
    return sum(share * (new.steps * rest + micro_batches * micro) for share, micro, rest in lasting)


def _flops(new: New, a_token: Any, layers: int) -> float:
    """Of the whole run, where a token of a sequence of some length takes so many; a layer computed again goes forward once more."""
    every = new.config.activation_checkpointing
    again = -(-layers // every) / layers if every else 0.0
    return sum(share * new.tokens * a_token(length) for length, share in new.parts) * (1 + again / 3)


def _device(on: str, asked: str, ranks: int) -> dict[str, Any]:
    """What the ranks compute on together: so many GPUs, or this machine, whose rate is tried for a moment."""
    from training.engine.ceiling import ceiling, gpu_here, gpu_named, rate
    from training.engine.rank import choose_matmul_mode, here, precision_here

    if on:
        gpu = gpu_named(on)
        precision = ("bf16" if gpu.bf16 else "fp32") if asked == "auto" else asked
        told = {"name": f"{ranks} x {gpu.name}", "flops": ranks * rate(gpu, precision), "source": gpu.source, "memory": gpu.memory}
        return told | {"gpu": True, "precision": precision}
    precision, device = precision_here(asked), here().device
    if device.type == "cuda":
        found = ceiling(device, precision)
        name, held = gpu_here(device)
        told = {"name": f"{ranks} x {name}", "flops": ranks * found.flops, "source": found.source}
        return told | {"memory": held, "gpu": True, "precision": precision}
    choose_matmul_mode()
    found = ceiling(device, precision)
    told = {"name": f"{ranks} ranks on this machine's CPU", "flops": found.flops, "source": found.source}
    return told | {"memory": 0, "gpu": False, "precision": precision}


def rows(told: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """A table for people."""
    return [_row(name, one, any("measured" in other for other in told.values())) for name, one in told.items()]


def _row(name: str, one: dict[str, Any], measured: bool) -> dict[str, str]:
    first = {"model": name, "parameters": f"{one['parameters']:,}"}
    if "setting" not in one:
        return first | {"ZeRO": "", "precision": "", "at once": "imported as it is"}
    found = one.get("measured")
    return {
        **first,
        "ZeRO": str(one["setting"]["zero"]),
        "precision": one["setting"]["precision"],
        "at once": f"{one['setting']['micro_batch']} x {one['setting']['length']}",
        "memory of a rank": gib(one["memory"]["total"]) + ("" if one["fits"] else ": does not fit"),
        **({"measured": gib(found["memory"]) if found else ""} if measured else {}),
        "tokens": f"{one['tokens']:,}",
        "time": span(one["seconds"]),
        "MFU": f"{one['mfu']:.0%}",
        **({"as measured": span(found["seconds"]) if found else ""} if measured else {}),
    }


def line(told: dict[str, dict[str, Any]]) -> str:
    """What the table's times and bytes are of; empty where nothing is trained."""
    device = next((one["device"] for one in told.values() if "device" in one), None)
    if device is None:
        return ""
    libraries = "" if device["gpu"] else "; a rank's libraries take about 0.4 GiB more"
    return f"training on {device['name']}, whose peak is {device['flops'] / 1e12:,.4g} Tflop/s ({device['source']}){libraries}:"
