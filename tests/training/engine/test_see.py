"""What training says of itself: figures that add up, told on any number of ranks, and nothing of them in the weights."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from infra.compute import LocalCompute
from infra.errors import ConfigError
from infra.log import attach
from tests.training.engine.trial import LENGTH, Numbers, Trial, run_all, settings
from training.engine import ceiling as ceilings
from training.engine import see
from training.engine.ceiling import GPUS, Ceiling, gpu_named, probe, rate
from training.engine.measure import Journal, Verdict
from training.engine.rank import Rank
from training.engine.see import Known, Meter, Talk, peak_bytes

ALONE = Rank(0, 1, torch.device("cpu"))


def test_two_ranks_tell_rates_waits_talk_and_memory(tmp_path: Path) -> None:
    trials = [Trial(tmp_path / f"{zero}", settings(steps=6, zero=zero, log_every=2), "bert") for zero in (1, 3)]
    seen = LocalCompute(2, 0).gang("trial", partial(run_all, trials))[0]
    assert seen is not None
    real, computed = (int(Numbers("bert").whole(0).keep_BL.sum()), 10 * LENGTH)  # type: ignore[union-attr]
    for one in seen:
        for line in one.lines:
            told = line["speed"]
            assert told["real_tokens_per_s"] / told["computed_tokens_per_s"] == pytest.approx(real / computed, rel=0.02)
            assert 0 <= told["data_wait"] < 1 and 0 < told["communication"] < 1
            assert told["peak_bytes"] > 50 * 2**20
            assert "mfu" not in told, "this tower's arithmetic was not told"


def test_a_share_of_the_ceiling_is_arithmetic_over_time() -> None:
    meter = Meter(ALONE, Talk(ALONE), Known(flops=lambda length: 1e6 * length), "fp32")
    batch = Numbers("bert").whole(0)
    meter.passed(batch, 0.5)
    meter.passed(batch, 1.5)
    told = meter.tell()
    assert told["mfu"] == pytest.approx(2 * 10 * LENGTH * 1e6 * LENGTH / 2.0 / meter.ceiling.flops, rel=1e-3)
    assert told["ceiling_flops"] == pytest.approx(probe("cpu", "fp32").flops, rel=1e-3) and "1024" in told["ceiling"]
    assert meter.tell() == {}, "each figure is of the steps since the last time"


def test_a_peak_that_was_tried_on_a_busy_machine_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(ALONE, Talk(ALONE), Known(flops=lambda _: 1e6), "fp32")
    meter.ceiling = Ceiling(1e5, "tried at start")
    monkeypatch.setattr(see, "probe_again", lambda *_: 8e6)
    told: list[dict[str, object]] = []
    end = attach(lambda event: told.append(event) if event["kind"] == "warning" else None)
    reached = 10 * LENGTH * 1e6 / 40
    for _ in range(2):
        meter.passed(Numbers("bert").whole(0), 40.0)
        figures = meter.tell()
        assert figures["mfu"] == pytest.approx(reached / 8e6, rel=1e-3) and figures["mfu"] <= 1
        assert figures["ceiling_flops"] == pytest.approx(8e6) and "corrected" in str(figures["ceiling"])
    end()
    assert len(told) == 1 and "the machine was busy" in str(told[0]["message"])


def test_a_probe_says_that_others_took_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "probe", lambda *_: ceilings.Probed(1e9, 0.4))
    assert "while other programs took 60% of the CPUs" in ceilings.ceiling(torch.device("cpu"), "fp32").source
    monkeypatch.setattr(ceilings, "probe", lambda *_: ceilings.Probed(1e9, 0.95))
    assert "other programs" not in ceilings.ceiling(torch.device("cpu"), "fp32").source


@pytest.mark.parametrize("name", ["T4", "RTX 3090", "rtx4090", "L4", "A10"])
def test_cards_of_workstations_and_clouds_are_known(name: str) -> None:
    gpu = gpu_named(name)
    assert rate(gpu, "fp32") < rate(gpu, "fp16") and 16e9 <= gpu.memory <= 24e9
    if not gpu.bf16:
        with pytest.raises(ConfigError, match="does not multiply in bf16"):
            rate(gpu, "bf16")


def test_only_the_talk_and_waits_within_steps_are_shares_of_their_time() -> None:
    """Between steps ranks wait while one writes a checkpoint, which can take longer than the few steps since the last figures."""
    talk = Talk(ALONE)
    meter = Meter(ALONE, talk, Known(), "fp32")
    for talked in (0.1, 0.3):
        talk.seconds += 9.0
        with meter.waiting():
            time.sleep(0.02)
        meter.starts()
        talk.seconds += talked
        meter.passed(Numbers("bert").whole(0), 0.5)
    told = meter.tell()
    assert told["communication"] == pytest.approx(0.4) and told["data_wait"] == 0
    meter.starts()
    meter.passed(Numbers("bert").whole(0), 0.5)
    assert meter.tell()["communication"] == 0


def test_bits_per_byte_are_those_of_the_text(tmp_path: Path) -> None:
    """256 equally likely tokens of two bytes each are worth 4 bits a byte; a masked model has none."""
    journal = Journal(tmp_path / "metrics.jsonl", "pretrain", ALONE, 1, 0)
    journal.tokens_per_byte = 0.5
    told = journal._text(Verdict(9.0, {"next": math.log(256)}))
    assert told == {"valid_perplexity": pytest.approx(256), "valid_bits_per_byte": pytest.approx(4)}
    assert journal._text(Verdict(9.0, {"mlm": 1.0})) == {}


def test_memory_is_the_peak_not_what_is_held_now() -> None:
    before = peak_bytes(torch.device("cpu"))
    held = torch.ones(64 * 2**20)
    most = peak_bytes(torch.device("cpu"))
    assert most > held.nbytes
    del held
    slack = 2**21  # the kernel adds up its threads' counts now and then
    assert peak_bytes(torch.device("cpu")) + slack >= most and most + slack >= before


def test_a_gpu_is_known_by_name_or_refused() -> None:
    assert rate(gpu_named("h100"), "bf16") == 989e12 and all(gpu.fp32 for gpu in GPUS.values())
    with pytest.raises(ConfigError, match="H200"):
        gpu_named("H300")
    with pytest.raises(ConfigError, match="choose fp32"):
        rate(gpu_named("V100"), "bf16")
