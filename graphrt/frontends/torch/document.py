"""Writes docs/torch_coverage.md from the ATen table; ``make docs`` runs it."""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch._decomp import core_aten_decompositions

import graphrt.ops as ops
from graphrt.frontends.torch import aten
from graphrt.frontends.torch.build import decompositions
from graphrt.frontends.torch.table import ATEN, Entry

_HEAD = """# What the torch front end covers

Written by `make docs` from the ATen table (`graphrt/frontends/torch/aten`); a test holds that it is up to date.

`graphrt.from_torch` and `torch.compile(model, backend="graphrt")` see a model as ATen operators. One with an entry below stays
as it is; any other is decomposed by torch into operators of the core set, until all have an entry. What is left without one is
an error that names it (`from_torch`), or runs in eager mode with a warning (`torch.compile`).

To add an operator, write a function in the file of its kind that takes the operator's arguments, with graphrt Values for
tensors, and says what it is in functions of `graphrt.ops`:

```python
@aten("lerp.Scalar")
def lerp(input: Value, end: Value, weight: float) -> Value:
    return F.lerp(input, end, weight)
```
"""

_GRADIENTS = """Torch defines the gradients of most operators itself, and where a function has none (at 0, at NaN, between equal
numbers) its choice is not what a decomposition gives. `from_torch` differentiates what it sees: an operator with an entry has
the gradient that graphrt gives the entry's functions, which follows torch (`tests/test_torch_gradients.py`). These are seen in
parts:
"""
_BACKWARD = {name.lower() for name in dir(torch._C._functions)}


def document() -> str:
    """The page as Markdown."""
    core = _core()
    lacking = ", ".join(f"`{name}`" for name in core if name not in ATEN)
    parts = [
        _HEAD,
        f"{len(ATEN)} operators have an entry. Of the {len(core)} of core ATen these have none, and only some of them",
    ]
    parts += [f"decompose further: {lacking}.", "", _GRADIENTS, ", ".join(f"`{name}`" for name in _decomposed()) + "."]
    parts += ["", "| ATen operator | graphrt functions in its entry | gradient of its own in torch |", "| --- | --- | --- |"]
    parts += [f"| `{n}` | {_uses(e)} | {'yes' if _has_gradient(n) else ''} |" for n, e in sorted(ATEN.items())]
    return "\n".join([*parts, ""])


def _decomposed() -> list[str]:
    """Names of the operators whose gradient torch defines and that a graph sees in parts."""
    ops = [op for op in decompositions(core_aten_decompositions()) if isinstance(op, torch._ops.OpOverload)]
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    names = (
        str(op).removeprefix("aten.")
        for op in ops
        if not op._schema.is_mutable and not op.has_kernel_for_dispatch_key(composite)
    )
    return sorted(n for n in names if _has_gradient(n) and not any(w in n for w in ("backward", "sparse", "_test_")))


def _has_gradient(name: str) -> bool:
    """Whether torch defines a gradient for the operator itself; its classes for backward passes are named after them."""
    return name.split(".")[0].replace("_", "") + "backward0" in _BACKWARD


def _core() -> list[str]:
    """Names of the overloads that torch tags as core and that a functional graph of tensors may hold."""
    every = {name.removeprefix("aten::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::")}
    packets = [getattr(torch.ops.aten, name) for name in sorted({name.partition(".")[0] for name in every})]
    ops = [getattr(packet, overload) for packet in packets for overload in packet.overloads()]
    return sorted(str(op).removeprefix("aten.") for op in ops if torch.Tag.core in op.tags and not _is_inner(str(op)))


def _is_inner(name: str) -> bool:
    """Whether a functional graph of tensors holds no such operator: one of sizes, or one that writes into an argument."""
    return name.startswith("aten.sym_") or name.endswith(".out") or name.split(".")[1].endswith("_")


def _uses(entry: Entry) -> str:
    """The functions of graphrt.ops that the entry calls, itself or through the helpers beside it."""
    found: dict[str, None] = {}
    _collect(entry.function, found, set())
    return ", ".join(f"`{name}`" for name in found) or "its argument as it is, or a slice of it"


def _collect(function: Any, found: dict[str, None], seen: set[int]) -> None:
    if id(function) in seen:
        return
    seen.add(id(function))
    module = getattr(function, "__module__", None) or ""
    if module.startswith(ops.__name__):
        found[function.__name__] = None
    elif isinstance(function, tuple):
        for f in function:
            _collect(f, found, seen)
    elif isinstance(function, types.FunctionType) and module.startswith(aten.__name__):
        for cell in function.__closure__ or ():
            _collect(cell.cell_contents, found, seen)
        for used in _globals(function.__code__, function.__globals__):
            _collect(used, found, seen)


def _globals(code: types.CodeType, scope: Mapping[str, Any]) -> Iterator[Any]:
    """The objects that ``code`` reads from its module's ``scope``; for ``F.name`` that of ``graphrt.ops``."""
    steps = list(dis.get_instructions(code))
    for step, then in zip(steps, [*steps[1:], steps[-1]], strict=True):
        if step.opname == "LOAD_GLOBAL":
            found = scope.get(step.argval)
            yield getattr(ops, then.argval) if found is ops else found
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant, scope)


if __name__ == "__main__":
    print(document(), end="")
