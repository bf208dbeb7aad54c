"""Writes docs/onnx_coverage.md from the table: ``python -m graphrt.frontends.onnx.document > docs/onnx_coverage.md``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from onnx import defs

from graphrt.frontends.onnx import operators  # noqa: F401 - fills the table
from graphrt.frontends.onnx.table import ELEMENT_TYPES, OLDEST, TABLE, Operator

_HEAD = f"""# ONNX operators

Written by `make docs` from the operator table; a test holds that it is up to date.

`graphrt.from_onnx` reads models of opset {OLDEST} and newer; older ones are converted to opset {OLDEST} first, as far as onnx's
own converter goes. Element types: {", ".join(ELEMENT_TYPES.values())}.
ONNX's own test cases run in `tests/test_onnx_nodes.py`; `tests/golden/onnx_nodes.txt` holds how many pass, and why each of
the others does not run.

Optionals, strings and sparse tensors have no counterpart; sequences exist at import only. Shapes are static, so what decides a
shape, a branch or the number of steps of a loop must be known when the model is imported: a constant, an initialiser, computed
from such or from shapes, or fixed by `from_onnx(..., constants={{...}})`.

## To add an operator

Write a function in `graphrt/frontends/onnx/operators` whose parameters are the operator's inputs and, keyword-only, its
attributes with ONNX's names and defaults; decorate it with `@operator("Name")`. A parameter of type `Value` is computed by the
program, an `np.ndarray` must be known at import, a `Tensor` may be either, `Items` are a sequence. Then accept this page and
the golden file.

## Operators with an entry

Inputs marked * must be known at import; those in brackets may be left out.
"""


def document() -> str:
    """The page as Markdown."""
    lines = [_HEAD, "| operator | inputs | attributes | remarks |", "| --- " * 4 + "|"]
    lines += [f"| {' | '.join(_row(entry))} |" for _, entry in sorted(TABLE.items())]
    schemas = {s.name: s for s in _schemas() if s.domain == "" and not s.deprecated and ("", s.name) not in TABLE}
    defined = [n for n, s in schemas.items() if s.has_function or s.has_context_dependent_function]
    lines += ["", "## Operators expanded by ONNX's own definition", "", _listed(defined)]
    lines += ["", "## Operators that are refused", "", "With their name, the node, the opset, and where to add them.", ""]
    return "\n".join([*lines, _listed([n for n in schemas if n not in defined]), ""])


def _schemas() -> list[Any]:
    """ONNX's operators, the newest form of each."""
    return list(defs.get_all_schemas())


def _row(entry: Operator) -> Iterator[str]:
    yield f"`{entry.domain + ':' if entry.domain else ''}{entry.name}`"
    yield ", ".join(_input(entry, p) for p in entry.inputs.values()) or "-"
    yield ", ".join(f"`{n}`" for n in entry.attributes) or "-"
    yield " ".join((inspect.getdoc(entry.build) or "").split("\n\n")[0].split()).replace("|", "\\|").replace("``", "`") or "-"


def _input(entry: Operator, parameter: inspect.Parameter) -> str:
    name = parameter.name + ("*" if entry.wants(parameter.name) == "array" else "")
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"{name}, ..."
    return name if parameter.default is parameter.empty else f"[{name}]"


def _listed(names: list[str]) -> str:
    """Names in lines of a page's width."""
    lines, line = [], ""
    for name in sorted(names):
        if len(line) + len(name) > 115:
            lines.append(line.rstrip())
            line = ""
        line += f"`{name}`, "
    return "\n".join([*lines, line.rstrip(", ")])


if __name__ == "__main__":
    print(document(), end="")
