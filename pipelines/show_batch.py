"""A batch as text: what a model read at a step, which tokens were hidden or replaced, which segments, and the labels it had to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from rich.console import Console
from rich.text import Text

from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer.base import Tokenizer
from infra.errors import ConfigError
from pipelines.trace import Opened, open_step

Row = dict[str, Any]
SEQUENCES = 4  # shown to people
PAIRS = {
    "nsp": ("B follows A in its document", "B is from another document"),
    "sop": ("A and B are in their order", "A and B are swapped"),
}
KINDS = {"masked": "cyan", "replaced": "magenta", "unchanged": "yellow"}  # of predicted tokens, and their colors
LEGEND = "[MASK=word]: hidden, the label is word; {other=word}: replaced by other, the label is word; {word}: unchanged, predicted too"


class _Pieces(Protocol):
    pieces: Sequence[str]


def show_batch(workspace: Path, name: str, step: int, sequences: int = 0) -> Row:
    """The batch of a step (from 0) with its first sequences (0: all): of each its text, segments, predicted tokens, labels and padding.

    Raises ConfigError for a model that did not train on documents, or without such a step.
    """
    if sequences < 0:
        raise ConfigError(f"--sequences {sequences}: give 0 (all) or more")
    found = open_step(workspace, name, step)
    tokenizer, objective = tokenizers.load(found.inputs["tokenizer"]), objective_of(found)
    batch = found.feed.slice(found.batch, 0, 1)
    tensors = {"tokens": batch.tokens_BL, "segments": batch.segments_BL, "keep": batch.keep_BL, "parts": batch.parts_BL}
    columns: dict[str, Any] = {key: value.tolist() for key, value in tensors.items() if value is not None}
    labels = {key: value.tolist() for key, value in batch.labels.items()}
    rows = [
        sequence
        for number in range(len(batch))
        for sequence in _row({key: value[number] for key, value in columns.items()}, {key: value[number] for key, value in labels.items()})
    ]
    shown = rows[: sequences or len(rows)]
    return {
        "model": f"{found.model.stage}/{found.model.fingerprint}",
        "step": step,
        "steps": found.steps,
        **found.feed.about(found.batch),
        "rows": len(batch),
        "length": len(columns["tokens"][0]),
        "objective": objective,
        "predicted": {key: batch.count(key) for key in batch.labels},
        "shown": [_told(tokenizer, objective, row) for row in shown],
    }


def objective_of(found: Opened) -> str:
    """What the batch is labeled for, such as mlm+nsp."""
    config = found.model.config
    if "method" in config:
        from distill.recipes import method

        return method(config["method"]).objective
    from training.families.catalog import family

    return family(config["family"]).objective


def _row(columns: dict[str, list[int]], labels: dict[str, Any]) -> list[Row]:
    """A row's sequences: one, or several where short ones share it. Padding is counted and left out."""
    from training.feed.batch import IGNORE

    length = len(columns["tokens"])
    keep = columns.get("keep") or [1] * length
    parts = columns.get("parts") if isinstance(labels.get("pair"), list) else None  # else they tell documents of one block apart
    parts = parts or [0 if kept else -1 for kept in keep]
    found = []
    for part in dict.fromkeys(part for part in parts if part >= 0):
        at = [place for place in range(length) if parts[place] == part and keep[place]]
        chosen = {key: [values[place] for place in at] for key, values in columns.items()}
        mine: Row = {"ids": chosen["tokens"], "segments": chosen.get("segments") or [0] * len(at), "ignore": IGNORE}
        mine["mlm"] = [labels["mlm"][place] for place in at] if "mlm" in labels else []
        pair = labels.get("pair")
        mine["pair"] = next((pair[place] for place in at if pair[place] != IGNORE), None) if isinstance(pair, list) else pair
        found.append(mine | {"padding": length - sum(map(bool, keep))})
    return found


def _told(tokenizer: Tokenizer, objective: str, row: Row) -> Row:
    """One sequence in words."""
    words = _words(tokenizer, row)
    told: Row = {
        "tokens": len(row["ids"]),
        "padding": row["padding"],
        "segments": {
            name: "".join(w["shown"] for w in words if w["segment"] == name).strip() for name in dict.fromkeys(w["segment"] for w in words)
        },
        "predicted": [{key: w[key] for key in ("position", "input", "label", "kind")} for w in words if "label" in w],
        "words": words,
    }
    if row["pair"] is not None and row["pair"] != row["ignore"]:
        told |= {"pair": row["pair"], "pair_means": PAIRS[objective.partition("+")[2]][row["pair"]]}
    return told


def _words(tokenizer: Tokenizer, row: Row) -> list[Row]:
    """Runs of tokens as text: predicted ones alone, the others together. segment: A, B."""
    words: list[Row] = []
    run: list[int] = []
    before = ""

    def close() -> None:
        if run:
            words.append({"segment": before, "shown": text_of(tokenizer, run)})
            run.clear()

    for place, (number, segment) in enumerate(zip(row["ids"], row["segments"], strict=True)):
        name = "AB"[segment]
        label = row["mlm"][place] if row["mlm"] else row["ignore"]
        if name != before or label != row["ignore"]:
            close()
        before = name
        if label == row["ignore"]:
            run.append(number)
            continue
        words.append({"segment": name, "position": place, **_predicted(tokenizer, number, label)})
    close()
    return words


def _predicted(tokenizer: Tokenizer, number: int, label: int) -> Row:
    read, said = text_of(tokenizer, [number]), text_of(tokenizer, [label])
    space = " " if said.startswith(" ") else ""
    told = {"input": read.strip(), "label": said.strip()}
    if number == tokenizer.specials.get("mask"):
        return {**told, "kind": "masked", "shown": f"{space}[MASK={told['label']}]"}
    if number == label:
        return {**told, "kind": "unchanged", "shown": f"{space}{{{told['label']}}}"}
    return {**told, "kind": "replaced", "shown": f"{space}{{{told['input']}={told['label']}}}"}


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of some tokens in a row, with a space before it where a word begins; special tokens by their names."""
    pieces, special = cast("_Pieces", tokenizer).pieces, set(tokenizer.specials.values())
    told, run = "", list[int]()
    for number in [*ids, -1]:
        if run and (number < 0 or number in special):
            text = tokenizer.decode(run).removeprefix("##")
            told += f" {text}" if tokenizer.word_start[run[0]] and not text.startswith(" ") else text
            run = []
        if number in special:
            told += f" {pieces[number]}"
        elif number >= 0:
            run.append(number)
    return told


def render(found: Row, console: Console) -> None:
    """For people: each sequence with its segments, its hidden tokens in color, its labels."""
    head = (
        f"step {found['step']} of {found['steps']}, epoch {found['epoch']}: {found['rows']} x {found['length']} tokens ({found['model']})"
    )
    console.print(Text(head, style="bold"))
    if "mlm" in found["predicted"]:
        console.print(Text(f"{found['predicted']['mlm']} tokens are predicted. {LEGEND}", style="dim"))
    if "next" in found["predicted"]:
        console.print(Text(f"{found['predicted']['next']} tokens are predicted: each token's label is the token after it", style="dim"))
    for number, row in enumerate(found["shown"]):
        console.print(Text(f"\n{number}: {row['tokens']} tokens, {row['padding']} of padding", style="bold"))
        for segment in row["segments"]:
            line = Text(f"{segment}: " if len(row["segments"]) > 1 else "")
            words = [word for word in row["words"] if word["segment"] == segment]
            for place, word in enumerate(words):
                shown = _printable(word["shown"])
                line.append(shown if place else shown.lstrip(), style=KINDS.get(word.get("kind", ""), ""))
            console.print(line, soft_wrap=True)
        if "pair" in row:
            console.print(Text(f"label {row['pair']}: {row['pair_means']}", style="green"))


def _printable(text: str) -> str:
    """Text of strangers without control characters."""
    return "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
