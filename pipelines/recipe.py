"""A recipe: what is to be made, from YAML, checked to the last key before any work.

Sections are the stages' own config classes, or made from them, so no default stands twice. None of them imports torch:
a wrong recipe is answered at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from data_prep.corpus.crawl import CrawlConfig
from data_prep.corpus.decontaminate import DecontaminateConfig
from data_prep.corpus.dedup import DedupConfig
from data_prep.corpus.documents import DocumentsConfig
from data_prep.corpus.extract import ExtractConfig
from data_prep.corpus.filter import FilterConfig
from data_prep.corpus.warc import WarcConfig
from data_prep.examples.blocks import BlocksConfig
from data_prep.examples.encode import EncodeConfig
from data_prep.tokenizer.train import TokenizerConfig
from distill.distill import DistillConfig
from infra.artifact import SourceFile
from infra.errors import ConfigError
from infra.mirror_url import redacted, without_password
from pipelines import recipe_checks, recipe_yaml
from pipelines.inherit import inherit
from pipelines.recipe_paths import FILTER_LISTS, absolute_paths
from pipelines.recipe_section import Mirror, Section, mirrored
from training.evaluate import EvaluateConfig
from training.finetune import FinetuneConfig
from training.pretrain_config import PretrainConfig

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$")]


class Submissions(Section):
    """A dump of Reddit submissions: jsonl or csv; .gz, .xz, .bz2, .zst."""

    kind: Literal["submissions"]
    path: str
    min_karma: int | None = None
    karma_rule: Literal["post", "sum"] | None = None
    allow_over_18: bool | None = None


class Urls(Section):
    """One URL a line."""

    kind: Literal["urls"]
    path: str


class Sitemap(Section):
    """sitemap.xml files and their indexes, also packed. since: YYYY-MM-DD; entries that state an older day are left out."""

    kind: Literal["sitemap"]
    path: str
    since: str | None = None


class Feed(Section):
    """RSS and Atom files, also packed. since: YYYY-MM-DD; entries that state an older day are left out."""

    kind: Literal["feed"]
    path: str
    since: str | None = None


class StartPage(Section):
    """A site that is followed within its host."""

    kind: Literal["site"]
    url: str
    depth: int | None = None
    max_pages: int | None = None


class _Student(Mirror):
    """A smaller model taught by a bigger one; the control has the same start and batches, but no teacher.

    seed: the recipe's if left out.
    """

    teacher: str
    control: bool = True
    seed: int | None = None


class _Task(Mirror):
    """Sentences with labels, and the models that learn them: models, students, and students' controls (NAME-control)."""

    kind: Literal["classify"]
    train: str
    dev: str
    models: tuple[str, ...] = Field(min_length=1)
    seed: int | None = None


class _Pretrain(Mirror):
    """seed: of this model's weights, order and masks; the recipe's if left out."""

    seed: int | None = None


class _Filter(Mirror):
    """Files with an entry a line, or several by wildcards: domains; words of addresses; words, `ko.txt` for Korean texts alone."""

    block_hosts: str = ""
    block_url_words: str = ""
    bad_words: str = ""


class _Warc(Mirror):
    """A crawl that exists already."""

    kind: Literal["warc"]
    path: str


class _Documents(Mirror):
    """Text that is text already: jsonl, parquet or plain, also .gz and .zst."""

    kind: Literal["documents"]
    path: str


SOME_FILE = SourceFile("some.jsonl", "", "some.jsonl")  # stands where the chain puts the files of a path

if TYPE_CHECKING:  # a type checker cannot see what is made from a stage's config

    class Warc(_Warc): ...  # noqa: D101

    class Documents(_Documents):  # noqa: D101
        separator: str
        format: str = ""

    class Filter(_Filter): ...  # noqa: D101

    class Decontaminate(Mirror): ...  # noqa: D101

    class Student(_Student): ...  # noqa: D101

    class Task(_Task):  # noqa: D101
        text: str = ""
        label: str = ""
        pair: str = ""
        length: int = 0
        batch: int = 0
        epochs: float = 0.0
        warmup: float = 0.0

    class Evaluate(Mirror): ...  # noqa: D101

    class Pretrain(_Pretrain):  # noqa: D101
        length: int = 0
        keep_state: bool = False
        overrides: Mapping[str, Any] = {}

    class Blocks(Mirror):  # noqa: D101
        mode: str = ""
else:
    Warc = mirrored("Warc", WarcConfig, _Warc, {"sources": (SOME_FILE,)})
    Documents = mirrored("Documents", DocumentsConfig, _Documents, {"sources": (SOME_FILE,)})
    Filter = mirrored("Filter", FilterConfig, _Filter, dict.fromkeys(FILTER_LISTS, ()))
    Decontaminate = mirrored("Decontaminate", DecontaminateConfig, Mirror, {"tasks": ()})
    Pretrain = mirrored("Pretrain", PretrainConfig, _Pretrain, {"family": "bert", "size": "tiny", "seed": 0})  # bert: any curriculum
    Blocks = mirrored("Blocks", BlocksConfig, Mirror, {"length": 2})
    Student = mirrored("Student", DistillConfig, _Student, {"control": False, "seed": 0})
    Task = mirrored("Task", FinetuneConfig, _Task, {"train": SOME_FILE, "dev": SOME_FILE, "task": "classify", "seed": 0})
    Evaluate = mirrored(
        "Evaluate", EvaluateConfig, Mirror, {"kind": "language", "dev": None, "text": "", "label": "", "pair": "", "seed": 0, "length": 0}
    )

Source = Annotated[Submissions | Urls | Sitemap | Feed | StartPage | Warc | Documents, Field(discriminator="kind")]


class Links(Section):
    """How link sources become one list. Hosts: `host` or `*.domain`; in a file a domain a line, which means all below it too."""

    shards: int | None = None
    exclude_hosts: tuple[str, ...] | None = None
    allow_hosts: tuple[str, ...] | None = None
    exclude_hosts_file: str = ""
    allow_hosts_file: str = ""
    exclude_extensions: tuple[str, ...] | None = None
    max_per_domain: int | None = None
    tracking_parameters: tuple[str, ...] | None = None
    recrawl: bool | None = None


class Corpus(Section):
    """Links or texts in, clean documents out.

    grow: each date's run adds what is new to the corpus of the date before. takedown: files that list what has to go.
    """

    sources: tuple[Source, ...] = Field(min_length=1)
    links: Links = Links()
    crawl: CrawlConfig | None = None  # only a corpus of links needs it
    extract: ExtractConfig = ExtractConfig()
    filter: Filter = Field(default_factory=Filter)
    dedup: DedupConfig = DedupConfig()
    grow: bool = False
    takedown: str = ""
    decontaminate: Decontaminate | None = None  # `{}` is enough: the files are those of the recipe's tasks


class Site(Section):
    """A web of our own on this machine: the documentation of installed packages."""

    kind: Literal["pydoc"]
    packages: tuple[str, ...] = ()
    max_pages: int | None = None
    task_rows: int | None = None


class Model(Section):
    """One model from random weights, or from those of a folder (init); with init and no pretrain section it stays as it is.

    extend: a model of this recipe whose finished training is gone on with; what is left out is that model's (inherit.py).
    """

    family: str
    size: str = ""
    tokenizer: str
    blocks: Blocks = Field(default_factory=Blocks)  # how text is cut for families that read blocks
    init: str = ""
    extend: str = ""
    pretrain: Pretrain = Field(default_factory=Pretrain)

    @property
    def trained(self) -> bool:
        """Whether there is anything to train: always, but for imported weights that the recipe leaves as they are."""
        return not self.init or "pretrain" in self.model_fields_set

    def training(self, seed: int) -> PretrainConfig:
        """How it is trained; without a size the imported model's own shape. seed: the recipe's. Raises ConfigError."""
        size, more = self.size, dict[str, Any]()
        if self.init and not (self.trained and size):
            from training.import_shape import closest, readable  # import torch
        if not self.trained:
            more |= readable(self.family, Path(self.init), self.pretrain.length)
        elif self.init and not size:
            size, differing = closest(self.family, Path(self.init))
            more["overrides"] = {**differing, **self.pretrain.overrides}
        config: PretrainConfig = self.pretrain.build(family=self.family, size=size, seed=seed_of(self.pretrain, seed), **more)
        return config


def seed_of(section: Pretrain | Student | Task, seed: int) -> int:
    """The section's own seed, else the recipe's."""
    return seed if section.seed is None else section.seed


class Resources(Section):
    """How, not what: never part of a fingerprint. cpus 0: all there are. mirror: an fsspec URL where finished artifacts are shared.

    mirror_required: a mirror that cannot be used ends the run; without it the run continues, and a later one pushes.

    min_ranks: on a running Ray cluster a training that lost a node goes on with as few ranks as this, until there is room for `ranks`
    again. restarts: deaths of ranks in a row after which a training is given up; the state of the last checkpoint stays.
    rank_cpus: CPUs, and so threads, of each rank; 0: the ranks share alike what this machine or the cluster has, beside a GPU one each.
    """

    ranks: int = Field(default=1, ge=1)
    cpus: int = Field(default=0, ge=0)
    connect_to: dict[str, str] = Field(default_factory=dict)
    mirror: Annotated[str, AfterValidator(without_password)] = ""
    mirror_required: bool = False
    min_ranks: int = Field(default=1, ge=1)
    rank_cpus: int = Field(default=0, ge=0)
    restarts: int = Field(default=2, ge=0)


class Recipe(Section):
    """The whole run. date: another one makes a new crawl; schedules set it."""

    name: Name
    seed: int = 1
    date: str = ""
    site: Site | None = None
    corpus: Corpus
    encode: EncodeConfig = EncodeConfig()
    tokenizers: dict[Name, TokenizerConfig] = Field(default_factory=dict)
    models: dict[Name, Model] = Field(default_factory=dict)
    students: dict[Name, Student] = Field(default_factory=dict)
    tasks: dict[Name, Task] = Field(default_factory=dict)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    resources: Resources = Resources()


@dataclass(frozen=True)
class Loaded:
    """A recipe with its two texts: as the user wrote it, and with every default spelt out."""

    recipe: Recipe
    source: str
    resolved: str
    builtin: bool
    place: Callable[[recipe_yaml.Path], str]  # the file and line of a key


def load(name: str, settings: tuple[str, ...] = (), profile: str = "") -> Loaded:
    """profile: steps of every pretraining, as pretrain.profile says them. Raises ConfigError with one line for each thing that is wrong."""
    path, builtin = find(name)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    document = recipe_yaml.read(source, path.name)
    for text in settings:
        key, value = recipe_yaml.setting(text)
        document.put(key, value, f"--set {redacted(text)}")
    if profile:
        _profile(document, profile)
    inherit(document.value)
    absolute_paths(document.value, Path.cwd() if builtin else path.parent)
    recipe = recipe_checks.validated(Recipe, document)
    return Loaded(recipe, source, resolved(recipe), builtin, document.place)


def _profile(document: recipe_yaml.Document, window: str) -> None:
    models = document.value.get("models")
    for name, model in models.items() if isinstance(models, dict) else ():
        if isinstance(model, dict) and ("pretrain" in model or not model.get("init")):
            document.put(("models", name, "pretrain", "profile"), window, f"--profile {window}")


def find(name: str) -> tuple[Path, bool]:
    """A file, or a recipe that comes with textmill."""
    if Path(name).is_file():
        return Path(name).absolute(), False
    shipped = builtin_recipes()
    if name in shipped:
        return shipped[name], True
    known = sorted(shipped)
    raise ConfigError(f"no recipe {name!r}: it is neither a file nor one of {', '.join(known)}{recipe_checks.meant(name, known)}")


def builtin_recipes() -> dict[str, Path]:
    """The recipes that come with textmill, by name."""
    return {path.stem: path for path in sorted(Path(str(files("pipelines") / "recipes")).glob("*.yaml"))}


def without_files(path: Path) -> tuple[Recipe, list[str]]:
    """A recipe whose files need not exist yet, and the keys that name those that do not.

    Raises ConfigError with one line for each other thing that is wrong.
    """
    document = recipe_yaml.read(path.read_text(encoding="utf-8"), path.name)
    inherit(document.value)
    absolute_paths(document.value, Path.cwd())
    missing = [".".join(str(step) for step in place) for place in recipe_checks.missing_files(document.value)]
    return recipe_checks.validated(Recipe, document, files=False), missing


def resolved(recipe: Recipe) -> str:
    """The recipe as YAML with every value spelt out; it loads to the same recipe."""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml, out = YAML(typ="safe", pure=True), StringIO()
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(_without_none(recipe.model_dump(mode="json", exclude_none=False)), out)
    return out.getvalue()


def _without_none(value: Any, depth: int = 0) -> Any:
    """Fields of the model side that nobody gave are left out; a None of a filter is a rule switched off and stays."""
    if isinstance(value, dict):
        kept = ("filter", "dedup", "decontaminate", "extract", "crawl")
        return {k: v if k in kept else _without_none(v, depth + 1) for k, v in value.items() if v is not None}
    return [_without_none(item, depth + 1) for item in value] if isinstance(value, list) else value
