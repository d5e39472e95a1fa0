"""A corpus that grows: each dated run of a recipe builds on what the run of the date before it made.

`<workspace>/corpora/<recipe>.json` lists the parts by date, each with the artifacts that the next one starts from: the links
known so far, the pages fetched so far, the corpus so far. It is a list of names; every byte stands in the artifacts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.artifact import SEAL, Artifact, seal
from infra.errors import ArtifactError, ConfigError
from infra.store import Store, write_whole
from pipelines.recipe import Recipe

STAGES = ("links", "crawl", "dedup")  # what has an `earlier` of its own kind


class LostPart(ArtifactError):
    """What an earlier date built is missing or was quarantined. date: that date's."""

    def __init__(self, message: str, date: str) -> None:
        super().__init__(message)
        self.date = date

    def __reduce__(self) -> tuple[type[LostPart], tuple[str, str]]:
        return type(self), (str(self), self.date)


class Growth:
    """What a run of this recipe and date builds on, and where it is noted. A corpus that does not grow builds on nothing."""

    def __init__(self, workspace: Path, store: Store, recipe: Recipe) -> None:
        """Raises ConfigError without a date, ArtifactError when the list of dates is damaged.

        An earlier date whose artifacts are missing is reported by `earlier` and `again`: a run can rebuild them (rebuild.py).
        """
        self.path, self.store, self.recipe = workspace / "corpora" / f"{recipe.name}.json", store, recipe
        if recipe.corpus.grow and not recipe.date:
            raise ConfigError(
                "corpus.grow adds one dated part at a time: give the date, `--set date=2026-11-25` (a schedule gives its own)"
            )
        self._earlier: dict[str, Artifact] = {}
        self._lost: LostPart | None = None
        with suppress(LostPart):
            self.again()

    @property
    def earlier(self) -> dict[str, Artifact]:
        """What the run builds on, by stage. Raises LostPart when it is missing."""
        if self._lost:
            raise self._lost
        return self._earlier

    def again(self) -> dict[str, Artifact]:
        """What the run builds on, looked for again. Raises LostPart when it is missing."""
        self._lost = None
        try:
            self._earlier = self._before() if self.recipe.corpus.grow else {}
        except LostPart as error:
            self._lost = error
            raise
        return self._earlier

    def note(self, made: Mapping[str, Artifact]) -> None:
        """Write down that this date's part is done; another run of the same date replaces it."""
        if not self.recipe.corpus.grow:
            return
        together = {**self.earlier, **{name: made[name] for name in STAGES if name in made}}
        parts: dict[str, Any] = {
            **self.parts(),
            self.recipe.date: {name: artifact.fingerprint for name, artifact in sorted(together.items())},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        listed = dict(sorted(parts.items()))
        write_whole(self.path, json.dumps({**listed, SEAL: seal(listed)}, indent=1))

    def parts(self) -> dict[str, dict[str, str]]:
        """Date -> stage -> fingerprint. Raises ArtifactError when the file is torn."""
        if not self.path.exists():
            return {}
        try:
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            said = found.pop(SEAL, None)  # files of earlier versions have none
            if said is not None and said != seal(found):
                raise ValueError("it is not what was written: its own hash differs")
        except (OSError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{self.path}: cannot be read ({error}); mend it, or move it away to begin the corpus anew") from error
        return found

    def _before(self) -> dict[str, Artifact]:
        """The artifacts of the last part before this date."""
        dates = [date for date in self.parts() if date < self.recipe.date]
        if not dates:
            return {}
        last = max(dates)
        found = {}
        for stage, fingerprint in self.parts()[last].items():
            artifact = self.store.find(stage, fingerprint)
            if artifact is None:
                raise LostPart(
                    f"{self.path}: the corpus of {last} needs {stage}/{fingerprint}, which is missing or damaged; a run of "
                    f"{self.recipe.date} rebuilds it first",
                    last,
                )
            found[stage] = artifact
        return found
