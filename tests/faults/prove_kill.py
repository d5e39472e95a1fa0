"""kill -9 of the whole process tree in every stage of the chain, one after another in one workspace (test_kill.py takes some)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.end_to_end.mini import Place
from tests.faults.test_kill import (
    STAGES,
    TRAININGS,
    Killed,
    killed_in,
    test_a_killed_training_went_on_from_its_checkpoint,
    test_killed_in_its_stages_the_run_ends_as_if_nothing_had_been,
)

__all__ = ["test_a_killed_training_went_on_from_its_checkpoint", "test_killed_in_its_stages_the_run_ends_as_if_nothing_had_been"]


@pytest.fixture(scope="module")
def blows(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    yield from killed_in((*STAGES, *TRAININGS, "evaluate half"), finished, tmp_path_factory.mktemp("killed"))
