"""`textmill show` and `textmill trace`: a look into what was made, and where it came from."""

from __future__ import annotations

from typing import Annotated

import typer

from infra.errors import ConfigError
from pipelines.cli_options import HERE, AsJson, Workspace, console, print_json


def show(
    what: Annotated[
        str,
        typer.Argument(help="A stage (dedup), a label of the newest run (gpt), stage/fingerprint, a URL, a document's id, or batch MODEL."),
    ],
    model: Annotated[str, typer.Argument(help="With batch: a model of the newest run (gpt), or stage/fingerprint.")] = "",
    step: Annotated[int, typer.Option(help="With batch: the step's number, from 0, as in metrics.jsonl.")] = 0,
    sequences: Annotated[int | None, typer.Option(help="With batch: how many to show; 0 is all, as is --json without it.")] = None,
    workspace: Workspace = HERE,
    as_json: AsJson = False,
) -> None:
    """An artifact: its manifest, counts, lineage and samples. A URL or a document: where it came from, and what became of it.

    `show batch MODEL --step S` prints what the model read at a step: hidden and replaced tokens, segments and labels.
    """
    if what == "batch" and model:
        from pipelines import show_batch as batches

        shown = batches.show_batch(
            workspace.absolute(), model, step, (0 if as_json else batches.SEQUENCES) if sequences is None else sequences
        )
        return print_json(shown) if as_json else batches.render(shown, console())
    if model:
        raise ConfigError(f"show takes one name, or `batch MODEL`: not {what} {model}")
    from infra.store import Store
    from pipelines import show as showing

    found = showing.show(Store(workspace.absolute() / "artifacts"), workspace.absolute() / "runs", what)
    if as_json:
        return print_json(found)
    return showing.render(found, console())


def trace(
    model: Annotated[str, typer.Argument(help="A model of the newest run (gpt), or stage/fingerprint.")],
    step: Annotated[int, typer.Option(help="The step's number, from 0, as in metrics.jsonl.")],
    workspace: Workspace = HERE,
    as_json: AsJson = False,
) -> None:
    """The documents that a model learnt from at one step."""
    from pipelines import trace as tracing
    from pipelines.console import table

    found = tracing.trace(workspace.absolute(), model, step)
    if as_json:
        return print_json(found)
    console().print(table("", found["documents"], ("shard", "row", "id", "url")))
    told = f"{len(found['documents'])} documents in the {found['sequences']} sequences of step {step} of {found['steps']}"
    return typer.echo(f"{told}, epoch {found['epoch']} ({found['model']})")
