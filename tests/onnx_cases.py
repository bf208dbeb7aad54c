"""ONNX's own test cases for its operators: a model of one node, or of its definition, with inputs and expected outputs."""

from __future__ import annotations

import functools
import re
import warnings
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

import graphrt as grt
from graphrt.errors import GraphrtError
from graphrt.frontends.onnx import operators  # noqa: F401 - fills the table
from graphrt.frontends.onnx.table import TABLE

# Inputs that must be known at import, of operators that ONNX defines by others; those of the table say so themselves.
KNOWN = {
    "AffineGrid": ["size"],
    "BlackmanWindow": ["x"],
    "CenterCropPad": ["shape"],
    "HammingWindow": ["x"],
    "HannWindow": ["x"],
    "Upsample": ["scales"],
}
_DRAWN = "draws random numbers, others than ONNX's"
RANDOM = {
    name: _DRAWN
    for name in (
        *(f"test_bernoulli{kind}{expanded}" for kind in ("", "_double", "_seed") for expanded in ("", "_expanded")),
        *(f"test_training_dropout{kind}" for kind in ("", "_mask", "_default", "_default_mask")),
    )
}


@dataclass(frozen=True)
class Outcome:
    """``skipped`` says why a case did not run, ``wrong`` how it failed; both are empty where it passed."""

    skipped: str = ""
    wrong: str = ""


@functools.cache
def cases() -> dict[str, Any]:
    """All cases of the installed onnx by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}


def _array(tensor: Any) -> Any:
    return numpy_helper.to_array(tensor) if isinstance(tensor, onnx.TensorProto) else tensor


def _known(case: Any) -> set[str]:
    """The inputs that the operator needs at import. A case's expansion has the same ones."""
    nodes = cases()[case.name.split("_expanded")[0]].model.graph.node
    if len(nodes) != 1:
        return set()
    entry = TABLE.get((nodes[0].domain, nodes[0].op_type))
    if entry is None:
        return set(KNOWN.get(nodes[0].op_type, ()))
    wants = dict(zip(nodes[0].input, entry.inputs, strict=False))
    return {name for name, parameter in wants.items() if name and entry.wants(parameter) == "array"}


def run(case: Any, target: str) -> Outcome:
    """Imports ``case``, compiles it for ``target`` and compares every output."""
    if case.name in RANDOM:
        return Outcome(skipped=RANDOM[case.name])
    inputs, expected = ([_array(t) for t in part] for part in case.data_sets[0])
    feeds = dict(zip((v.name for v in case.model.graph.input), inputs, strict=True))
    known = _known(case) & feeds.keys()
    shapes = {n: a.shape for n, a in feeds.items() if isinstance(a, np.ndarray) and n not in known}
    try:
        graph = grt.from_onnx(case.model, shapes, {name: feeds[name] for name in known})
    except GraphrtError as error:
        return Outcome(skipped=re.split(r"\n|; |\. To add it", str(error).rpartition("): ")[2])[0])
    outputs = grt.compile(graph, target=target)({n: a for n, a in feeds.items() if n not in known})
    for value, want in zip(case.model.graph.output, expected, strict=True):
        wrong = _difference(outputs[value.name], np.asarray(want), case.rtol, case.atol)
        if wrong:
            return Outcome(wrong=f"{value.name}: {wrong}")
    return Outcome()


def _difference(got: np.ndarray, want: np.ndarray, rtol: float, atol: float) -> str:
    if (got.dtype, got.shape) != (want.dtype, want.shape):
        return f"{got.dtype}{list(got.shape)}, not {want.dtype}{list(want.shape)}"
    if got.dtype.itemsize == 2 and got.dtype.kind not in "iu":  # two roundings; the cases' own tolerance is for float32
        rtol = max(rtol, 2 * float(ml_dtypes.finfo(got.dtype).eps))
    try:
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol, max(atol, 1e-6))
    except AssertionError as error:
        return str(error)
    return ""
