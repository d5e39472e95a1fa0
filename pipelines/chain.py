"""Which stage feeds which. Plain functions: `do` decides how each stage is carried out, or whether it is only planned.

Phase by phase (all tokenizers, then all encodings, ...), so that a run can stop after any kind of stage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data_prep.corpus.crawl import CRAWL
from data_prep.corpus.dedup import DEDUP
from data_prep.corpus.documents import DOCUMENTS, DocumentsConfig
from data_prep.corpus.extract import EXTRACT
from data_prep.corpus.filter import FILTER
from data_prep.corpus.gather import GATHER, GatherConfig
from data_prep.corpus.links import LINKS, LinksConfig, LinkSource
from data_prep.corpus.warc import WARC, WarcConfig
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.train import TOKENIZER
from distill.distill import DISTILL
from infra.artifact import Artifact, SourceFile, fingerprint
from infra.errors import ConfigError
from infra.stage import Stage
from pipelines.recipe import SITE, Documents, Model, Recipe, StartPage, Submissions, Urls, Warc, expand
from pipelines.recipe_checks import meant
from pipelines.site import SITE as WEBSITE
from pipelines.site import SiteConfig
from training.evaluate import EVALUATE
from training.finetune import FINETUNE
from training.pretrain import PRETRAIN

ORDER = tuple(
    s.name
    for s in (
        WEBSITE, LINKS, CRAWL, WARC, EXTRACT, DOCUMENTS, GATHER, FILTER, DEDUP, TOKENIZER, ENCODE, BLOCKS, PAIRS, PRETRAIN, DISTILL, FINETUNE, EVALUATE,
    )
)  # fmt: skip
UNMADE = "unmade"  # the digest of a file that an earlier stage has yet to write


class Do(Protocol):
    """Carry out a stage, or say what carrying it out would give."""

    def __call__(self, stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact: ...


# how the demo's own web is served while it is crawled: given the site's artifact and the crawl's fingerprint
Serve = Callable[[Artifact, str], AbstractContextManager[None]]
Digest = Callable[[Path], SourceFile]


def _unserved(_site: Artifact, _crawl: str) -> AbstractContextManager[None]:
    return nullcontext()


class _Reached(Exception):
    """A stage beyond --until was asked for."""


@dataclass
class _Chain:
    do: Do
    recipe: Recipe
    serve: Serve
    digest: Digest
    made: dict[str, Artifact] = field(default_factory=dict)
    site: Artifact | None = None

    def make(self, stage: Stage[Any], config: Any, label: str, **inputs: Artifact) -> Artifact:
        self.made[label] = self.do(stage, config, label, **inputs)
        return self.made[label]

    def files(self, path: str) -> tuple[SourceFile, ...]:
        """The files of a recipe's path; `site:` names one of the site's artifact, which may not be made yet."""
        if not path.startswith(SITE):
            found = expand(path)
            if not found:
                raise ConfigError(f"there is no file {path}")
            return tuple(self.digest(p) for p in found)
        assert self.site is not None
        name = path.removeprefix(SITE)
        if not self.site.path.exists():
            return (SourceFile(str(self.site.path / name), UNMADE, Path(name).name),)
        return (self.digest(self.site.file(name)),)


def run(do: Do, recipe: Recipe, until: str = "", serve: Serve = _unserved, digest: Digest = SourceFile.of) -> dict[str, Artifact]:
    """Every artifact of the recipe by its label, up to and with the stages called `until`."""
    check_until(until)
    last = ORDER.index(until) if until else len(ORDER)

    def bounded(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        if ORDER.index(stage.name) > last:
            raise _Reached
        return do(stage, config, label, **inputs)

    chain = _Chain(bounded, recipe, serve, digest)
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


def rehearse(recipe: Recipe) -> None:
    """Build every config without doing anything: what cannot be built is told before any work."""

    def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        return Artifact(stage.name, fingerprint(stage.name, label), Path("nowhere"))

    run(do, recipe, digest=lambda path: SourceFile(str(path), UNMADE, path.name))
    _check_sizes(recipe)


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
    documents = parts[0] if len(parts) == 1 else chain.make(GATHER, GatherConfig(), "gather", **{f"part{i}": p for i, p in enumerate(parts)})
    good = chain.make(FILTER, corpus.filter, "filter", documents=documents)
    return chain.make(DEDUP, corpus.dedup, "dedup", documents=good)


def _parts(chain: _Chain) -> Iterator[Artifact]:
    """One artifact of documents for all links together, and one for each source that is text or a crawl already."""
    corpus = chain.recipe.corpus
    links = [s for s in corpus.sources if isinstance(s, Submissions | Urls | StartPage)]
    if links:
        sources = tuple(_link_source(chain, s) for s in links)
        listed = chain.make(LINKS, LinksConfig(sources=sources, **corpus.links.said()), "links")
        yield chain.make(EXTRACT, corpus.extract, "extract", pages=_crawl(chain, listed))
    for kind, sort in ((Warc, "warc"), (Documents, "documents")):
        sources_of = [s for s in corpus.sources if isinstance(s, kind)]
        for number, source in enumerate(sources_of, 1):
            label = sort if len(sources_of) == 1 else f"{sort} {number}"
            assert isinstance(source, Warc | Documents)
            config: Any = WarcConfig if isinstance(source, Warc) else DocumentsConfig
            made = chain.make(WARC if isinstance(source, Warc) else DOCUMENTS, config(files=chain.files(source.path), **source.said("kind", "path")), label)
            yield chain.make(EXTRACT, corpus.extract, f"extract {label}", pages=made) if isinstance(source, Warc) else made


def _link_source(chain: _Chain, source: Submissions | Urls | StartPage) -> LinkSource:
    files = () if isinstance(source, StartPage) else chain.files(source.path)
    return LinkSource(files=files, **source.said("path"))


def _crawl(chain: _Chain, links: Artifact) -> Artifact:
    config = chain.recipe.corpus.crawl
    if chain.recipe.date:
        config = dataclasses.replace(config, date=chain.recipe.date)
    with _served(chain, CRAWL.key(config, {"links": links})):
        return chain.make(CRAWL, config, "crawl", links=links)


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


def _examples(chain: _Chain, documents: Artifact) -> dict[str, _Fed]:
    """What each model reads. Two models with the same tokenizer and length share it."""
    recipe = chain.recipe
    tokenizers = {name: chain.make(TOKENIZER, config, f"tokenizer {name}", documents=documents) for name, config in recipe.tokenizers.items()}
    sentences = {
        name: chain.make(ENCODE, dataclasses.replace(recipe.encode, seed=recipe.seed), f"encode {name}", documents=documents, tokenizer=made)
        for name, made in tokenizers.items()
    }
    fed: dict[str, _Fed] = {}
    shared: dict[tuple[str, str, int], Artifact] = {}
    kinds = {name: examples_kind(model.family) for name, model in recipe.models.items()}
    for name, model in sorted(recipe.models.items(), key=lambda item: kinds[item[0]] == "pairs"):
        key = (model.tokenizer, kinds[name], model.pretrain.length)
        if key not in shared:
            shared[key] = _cut(chain, kinds[name], model, sentences[model.tokenizer])
        fed[name] = _Fed(tokenizers[model.tokenizer], sentences[model.tokenizer], shared[key])
    return fed


def _cut(chain: _Chain, kind: str, model: Model, sentences: Artifact) -> Artifact:
    length, label = model.pretrain.length, f"{kind} {model.tokenizer} {model.pretrain.length}"
    if kind == "blocks":
        return chain.make(BLOCKS, BlocksConfig(length=length), label, sentences=sentences)
    return chain.make(PAIRS, PairsConfig(length=length, seed=chain.recipe.seed), label, sentences=sentences)


def _models(chain: _Chain, fed: dict[str, _Fed]) -> None:
    recipe, models = chain.recipe, {}
    for name, model in recipe.models.items():
        models[name] = chain.make(PRETRAIN, pretrain_config(recipe, model), name, **_inputs(fed[name]))
    for name, student in recipe.students.items():
        source = fed[name_of := student.teacher]
        config = student_config(recipe, name)
        fed[name] = fed[f"{name}-control"] = source
        models[name] = chain.make(DISTILL, config, name, teacher=models[name_of], **_inputs(source))
        if student.control:
            control = dataclasses.replace(config, control=True)
            models[f"{name}-control"] = chain.make(DISTILL, control, f"{name}-control", teacher=models[name_of], **_inputs(source))
    _answers(chain, fed, models)


def _inputs(fed: _Fed) -> dict[str, Artifact]:
    return {"examples": fed.examples, "sentences": fed.sentences, "tokenizer": fed.tokenizer}
