"""Trainings that are stopped again and again: patience under SIGTERM, an extension under kill -9, each as if it had never been stopped.

`make prove PROVE=tests/training/prove_stops.py`. Every attempt is a process of its own; the signal comes from within, in a step.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from infra.artifact import Artifact
from infra.errors import Preempted
from infra.stage import run
from infra.store import Store
from tests.training.small import Here, prepared
from tests.training.test_extension import BRANCH, SHAPE, config_of, same
from training.card import read_card
from training.engine import loop, scaling
from training.pretrain import PRETRAIN
from training.pretrain_config import PretrainConfig

SAVED = 4  # the exit code of an attempt that SIGTERM ended
PATIENT = {"schedule": "constant", "lr": 3e-2, "valid_every": 2, "patience": 6, "keep_best": True, "save_every": 1000, "warmup": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def data(store: Store) -> dict[str, Artifact]:
    return prepared(store, True)


def _multiply_float16() -> None:
    """On a CPU that has no float16: slowly, and the same numbers."""
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    scaling.cpu_multiplies_fp16 = lambda: True
    CPU_Accelerator.is_fp16_supported = lambda self: True


def attempt(store: Store, config: PretrainConfig, inputs: dict[str, Artifact], number: int = 0, at: int = 0) -> int:
    """Train in a process of its own, which sends itself a signal in step `at`; its exit code."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(store, config, inputs, number, at))
    process.start()
    process.join(300)
    if process.exitcode is None:
        process.kill()
        pytest.fail("the training hangs")
    return process.exitcode


def _train(store: Store, config: PretrainConfig, inputs: dict[str, Artifact], number: int, at: int) -> None:
    forward_backward = loop._Run._forward_backward

    def signalled(self: Any, batch: Any, counts: Any, step: int) -> Any:
        if step + 1 == at:
            os.kill(os.getpid(), number)
        return forward_backward(self, batch, counts, step)

    loop._Run._forward_backward = signalled  # type: ignore[method-assign]
    if config.precision == "fp16":
        _multiply_float16()
    try:
        run(PRETRAIN, config, inputs, store, Here())
    except Preempted:
        os._exit(SAVED)
    os._exit(0)


def finished(store: Store, config: PretrainConfig, inputs: dict[str, Artifact]) -> Artifact:
    """The artifact of a training, which an attempt finishes where there is none."""
    assert attempt(store, config, inputs) == 0
    return run(PRETRAIN, config, inputs, store, Here())  # found, not trained


def test_patience_ends_at_the_same_step_when_twenty_sigterms_came_before(store: Store, data: dict[str, Artifact], tmp_path: Path) -> None:
    config = config_of(200, **PATIENT)
    straight = finished(store, config, data)
    last = straight.counts["steps"]
    print(f"patience ended the training after {last} of 200 steps, best {read_card(straight)['best_step']}")
    assert last < 200, "patience ends it early"
    assert last > 20
    stops = range(1, 21)
    other = Store(tmp_path)
    codes = [attempt(other, config, data, signal.SIGTERM, step) for step in stops]
    print(dict(zip(stops, codes, strict=True)))
    assert codes == [SAVED] * len(stops)
    stopped = finished(other, config, data)
    same(stopped, straight)
    assert stopped.counts["steps"] == last and read_card(stopped)["best_step"] == read_card(straight)["best_step"]


@pytest.mark.parametrize("zero", [0, 3])
def test_an_extension_in_float16_that_is_killed_is_the_longer_training(data: dict[str, Artifact], tmp_path: Path, zero: int) -> None:
    more = {"zero": zero, "precision": "fp16", "overrides": {**SHAPE, "dropout": 0.0}, "save_every": 2}
    store, killed = Store(tmp_path / "whole"), Store(tmp_path / "killed")
    base = finished(store, config_of(20, keep_state=True, **more), data)
    straight = finished(store, config_of(30, **more), data)
    given = {**data, "extended": base}
    for step in (BRANCH + 1, 21, 22, 25, 28, 30):
        assert attempt(killed, config_of(30, **more), given, signal.SIGKILL, step) == -signal.SIGKILL
    same(finished(killed, config_of(30, **more), given), straight)
