"""Time of a CPU's step against a count by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from training import pace
from training.cost import Setting, activations, shape_of, training_flops
from training.families.catalog import family

SETTING = Setting(256, precision="bf16", micro_batch=8)
SMALL = {"layers": 6, "width": 384, "heads": 6, "ffn": 0, "embedding_width": 0, "positions": 256}


def made(name: str = "gpt2", dropout: float = 0.0):
    found = family(name)
    return found, shape_of(found, replace(found.backbone(next(iter(found.sizes)), vocab=8192), dropout=dropout, **SMALL))


def test_products_take_what_their_rate_says_and_all_else_the_cores() -> None:
    found, tower = made()
    slow, fast, many = (pace.on_cpu(found, tower, SETTING, rate, cores) for rate, cores in ((1e11, 1), (1e12, 1), (1e12, 4)))
    flops = 8 * 256 * training_flops(found, tower, 256)
    assert slow.micro - fast.micro == pytest.approx(flops * (1e-11 - 1e-12))
    assert fast.micro - many.micro == pytest.approx(0.75 * pace.KEPT["bf16"] * activations(found, tower, SETTING) / 2)
    assert fast.update == slow.update == pytest.approx(4 * many.update) == pytest.approx(5.5e-9 * 13_859_712, rel=0.01)


def test_the_gpt_of_the_benchmarks_takes_what_it_took() -> None:
    """0.316 to 0.325 s a step on two cores, whose products ran at 0.98 Tflop/s; BERT with dropout, 512 wide, 0.685 s."""
    found, tower = made()
    told = pace.on_cpu(found, tower, SETTING, 0.98e12, 2)
    assert told.micro + told.update == pytest.approx(0.32, rel=0.1)


def test_dropout_and_layers_that_are_computed_again_cost_what_they_are() -> None:
    found, tower = made()
    whole, again = (pace.on_cpu(found, tower, replace(SETTING, recompute=every), 1e12, 2) for every in (0, 2))
    assert again.micro - whole.micro == pytest.approx(8 * 256 * training_flops(found, tower, 256) / 6 / 1e12), "half the layers, forward"
    dropping = pace.on_cpu(found, made(dropout=0.1)[1], SETTING, 1e12, 2)
    masks = 8 * 256 * 6 * (2 * 384 * 2 + 6 * 256 * 3) / 2  # numbers kept more: masks, and attention's weights once more and a byte
    drawn = 8 * 256 * (384 + 6 * (2 * 384 + 6 * 256))
    assert dropping.micro - whole.micro == pytest.approx((pace.KEPT["bf16"] * masks + pace.DROPPED["bf16"] * drawn) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("name", "size", "gpus", "rate", "length", "tokens", "precision", "days"),
    [
        ("electra", "small", 1, 15.7e12, 128, 1_000_000 * 128 * 128, "fp32", 4.0),  # Clark et al. 2020, table 1: a V100
        ("gpt2", "124m", 8, 312e12, 1024, 600_000 * 491_520, "bf16", 4.0),  # nanoGPT's README: 8 A100
    ],
)
def test_a_gpu_takes_about_what_published_trainings_took(
    name: str, size: str, gpus: int, rate: float, length: int, tokens: int, precision: str, days: float
) -> None:
    found = family(name)
    tower = shape_of(found, found.backbone(size))
    setting = Setting(length, gpus, precision, micro_batch=16, gpu=True)
    told = pace.on_gpu(found, tower, setting, rate)
    assert tokens / (gpus * length * 16) * told.micro / 86_400 == pytest.approx(days, rel=0.25)


def test_a_gpus_share_grows_with_the_width_and_a_given_one_replaces_it() -> None:
    assert 0.2 < pace.reached(256) < pace.reached(1024) < pace.reached(12_288) < 0.5
    found, tower = made()
    setting = Setting(256, precision="bf16", micro_batch=512, gpu=True)
    flops = 512 * 256 * training_flops(found, tower, 256)
    assert pace.on_gpu(found, tower, setting, 1e14, mfu=0.25).micro == pytest.approx(flops / 0.25e14)
    tiny = pace.on_gpu(found, tower, replace(setting, micro_batch=1), 1e15)
    assert tiny.micro == pytest.approx(6 * pace.LAUNCH), "six layers are started, however fast their products are"
