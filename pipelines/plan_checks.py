"""Everything that `textmill plan`, and the start of `run`, find wrong with a recipe before any work: each check by its name.

CONTRIBUTING.md lists the checks; tests hold the list, this table and the tests together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType

from infra.errors import ArtifactError, ConfigError
from pipelines import recipe_data, recipe_extend, recipe_shapes, recipe_tasks
from pipelines.chain import CORPUS
from pipelines.recipe import Loaded, Recipe
from pipelines.recipe_yaml import Path

Found = Iterator[tuple[Path, str]]
Check = Callable[[Recipe], Found]

TEXT = ("keys", "names", "files", "resources", "init-files")  # found by recipe_checks.py, with the recipe's own text
ERRORS: MappingProxyType[str, Check] = MappingProxyType(
    {
        "task-files": recipe_tasks.files,
        "task-labels": recipe_tasks.labels,
        "task-length": recipe_tasks.lengths,
        "task-batch": recipe_tasks.batches,
        "model-shape": recipe_shapes.shapes,
        "model-tokenizer": recipe_shapes.tokenizers,
        "model-export": recipe_shapes.exports,
        "model-import": recipe_shapes.imports,
        "extension": recipe_extend.extensions,
        "sequence-budget": recipe_shapes.budgets,
        "student": recipe_shapes.students,
        "corpus-size": recipe_data.corpus,
        "validation-split": recipe_data.validation,
    }
)
WARNINGS: MappingProxyType[str, Check] = MappingProxyType(
    {
        "learning-rate": recipe_shapes.rates,
        "warm-up": recipe_shapes.warmups,
        "task-warm-up": recipe_tasks.warmups,
        "task-rows": recipe_tasks.rows,
        "epochs": recipe_data.epochs,
    }
)


CORPUS_STAGES = frozenset(stage.name for stage in CORPUS)
BEFORE_TRAINING = frozenset({"tokenizer", "encode", "blocks", "pairs"})  # stages that work on a corpus of any size, with those before


def check(loaded: Loaded, until: str = "") -> None:
    """Raises ConfigError with one line for each problem, in the order of the checks.

    until: the last stage to run; a run that ends before training needs no corpus of a size.
    """
    data_only = until in BEFORE_TRAINING or until in CORPUS_STAGES
    asked = {name: one for name, one in ERRORS.items() if not (data_only and name in ("corpus-size", "validation-split"))}
    if problems := [text for one in asked.values() for text in _lines(loaded, one)]:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def warnings(loaded: Loaded) -> list[str]:
    """What a recipe may do and its author has probably not meant."""
    return [text for one in WARNINGS.values() for text in _lines(loaded, one)]


def _lines(loaded: Loaded, one: Check) -> Iterator[str]:
    try:
        for path, text in one(loaded.recipe):
            yield f"{loaded.place(path)}: {text}"
    except ArtifactError as error:  # a file of the recipe that is damaged or gone
        yield str(error)
