"""`textmill plan --model`: every name of the catalog has an answer, every other name a nearest one."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from infra.errors import ConfigError
from pipelines.plan_model import find, lines, names, plan_model, rows

PEAKS = """
from pathlib import Path
from pipelines.plan_model import plan_model
for name in ("bert/tiny", "gpt3/175b"):
    plan_model(name)
    print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")))
"""  # KiB; not ru_maxrss, which begins with what the parent held


def textmill(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pipelines.cli", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", names())
def test_every_model_has_a_plan(name: str) -> None:
    told = json.loads(json.dumps(plan_model(name, ranks=8, precision="bf16")))
    totals = [told["memory"][f"zero{stage}"]["total"] for stage in range(4)]
    assert totals[2] <= totals[1] and min(totals) > 0 and told["flops_per_token"] > told["parameters"]
    assert told["trained_parameters"] >= told["parameters"] > 0
    assert len(rows(told)) == 4 and told["model"] in lines(told)[0]


def test_the_command_answers_in_ten_seconds_with_the_known_counts() -> None:
    began = time.monotonic()
    done = textmill("plan", "--model", "gpt3/175b", "--ranks", "1024", "--precision", "bf16", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] == 174_604_259_328
    assert time.monotonic() - began < 30  # ten on a quiet machine


def test_the_largest_model_takes_no_memory() -> None:
    """Its weights alone would be 650 GiB; its plan takes no more than the smallest model's, and torch itself."""
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True)
    small, large = (int(line) for line in done.stdout.split())
    assert large - small < 64 * 1024, "KiB"
    assert large < 1024**2


def test_people_get_a_table() -> None:
    done = textmill("plan", "--model", "electra/small")
    assert done.returncode == 0, done.stderr
    assert "13,549,057 parameters (+ 647,162" in done.stdout and "optimiser" in done.stdout


def test_only_what_a_paper_says_is_called_its() -> None:
    """GPT-2's paper names neither rates nor steps, DistilBERT's no steps; the sizes for CPUs are in no paper."""
    said = {name: next(line for line in lines(plan_model(name)) if " steps of " in line) for name in names()}
    papers = {name for name, line in said.items() if line.startswith("as its paper trained it")}
    assert papers >= {"bert/base", "roberta/large", "gpt3/175b", "gpt1/base", "electra/small", "electra/base", "albert/xxlarge-v1"}
    assert not papers & {"gpt2/124m", "gpt2/1.5b", "distilbert/base", "distilgpt2/base", "distilroberta/base", "tinybert/4", "albert/base"}
    ours = {name for name, line in said.items() if line.startswith("a preset of textmill for CPUs")}
    assert ours == {name for name in names() if name.split("/")[1] in ("tiny", "mini", "small", "medium")} - {"electra/small"}


def test_a_wrong_name_is_one_line_and_exit_code_two() -> None:
    done = textmill("plan", "--model", "gpt2/124")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "there is no model `gpt2/124`; did you mean `gpt2/124m`?; there is gpt2/124m, gpt2/355m" in done.stderr


def test_a_plan_of_nothing_says_what_it_wants() -> None:
    done = textmill("plan")
    assert done.returncode == 2 and "name a recipe" in done.stderr


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("robert/base", {}, "did you mean `roberta/base`"),
        ("bert", {}, "there is bert/base"),
        ("bert/base", {"precision": "fp8"}, "precision 'fp8' is none of"),
        ("bert/base", {"length": 4096}, "more than the 512 positions"),
        ("bert/base", {"ranks": 0}, "ranks is 0"),
    ],
)
def test_what_cannot_be_is_said(name: str, changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_model(name, **changes)


def test_names_are_found_in_any_case() -> None:
    assert find("GPT2/1.5B")[1] == "1.5b"
    with pytest.raises(ConfigError):
        find("nothing/like-it")


def test_time_on_a_cluster_is_arithmetic_over_rate() -> None:
    """GPT-3 175B: 3.14e23 operations for 300e9 tokens (Brown et al. 2020, appendix D: 6 P a token), which the preset has."""
    told = plan_model("gpt3/175b", ranks=1024, precision="bf16", on="A100", mfu=0.5)
    days = told["cluster"]["seconds"] / 86_400
    assert days == pytest.approx(3.14e23 / (1024 * 312e12 * 0.5) / 86_400, rel=0.05)
    assert "zero0" not in told["cluster"]["fits"] and "days" in " ".join(lines(told))
    assert plan_model("gpt3/175b", precision="bf16", on="H100")["cluster"]["fits"] == []
    small = plan_model("bert/tiny", ranks=2, precision="bf16", on="h200")
    assert len(small["cluster"]["fits"]) == 4 and "ZeRO 0, 1, 2, 3 fit" in " ".join(lines(small))


@pytest.mark.parametrize(("changes", "said"), [({"on": "H300"}, "H200"), ({"on": "V100"}, "choose fp32"), ({"mfu": 1.5}, "at most 1")])
def test_a_cluster_that_cannot_be_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_model("bert/tiny", precision="bf16", **{"on": "H100", **changes})


def test_what_is_computed_again_or_offloaded_is_not_held() -> None:
    usual = {"ranks": 4, "precision": "bf16", "on": "H100", "micro_batch": 8}
    changes: list[dict] = [{}, {"activation_checkpointing": 1}, {"offload": "optimizer"}]
    plain, less, away = (plan_model("gpt2/1.5b", **usual, **more) for more in changes)
    assert less["memory"]["zero1"]["activations"] < plain["memory"]["zero1"]["activations"] / 8
    assert "zero0" in plain["memory"] and "zero0" not in away["memory"]
    moved = away["memory"]["zero1"]
    assert moved["optimiser"] == 0 and moved["host"] == plain["memory"]["zero1"]["optimiser"] + 4 * -(-plain["parameters"] // 4)
    assert list(plan_model("gpt2/1.5b", **usual, offload="parameters")["memory"]) == ["zero3"]
    with pytest.raises(ConfigError, match="offload 'all' is none of"):
        plan_model("gpt2/1.5b", offload="all")
