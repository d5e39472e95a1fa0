"""Use a model of a run: find it by its label, classify rows with it, copy it out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep import tables
from infra.artifact import Artifact
from infra.errors import ConfigError
from infra.store import Store
from pipelines.recipe_checks import meant
from pipelines.rundir import all_runs

MAKERS = ("import", "pretrain", "distill", "finetune")


def find_model(workspace: Path, name: str) -> Artifact:
    """The newest model with this label, or the one of a `stage/fingerprint`."""
    store = Store(workspace / "artifacts")
    stage, slash, key = name.partition("/")
    if slash and (found := store.find(stage, key)):
        return found
    models: dict[str, Artifact] = {}
    for folder in all_runs(workspace):
        rows: list[dict[str, Any]] = json.loads((folder / "stages.json").read_text())
        done = [row for row in rows if row["stage"] in MAKERS and row["state"] in ("done", "cached")]
        models |= {row["label"]: made for row in done if (made := store.find(row["stage"], row["fingerprint"]))}
    if name in models:
        return models[name]
    there = f"; there is {', '.join(models)}" if models else f"; no run in {workspace} has made one yet"
    raise ConfigError(f"no model is called {name!r}{meant(name, models) or there}")


def model_folder(workspace: Path, name: str) -> Path:
    """The Hugging Face folder of a model given by label, by artifact, or as a folder."""
    if (Path(name) / "config.json").is_file():
        return Path(name)
    return find_model(workspace, name).path / "model"


def import_from(source: Path, folder: Path, lowercase: bool) -> dict[str, Any]:
    """Read a model that transformers saved and write it as textmill does, with its tokenizer; what was found in it."""
    _empty(folder)
    from training.imported import adopt

    return adopt(source, folder, lowercase)


def export_to(workspace: Path, name: str, folder: Path) -> Path:
    """Copy the model's folder; refuses to write into one that is not empty."""
    source = model_folder(workspace, name)
    _empty(folder)
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


def _empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty; name another folder")


# ---- predict -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What `predict` reads. text, pair: columns; empty: those that the model was fine-tuned with. length 0: the model's own."""

    file: Path
    text: str = ""
    pair: str = ""
    batch: int = 32
    length: int = 0


def predict_rows(workspace: Path, name: str, inputs: Inputs) -> Iterator[dict[str, Any]]:
    """One record for each row of the file, in its order: its line, label, score and scores, or the error that kept it from being read."""
    folder = model_folder(workspace, name)
    columns = _columns(folder, inputs)
    rows = list(_texts(inputs.file, columns))
    from training.predict import open_classifier

    classifier = open_classifier(folder)
    usable = [text for _, text, reason in rows if not reason]
    found = classifier.predict(usable, inputs.batch, inputs.length)
    for line, _, reason in rows:
        if reason:
            yield {"line": line, "error": reason}
            continue
        one = next(found)
        yield {"line": line, "label": one.label, "score": one.score, "scores": one.scores}


def _columns(folder: Path, inputs: Inputs) -> tuple[str, ...]:
    """The columns of the text and of the second one, where there is one."""
    card = folder.parent / "card.json"
    own = json.loads(card.read_text(encoding="utf-8")).get("columns", {}) if folder.name == "model" and card.is_file() else {}
    text = inputs.text or own.get("text") or "text"
    pair = inputs.pair or ("" if inputs.text else own.get("pair", ""))
    return (text, pair) if pair else (text,)


def _texts(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, str | None], str]]:
    """Line, text and second text, and the reason why they cannot be used ("" for none). Raises ConfigError for a file of another kind."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    kinds = [suffix for suffix in path.suffixes if suffix in (".tsv", ".csv", ".jsonl", ".txt")]
    if not kinds:
        raise ConfigError(f"{path}: the rows must be in a .tsv, .csv, .jsonl or .txt file (compressed or not)")
    text = tables.text_of(path)
    if kinds[-1] == ".txt":
        if len(columns) > 1:
            raise ConfigError(f"{path}: a .txt file has one text per line, and this model reads pairs; give a .tsv, .csv or .jsonl file")
        rows: Iterator[tables.Row] = (
            tables.Row(number, {columns[0]: line.rstrip("\r")}) for number, line in enumerate(tables.lines_of(text), 1)
        )
    elif kinds[-1] == ".jsonl":
        rows = tables.json_rows(text)
    else:
        rows = tables.table_rows(path, text, "\t" if kinds[-1] == ".tsv" else ",", columns)
    for row in rows:
        texts = [row.cells.get(name) for name in columns]
        reason = row.reason or _unusable(texts)
        first, *second = ["" if reason else str(one).strip() for one in texts]
        yield row.line, (first, second[0] if second else None), reason


def _unusable(texts: Sequence[Any]) -> str:
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return "text"
    broken = any("\ud800" <= character <= "\udfff" for text in texts for character in text)
    return "encoding" if broken else ""
