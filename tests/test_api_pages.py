"""The pages of docs/api: every name that they show has a docstring, which says what each parameter is.

A parameter counts as said where the docstring names it, or one that it refers to ("arguments as ``Conv2d``"), or the package's,
which says once what means the same everywhere.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import graphrt as grt
from graphrt import nn
from graphrt import ops as F

API = Path(__file__).parent.parent / "docs" / "api"
PAGES = sorted(p.stem for p in API.glob("*.md"))
# Users read these, and make none with arguments.
READ = (grt.Graph, grt.LoadReport, grt.Node, grt.Program, grt.State, grt.Value, grt.errors.GraphrtError)


def shown(page: str) -> Iterator[tuple[str, Any]]:
    """What the page shows, by dotted name: members of a module in its ``__all__``, or single objects."""
    text = (API / f"{page}.md").read_text()
    for kind, name, options in re.findall(r"^\.\. auto(\w+):: ([\w.]+)\n((?:   :.*\n)*)", text, re.MULTILINE):
        if kind == "module":
            module = importlib.import_module(name)
            left = re.findall(r"[\w]+", dict(re.findall(r":([\w-]+): (.*)", options)).get("exclude-members", ""))
            own = [n for n, x in vars(module).items() if getattr(x, "__module__", "") == name and not n.startswith("_")]
            for member in set(getattr(module, "__all__", own)) - set(left):
                yield f"{name}.{member}", getattr(module, member)
        else:
            home, _, member = name.rpartition(".")
            yield name, getattr(importlib.import_module(home), member)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class of the package defines or inherits from another of it."""
    for owner in cls.__mro__:
        if owner.__module__.startswith("graphrt"):
            for name, member in vars(owner).items():
                if not name.startswith("_") and (inspect.isroutine(member) or isinstance(member, property | classmethod)):
                    yield name, getattr(cls, name)


def documented(name: str, thing: Any) -> str:
    """The docstrings of ``thing``, of what its arguments are "as of" or "as in", and of their package."""
    package = importlib.import_module(name.rpartition(".")[0])
    text, seen = inspect.getdoc(thing) or "", set[str]()
    while found := set(re.findall(r"\bas (?:of |in )?``(\w+)``", " ".join(text.split()))) - seen:
        seen |= found
        text += "\n".join(inspect.getdoc(getattr(package, other, None)) or "" for other in sorted(found & set(dir(package))))
    return f"{text}\n{package.__doc__}"


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_has_a_docstring(page: str) -> None:
    every = [(name, thing) for name, thing in shown(page) if callable(thing)]
    assert every, "the page shows nothing"
    every += [(f"{name}.{n}", member) for name, thing in every if inspect.isclass(thing) for n, member in members(thing)]
    assert not [name for name, thing in every if not has_docstring(thing)]


def has_docstring(thing: Any) -> bool:
    """A class needs one of its own; a method that overrides another may have that one's."""
    return bool(vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing))


@pytest.mark.parametrize("page", PAGES)
def test_a_docstring_says_what_each_parameter_is(page: str) -> None:
    silent = []
    for name, thing in shown(page):
        if not callable(thing) or (inspect.isclass(thing) and issubclass(thing, READ)):
            continue
        text = documented(name, thing)
        silent += [f"{name}({p})" for p in inspect.signature(thing).parameters if not re.search(rf"\b{p}\b", text)]
    assert not silent


def test_the_tables_of_layers_list_all_of_them() -> None:
    """The page of nn has a table for each kind of layer before the reference."""
    tables = re.findall(r"\.\. autosummary::\n   :nosignatures:\n\n((?:   \w+\n)+)", (API / "nn.md").read_text())
    listed = [name for table in tables for name in table.split()]
    assert sorted(listed) == sorted(name for name in nn.__all__ if callable(getattr(nn, name)))


def test_functions_name_no_argument_that_they_lack() -> None:
    """A word in double backticks is an argument, another function, or a letter that counts."""
    wrong = []
    for name, f in {**F.FUNCTIONS, **F.CREATIONS}.items():
        words = set(re.findall(r"``(\w\w+)``", inspect.getdoc(f) or ""))
        wrong += [f"{name}: {word}" for word in words - set(inspect.signature(f).parameters) - set(F.__all__)]
    assert not wrong
