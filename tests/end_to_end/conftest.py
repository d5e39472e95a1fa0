"""The whole mill, run once for a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.end_to_end import growing, mini


@pytest.fixture(scope="session")
def finished(shared_directory: Path) -> mini.Place:
    """A place where the recipe ran undisturbed. Only to be looked at; `there` may be changed."""
    with FileLock(shared_directory / "mini.lock"):
        return mini.finished(shared_directory)


@pytest.fixture
def there(finished: mini.Place, tmp_path: Path) -> mini.Place:
    """A copy of the finished place for a test of its own."""
    return finished.twin(tmp_path / "twin")


@pytest.fixture(scope="session")
def days(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[growing.Days]:
    """A corpus that grew for three days. Runs there may follow; what the days made stays."""
    with growing.three_days(data, tmp_path_factory.mktemp("days")) as found:
        yield found
