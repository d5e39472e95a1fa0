"""The published ways to distil, as data: which teachers they are for, what the student is, what it learns to predict."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from types import MappingProxyType

from infra.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """objective: what feed and head are about. family: what the student is exported as; its teachers are of `teachers`."""

    name: str
    teachers: tuple[str, ...]
    family: str
    objective: str


DISTILBERT = Method("distilbert", teachers=("bert",), family="distilbert", objective="mlm")
DISTILROBERTA = replace(DISTILBERT, name="distilroberta", teachers=("roberta",), family="distilroberta")
DISTILGPT2 = replace(DISTILBERT, name="distilgpt2", teachers=("gpt2",), family="distilgpt2", objective="next")

METHODS = MappingProxyType({method.name: method for method in (DISTILBERT, DISTILROBERTA, DISTILGPT2)})


def method(name: str) -> Method:
    """Raises ConfigError with the nearest name."""
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1)
    raise ConfigError(f"no method is called {name!r}{f'; did you mean {near[0]!r}?' if near else ''} There are: {', '.join(METHODS)}")


def check_teacher(chosen: Method, family: str) -> None:
    """Raises ConfigError when the method is not for teachers of this family."""
    if family not in chosen.teachers:
        fitting = [m.name for m in METHODS.values() if family in m.teachers]
        hint = (
            f"use {' or '.join(fitting)}" if fitting else f"teachers can be: {', '.join(t for m in METHODS.values() for t in m.teachers)}"
        )
        raise ConfigError(f"{chosen.name} is for {' or '.join(chosen.teachers)} teachers, this one is {family}; {hint}")
