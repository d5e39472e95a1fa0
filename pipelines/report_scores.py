"""What the models of a run scored, from the evaluations' scores.json: one row a measure, and students beside their teachers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.report_runs import Made, Row, Run, read_json

LABELS = 20  # of a task file, shown in the report
ROLES = ("teacher", "student", "control")
UNSHOWN = ("unigram", "said", "gold", "examples", "sequences", "predicted")  # baselines and sizes stand elsewhere; the JSON files hold them


def card_of(made: Made) -> Row:
    """What the model says of itself; nothing when it says nothing."""
    return read_json(made.artifact.path / "card.json") or {}


def record_of(made: Made) -> Row:
    """scores.json of an evaluation."""
    return read_json(made.artifact.path / "scores.json") or {}


def models(run: Run) -> list[Row]:
    """The models of the run: what they are and where their training ended."""
    keys = ("family", "size", "parameters", "steps", "tokens", "valid_loss")
    return [{"model": made.label, **{key: card_of(made).get(key) for key in keys}} for made in run.of("pretrain", "distill", "finetune")]


def task_files(run: Run) -> list[Row]:
    """The files of every task, once: rows used, rows of each label, rows quarantined by reason with their first lines."""
    rows: dict[tuple[str, str], Row] = {}
    for made in run.of("finetune"):
        task = _origin(run, made.label)[1].removesuffix(" from scratch")
        for name, record in (card_of(made).get("files") or {}).items():
            bad = [f"{one['rows']} {reason} (lines {', '.join(map(str, one['lines']))})" for reason, one in record["quarantined"].items()]
            rows[task, name] = {
                "task": task,
                "file": name,
                "rows": record["rows"],
                "labels": counted(record["labels"]),
                "quarantined": "; ".join(bad),
                "unknown_labels": counted(record["unknown_labels"]),
                "duplicate_ids": record["duplicate_ids"],
            }
    return list(rows.values())


def counted(labels: dict[str, int]) -> str:
    """`dry 16, wet 18`; of many labels the first twenty."""
    shown = [f"{label} {count}" for label, count in list(labels.items())[:LABELS]]
    return ", ".join(shown) + (f" and {len(labels) - LABELS} more labels" if len(labels) > LABELS else "")


def scores(run: Run) -> list[Row]:
    """{model, measure, value, low?, high?} of every single model, tasks under the name of their fine-tuning."""
    rows = []
    for made in run.of("evaluate"):
        record, model = record_of(made), made.inputs.get("model")
        if record and model:
            base, task = _origin(run, model)
            rows += [
                {"model": base, **row, "measure": f"{task}: {row['measure']}" if task else row["measure"]}
                for row in flatten(record["scores"])
            ]
    return rows


def _origin(run: Run, label: str) -> tuple[str, str]:
    """The pretrained or distilled model under a fine-tuned one, and the task's name; (label, "") for one that is no fine-tuned one."""
    tuned = next((made for made in run.of("finetune") if made.label == label), None)
    if tuned is None:
        return label, ""
    base = tuned.inputs.get("model", label)
    task = label.removesuffix(f" {base}")
    return base, f"{task} from scratch" if tuned.artifact.config.get("from_scratch") else task


def flatten(value: Any, name: str = "") -> Iterator[Row]:
    """{measure, value, low?, high?} of every number in a nested dictionary."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield {"measure": name, "value": value}
    elif isinstance(value, dict) and isinstance(value.get("value"), int | float):
        yield {"measure": name, **{key: value[key] for key in ("value", "low", "high") if isinstance(value.get(key), int | float)}}
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in UNSHOWN:
                yield from flatten(inner, f"{name}.{key}" if name else str(key))


def unigram_of(run: Run, model: str) -> float | None:
    """The unigram loss on exactly what this model was asked, when it was evaluated."""
    for made in run.of("evaluate"):
        record = record_of(made)
        if made.inputs.get("model") == model and record.get("kind") == "language":
            return _value(record["scores"].get("unigram", {}).get("loss"))
    return None


def _value(cell: Any) -> float | None:
    found = cell.get("value") if isinstance(cell, dict) else cell
    return found if isinstance(found, int | float) else None


def students(run: Run) -> list[Row]:
    """Each student beside its teacher and the control of its size: parameters, the comparison on the same batches, the tasks."""
    return [_student(run, made, scores(run)) for made in run.of("evaluate") if record_of(made).get("kind") == "compare"]


def _student(run: Run, made: Made, scored: list[Row]) -> Row:
    record = record_of(made)
    names = {role: made.inputs[role] for role in ROLES if role in made.inputs}
    rows: dict[str, Row] = {"parameters": {role: record.get("models", {}).get(role, {}).get("parameters") for role in names}}
    for role in names:
        for row in flatten(record["scores"].get(role, {})):
            rows.setdefault(row["measure"], {})[role] = _cell(row)
    for row in scored:
        for role, name in names.items():
            if row["model"] == name and ": " in row["measure"]:
                rows.setdefault(row["measure"], {})[role] = _cell(row)
    minus = [{**row, "measure": row["measure"].partition(".")[2]} for row in flatten(record.get("minus_control", {}))]
    return {
        "label": names.get("student", made.label),
        "columns": list(names),
        "names": names,
        "rows": [{"measure": name, **row} for name, row in rows.items()],
        "minus_control": minus,
    }


def _cell(row: Row) -> Row:
    return {key: row[key] for key in ("value", "low", "high") if key in row}
