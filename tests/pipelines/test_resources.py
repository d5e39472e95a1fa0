"""How many ranks, how few will do, how often they start again: from the recipe or the command to the compute."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.errors import ConfigError
from infra.ray_compute import RayCompute
from pipelines import runner
from pipelines.cli import app
from pipelines.recipe import load
from pipelines.runner import Order
from training.engine import scaling


class Enough(Exception):
    """What the test wanted to see has been seen."""


def test_the_commands_options_reach_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Order] = []

    def prepare(order: Order) -> None:
        asked.append(order)
        raise Enough

    monkeypatch.setattr(runner, "prepare", prepare)
    words = ["run", "demo", "-w", str(tmp_path), "--ray", "127.0.0.1:1", "--ranks", "6", "--min-ranks", "3", "--restarts", "0"]
    words += ["--rank-cpus", "5"]
    assert isinstance(CliRunner().invoke(app, words).exception, Enough)
    monkeypatch.undo()
    monkeypatch.setattr("infra.ray_compute.check_address", lambda address: None)  # no cluster is there
    compute = runner._compute(runner.prepare(asked[0]))
    assert isinstance(compute, RayCompute)
    assert (compute.address, compute.ranks, compute.min_ranks, compute.restarts, compute.rank_cpus) == ("127.0.0.1:1", 6, 3, 0, 5)


def test_left_out_options_leave_the_recipe_as_it_is(tmp_path: Path) -> None:
    said = ("resources.restarts=7", "resources.rank_cpus=3")
    compute = runner._compute(runner.prepare(Order("demo", tmp_path, said, plain=True))).compute
    assert (compute.ranks, compute.restarts, compute.rank_cpus) == (2, 7, 3)


def test_more_than_there_are_cannot_be_the_least() -> None:
    with pytest.raises(ConfigError, match="resources.min_ranks 3 is more than resources.ranks 2"):
        load("demo", ("resources.min_ranks=3",))


def test_help_names_them() -> None:
    told = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in told for option in ("--ranks", "--min-ranks", "--rank-cpus", "--restarts"))


def test_what_this_machine_cannot_train_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "cpu_multiplies_fp16", lambda: False)
    half = ("models.gpt.pretrain.precision=fp16",)
    with pytest.raises(ConfigError, match=r"models\.gpt: precision fp16 needs a GPU"):
        runner.prepare(Order("demo", tmp_path, half))
    assert not list(tmp_path.iterdir())
    assert runner.prepare(Order("demo", tmp_path, half, until="dedup")), "the data for another machine is made all the same"
    monkeypatch.setattr("infra.ray_compute.check_address", lambda address: None)  # no cluster is there
    assert runner.prepare(Order("demo", tmp_path, half, ray="127.0.0.1:1")), "a cluster's machines look for themselves"


@pytest.mark.parametrize("option", ["--ranks", "--min-ranks"])
def test_no_rank_at_all_is_refused(option: str, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["run", "demo", "-w", str(tmp_path), option, "0"])
    assert isinstance(told.exception, ConfigError) and option.strip("-").replace("-", "_") in str(told.exception)
