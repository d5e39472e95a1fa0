"""A run that meets damage goes through its chain again: what was quarantined is rebuilt, what is sound is found.

Of an incremental corpus that includes what earlier dates built: each such date is rebuilt with the recipe and the files of its own run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from infra.artifact import MANIFEST, Artifact, SourceFile
from infra.errors import ArtifactError, DamagedInput
from infra.log import event
from infra.stage import Stage
from infra.store import Store
from pipelines import chain
from pipelines.growth import STAGES, Growth, LostPart
from pipelines.recipe import Recipe, load
from pipelines.recipe_paths import expand
from pipelines.rundir import all_runs

T = TypeVar("T")
MOST = 2  # times that one artifact, or one date, is rebuilt in a run
LAST = "dedup"  # the stage that ends what a date adds to the corpus


def rebuilding(growth: Growth, build: Callable[[Mapping[str, Artifact]], T], earlier: Callable[[str], None]) -> T:
    """build(what the run builds on), until no input is damaged. earlier: rebuilds what a date before this one built.

    Raises ArtifactError when one artifact is damaged again and again, or an earlier date cannot be rebuilt.
    """
    met: Counter[str] = Counter()
    while True:
        try:
            return build(growth.again())
        except LostPart as error:
            _count(met, f"the corpus of {error.date}", error)
            event("warning", message=f"{error.date} is an earlier date of this corpus, and part of what it built is lost: it is rebuilt")
            earlier(error.date)
        except DamagedInput as error:
            _count(met, error.damaged, error)
            event("note", message=f"{error.damaged or 'an input'} was damaged: the run starts over and rebuilds it")


def _count(met: Counter[str], what: str, error: ArtifactError) -> None:
    met[what] += 1
    if met[what] > MOST:
        raise ArtifactError(f"{error}: it was rebuilt {MOST} times and damaged each time; check the disk and the memory") from error


@dataclass(frozen=True)
class Earlier:
    """Rebuilds what earlier dates of a corpus built, each stage carried out by `do`."""

    growth: Growth
    workspace: Path
    do: chain.Do
    serve: chain.Serve

    def __call__(self, date: str) -> None:
        """Raises ArtifactError, with what to do, when the same artifacts cannot be built any more."""
        listed, name = self.growth.parts()[date], self.growth.recipe.name
        run = self._run_of(date, listed)
        if run is None:
            raise ArtifactError(
                f"the corpus of {date} is damaged, and no run in {self.workspace}/runs says how it was built; put the files of {date} "
                f"alone where the recipe looks for them, run `textmill run {name} --set date={date}`, then this date again"
            )
        recipe = load(str(run / "recipe.yaml")).recipe
        then = Growth(self.workspace, self.growth.store, recipe)
        digest = _only(recipe, set(_files(run, self.workspace)))

        def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
            return self.do(stage, config, f"{label or stage.name} of {date}", **inputs)

        def build(earlier: Mapping[str, Artifact]) -> None:
            self._check(date, listed, _planned(then.store, recipe, digest, earlier), run)
            chain.run(do, recipe, LAST, self.serve, digest, earlier, then.note)

        rebuilding(then, build, self)

    def _run_of(self, date: str, listed: Mapping[str, str]) -> Path | None:
        """The newest run of this date that built, or found, the corpus that is listed for it."""
        for run in reversed(all_runs(self.workspace)):
            with suppress(OSError, ValueError, KeyError, TypeError):
                rows = json.loads((run / "stages.json").read_text(encoding="utf-8"))
                if any(row["stage"] == LAST and row["fingerprint"] == listed[LAST] and row["label"] == LAST for row in rows):
                    recipe = load(str(run / "recipe.yaml")).recipe
                    if recipe.date == date and recipe.name == self.growth.recipe.name:
                        return run
        return None

    def _check(self, date: str, listed: Mapping[str, str], planned: Mapping[str, str], run: Path) -> None:
        other = [stage for stage, key in planned.items() if listed.get(stage) != key]
        if not planned or other:
            raise ArtifactError(
                f"the corpus of {date} is damaged and cannot be rebuilt as it was: {', '.join(other) or LAST} would differ, because "
                f"source files were changed or removed since, or textmill is another version; put back the files that {run.name} read "
                f"(its recipe.yaml names them) and run again, or rebuild that date from the files of today: "
                f"`textmill run {run / 'recipe.yaml'}`, then this date again"
            )


def _planned(store: Store, recipe: Recipe, digest: chain.Digest, earlier: Mapping[str, Artifact]) -> dict[str, str]:
    """The fingerprints that the date's stages would have, of those that later dates build on."""
    found: dict[str, str] = {}

    def do(stage: Stage[Any], config: Any, label: str = "", **inputs: Artifact) -> Artifact:
        key = stage.key(config, inputs)
        if stage.name in STAGES:
            found[stage.name] = key
        return Artifact(stage.name, key, store.path(stage.name, key))

    chain.run(do, recipe, LAST, digest=digest, earlier=earlier)
    return found


def _only(recipe: Recipe, known: set[tuple[str, str]]) -> chain.Digest:
    """Of the files that a source's pattern finds today, those that the date's run read; every file when that is not known."""
    sources = {path for source in recipe.corpus.sources if (named := getattr(source, "path", "")) for path in expand(named)}

    def digest(path: Path) -> SourceFile | None:
        file = SourceFile.of(path)
        return file if not known or path not in sources or (file.name, file.digest) in known else None

    return digest


def _files(run: Path, workspace: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of every file from outside that the stages of a run read, by their manifests, quarantined ones too."""
    for row in json.loads((run / "stages.json").read_text(encoding="utf-8")):
        folder = workspace / row["path"]
        for path in (folder / MANIFEST, *sorted(folder.parent.glob(f".{folder.name}.*/{MANIFEST}"))):
            with suppress(OSError, ValueError, KeyError):
                yield from _source_files(json.loads(path.read_text(encoding="utf-8"))["config"])


def _source_files(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value.keys() == {"name", "digest"}:
        yield str(value["name"]), str(value["digest"])
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _source_files(item)
