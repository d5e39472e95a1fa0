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

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # workers share the CPUs; torch and OpenMP read this when they are imported
    threads = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))

settings.register_profile("house", deadline=None, derandomize=True)  # a busy machine is not a slow function
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name.startswith("prove_"):
            item.add_marker(pytest.mark.prove)


@pytest.fixture(scope="session")
def data() -> Path:
    """Real data that is not ours to ship; TEXTMILL_TEST_DATA says where it lies."""
    folder = os.environ.get("TEXTMILL_TEST_DATA", "")
    if folder and Path(folder).is_dir():
        return Path(folder)
    if os.environ.get("CI") == "true":
        pytest.fail("TEXTMILL_TEST_DATA names no folder; under CI the tests on real data must run")
    return pytest.skip("TEXTMILL_TEST_DATA is not set")  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary directory that all pytest-xdist workers of this test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def local() -> LocalCompute:
    return LocalCompute()
