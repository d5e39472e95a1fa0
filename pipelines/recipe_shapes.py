"""What only the models' own code can refuse: families, sizes, lengths, methods. Imports torch, so it comes after all other checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data_prep.tokenizer.train import TokenizerConfig
from infra.errors import ConfigError
from pipelines.recipe import Loaded, Model, Recipe, Student
from pipelines.recipe_yaml import Path

NO_MASK = ("byte_bpe",)  # kinds of tokenizers without control tokens for learning by masks


def check(loaded: Loaded) -> None:
    """Raises ConfigError with a line for each model or student that cannot be."""
    if problems := [f"{loaded.place(path)}: {text}" for path, text in _problems(loaded.recipe)]:
        raise ConfigError("\n".join(problems))


def not_here(recipe: Recipe) -> dict[str, str]:
    """For each model that cannot be trained on this machine, why: a precision or a compiler that it lacks."""
    from training.engine import able
    from training.engine.rank import here

    found = {}
    for name, model in recipe.models.items():
        config = model.pretrain.build(family=model.family, size=model.size, seed=recipe.seed)
        try:
            if model.trained:
                able.check(config.precision, config.compile, config.zero, here().device)
        except ConfigError as error:
            found[name] = str(error)
    return found


def _problems(recipe: Recipe) -> Iterator[tuple[Path, str]]:
    for name, model in recipe.models.items():
        if text := _refusal(recipe, model):
            yield ("models", name), f"models.{name}: {text}"
    for name, student in recipe.students.items():
        if text := _student_refusal(recipe, student):
            yield ("students", name), f"students.{name}: {text}"


def _refusal(recipe: Recipe, model: Model) -> str:
    from training.settings import feed_config, model_of

    if not model.trained:
        return ""  # its shape is the imported one's
    config, tokenizer = model.pretrain.build(family=model.family, size=model.size, seed=recipe.seed), recipe.tokenizers[model.tokenizer]
    try:
        family, shape = model_of(config, tokenizer.vocab)
        feed_config(config)
        longest, ranks = max(config.lengths), recipe.resources.ranks
    except ConfigError as error:
        return str(error)
    if longest > shape.positions:
        return f"pretrain.length {longest} is more than {model.family}/{model.size}'s {shape.positions} positions"
    name, fewest = config.smallest
    if (sequences := fewest // longest) < ranks:
        return f"pretrain.{name} {fewest} makes {sequences} sequences a step, too few for {ranks} ranks"
    if family.examples == "pairs" and model.blocks.model_fields_set:
        return f"{model.family} reads pairs; take the section blocks out"
    return _lacks_masks(family, model, tokenizer)


def _lacks_masks(family: Any, model: Model, tokenizer: TokenizerConfig) -> str:
    if "mlm" not in family.objective or tokenizer.kind not in NO_MASK or tokenizer.specials == "roberta":
        return ""
    use = "specials: roberta" if family.tokenizer == tokenizer.kind else f"kind {family.tokenizer}"
    return f"{model.family} learns by masks, which the {tokenizer.kind} tokenizer `{model.tokenizer}` lacks; give it {use}"


def _student_refusal(recipe: Recipe, student: Student) -> str:
    from distill.recipes import check_teacher, method
    from distill.student import layer_map
    from pipelines.chain import student_config
    from training.settings import model_of

    teacher = recipe.models[student.teacher]
    try:
        config = student_config(recipe, student)
        check_teacher(method(config.method), teacher.family)
        if not teacher.size:
            return ""  # known when it is imported
        shape = model_of(
            teacher.pretrain.build(family=teacher.family, size=teacher.size, seed=0), recipe.tokenizers[teacher.tokenizer].vocab
        )[1]
        layer_map(shape.layers, config.layers)
    except ConfigError as error:
        return str(error)
    return ""
