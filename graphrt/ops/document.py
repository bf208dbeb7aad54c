"""Writes docs/ops.md from the registry and the public functions: ``python -m graphrt.ops.document > docs/ops.md``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import numpy as np

from graphrt.errors import GraphrtError
from graphrt.op import REGISTRY, Kind, OpDef, Sample
from graphrt.ops import CREATIONS, FUNCTIONS
from graphrt.types import DTYPES, DType, TensorType

_HEAD = """# Operators

Written by `make docs` from the registry and the public functions; a test holds that it is up to date.

Every op runs on every target: cpu, cuda, hip, interpret and reference. Its *kind* is all that fusion knows of it:

| kind | what it is |
| --- | --- |
| source | a buffer somebody else fills |
| elementwise, random, generated | scalar code, fused into its readers and writers |
| view | an index map, folded into whoever reads it |
| gather | elementwise in its positions, fused like it |
| reduction | a kernel of its own or fused with what comes before, behind and beside it over the same rows |
| contraction, window, scan, scatter, sort | a template of loops with fused prologues and, where it says so, epilogues |
| collective | what the processes of a mesh exchange, beside the kernels that follow |
| decomposition | a template of loops with fused prologues, which works where its result lies |
"""


def document() -> str:
    """The page as Markdown."""
    parts = [_HEAD, "## Functions", "", "| function | what it is |", "| --- | --- |"]
    parts += [f"| `{name}{_signature(f)}` | {_first(f)} |" for name, f in sorted({**FUNCTIONS, **CREATIONS}.items())]
    parts += ["", "## Ops of the graph", "", "| op | arguments | dtypes | kind | lowered by | gradient |", "| --- " * 6 + "|"]
    parts += [f"| {' | '.join(row(op))} |" for op in sorted(REGISTRY.values(), key=lambda op: (op.kind.value, op.name))]
    return "\n".join([*parts, ""])


def row(op: OpDef) -> Iterator[str]:
    """The cells of an op's row: name, arguments, dtypes, kind, what lowers it, and whether it has a gradient."""
    yield f"`{op.name}`"
    yield ", ".join(_arguments(op)) or "-"
    yield _dtypes(op)
    yield op.kind.value
    rules = {"scalar code": op.body, "index map": op.pull, f"template `{op.template}`": op.template}
    yield next((name for name, rule in rules.items() if rule is not None), "the target")
    yield "yes" if op.vjp is not None else "ends here" if op.barrier else "no"


def _arguments(op: OpDef) -> list[str]:
    """Names of its operands and attributes: those of its type rule where it has names, else counted."""
    names = list(inspect.signature(op.infer).parameters.values())
    inputs = [p.name for p in names if p.kind is p.POSITIONAL_OR_KEYWORD]
    samples = op.samples(np.random.default_rng(0))
    attrs = list(dict.fromkeys(k for s in samples for k in s.attrs))
    if op.kind is Kind.COLLECTIVE:
        inputs += [f"*{p.name}" for p in names if p.kind is p.VAR_POSITIONAL]
        attrs = [p.name for p in names if p.kind is p.KEYWORD_ONLY]
    if any(p.kind is p.VAR_POSITIONAL for p in names) and samples:
        counts = {len(s.inputs) for s in samples}
        inputs = ["input", "other"][: max(counts)] if len(counts) == 1 else ["*tensors"]
    return [*inputs, *(f"{a}=" for a in attrs)]


def _dtypes(op: OpDef) -> str:
    """The dtypes its numbers may have, by the type rule itself."""
    samples = op.samples(np.random.default_rng(0))
    taken = [d for d in DTYPES.values() if any(_takes(op, s, d) for s in samples if s.inputs)]
    if not taken:
        return "-" if not samples or not samples[0].inputs else ", ".join(str(np.asarray(a).dtype) for a in samples[0].inputs)
    groups = {"float": [d for d in DTYPES.values() if d.is_float], "int": [d for d in DTYPES.values() if d.is_int]}
    groups["bool"] = [d for d in DTYPES.values() if d.is_bool]
    found = [name for name, group in groups.items() if all(d in taken for d in group)]
    return ", ".join(found + [d.name for d in taken if not any(d in groups[name] for name in found)])


def _takes(op: OpDef, sample: Sample, dtype: DType) -> bool:
    arrays = [np.asarray(a) for a in sample.inputs]
    numbers = {a.dtype.kind for a in arrays}
    moved = "f" if "f" in numbers else "iu" if numbers & {"i", "u"} else "b"  # integers beside floats are positions
    types = [TensorType(a.shape, dtype if a.dtype.kind in moved else DTYPES[str(a.dtype)]) for a in arrays]
    try:
        op.infer(*types, **sample.attrs)
    except GraphrtError:
        return False
    return True


def _signature(f: object) -> str:
    """The signature without type hints, on one line."""
    assert callable(f)
    shown = inspect.signature(f)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in shown.parameters.values()]
    return str(shown.replace(parameters=bare, return_annotation=inspect.Signature.empty)).replace("|", "\\|")


def _first(f: object) -> str:
    return (inspect.getdoc(f) or "").split("\n")[0].replace("|", "\\|")


if __name__ == "__main__":
    print(document(), end="")
