"""Options of several commands: names with completion, a target, a file of settings; and values such as ``sgd:momentum=0.9``."""

from __future__ import annotations

import ast
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from graphrt.arguments import kinds, misfit
from graphrt.errors import ArgumentError, InputError, unknown


def names_of(*tables: str) -> Callable[[str], list[str]]:
    """The completion of a name of ``tables`` (``MODULE.TABLE`` in graphrt), which are imported when a shell asks for it."""

    def complete(incomplete: str) -> list[str]:
        from importlib import import_module

        parts = [table.rpartition(".") for table in tables]
        found = [getattr(import_module(f"graphrt.{module}"), table) for module, _, table in parts]
        return [name for names in found for name in names if name.startswith(incomplete)]

    return complete


def one_of(*names: str) -> Callable[[str], list[str]]:
    """The completion of one of ``names``."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


TARGETS = ("auto", "cuda", "hip", "cpu", "interpret", "reference", "debug")
Target = Annotated[str, typer.Option(help=f"{', '.join(TARGETS[:-1])} or {TARGETS[-1]}", autocompletion=one_of(*TARGETS))]
Model = Annotated[
    str,
    typer.Argument(
        help="lenet5, mlp, resnet50, ...: a name of graphrt.models",
        autocompletion=names_of("models.MODELS", "train.tasks.TASKS"),
    ),
]


def processes_started() -> int:
    """The number of processes that torchrun started, of which this is one; 1 without it. Raises ArgumentError."""
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or text == "0":
        raise ArgumentError(f"WORLD_SIZE, the number of processes, must be 1 or more, got {text!r}")
    return int(text)


def configured(context: typer.Context, path: Path | None) -> Path | None:
    """Makes the settings of a file the defaults of the command's options. Raises ArgumentError, InputError."""
    if path is not None and not context.resilient_parsing:
        known = {str(p.name): p for p in context.command.params if p.name not in ("config", "help")}
        found = {key.replace("-", "_"): value for key, value in read_settings(path).items()}
        for key, value in found.items():
            if key not in known:
                raise ArgumentError(f"{path}: {unknown('setting', key, known)}")
            several = getattr(known[key], "multiple", False)
            values = value if several and isinstance(value, list) else [value]
            if not all(isinstance(one, str | int | float | None) for one in values):
                kind = "one value or a list of them" if several else "one value"
                raise ArgumentError(f"{path}: {key} is {kind}, as on the command line, got {value!r}")
            found[key] = values if several and value is not None else value
        context.default_map = {**(context.default_map or {}), **found}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        help="a YAML or JSON file of these options by name; the command line goes before it", is_eager=True, callback=configured
    ),
]


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a YAML or JSON file by name. Raises InputError, ImportError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    if path.suffix == ".json":
        try:
            found = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path} is no JSON: {error}") from None
    else:
        try:
            import yaml
        except ImportError as error:
            raise ImportError(f"{path} is read with a package that is missing ({error}): pip install pyyaml") from None
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"{path} is no YAML: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise InputError(f"{path} must hold settings by name, such as lr: 0.1")
    return found


def made(kind: str, text: str, table: Mapping[str, Callable[..., Any]], **defaults: Any) -> Any:
    """The thing that ``text`` asks for, ``NAME`` or ``NAME:key=value,key=value``, made of ``table``. Raises ArgumentError.

    ``defaults`` are given to what has parameters of these names, where ``text`` says nothing of them.
    """
    name, _, rest = text.partition(":")
    if name not in table:
        raise ArgumentError(unknown(kind, name, table))
    make = table[name]
    parameters, wanted = inspect.signature(make).parameters, kinds(make)
    given = {key: value for key, value in defaults.items() if key in parameters}
    for part in _parts(rest):
        key, equals, value = part.partition("=")
        if not equals:
            raise ArgumentError(f"--{kind} {text}: {part!r} is no key=value, as in {name}:key=value,key=value")
        if key not in parameters:
            raise ArgumentError(f"--{kind} {text}: {unknown('option', key, parameters)}")
        given[key] = next((v for v in (_value(value), value) if not misfit(wanted[key], v)), value)
        if expected := misfit(wanted[key], given[key]):
            raise ArgumentError(f"--{kind} {text}: {key} must be {expected}, got {value}")
    if missing := [key for key, p in parameters.items() if p.default is p.empty and key not in given]:
        raise ArgumentError(f"--{kind} {text} needs {', '.join(missing)}, as in {name}:{missing[0]}=VALUE")
    try:
        return make(**given)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"--{kind} {text}: {error}") from None


def _parts(text: str) -> list[str]:
    """``text`` at its commas, but for those in brackets."""
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([") - (c in ")]")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return [part for part in parts if part]


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def show(rows: Iterable[Sequence[Any]], columns: Sequence[str] = ()) -> None:
    """Prints ``rows`` as a table in a terminal, and elsewhere a line each with tabs between the cells."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False)
    cells = [[str(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        for row in cells:
            typer.echo("\t".join(row))
        return
    table = Table(*columns, box=None, show_header=bool(columns))
    for row in cells:
        table.add_row(*row)
    console.print(table)
