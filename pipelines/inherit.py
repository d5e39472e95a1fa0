"""Models that extend another's training: what they leave out is that model's, and they come after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

INHERITED = ("family", "size", "tokenizer", "init")
OWN = "keep_state"  # of pretrain: the longest of a chain need not keep its state


def bases(models: Mapping[str, Any], name: str) -> list[str]:
    """The models that one extends, the nearest first, up to one that is missing, extends none, or closes a circle."""
    found: list[str] = []
    at = _base(models, name)
    while at and at in models:
        found.append(at)
        if at == name or found.count(at) > 1:
            break
        at = _base(models, at)
    return found


def _base(models: Mapping[str, Any], name: str) -> str:
    model = models.get(name)
    base = model.get("extend") if isinstance(model, dict) else getattr(model, "extend", "")
    return base if isinstance(base, str) else ""


def inherit(value: dict[str, Any]) -> None:
    """Put into a recipe's models what they take from those they extend. What is wrong with it is left to the checks."""
    found = value.get("models")
    models: dict[str, Any] = found if isinstance(found, dict) else {}
    for name in models:
        chain = bases(models, name)
        if chain and len(set(chain)) == len(chain) and name not in chain:
            for base, model in zip(reversed(chain), [*reversed(chain[:-1]), name], strict=True):
                _take(models[base], models[model])


def _take(base: Any, model: Any) -> None:
    if not isinstance(base, dict):
        return
    for key in INHERITED:
        if key in base:
            model.setdefault(key, base[key])
    for key in ("blocks", "pretrain"):
        above, own = base.get(key, {}), model.get(key, {})
        if isinstance(above, dict) and isinstance(own, dict) and (above or key in base):
            model[key] = {**{name: said for name, said in above.items() if name != OWN}, **own}


def ordered(models: Mapping[str, Any]) -> Iterator[str]:
    """The names, each after those that it extends, else as they stand."""
    return iter(dict.fromkeys(one for name in models for one in (*reversed(bases(models, name)), name)))
