"""The whole mill, run once for a session."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from tests.end_to_end import mini


@pytest.fixture(scope="session")
def finished(shared_directory: Path) -> mini.Place:
    """A place where the recipe ran undisturbed. Only to be looked at; `there` may be changed."""
    with FileLock(shared_directory / "mini.lock"):
        return mini.finished(shared_directory)


@pytest.fixture
def there(finished: mini.Place, tmp_path: Path) -> mini.Place:
    """A copy of the finished place for a test of its own."""
    return finished.twin(tmp_path / "twin")
