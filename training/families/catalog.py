"""Every family by name, and a model folder back to a tower."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from infra.errors import ConfigError
from training.backbone import exchange
from training.families.albert import ALBERT
from training.families.bert import BERT
from training.families.distilbert import DISTILBERT
from training.families.electra import ELECTRA
from training.families.family import Family
from training.families.gpt import DISTILGPT2, GPT1, GPT2, GPT3
from training.families.roberta import DISTILROBERTA, ROBERTA
from training.families.tinybert import TINYBERT
from training.objectives.tower import Tower

FAMILIES: dict[str, Family] = {
    f.name: f for f in (GPT1, GPT2, GPT3, BERT, ROBERTA, ALBERT, ELECTRA, DISTILBERT, DISTILGPT2, DISTILROBERTA, TINYBERT)
}


def family(name: str) -> Family:
    """Raises ConfigError with the nearest name."""
    if name in FAMILIES:
        return FAMILIES[name]
    near = get_close_matches(name, FAMILIES, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"families: {', '.join(FAMILIES)}"
    raise ConfigError(f"there is no family `{name}`; {hint}")


def model(name: str) -> tuple[Family, str]:
    """`gpt2/124m` as family and size."""
    first, _, size = name.partition("/")
    found = family(first)
    found.backbone(size)
    return found, size


def family_of(folder: Path) -> Family:
    """Whose model lies in a folder: as our own export says, else by the library's type."""
    settings = exchange.read_settings(Path(folder))
    named = settings.get("textmill", {}).get("family")
    if named:
        return family(named)
    for candidate in FAMILIES.values():
        if candidate.layout.model_type == settings.get("model_type"):
            return candidate
    known = sorted({f.layout.model_type for f in FAMILIES.values()})
    raise ConfigError(f"{folder}: models of type {settings.get('model_type')!r} cannot be read; known types: {', '.join(known)}")


def load(folder: Path) -> Tower:
    """A tower from our own export or from a folder that transformers saved; nothing pickled is read."""
    return family_of(folder).load(folder)
