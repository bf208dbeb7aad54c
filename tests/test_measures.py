"""How large a function may grow: at most 60 lines and 8 parameters of its own; ruff's C901 holds paths to 20 (pyproject.toml).
And how it is described: a public function has a docstring, its own or that of what it overrides; only entries of the tables of
ATen's and ONNX's operators mean what these say. A docstring begins with its subject or its verb.

A parameter is a function's own unless its interface is another's, which it has to follow: the function or layer of torch whose
name it has, the operator of ATen or ONNX that it is an entry for, a command of the command line, Keras's Model.compile, or
``compile``, to which the Trainer hands it on.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch

import graphrt as grt
from graphrt import nn
from graphrt import ops as F
from graphrt.targets.target import Settings

ROOT = Path(__file__).parent.parent
LINES, PARAMETERS = 60, 8
FOREIGN = ("aten", "entry", "operator", "command")  # decorators of what another decides the parameters of
CLAUSE = re.compile(r"(What|Where|When|Which|Who|Whose|Whoever|Whatever|Of|Those)\b")  # no subject, no verb


@dataclass(frozen=True)
class Function:
    """A function of the package: where it is defined, the class around it ("": none), and its syntax."""

    path: Path
    owner: str
    tree: ast.FunctionDef | ast.AsyncFunctionDef

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.tree.lineno} {self.owner}{'.' * bool(self.owner)}{self.tree.name}"


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The syntax of a file, parsed once for all tests."""
    return ast.parse(path.read_text())


def functions(*folders: str) -> Iterator[Function]:
    """Every function of ``folders``, methods and nested ones among them."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield from inside(parsed(path), path, "")


def inside(tree: ast.AST, path: Path, owner: str) -> Iterator[Function]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(path, owner, node)
        yield from inside(node, path, node.name if isinstance(node, ast.ClassDef) else owner)


def public() -> Iterator[Function]:
    """Functions and methods that a reader meets outside the tables of operators."""
    for path in sorted((ROOT / "graphrt").rglob("*.py")):
        tree = parsed(path)
        scopes = {"": tree.body, **{node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}}
        for owner, body in scopes.items():
            found = (Function(path, owner, node) for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
            yield from (f for f in found if not owner.startswith("_") and not f.tree.name.startswith("_") and not is_entry(f))


def is_entry(f: Function) -> bool:
    decorators = [ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in f.tree.decorator_list]
    return any(d.rpartition(".")[2] in FOREIGN for d in decorators)


def docstring(f: Function) -> str | None:
    """The docstring of ``f``, or of the method that it overrides."""
    if (own := ast.get_docstring(f.tree)) or not f.owner:
        return own
    module = importlib.import_module(".".join(f.path.relative_to(ROOT).with_suffix("").parts))
    return inspect.getdoc(getattr(getattr(module, f.owner), f.tree.name))


def parameters(f: Function) -> list[str]:
    """The parameters of ``f`` but itself, and but options of a command line, which say so in their types."""
    a = f.tree.args
    every = [p for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.arg not in ("self", "cls")]
    return [p.arg for p in every if p.annotation is None or "typer." not in ast.unparse(p.annotation)]


def own_parameters(f: Function) -> list[str]:
    """The parameters that no other interface decides."""
    if is_entry(f):
        return []
    return [name for name in parameters(f) if name not in {*torch_parameters(f), *settings(f)}]


def settings(f: Function) -> Iterator[str]:
    """The settings of a target, in ``compile``; in the Trainer those of ``compile``, and what Keras's Model.compile takes."""
    if f.tree.name == grt.compile.__name__ and f.path.name == "compiler.py":
        yield from (field.name for field in fields(Settings))
    if f.owner == grt.Trainer.__name__:
        yield from ("optimizer", "loss", "metrics")
        yield from signature(grt.compile)


def torch_parameters(f: Function) -> Iterator[str]:
    """The parameters of what torch has under the names of ``f``: those of its class, or those it is registered under."""
    if f.path.parent.name == "nn" and f.owner:
        for name, layer in vars(nn).items():
            if inspect.isclass(layer) and f.owner in (c.__name__ for c in layer.__mro__):
                yield from signature(getattr(getattr(torch.nn, name, None), f.tree.name, None))
    for name in registered(f):
        for home in (torch.nn.functional, torch):
            yield from signature(getattr(home, name, None))
        packet = getattr(torch.ops.aten, name, None)
        for overload in packet.overloads() if packet is not None else ():
            yield from (a.name for a in getattr(packet, overload)._schema.arguments)


def signature(thing: Callable[..., object] | None) -> Iterator[str]:
    """The parameters of ``thing``; none where it is written in C and does not say."""
    try:
        yield from inspect.signature(thing).parameters if thing is not None else ()
    except ValueError:
        return


def registered(f: Function) -> list[str]:
    """The public names of a function of ``graphrt.ops``; a nested one may have several."""
    found = []
    for name, public in F.FUNCTIONS.items():
        code = inspect.unwrap(public).__code__
        first = min([f.tree.lineno, *(d.lineno for d in f.tree.decorator_list)])
        if (Path(code.co_filename), code.co_firstlineno) == (f.path, first):
            found.append(name)
    return found


def test_functions_can_be_seen_at_once() -> None:
    """All but the kernels' templates, which are one loop nest each."""
    every = list(functions("graphrt", "bench", "examples", "tests"))
    assert len(every) > 7000
    assert not [f"{f} has {n} lines" for f in every if (n := f.tree.end_lineno - f.tree.lineno + 1) > LINES]


def test_functions_have_few_parameters_of_their_own() -> None:
    many = [f for f in functions("graphrt", "bench", "examples") if len(parameters(f)) > PARAMETERS]
    assert many, "nothing follows torch"
    assert not [f"{f} has {own}" for f in many if len(own := own_parameters(f)) > PARAMETERS]


def test_public_functions_have_docstrings() -> None:
    every = list(public())
    assert len(every) > 1000, "few functions are public"
    assert not [str(f) for f in every if not docstring(f)]


def test_docstrings_begin_with_their_subject() -> None:
    """A clause such as "What waits for a group" names neither a thing nor an action: "The nodes that wait for a group" does."""
    found = {}
    for path in (p for folder in ("graphrt", "kernels", "bench", "examples") for p in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                found[f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"] = ast.get_docstring(node) or ""
    assert len(found) > 2000
    assert not [f"{place} {text.splitlines()[0]}" for place, text in found.items() if CLAUSE.match(text)]
