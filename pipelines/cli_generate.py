"""`textmill generate` and `textmill fill`: text from a model, printed or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.errors import ConfigError
from pipelines.cli_options import HERE, AsJson, Workspace

if TYPE_CHECKING:
    from training.evaluation.decoding import BeamSearch, Sampling

Model = Annotated[str, typer.Argument(help="A model of the newest run (gpt), or a directory that holds one.")]
TEMPERATURE = 0.8


def generate(
    model: Model,
    prompt: Annotated[list[str] | None, typer.Option(help="The text to continue; repeatable: all prompts form one batch.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file with one prompt per line, in place of --prompt.")] = None,
    tokens: Annotated[int, typer.Option(help="New tokens at most.")] = 60,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the most probable token each time (greedy). 0.8 unless set; not with --beams.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="Sample from this many most probable tokens; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set of tokens with this probability.")] = 1.0,
    samples: Annotated[int, typer.Option(help="Texts for each prompt.")] = 1,
    beams: Annotated[int, typer.Option(help="Beam search with this many beams in place of sampling; 0: none.")] = 0,
    length_penalty: Annotated[float, typer.Option(help="Beam scores are divided by length to this power.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="End a text before this string; repeatable.")] = None,
    seed: int = 1,
    workspace: Workspace = HERE,
    as_json: AsJson = False,
) -> None:
    """Continue a text with a causal model: greedy, sampled, or by beam search."""
    given = _prompts(prompt, prompts)
    how = _decoding(temperature, top_k, top_p, samples, beams, length_penalty, seed)
    from pipelines.models import model_folder
    from training.evaluation.generate import continue_texts

    found = continue_texts(model_folder(workspace.absolute(), model), given, tokens, how, tuple(stop or ()))
    if as_json:
        rows = [{"prompt": one, "texts": texts} for one, texts in zip(given, found, strict=True)]
        return typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    for text in (text for texts in found for text in texts):
        typer.echo(text)
    return None


def fill(
    model: Model,
    text: Annotated[list[str], typer.Argument(help="Texts with [MASK] where a token is missing.")],
    best: Annotated[int, typer.Option(min=1, help="How many tokens to show for each [MASK].")] = 5,
    workspace: Workspace = HERE,
    as_json: AsJson = False,
) -> None:
    """Fill masked tokens with a masked language model: the most probable tokens and their probabilities."""
    from pipelines.models import model_folder
    from training.evaluation.generate import fill_masked

    found = fill_masked(model_folder(workspace.absolute(), model), text, best)
    if as_json:
        rows = [
            {"text": one, "masks": [[{"token": g.token, "probability": round(g.probability, 6)} for g in guesses] for guesses in masks]}
            for one, masks in zip(text, found, strict=True)
        ]
        return typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    for one, masks in zip(text, found, strict=True):
        typer.echo(one)
        for number, guesses in enumerate(masks, 1):
            typer.echo(f"  [MASK] {number}: " + ", ".join(f"{guess.token} {guess.probability:.3f}" for guess in guesses))
    return None


def _prompts(prompt: list[str] | None, file: Path | None) -> list[str]:
    if (file is None) == (not prompt):
        raise ConfigError("give either --prompt (repeatable) or --prompts FILE")
    if file is None:
        return list(prompt or ())
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {file}: cannot be read as UTF-8 text ({error})") from error
    if not lines:
        raise ConfigError(f"--prompts {file}: the file is empty; write one prompt per line")
    return lines


def _decoding(
    temperature: float | None, top_k: int, top_p: float, samples: int, beams: int, length_penalty: float, seed: int
) -> Sampling | BeamSearch:
    from training.evaluation.decoding import BeamSearch, Sampling

    if not beams:
        if length_penalty != 1.0:
            raise ConfigError("--length-penalty is for beam search; set --beams")
        return Sampling(TEMPERATURE if temperature is None else temperature, top_k, top_p, seed, samples)
    if temperature or top_k or top_p != 1.0 or samples != 1:
        raise ConfigError("--beams searches without sampling: leave out --temperature, --top-k, --top-p and --samples")
    return BeamSearch(beams, length_penalty)
