"""The whole mill, run once for a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end import mini


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> mini.Place:
    """A place where the recipe ran undisturbed. Only to be looked at; `there` may be changed."""
    return mini.finished(tmp_path_factory.getbasetemp())


@pytest.fixture
def there(finished: mini.Place, tmp_path: Path) -> mini.Place:
    """A copy of the finished place for a test of its own."""
    return finished.twin(tmp_path / "twin")
