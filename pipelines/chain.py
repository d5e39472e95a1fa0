"""Which stage feeds which. Plain functions: `do` decides how each stage is carried out, or whether it is only planned.

Phase by phase (all tokenizers, then all encodings, ...), so that a run can stop after any kind of stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from data_prep.corpus.crawl import CRAWL
from data_prep.corpus.decontaminate import DECONTAMINATE, TaskFiles
from data_prep.corpus.dedup import DEDUP
from data_prep.corpus.documents import DOCUMENTS
from data_prep.corpus.extract import EXTRACT
from data_prep.corpus.filter import FILTER
from data_prep.corpus.gather import GATHER, GatherConfig
from data_prep.corpus.links import LINKS, LinksConfig, LinkSource
from data_prep.corpus.takedown import TAKEDOWN, TakedownConfig, read_lists
from data_prep.corpus.warc import WARC
from data_prep.examples.blocks import BLOCKS, STREAM
from data_prep.examples.encode import ENCODE
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.published import KIND as PUBLISHED
from data_prep.tokenizer.train import TOKENIZER, for_languages
from distill.distill import DISTILL
from infra.artifact import Artifact, SourceFile, fingerprint
from infra.errors import ConfigError
from infra.stage import Stage
from pipelines.chain_parts import blocks_mode, examples_kind, framed, site_config
from pipelines.inherit import ordered
from pipelines.recipe import Documents, Feed, Model, Recipe, Sitemap, StartPage, Student, Submissions, Urls, Warc, seed_of
from pipelines.recipe_checks import meant
from pipelines.recipe_paths import FILTER_LISTS, SITE, expand
from pipelines.site import SITE as WEBSITE
from training.evaluate import EVALUATE
from training.finetune import FINETUNE
from training.imported import IMPORT, ImportConfig, files_of
from training.pretrain import PRETRAIN, examples_name

CORPUS = (WEBSITE, LINKS, CRAWL, WARC, EXTRACT, DOCUMENTS, GATHER, FILTER, DEDUP, TAKEDOWN, DECONTAMINATE)
MODELS = (TOKENIZER, ENCODE, BLOCKS, PAIRS, IMPORT, PRETRAIN, DISTILL, FINETUNE, EVALUATE)
ORDER = tuple(stage.name for stage in (*CORPUS, *MODELS))
T = TypeVar("T")
UNMADE = "unmade"  # the digest of a file that an earlier stage has yet to write


class Do(Protocol):
    """Carry out a stage, or say what carrying it out would give."""

    def __call__(self, stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact: ...


# how the demo's own web is served while it is crawled: given the site's artifact and the crawl's fingerprint
Serve = Callable[[Artifact, str], AbstractContextManager[None]]
Digest = Callable[[Path], SourceFile | None]  # None: the file is left out of those that a pattern names
Note = Callable[[Mapping[str, Artifact]], None]  # told of the corpus so far, by stage, as soon as it is made


def _unserved(_site: Artifact, _crawl: str) -> AbstractContextManager[None]:
    return nullcontext()


def _unnoted(_made: Mapping[str, Artifact]) -> None:
    return


class _Reached(Exception):
    """A stage beyond --until was asked for."""


@dataclass
class _Chain:
    do: Do
    recipe: Recipe
    serve: Serve
    digest: Digest
    earlier: Mapping[str, Artifact] = field(default_factory=dict)
    note: Note = _unnoted
    made: dict[str, Artifact] = field(default_factory=dict)
    site: Artifact | None = None

    def make(self, stage: Stage[Any], config: Any, label: str, **inputs: Artifact) -> Artifact:
        self.made[label] = self.do(stage, config, label, **inputs)
        return self.made[label]

    def before(self, stage: Stage[Any]) -> dict[str, Artifact]:
        """The same stage's artifact of the date before, when the corpus grows."""
        return {"earlier": self.earlier[stage.name]} if stage.name in self.earlier else {}

    def files(self, path: str) -> tuple[SourceFile, ...]:
        """The files of a recipe's path; `site:` names one of the site's artifact, which may not be made yet."""
        if not path.startswith(SITE):
            found = expand(path)
            if not found:
                raise ConfigError(f"there is no file {path}")
            return tuple(file for p in found if (file := self.digest(p)))
        assert self.site is not None
        name = path.removeprefix(SITE)
        if not self.site.path.exists():
            return (SourceFile(str(self.site.path / name), UNMADE, Path(name).name),)
        return (SourceFile.of(self.site.file(name)),)

    def one_file(self, path: str) -> SourceFile:
        found = self.files(path)
        if len(found) > 1:
            raise ConfigError(f"{path} names {len(found)} files; exactly one is wanted here")
        return found[0]


def run(
    do: Do,
    recipe: Recipe,
    until: str = "",
    serve: Serve = _unserved,
    digest: Digest = SourceFile.of,
    earlier: Mapping[str, Artifact] | None = None,
    note: Note = _unnoted,
) -> dict[str, Artifact]:
    """Every artifact of the recipe by its label, up to and with the stages called `until`.

    earlier: by stage, what a growing corpus builds on (growth.py); note is told what the next date may build on.
    """
    check_until(until)
    last = ORDER.index(until) if until else len(ORDER)

    def bounded(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        if ORDER.index(stage.name) > last:
            raise _Reached
        return do(stage, config, label, **inputs)

    chain = _Chain(bounded, recipe, serve, digest, earlier or {}, note)
    try:
        examples = _examples(chain, _corpus(chain))
        _models(chain, examples)
    except _Reached:
        return chain.made
    return chain.made


def check_until(until: str) -> None:
    """Raises ConfigError when no stage is called so."""
    if until and until not in ORDER:
        raise ConfigError(f"--until {until}: no stage is called so{meant(until, ORDER) or '; there are ' + ', '.join(ORDER)}")


def trains(recipe: Recipe, until: str) -> bool:
    """Whether a run up to a stage, "" for all, may train a model."""
    return bool(recipe.models) and not (until and ORDER.index(until) < ORDER.index(PRETRAIN.name))


def rehearse(recipe: Recipe) -> None:
    """Build every config without doing anything: what cannot be built is told before any work."""

    def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        return Artifact(stage.name, fingerprint(stage.name, label), Path("nowhere"))

    run(do, recipe, digest=lambda path: SourceFile(str(path), UNMADE, path.name))


def unmade(config: Any) -> bool:
    """Whether a config names a file that is not written yet, so that its fingerprint is not known."""
    if isinstance(config, SourceFile):
        return config.digest == UNMADE
    if dataclasses.is_dataclass(config):
        return any(unmade(getattr(config, f.name)) for f in dataclasses.fields(config))
    return isinstance(config, tuple | list) and any(unmade(item) for item in config)


def _corpus(chain: _Chain) -> Artifact:
    recipe, corpus = chain.recipe, chain.recipe.corpus
    if recipe.site is not None:
        chain.site = chain.make(WEBSITE, site_config(recipe), "site")
    parts = list(_parts(chain))
    documents = (
        parts[0] if len(parts) == 1 else chain.make(GATHER, GatherConfig(), "gather", **{f"part{i:03d}": p for i, p in enumerate(parts)})
    )
    named = {name: chain.files(path) for name in FILTER_LISTS if (path := getattr(corpus.filter, name))}
    good = chain.make(FILTER, corpus.filter.build(**named), "filter", documents=documents)
    unlike = chain.make(DEDUP, corpus.dedup, "dedup", documents=good, **chain.before(DEDUP))
    chain.note({artifact.stage: artifact for artifact in chain.made.values()})
    if corpus.takedown:
        lists = TakedownConfig(chain.files(corpus.takedown))
        read_lists(lists.lists)  # a wrong entry is told before any work
        unlike = chain.make(TAKEDOWN, lists, "takedown", documents=unlike)
    if corpus.decontaminate is None or not recipe.tasks:
        return unlike
    tasks = tuple(TaskFiles(name, (chain.one_file(task.train), chain.one_file(task.dev))) for name, task in recipe.tasks.items())
    return chain.make(DECONTAMINATE, corpus.decontaminate.build(tasks=tasks), "decontaminate", documents=unlike)


def _parts(chain: _Chain) -> Iterator[Artifact]:
    """One artifact of documents for all links together, and one for each source that is text or a crawl already."""
    corpus = chain.recipe.corpus
    links = [s for s in corpus.sources if isinstance(s, Submissions | Urls | Sitemap | Feed | StartPage)]
    if links:
        listed = chain.make(LINKS, _links_config(chain, links), "links", **chain.before(LINKS))
        yield chain.make(EXTRACT, corpus.extract, "extract", pages=_crawl(chain, listed))
    crawls = [s for s in corpus.sources if isinstance(s, Warc)]
    for label, crawl in _numbered("warc", crawls):
        pages = chain.make(WARC, crawl.build(sources=chain.files(crawl.path)), label)
        yield chain.make(EXTRACT, corpus.extract, f"extract {label}", pages=pages)
    texts = [s for s in corpus.sources if isinstance(s, Documents)]
    for label, text in _numbered("documents", texts):
        yield chain.make(DOCUMENTS, text.build(sources=chain.files(text.path)), label)


def _numbered(name: str, things: Sequence[T]) -> list[tuple[str, T]]:
    return [(name if len(things) == 1 else f"{name} {number}", thing) for number, thing in enumerate(things, 1)]


def _links_config(chain: _Chain, links: Sequence[Submissions | Urls | Sitemap | Feed | StartPage]) -> LinksConfig:
    section, lists = chain.recipe.corpus.links, ("exclude_hosts_file", "allow_hosts_file")
    given: dict[str, Any] = {key: chain.one_file(path) for key in lists if (path := getattr(section, key))}
    return LinksConfig(sources=tuple(_link_source(chain, s) for s in links), **given, **section.said(*lists))


def _link_source(chain: _Chain, source: Submissions | Urls | Sitemap | Feed | StartPage) -> LinkSource:
    files = () if isinstance(source, StartPage) else chain.files(source.path)
    return LinkSource(files=files, **source.said("path"))


def _crawl(chain: _Chain, links: Artifact) -> Artifact:
    config = chain.recipe.corpus.crawl
    assert config is not None, "recipe_checks refuses links without a crawl section"
    if chain.recipe.date:
        config = dataclasses.replace(config, logical_date=chain.recipe.date)
    if own := chain.recipe.corpus.links.tracking_parameters:
        config = dataclasses.replace(config, tracking_parameters=own)
    inputs = {"links": links, **chain.before(CRAWL)}
    with _served(chain, CRAWL.key(config, inputs)):
        return chain.make(CRAWL, config, "crawl", **inputs)


@contextmanager
def _served(chain: _Chain, crawl: str) -> Iterator[None]:
    if chain.site is None:
        yield
        return
    with chain.serve(chain.site, crawl):
        yield


@dataclass(frozen=True)
class _Fed:
    tokenizer: Artifact
    sentences: Artifact
    examples: Artifact
    others: Mapping[str, Artifact] = field(default_factory=dict)  # examples of a curriculum's other lengths, by their input's name

    @property
    def inputs(self) -> dict[str, Artifact]:
        return {"examples": self.examples, "sentences": self.sentences, "tokenizer": self.tokenizer}


def _examples(chain: _Chain, documents: Artifact) -> dict[str, _Fed]:
    """What each model reads. Two models with the same tokenizer and length share it."""
    recipe = chain.recipe
    tokenizers = {
        name: chain.make(
            TOKENIZER,
            for_languages(config, recipe.corpus.filter.build().languages),
            f"tokenizer {name}",
            **({} if config.kind == PUBLISHED else {"documents": documents}),
        )
        for name, config in recipe.tokenizers.items()
    }
    sentences = {
        name: chain.make(
            ENCODE, dataclasses.replace(recipe.encode, seed=recipe.seed), f"encode {name}", documents=documents, tokenizer=made
        )
        for name, made in tokenizers.items()
    }
    fed: dict[str, _Fed] = {}
    shared: dict[str, Artifact] = {}
    kinds = {name: examples_kind(model.family) for name, model in recipe.models.items()}
    for name, model in sorted(recipe.models.items(), key=lambda item: kinds[item[0]] == "pairs"):
        config = model.training(recipe.seed)
        made = {
            examples_name(config, length): _cut(chain, shared, model, length - framed(model.family), sentences[model.tokenizer])
            for length in config.lengths
        }
        fed[name] = _Fed(tokenizers[model.tokenizer], sentences[model.tokenizer], made.pop("examples"), made)
    return fed


def _cut(chain: _Chain, shared: dict[str, Artifact], model: Model, length: int, sentences: Artifact) -> Artifact:
    """The examples of a length, made once for all models that read the same."""
    kind, mode = examples_kind(model.family), blocks_mode(model)
    named = "" if kind == "pairs" or mode == STREAM else f" {mode}"
    label = f"{kind} {model.tokenizer} {length}{named}"
    if label not in shared:
        shared[label] = (
            chain.make(BLOCKS, model.blocks.build(length=length, mode=mode), label, sentences=sentences)
            if kind == "blocks"
            else chain.make(PAIRS, PairsConfig(length=length, seed=chain.recipe.seed), label, sentences=sentences)
        )
    return shared[label]


def _models(chain: _Chain, fed: dict[str, _Fed]) -> None:
    recipe = chain.recipe
    models: dict[str, Artifact] = {}
    given = {name: _imported(chain, name, fed[name].tokenizer) for name, model in recipe.models.items() if model.init}
    for name in ordered(recipe.models):
        model = recipe.models[name]
        if name in given and not model.trained:
            models[name] = given[name]
            continue
        config = model.training(recipe.seed)
        begin = {"init": given[name]} if name in given else {}
        begin |= {"extended": models[model.extend]} if model.extend else {}
        models[name] = chain.make(PRETRAIN, config, name, **fed[name].inputs, **fed[name].others, **begin)
    for name, student in recipe.students.items():
        fed[name] = fed[student.teacher]
        config = student_config(recipe, student)
        models[name] = chain.make(DISTILL, config, name, teacher=models[student.teacher], **fed[name].inputs)
        if student.control:
            alone = control(name)
            fed[alone] = fed[name]
            config = dataclasses.replace(config, control=True)
            models[alone] = chain.make(DISTILL, config, alone, teacher=models[student.teacher], **fed[name].inputs)
    learnt = _tasks(chain, fed, models)
    _scores(chain, fed, models, learnt)


def _imported(chain: _Chain, name: str, tokenizer: Artifact) -> Artifact:
    """Weights from a folder: the model itself, or what its pretraining begins from."""
    model = chain.recipe.models[name]
    folder = Path(model.init)
    named = {path.relative_to(folder).as_posix(): file for path in files_of(folder) if (file := chain.digest(path))}
    files = tuple(dataclasses.replace(file, name=where) for where, file in named.items())
    config = ImportConfig(files, model.family, "" if model.trained else model.size)
    return chain.make(IMPORT, config, f"import {name}" if model.trained else name, tokenizer=tokenizer)


def control(student: str) -> str:
    """The name of the same student without its teacher."""
    return f"{student}-control"


def student_config(recipe: Recipe, student: Student) -> Any:
    """A student reads what its teacher read, unless the recipe gives another length. Raises ConfigError."""
    more = {} if "length" in student.model_fields_set else {"length": recipe.models[student.teacher].training(recipe.seed).length}
    return student.build(seed=seed_of(student, recipe.seed), control=False, **more)


def _tasks(chain: _Chain, fed: dict[str, _Fed], models: dict[str, Artifact]) -> dict[tuple[str, str], Artifact]:
    learnt = {}
    for name, task in chain.recipe.tasks.items():
        train, dev = chain.one_file(task.train), chain.one_file(task.dev)
        for model in task.models:
            config = task.build(train=train, dev=dev, task=task.kind, seed=seed_of(task, chain.recipe.seed))
            learnt[name, model] = chain.make(FINETUNE, config, f"{name} {model}", model=models[model], tokenizer=fed[model].tokenizer)
    return learnt


def _scores(chain: _Chain, fed: dict[str, _Fed], models: dict[str, Artifact], learnt: dict[tuple[str, str], Artifact]) -> None:
    recipe, seed = chain.recipe, chain.recipe.seed
    language, compare = (recipe.evaluate.build(kind=kind, seed=seed) for kind in ("language", "compare"))
    for name, model in models.items():
        chain.make(EVALUATE, language, f"evaluate {name}", model=model, **fed[name].inputs)
    for name, student in recipe.students.items():
        others = {"student": models[name]} | ({"control": models[control(name)]} if student.control else {})
        chain.make(EVALUATE, compare, f"compare {name}", teacher=models[student.teacher], **others, **fed[name].inputs)
    for (task, name), model in learnt.items():
        config = recipe.evaluate.build(kind="task", seed=seed, dev=chain.one_file(recipe.tasks[task].dev))
        chain.make(EVALUATE, config, f"evaluate {task} {name}", model=model, tokenizer=fed[name].tokenizer)
