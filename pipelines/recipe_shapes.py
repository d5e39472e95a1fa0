"""Checks that need the models' own code: families, sizes, lengths, exports, imports, rates, students. They import torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from data_prep.tokenizer import published
from data_prep.tokenizer.base import META, Meta, read_meta
from data_prep.tokenizer.train import TokenizerConfig
from infra.errors import ConfigError, PipelineError
from pipelines.recipe import Model, Recipe, Student
from pipelines.recipe_yaml import Path
from training.pretrain import MASKED

if TYPE_CHECKING:
    from training.backbone.config import BackboneConfig
    from training.families.family import Family
    from training.pretrain_config import PretrainConfig

NO_MASK = ("byte_bpe", "bpe_eow")  # kinds of tokenizers without special tokens for masked language modeling
FAR = 4.0  # a batch this many times smaller or larger than the preset's: by the square-root rule its rate is off by two
CONTROL = "-control"


def not_here(recipe: Recipe) -> dict[str, str]:
    """For each model that cannot be trained on this machine, why: a precision or a compiler that it lacks."""
    from training.engine import able
    from training.engine.rank import here

    found = {}
    for name, model in recipe.models.items():
        try:
            if model.trained:
                config = model.training(recipe.seed)
                able.check(config.precision, config.compile, config.zero, here().device)
        except ConfigError as error:
            found[name] = str(error)
    return found


def shapes(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Families, sizes, overrides, masks and optimizers that exist; sequences within the positions."""
    from training.settings import feed_config, guard_config, optim_config

    for name, model in _trained(recipe):
        try:
            config = model.training(recipe.seed)
            shape = _model_of(recipe, model)[1]
            feed_config(config)
            optim_config(config)
            guard_config(config)
            if model.blocks.model_fields_set and _family(model).examples == "pairs":
                raise ConfigError(f"{model.family} reads pairs; take the section blocks out")
            if (longest := max(config.lengths)) > shape.positions:
                raise ConfigError(f"pretrain.length {longest} is more than {model.family}/{config.size}'s {shape.positions} positions")
        except ConfigError as error:
            yield ("models", name), f"models.{name}: {error}"


def tokenizers(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Published vocabularies that can be read; special tokens that a model's objective needs."""
    for name, tokenizer in recipe.tokenizers.items():
        try:
            vocab_of(tokenizer)
        except PipelineError as error:
            yield ("tokenizers", name), f"tokenizers.{name}: {error}"
    for name, model in _trained(recipe):
        try:
            text = _lacks_masks(_family(model), model, recipe.tokenizers[model.tokenizer])
        except PipelineError:
            continue  # an unknown family is `shapes`' to report, a vocabulary that cannot be read is reported above
        if text:
            yield ("models", name), f"models.{name}: {text}"


def exports(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Shapes that the library's classes can have: a model that cannot be written is not trained."""
    for name, model in recipe.models.items():
        try:
            family, shape = _model_of(recipe, model)
        except PipelineError:
            continue
        yield from _unwritable(("models", name), f"models.{name}", family, shape)
    for name, student in recipe.students.items():
        if found := _student_of(recipe, student):
            yield from _unwritable(("students", name), f"students.{name}", *found)


def imports(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Folders that hold a model of the recipe's family and size, with the tokenizer that it was trained with."""
    imported = {name: model for name, model in recipe.models.items() if model.init}
    if not imported:
        return  # a recipe without them is checked without torch
    from training.import_shape import shape_in
    from training.imported import same_shape

    for name, model in imported.items():
        folder, tokenizer = FilePath(model.init), recipe.tokenizers[model.tokenizer]
        try:
            family, shape = shape_in(folder, model.family)
            if model.size:
                asked = _model_of(recipe, model)[1] if model.trained else family.backbone(model.size, shape.vocab)
                unknown = {"vocab", "generator"}
                same_shape({key: value for key, value in asdict(asked).items() if key not in unknown}, asdict(shape))
            _same_tokenizer(folder, shape, tokenizer, model.tokenizer)
        except PipelineError as error:
            yield ("models", name, "init"), f"models.{name}.init: {error}"


def budgets(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Steps that hold a sequence for every rank."""
    ranks = recipe.resources.ranks
    for name, model in _trained(recipe):
        config = configured(recipe, model)
        if config is None:
            continue
        (key, fewest), longest = config.smallest, max(config.lengths)
        if (sequences := fewest // longest) < ranks:
            yield (
                ("models", name),
                f"models.{name}: pretrain.{key} {fewest} makes {sequences} sequences a step, too few for {ranks} ranks; "
                f"set at least {ranks * longest}",
            )


def students(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Methods, teachers, layers, lengths and batches that go together."""
    for name, student in recipe.students.items():
        try:
            _check_student(recipe, student)
        except ConfigError as error:
            yield ("students", name), f"students.{name}: {error}"


def warmups(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Warnings: a warm-up as long as the training, which the optimizer caps."""
    from pipelines.chain import student_config

    said: list[tuple[Path, str, Any]] = []
    for name, model in _trained(recipe):
        said.append((("models", name), f"models.{name}.pretrain", configured(recipe, model)))
    for name, student in recipe.students.items():
        try:
            said.append((("students", name), f"students.{name}", student_config(recipe, student)))
        except PipelineError:
            continue  # the teacher's fault is reported by its own check
    for path, section, config in said:
        if config and config.warmup is not None and round(config.warmup) >= max(1, config.steps):
            yield (
                path,
                f"{capped(f'{section}.warmup', config.warmup, config.steps)}, or tokens of at least "
                + (f"{10 * round(config.warmup) * config.batch_tokens:,}"),
            )


def capped(key: str, warmup: float, steps: int) -> str:
    """What training does with a warm-up that is as long as it is, and what to set instead."""
    return (
        f"{key} {warmup:g} steps are not fewer than the {steps:,} steps of the training: they are capped at {steps - 1:,}, so that only "
        "the last step has the full lr; set a share such as 0.1"
    )


def rates(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    """Warnings: a preset's learning rate, with steps far smaller or larger than those it was chosen for."""
    for name, model in _trained(recipe):
        config = configured(recipe, model)
        if config is None or config.lr is not None or config.optimiser:
            continue
        preset = _family(model).preset(config.size)
        meant = preset.batch * preset.length
        ratio = config.batch_tokens / meant
        if 1 / FAR < ratio < FAR:
            continue
        yield (
            ("models", name),
            f"models.{name}: the preset of {model.family}/{config.size} has lr {preset.lr:g} for steps of {meant:,} tokens "
            f"({preset.batch:,} x {preset.length}); these have {config.batch_tokens:,}: set pretrain.lr, by the square-root rule "
            f"{preset.lr * ratio**0.5:.1e}, or batch_tokens near {meant:,}",
        )


# ---- shapes by name ------------------------------------------------------------------------------------------------------


def shape_of(recipe: Recipe, name: str) -> BackboneConfig | None:
    """Of a model, a student or its control; None where another check reports why there is none."""
    try:
        if name in recipe.models:
            return _model_of(recipe, recipe.models[name])[1]
        student = recipe.students.get(name) or recipe.students[name.removesuffix(CONTROL)]
        found = _student_of(recipe, student)
    except (PipelineError, KeyError):
        return None
    return found[1] if found else None


def _model_of(recipe: Recipe, model: Model) -> tuple[Family, BackboneConfig]:
    """As it will be trained or imported. Raises ConfigError or ArtifactError."""
    from training.import_shape import shape_in
    from training.settings import model_of

    if model.init and not (model.trained and model.size):
        return shape_in(FilePath(model.init), model.family)
    return model_of(model.training(recipe.seed), vocab_of(recipe.tokenizers[model.tokenizer]))


def _student_of(recipe: Recipe, student: Student) -> tuple[Family, BackboneConfig] | None:
    from distill.recipes import check_teacher, method
    from distill.student import layer_map, student_config
    from training.families import catalog

    try:
        teacher, config = recipe.models[student.teacher], student.build(seed=0, control=False)
        check_teacher(method(config.method), teacher.family)
        shape = _model_of(recipe, teacher)[1]
        return catalog.family(method(config.method).family), student_config(shape, layer_map(shape.layers, config.layers))
    except PipelineError:
        return None


def vocab_of(tokenizer: TokenizerConfig) -> int:
    """The pieces asked for, or those of a published vocabulary's files. Raises ConfigError or ArtifactError."""
    return _published(*_files(tokenizer)).vocab if tokenizer.kind == published.KIND else tokenizer.vocab


def _files(tokenizer: TokenizerConfig) -> tuple[tuple[str, ...], bool]:
    return tuple(file if isinstance(file, str) else file.path for file in tokenizer.files), tokenizer.lowercase


@lru_cache(maxsize=32)
def _published(files: tuple[str, ...], lowercase: bool) -> Meta:
    with tempfile.TemporaryDirectory() as folder:
        return published.read([FilePath(file) for file in files], FilePath(folder), lowercase)


def _trained(recipe: Recipe) -> Iterator[tuple[str, Model]]:
    yield from ((name, model) for name, model in recipe.models.items() if model.trained)


def _family(model: Model) -> Family:
    from training.families import catalog

    return catalog.family(model.family)


def configured(recipe: Recipe, model: Model) -> PretrainConfig | None:
    """How a model is trained; None where that cannot be, which `shapes` reports."""
    try:
        config = model.training(recipe.seed)
        _ = config.lengths, config.steps
        _family(model).preset(config.size)
        return config
    except PipelineError:
        return None


def _lacks_masks(family: Family, model: Model, tokenizer: TokenizerConfig) -> str:
    if "mlm" not in family.objective:
        return ""
    if tokenizer.kind == published.KIND:
        missing = [role for role in MASKED if role not in _published(*_files(tokenizer)).specials]
        return f"{model.family} learns by masks, and tokenizers.{model.tokenizer} has no {', '.join(missing)} token" if missing else ""
    if tokenizer.kind not in NO_MASK or tokenizer.specials == "roberta":
        return ""
    use = "specials: roberta" if family.tokenizer == tokenizer.kind else f"kind {family.tokenizer}"
    return f"{model.family} learns by masks, which the {tokenizer.kind} tokenizer `{model.tokenizer}` lacks; give it {use}"


def _unwritable(path: Path, name: str, family: Family, shape: BackboneConfig) -> Iterator[tuple[Path, str]]:
    try:
        family.check_export(shape, {})
    except ConfigError as error:
        yield path, f"{name}: {error}"


def _same_tokenizer(folder: FilePath, shape: BackboneConfig, tokenizer: TokenizerConfig, name: str) -> None:
    """Raises ConfigError where the ids cannot be those that the weights were trained with; the import itself compares every piece."""
    if tokenizer.kind == published.KIND:
        if (vocab := vocab_of(tokenizer)) > shape.vocab:
            raise ConfigError(f"{folder} has {shape.vocab:,} pieces, tokenizers.{name} {vocab:,}: give it the model's own vocabulary files")
        return
    if not (folder / META).is_file():
        raise ConfigError(
            f"{folder} was trained with its own vocabulary, and tokenizers.{name} is trained here: give it kind: import and files: with "
            "the vocabulary files of the folder"
        )
    if (kind := read_meta(folder).kind) != tokenizer.kind:
        raise ConfigError(f"{folder} was trained with a {kind} tokenizer, tokenizers.{name} is {tokenizer.kind}")


def _check_student(recipe: Recipe, student: Student) -> None:
    from distill.recipes import check_teacher, method
    from distill.student import layer_map
    from pipelines.chain import student_config

    teacher, ranks = recipe.models[student.teacher], recipe.resources.ranks
    config = student_config(recipe, student)
    chosen = method(config.method)
    check_teacher(chosen, teacher.family)
    shape = shape_of(recipe, student.teacher)
    if shape:
        layer_map(shape.layers, config.layers)
        inherited = "length" not in student.model_fields_set and not teacher.init  # then the teacher's own check refuses it
        if config.length > shape.positions and not inherited:
            raise ConfigError(f"length {config.length} is more than the {shape.positions} positions of the teacher {student.teacher}")
    if config.batch_size < ranks:
        raise ConfigError(
            f"batch_tokens {config.batch_tokens} make {config.batch_size} sequences a step, too few for {ranks} ranks; "
            f"set at least {ranks * config.length}"
        )
    read = teacher.training(recipe.seed).length
    if _family(teacher).examples == "blocks" and config.length != read:
        raise ConfigError(f"length {config.length} is not that of the teacher's blocks, {read}; leave it out")
