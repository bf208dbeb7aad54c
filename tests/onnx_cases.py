"""ONNX's own test cases: models of one operator, or of its definition, and small models as torch once exported them, each with
inputs and expected outputs."""

from __future__ import annotations

import functools
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Shipped:
    """A model in a file, in the form of the other cases."""

    name: str
    model: Any
    data_sets: list[tuple[list[Any], list[Any]]]
    rtol: float = 1e-3
    atol: float = 1e-5


def shipped() -> dict[str, Any]:
    """The models that lie beside the package's tests, with their first set of data."""
    found: dict[str, Any] = {}
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for kind in ("pytorch-converted", "pytorch-operator", "simple"):
        for path in sorted((folder / kind).iterdir()):
            data = path / "test_data_set_0"
            sets = tuple(
                [_read(data / f"{k}_{i}.pb") for i in range(len(list(data.glob(f"{k}_*"))))] for k in ("input", "output")
            )
            found[path.name] = Shipped(path.name, onnx.load(path / "model.onnx"), [sets])  # type: ignore[list-item]
    return found


def _read(path: Path) -> onnx.TensorProto:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return tensor


def _array(tensor: Any) -> Any:
    return numpy_helper.to_array(tensor) if isinstance(tensor, onnx.TensorProto) else tensor


def _known(case: Any) -> set[str]:
    """The inputs that the operator needs at import. A case's expansion has the same ones."""
    nodes = cases().get(case.name.split("_expanded")[0], case).model.graph.node
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
    names = [v.name for v in case.model.graph.input]
    defaults = {t.name for t in case.model.graph.initializer}
    feeds = dict(zip(names if len(inputs) == len(names) else [n for n in names if n not in defaults], inputs, strict=True))
    known = _known(case) & feeds.keys()
    shapes = {n: a.shape for n, a in feeds.items() if isinstance(a, np.ndarray) and n not in known}
    try:
        graph = grt.from_onnx(case.model, shapes, {name: feeds[name] for name in known})
    except GraphrtError as error:
        reason = str(error).rpartition("): ")[2]  # without the node's place
        return Outcome(skipped=re.split(r"\n|; |\. To add it", reason)[0])
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
