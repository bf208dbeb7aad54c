"""What from_onnx says of bad models and arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import INTERPRETED
from onnx import TensorProto, helper, version_converter
from onnx_models import X, info, model

import graphrt as grt
from graphrt.errors import ArgumentError, ConversionError

pytestmark = pytest.mark.skipif(INTERPRETED, reason="what a model means does not depend on the target")

UNKNOWN = helper.make_node("Quux", ["x"], ["y"], name="odd", domain="mine")
REFUSED = {
    "an operator that is not known": (
        lambda: model([UNKNOWN], [X]),
        r"mine:Quux \(node 'odd', number 1 of model.onnx, opset 21\): .* not in the table .*@operator\('Quux', domain='mine'\)",
    ),
    "an attribute that is not known": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"], slope=1)], [X]),
        r"Relu \(node 'y'.*attribute slope is not known; there is none",
    ),
    "an attribute that is missing": (
        lambda: model([helper.make_node("Concat", ["x"], ["y"])], [X]),
        "Concat .*attribute axis is missing",
    ),
    "an input that is missing": (lambda: model([helper.make_node("MatMul", ["x"], ["y"])], [X]), "input 'b' is missing"),
    "an input too many": (
        lambda: model([helper.make_node("Relu", ["x", "x"], ["y"])], [X]),
        "Relu .*it has 2 inputs, the table knows x",
    ),
    "a name that nothing defines": (
        lambda: model([helper.make_node("Relu", ["z"], ["y"])], [X]),
        "it reads 'z', which nothing before it defines",
    ),
    "an output that nothing defines": (lambda: model([helper.make_node("Relu", ["x"], ["z"])], [X]), "output 'y'"),
    "shapes that do not fit": (
        lambda: model([helper.make_node("MatMul", ["x", "x"], ["y"])], [X]),
        r"MatMul \(node 'y', number 1 of model.onnx, opset 21\): .*\[2, 3\]",
    ),
    "a dtype that graphrt does not have": (
        lambda: model([helper.make_node("Identity", ["x"], ["y"])], [info("x", [1], TensorProto.UINT16)]),
        "input 'x' is of type uint16",
    ),
    "a shape that the program decides": (
        lambda: model([helper.make_node("Reshape", ["x", "s"], ["y"])], [X, info("s", [1], TensorProto.INT64)]),
        r"input 'shape' \('s'\) must be known at import.*constants=\{'s': \.\.\.\}",
    ),
    "an open dimension": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"])], [info("x", ["batch", 3])]),
        r"input 'x' is \[batch, 3\]; say what is open, as in shapes=\{'x': \(1, \.\.\.\)\}",
    ),
    "a sequence for a tensor": (
        lambda: model([helper.make_node("SequenceConstruct", ["x"], ["s"]), helper.make_node("Relu", ["s"], ["y"])], [X]),
        r"Relu .*input 'x' \('s'\) must be a tensor",
    ),
    "a tensor for a sequence": (
        lambda: model([helper.make_node("SequenceLength", ["x"], ["y"])], [X]),
        r"SequenceLength .*input 'sequence' \('x'\) must be a sequence",
    ),
    "a sequence as the result": (
        lambda: model([helper.make_node("SequenceConstruct", ["x"], ["y"])], [X]),
        "output 'y' of the model is a sequence",
    ),
    "shapes that do not broadcast": (
        lambda: model([helper.make_node("Expand", ["x", "s"], ["y"])], [X], initial={"s": np.asarray([5, 5])}),
        r"Expand \(node 'y'.*shape mismatch",
    ),
    "an empty model": (lambda: onnx.ModelProto(), "the ONNX model is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_models_are_named(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(grt.errors.GraphrtError, match=message):
        grt.from_onnx(build())


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [info("x", ["batch", 3])])
    with pytest.raises(ArgumentError, match=r"input 'x' is \[batch, 3\]; shapes says \[2, 4\]"):
        grt.from_onnx(proto, shapes={"x": (2, 4)})
    with pytest.raises(ArgumentError, match=r"no input \['z'\] to fix; the inputs are \['x'\]"):
        grt.from_onnx(proto, constants={"z": np.ones(1)})
    with pytest.raises(ArgumentError, match=r"shapes names 'y'; there are the inputs x and the open dimensions batch"):
        grt.from_onnx(proto, shapes={"x": (2, 3), "y": 3})
    (tmp_path / "text.onnx").write_text("this is no model")
    with pytest.raises(ArgumentError, match=r"text.onnx cannot be read as an ONNX model"):
        grt.from_onnx(tmp_path / "text.onnx")
    with pytest.raises(ArgumentError, match="from_onnx takes a path or a ModelProto, got bytes"):
        grt.from_onnx(proto.SerializeToString())
    with pytest.raises(FileNotFoundError):
        grt.from_onnx(tmp_path / "none.onnx")


def test_an_old_model_that_cannot_be_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(version_converter, "convert_version", fail)
    with pytest.raises(ConversionError, match="of opset 9, .*13, the oldest one known: no adapter; export it again"):
        grt.from_onnx(model([helper.make_node("Relu", ["x"], ["y"])], [X], opset=9))


def test_without_onnx_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ArgumentError, match=r"needs the package onnx: pip install onnx"):
        grt.from_onnx("net.onnx")


def test_importing_graphrt_does_not_import_onnx() -> None:
    code = "import sys, graphrt; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def doubled(times: int) -> onnx.ModelProto:
    """A model that doubles a kilobyte of zeros so many times, and adds their sum."""
    nodes = [helper.make_node("ConstantOfShape", ["n"], ["c0"])]
    nodes += [helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(times)]
    nodes += [helper.make_node("ReduceSum", [f"c{times}"], ["s"], keepdims=0), helper.make_node("Add", ["x", "s"], ["y"])]
    return model(nodes, [X], initial={"n": np.asarray([256])})


def test_constants_that_double_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is looked at before a node is computed."""
    assert not [n for n in grt.from_onnx(doubled(2)).nodes if n.op.name == "concat"]
    message = r"Concat \(node 'c\d+'.* takes 1.* GB, and the bound is 1; set GRAPHRT_FOLD to more"
    with pytest.raises(ConversionError, match=message):
        grt.from_onnx(doubled(40))
    monkeypatch.setenv("GRAPHRT_FOLD", "0.00001")
    with pytest.raises(ConversionError, match="the bound is 1e-05"):
        grt.from_onnx(doubled(4))


def test_a_tensor_of_another_size_than_its_shape_is_refused() -> None:
    w = onnx.numpy_helper.from_array(np.zeros(3, "f"), "w")
    made = helper.make_model(helper.make_graph([helper.make_node("Neg", ["w"], ["y"])], "g", [], [info("y", (3,))], [w]))
    made.graph.initializer[0].dims[0] = 2
    with pytest.raises(ArgumentError, match=r"initialiser 'w' is not what its shape \[2\] says: "):
        grt.from_onnx(made)
