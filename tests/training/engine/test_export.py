"""What was trained is written without any rank holding the whole of it in its own memory, as the library would have written it."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from infra.compute import LocalCompute
from tests.training.engine.trial import backbone, gpt, together
from training.backbone.tensor_file import write_tensors
from training.engine import heap
from training.engine.rank import here
from training.engine.zero import Engine, ZeroConfig, join
from training.families.catalog import family
from training.pretrain import around

PARTS, SIDE = 12, 1536  # matrices of 9 MB, 113 MB in all


def anonymous() -> int:
    """Bytes of this process's own memory; pages of mapped files do not count, as the system may take them away, nor what is free."""
    with heap.held():
        pass  # what is free goes back at its end
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def held(folder: Path) -> list[tuple[int, int, bool]]:
    """For each stage: what the gathered weights take of a rank's own memory, their size, and whether they are right."""
    torch.set_num_threads(1)
    found = []
    for stage in range(4):
        place = here()
        join(place)
        torch.manual_seed(stage)
        tower = nn.Sequential(*[nn.Linear(SIDE, SIDE, bias=False) for _ in range(PARTS)])
        expected = [float(p.detach().double().sum()) for p in tower.parameters()]
        engine = Engine(tower, ZeroConfig(stage), place)
        before = anonymous()
        weights = engine.weights(folder)
        grown = anonymous() - before
        right = weights is None or [float(w.double().sum()) for w in weights.values()] == pytest.approx(expected, abs=1e-6)
        found.append((grown, 4 * PARTS * SIDE * SIDE, right and (weights is None) == (os.environ["RANK"] != "0")))
        del engine, tower, weights
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's own memory")
def test_no_rank_holds_the_whole_model_in_its_own_memory(tmp_path: Path) -> None:
    for rank in LocalCompute(2).gang("export", partial(held, tmp_path)):
        for grown, size, right in rank:
            assert right
            assert grown < 0.35 * size, rank
    assert not list(tmp_path.iterdir()), "the files have no name any more"


NAMES = st.text(st.characters(categories=("L", "N"), include_characters="._ é"), min_size=1, max_size=8).filter(
    lambda n: n != "__metadata__"
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=6))
def test_the_file_is_the_librarys_byte_for_byte(tmp_path: Path, shapes: dict[str, list[int]]) -> None:
    weights = {name: torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape) for name, shape in shapes.items()}
    write_tensors(tmp_path / "ours", weights)
    save_file(weights, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_views_and_shared_tensors_are_written_as_they_read(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(3, 4)
    write_tensors(tmp_path / "file", {"t": whole.t(), "rows": whole[1:], "again": whole})
    read = load_file(tmp_path / "file")
    assert torch.equal(read["t"], whole.t()) and torch.equal(read["rows"], whole[1:]) and torch.equal(read["again"], whole)


def test_a_tower_around_weights_is_made_of_them_and_keeps_what_is_tied() -> None:
    for tower, name in (
        (gpt(), "gpt2"),
        (family("electra").build(replace(backbone(False, 0.0), embedding_width=24, generator=0.25)), "electra"),
    ):
        weights = tower.state_dict()
        made = around(family(name), tower.config, weights)
        assert together(dict(made.named_parameters(remove_duplicate=False))) == together(weights)
        for key, parameter in made.named_parameters(remove_duplicate=False):
            assert parameter.data_ptr() == weights[key].data_ptr(), key
        assert [head.name for head in made.heads] == [head.name for head in tower.heads]
        assert not any(value.is_meta for value in made.state_dict().values())
