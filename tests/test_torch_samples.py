"""torch's own operator samples (OpInfo) through the ATen table, in float32: slow, so ``make samples`` runs it.

``tests/golden/torch_samples.json`` holds, for each operator, how many samples pass and why the others are skipped; a sample
whose numbers differ from torch's is a failure. ``GRAPHRT_ACCEPT=1 make samples`` writes the file anew.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from accept import check_golden
from torch._decomp import core_aten_decompositions
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

import graphrt as grt
from graphrt import errors
from graphrt.frontends.torch.build import decompositions, tracing, translate
from graphrt.runtime.arrays import from_numpy

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "torch_samples.json"
SAMPLES = 5  # of each operator, at most
TABLE = decompositions(core_aten_decompositions())
RANDOM = "draws random numbers, which are graphrt's own"
CHOSEN = "its vectors are one choice of several"
DATA = "the shape or the path depends on the data"


class Skip(Exception):
    """Why a sample is not compared."""


def operators() -> list[Any]:
    from torch.testing._internal.common_methods_invocations import op_db  # needs the package expecttest

    return [op for op in op_db if torch.float32 in op.dtypes and not op.name.startswith("jiterator")]  # CUDA only


def name_of(op: Any) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


def traced(f: Callable[..., Any], leaves: list[torch.Tensor]) -> torch.fx.GraphModule:
    """``f`` as a graph of core ATen operators and those of the table. Raises Skip."""
    try:
        with tracing(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = make_fx(torch.func.functionalize(f, remove="mutations"), TABLE, "fake")(*leaves)
            if any(_writes(n.target) for n in module.graph.nodes):  # what a decomposition writes into, it made itself
                module = make_fx(torch.func.functionalize(module, remove="mutations"), TABLE, "fake")(*leaves)
            return module
    except (DataDependentOutputException, DynamicOutputShapeException):
        raise Skip(DATA) from None
    except Exception as error:
        text = str(error).split("\n")[0]
        if "data-dependent" in text or "item()" in text or "nonzero" in text:
            raise Skip(DATA) from None
        raise Skip(f"torch cannot trace it: {type(error).__name__}") from None


def _writes(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def compare(op: Any, sample: Any) -> None:
    """Raises Skip, or AssertionError where the results differ."""
    if op.name.startswith("sparse."):
        raise Skip("complex or sparse tensors")
    if op.name in ("svd", "linalg.svd"):
        raise Skip(CHOSEN)
    if "empty" in op.name:
        raise Skip("its numbers are whatever was in memory")
    tree = (sample.input, sample.args, sample.kwargs)
    leaves, spec = pytree.tree_flatten(tree)
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    tensors = [leaves[i].detach().clone() for i in at]
    if any(t.is_complex() or t.is_sparse for t in tensors):
        raise Skip("complex or sparse tensors")

    def f(*given: torch.Tensor) -> list[torch.Tensor]:
        filled = list(leaves)
        for i, t in zip(at, given, strict=True):
            filled[i] = t
        first, args, kwargs = pytree.tree_unflatten(filled, spec)
        return [t for t in pytree.tree_leaves(op.op(first, *args, **kwargs)) if isinstance(t, torch.Tensor)]

    if op.variant_test_name == "partial_views":
        raise Skip("reads memory beside its tensor")
    expected = f(*(t.clone() for t in tensors))
    if any(t.is_complex() or t.is_sparse or t.layout is not torch.strided for t in expected):
        raise Skip("complex or sparse tensors")
    module = traced(f, tensors)
    if any(torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ()) for n in module.graph.nodes):
        raise Skip(RANDOM)
    graph = grt.Graph()
    try:
        inputs = [graph.input(f"x{i}", tuple(t.shape), str(t.dtype)) for i, t in enumerate(tensors)]
        results = translate(module, graph, inputs)
    except errors.GraphrtError as error:
        lacking = re.findall(r"^  (\S+) at ", str(error), re.MULTILINE)
        reason = f"no entry: {', '.join(sorted(lacking))}" if lacking else str(error).split("\n")[0].split(": ", 1)[-1]
        raise Skip(reason) from None
    outputs = {f"y{i}": v for i, v in enumerate(results)}
    found = grt.compile(outputs, target="reference")({f"x{i}": t for i, t in enumerate(tensors)}) if outputs else {}
    for a, b in zip(found.values(), expected, strict=True):
        a = a if isinstance(a, torch.Tensor) else from_numpy(a)
        assert a.dtype == b.dtype and a.shape == b.shape, f"{a.dtype}{list(a.shape)}, torch {b.dtype}{list(b.shape)}"
        scale = b.abs().nan_to_num(0, 0, 0).max().item() if b.is_floating_point() and b.numel() else 0.0
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * max(scale, 1.0), equal_nan=True)


def outcome(op: Any) -> dict[str, Any]:
    """Passed samples of ``op``, skipped ones by reason, failures by message."""
    found: dict[str, Any] = {"passed": 0, "skipped": Counter(), "failed": []}
    torch.manual_seed(0)
    for sample in islice(op.sample_inputs("cpu", torch.float32, requires_grad=False), SAMPLES):
        try:
            compare(op, sample)
            found["passed"] += 1
        except Skip as skip:
            found["skipped"][str(skip)] += 1
        except Exception as error:
            found["failed"].append(f"{type(error).__name__}: {str(error)[:300]}")
    return {**found, "skipped": dict(sorted(found["skipped"].items()))}


def test_operator_samples(capsys: pytest.CaptureFixture[str]) -> None:
    found = {name_of(op): outcome(op) for op in sorted(operators(), key=name_of)}
    failed = {name: f["failed"] for name, f in found.items() if f["failed"]}
    kept = {name: {k: v for k, v in f.items() if k != "failed"} for name, f in found.items()}
    passed = sum(f["passed"] for f in kept.values())
    skipped = sum(sum(f["skipped"].values()) for f in kept.values())
    with capsys.disabled():
        print(f"\n{passed} samples of {sum(f['passed'] > 0 for f in kept.values())} operators pass, {skipped} are skipped")
    assert not failed, json.dumps(failed, indent=1)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(f)}" for name, f in kept.items())
    check_golden(GOLDEN, f"{{\n{lines}\n}}\n")
