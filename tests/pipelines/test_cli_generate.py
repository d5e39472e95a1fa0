"""`textmill generate` and `textmill fill` on model directories, through the command itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from data_prep.tokenizer import bpe_eow, byte_bpe, wordpiece
from infra.errors import ConfigError
from pipelines.cli import app
from training.families.catalog import family

TEXT = "The miller carried the sack to the mill and the wind turned the wheel. " * 20
SHAPE = {"width": 32, "layers": 2, "heads": 4, "ffn": 0, "embedding_width": 0, "positions": 64, "dropout": 0.0}
TOKENIZERS: dict[str, Callable] = {
    "gpt1": lambda folder: bpe_eow.train([TEXT], folder, 80, min_frequency=1),
    "gpt2": lambda folder: byte_bpe.train([TEXT], folder, 300),
    "bert": lambda folder: wordpiece.train([TEXT], folder, 80, min_frequency=1),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models of three families, each with its tokenizer."""
    root = tmp_path_factory.mktemp("models")
    for name, train in TOKENIZERS.items():
        meta = train(root / f"{name}-tokenizer")
        found = family(name)
        model = found.build(replace(found.sizes["tiny"], vocab=meta.vocab, **SHAPE), seed=0)
        found.export(model, root / name, root / f"{name}-tokenizer")
    return root


def textmill(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def refused(*words: str) -> str:
    error = textmill(*words).exception
    assert isinstance(error, ConfigError)
    return str(error)


def test_prompts_are_continued_in_one_batch(models: Path) -> None:
    told = textmill(
        "generate", str(models / "gpt2"), "--prompt", "The miller", "--prompt", "The wind", "--tokens", "4", "--temperature", "0"
    )
    assert told.exit_code == 0, told.output
    assert "The miller" in told.stdout and "\nThe wind" in told.stdout


def test_a_file_of_prompts_gives_json_with_every_sample(models: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("The miller\nThe wind turned\n", encoding="utf-8")
    words = (
        "generate",
        str(models / "gpt2"),
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--samples",
        "2",
        "--top-k",
        "9",
        "--top-p",
        "0.9",
    )
    rows = json.loads(textmill(*words, "--tokens", "5", "--json").stdout)
    assert [row["prompt"] for row in rows] == ["The miller", "The wind turned"]
    assert all(len(row["texts"]) == 2 and all(text.startswith(row["prompt"]) for text in row["texts"]) for row in rows)


def test_beams_and_stop_strings(models: Path) -> None:
    words = ("generate", str(models / "gpt2"), "--prompt", "The miller", "--tokens", "6", "--json", "--beams", "3")
    [row] = json.loads(textmill(*words).stdout)
    last = row["texts"][0][-1]
    [stopped] = json.loads(textmill(*words, "--stop", last).stdout)
    assert last not in stopped["texts"][0][len("The miller") :]


def test_gpt1_separates_the_first_new_word_from_the_prompt(models: Path) -> None:
    told = textmill("generate", str(models / "gpt1"), "--prompt", "The miller carried", "--tokens", "12", "--temperature", "0")
    first = told.stdout[len("The miller carried") :]
    assert told.exit_code == 0 and first.startswith((" ", "\n")) and first.strip()


def test_masks_are_filled(models: Path) -> None:
    told = textmill("fill", str(models / "bert"), "the [MASK] carried the [MASK]", "--best", "3")
    assert told.exit_code == 0 and "[MASK] 2: " in told.stdout
    [row] = json.loads(textmill("fill", str(models / "bert"), "the [MASK] turned", "--best", "2", "--json").stdout)
    assert len(row["masks"]) == 1 and len(row["masks"][0]) == 2 and 0 < row["masks"][0][0]["probability"] <= 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "either --prompt"),
        (("--prompt", "a", "--prompts", "b.txt"), "either --prompt"),
        (("--prompts", "missing.txt"), "missing.txt: cannot be read"),
        (("--prompt", "a", "--beams", "2", "--top-k", "3"), "--beams searches without sampling"),
        (("--prompt", "a", "--length-penalty", "2"), "set --beams"),
        (("--prompt", "a", "--top-p", "0"), "top_p 0.0"),
        (("--prompt", "a", "--samples", "0"), "samples 0"),
        (("--prompt", "a", "--stop", ""), "stop string is empty"),
    ],
)
def test_what_cannot_be_generated_is_refused(models: Path, words: tuple[str, ...], line: str) -> None:
    assert line in refused("generate", str(models / "gpt2"), *words)


def test_each_command_names_the_other(models: Path) -> None:
    assert "textmill fill" in refused("generate", str(models / "bert"), "--prompt", "a")
    assert "textmill generate" in refused("fill", str(models / "gpt2"), "a [MASK]")
