"""Kernel IR as text: a kernel's loops and blocks, an instruction a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from graphrt.schedule.group import Guard
from graphrt.schedule.kernel_ir import (
    Block,
    CollectiveKernel,
    Fold,
    Kernel,
    LoopKernel,
    PointwiseKernel,
    TemplateKernel,
    Total,
    Var,
)
from graphrt.schedule.schedule import Slot


def text(kernel: Kernel) -> str:
    """``kernel`` under the line of its group."""
    return "\n".join([str(kernel.group), *(f"  {line}" for line in _kernel(kernel))]) + "\n"


def _kernel(kernel: Kernel) -> Iterator[str]:
    if isinstance(kernel, TemplateKernel):
        sizes = ", ".join(f"{name}={size}" for name, size in kernel.sizes.items())
        yield f"template {kernel.spec.family}({sizes}) in {kernel.dtype}, products {kernel.precision}"
        for name, block in kernel.loaders.items():
            yield from _block(f"load {name}", block)
        yield from _block("epilogue", kernel.epilogue)
        return
    if isinstance(kernel, LoopKernel):
        yield f"{kernel.length} times:"
        for launch in kernel.body.kernels:
            yield from (f"  {line}" for inner in launch for line in text(inner).splitlines())
        for kind, places in (("input", kernel.inputs), ("output", kernel.outputs)):
            for name, at in places.items():
                turns = f", by turns with {at.other.name}" if at.other is not None else f" + step * {at.stride}"
                yield f"{kind} {name} at {at.slot.space} {at.slot.name}[{at.first}{turns}]"
        return
    if isinstance(kernel, CollectiveKernel):
        yield f"{kernel.op}({', '.join(f'{name}={value!r}' for name, value in kernel.attrs.items())})"
        for kind, regions in (("from", kernel.sources), ("to", kernel.results)):
            yield from (f"{kind} {r.slot.space} {r.slot.name}[{r.first}] as {r.type}" for r in regions)
        return
    yield from _totals(kernel.totals)
    if isinstance(kernel, PointwiseKernel):
        yield from _block(f"for each of {list(kernel.shape)}, axes in memory {list(kernel.order)}", kernel.block)
        return
    kind = "columns" if kernel.columns else "rows"
    yield f"{kind} {list(kernel.kept)} of {list(kernel.shape)}, reduced {list(kernel.reduced)}{', held' * kernel.whole}"
    for number, p in enumerate(kernel.passes):
        yield from _block(f"pass {number}, each element", p.inner)
        yield from (f"  {_fold(f)}" for f in p.folds)
        yield from _block(f"pass {number}, each row", p.after)


def _totals(totals: Sequence[Total]) -> Iterator[str]:
    for total in totals:
        yield from _block(f"total over {list(total.shape)}", total.block)
        yield f"  {_fold(total.fold)}"


def _fold(fold: Fold) -> str:
    return f"{fold.result.name} = {fold.op} of {fold.x.name}" + (f", first met at {fold.at.name}" if fold.at else "")


def _block(title: str, block: Block) -> Iterator[str]:
    given = f" given {', '.join(f'{v.name} : {v.dtype}' for v in block.given)}" if block.given else ""
    yield f"{title} ({', '.join(block.params)}){given}"
    for i in block.insts:
        yield f"  {i.out.name} : {i.out.dtype} = {i.op}({', '.join(map(_argument, i.args))})"
    for s in block.stores:
        yield f"  {s.slot.space} {s.slot.name}[{s.offset}] = {s.var.name}{_guards(s.guards)}"
    if block.result is not None:
        yield f"  result {block.result.name}"


def _argument(a: Any) -> str:
    if isinstance(a, Var):
        return a.name
    if isinstance(a, Slot):
        return f"{a.space} {a.name} {a.type}"
    if isinstance(a, tuple):
        return _guards(a).strip() or "always"
    return str(a)


def _guards(guards: Sequence[Guard]) -> str:
    return "".join(f" where {low} <= {e} < {high}" for e, low, high in guards)
