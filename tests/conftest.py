"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from infra.compute import LocalCompute
from infra.store import Store

os.environ.setdefault("RAY_AUTH_TOKEN", "7" * 64)  # Ray reads it once a process: all clusters of the tests share one
os.environ.setdefault("RAY_AUTH_MODE", "token")

settings.register_profile("house", deadline=None, derandomize=True)  # a busy machine is not a slow function
settings.load_profile("house")


@pytest.fixture(scope="session")
def data() -> Path:
    """Real data that is not ours to ship; TEXTMILL_TEST_DATA says where it lies."""
    folder = os.environ.get("TEXTMILL_TEST_DATA", "")
    if folder and Path(folder).is_dir():
        return Path(folder)
    if os.environ.get("CI") == "true":
        pytest.fail("TEXTMILL_TEST_DATA names no folder; under CI the tests on real data must run")
    return pytest.skip("TEXTMILL_TEST_DATA is not set")  # type: ignore[no-any-return]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def local() -> LocalCompute:
    return LocalCompute()
