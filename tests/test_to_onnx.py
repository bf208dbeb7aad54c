"""to_onnx: every op by its samples, whole networks in ONNX Runtime and back through the importer, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import INTERPRETED
from onnx.reference import ReferenceEvaluator

import graphrt as grt
from graphrt import models, nn
from graphrt import ops as F
from graphrt.errors import ArgumentError, ConversionError
from graphrt.frontends.onnx.export.scalars import SCALARS
from graphrt.op import REGISTRY, Kind, OpDef
from graphrt.ops.base import apply
from graphrt.targets.reference.evaluate import evaluate

pytestmark = pytest.mark.skipif(INTERPRETED, reason="what a model means does not depend on the target")
ort = pytest.importorskip("onnxruntime", reason="the package onnxruntime is missing")
NEWEST = onnx.defs.onnx_opset_version()
REFUSED = {  # by name, as an op that ONNX has no form for
    **dict.fromkeys(("atan2", "erfinv", "erfc"), "has no ONNX operator"),
    **dict.fromkeys(("bitwise_left_shift", "bitwise_right_shift"), "BitShift takes unsigned integers only"),
    **dict.fromkeys(("attention_dq", "attention_dkv", "attention_dscores"), "has no ONNX form"),
    **dict.fromkeys(("conv_wgrad", "max_pool_grad", "max_pool_gather", "sum_pool_grad", "nms", "svd", "lu", "recurrence",
                     "uniform"), "has no ONNX form"),
}  # fmt: skip


def run(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> list[np.ndarray]:
    """The outputs in ONNX Runtime, of a model that the checker has gone through with full inference of shapes."""
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    return session.run(None, {name: array for name, array in feeds.items() if name in names})


def graphs(op: OpDef) -> list[tuple[grt.Graph, dict[str, np.ndarray]]]:
    """A graph for each of the samples of ``op``, with its inputs."""
    found = []
    for sample in op.samples(np.random.default_rng(0)):
        graph = grt.Graph()
        feeds = {f"x{i}": array for i, array in enumerate(sample.inputs)}
        values = [graph.input(name, array.shape, array.dtype.name) for name, array in feeds.items()]
        node = apply(op.name, *values, **sample.attrs).node
        for i, value in enumerate(node.outputs):
            if not (op.name == "max_pool" and i):  # where the winner was has no ONNX form
                graph.output(f"y{i}", value)
        found.append((graph, feeds))
    return found


APART = (Kind.SOURCE, Kind.GENERATED, Kind.COLLECTIVE)
WITH_INPUTS = sorted(op.name for op in REGISTRY.values() if op.kind not in APART)


@pytest.mark.parametrize("name", WITH_INPUTS)
def test_every_op_is_written_or_refused_by_name(name: str) -> None:
    """The same numbers as the reference in ONNX Runtime, in the oldest and the newest opset."""
    for graph, feeds in graphs(REGISTRY[name]):
        if name in REFUSED:
            with pytest.raises(ConversionError, match=f"{name}.*test_to_onnx.py:.*{REFUSED[name]}"):
                grt.to_onnx(graph)
            continue
        if name == "scan" and graph.nodes[-1].attrs["op"] != "sum":
            with pytest.raises(ConversionError, match="a running (prod|max|logaddexp) has no ONNX operator"):
                grt.to_onnx(graph)
            continue
        if any(v.dtype.name == "bfloat16" for v in graph.values()):
            onnx.checker.check_model(grt.to_onnx(graph), full_check=True)
            continue  # ONNX Runtime takes none from NumPy
        expected = evaluate(graph, feeds)
        opset = 18 if name.startswith("bitwise") or (name == "scatter") else 17
        try:
            found = run(grt.to_onnx(graph, opset=opset), feeds)
        except Exception as error:  # ONNX Runtime has no kernel for some dtypes
            if "NOT_IMPLEMENTED" not in str(error):
                raise
            continue
        for actual, value in zip(found, graph.outputs.values(), strict=True):
            assert actual.dtype == value.dtype.numpy and actual.shape == value.shape
            scale = np.abs(expected[value][np.isfinite(expected[value])]).max(initial=1.0)
            np.testing.assert_allclose(actual, expected[value], rtol=2e-6, atol=2e-6 * scale, err_msg=f"{graph}")


@pytest.mark.parametrize("name", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast_from"])
def test_what_processes_exchange_is_refused(name: str) -> None:
    graph = grt.Graph(mesh=grt.Mesh(dp=2))
    graph.output("y", F.FUNCTIONS[name](graph.input("x", (2, 2), varying="dp"), "dp"))
    with pytest.raises(ConversionError, match=f"{name}.*test_to_onnx.py:.*has no ONNX form"):
        grt.to_onnx(graph)


def test_most_samples_run() -> None:
    """What ONNX Runtime has no kernel for is little, so the test above compares."""
    assert set(SCALARS) >= {"add", "exp", "erf"} and len(REFUSED) < 20 and len(WITH_INPUTS) > 90


# --- networks -----------------------------------------------------------------------------------------------------


class Everything(nn.Module):
    """Convolutions of each rank, norms, pooling with holes and half windows, resizing, attention, recurrence, positions."""

    def __init__(self) -> None:
        self.line, self.cube = nn.Conv1d(3, 4, 3, padding=1), nn.Conv3d(1, 2, 3, padding=1)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        self.groups, self.up = nn.GroupNorm(2, 8), nn.ConvTranspose2d(8, 3, 3, 2, 1, 1)
        self.pool, self.average = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(3, 2, 1, ceil_mode=True)
        self.embed, self.lstm = nn.Embedding(11, 6), nn.LSTM(6, 4, bidirectional=True, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: grt.Value, tokens: grt.Value) -> dict[str, grt.Value]:
        y = F.silu(self.groups(self.norm(self.conv(x))))
        text, _ = self.lstm(self.embed(tokens))
        text = self.layer(text)
        values, at = F.topk(F.mean(text, 1), 3)
        return {
            "picture": self.up(y),
            "pooled": self.pool(y) + self.average(y),
            "resized": F.interpolate(y, scale_factor=2, mode="bilinear"),
            "line": F.gelu(self.line(F.mean(x, -1))),
            "cube": self.cube(F.unsqueeze(x, 1)),
            "logits": F.log_softmax(self.head(text), -1),
            "best": values,
            "at": at,
            "turned": F.flip(F.cumsum(F.pad(x, (1, 2, 0, 1), value=0.5), -1), (2, 3)),
            "like": F.clamp(x, -0.5, 0.5) * F.softmax(x, 1) + F.hardswish(x) - F.softplus(x),
        }


def everything() -> tuple[nn.Module, dict[str, np.ndarray]]:
    nn.manual_seed(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 9, 8)).astype(np.float32)
    return Everything().eval(), {"x": x, "tokens": rng.integers(0, 11, (2, 7))}


def outputs(net: nn.Module, feeds: Mapping[str, Any]) -> tuple[grt.Graph, Mapping[grt.Value, np.ndarray]]:
    """The graph of ``net`` and its values in float64."""
    graph = nn.trace(net, dict(feeds))
    assert graph.state is not None
    return graph, evaluate(graph, {**graph.initial, **graph.state, **feeds})


@pytest.mark.parametrize("opset", [17, 18, NEWEST])  # the newest by ONNX's own evaluator: ONNX Runtime knows it later
def test_a_network_of_everything_runs_with_any_batch(opset: int, tmp_path: Path) -> None:
    net, feeds = everything()
    model = grt.to_onnx(net, tmp_path / "net.onnx", feeds, opset=opset)
    assert onnx.load(tmp_path / "net.onnx") == model and model.opset_import[0].version == opset
    assert [i.name for i in model.graph.input] == ["x", "tokens"]
    assert {i.name for i in model.graph.initializer} >= {name for name, _ in net.named_parameters()}
    dims = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    assert dims["out.logits"] == ["batch", 7, 5] and dims["out.picture"] == ["batch", 3, 10, 8]
    for batch in (2, 4):
        given = {name: np.concatenate([array] * (batch // 2)) for name, array in feeds.items()}
        graph, expected = outputs(net, given)
        results = run(model, given) if opset < NEWEST else ReferenceEvaluator(model).run(None, given)
        for found, (name, value) in zip(results, graph.outputs.items(), strict=True):
            np.testing.assert_allclose(found, expected[value], rtol=1e-5, atol=1e-5, err_msg=name)
    back = grt.from_onnx(model, shapes={"batch": 2})
    again = evaluate(back, {**back.initial, **feeds})
    graph, expected = outputs(net, feeds)
    for name, value in graph.outputs.items():
        np.testing.assert_allclose(again[back.outputs[name]], expected[value], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.proof
@pytest.mark.parametrize("name", models.MODELS)
def test_every_network_runs_in_onnx_runtime(name: str) -> None:
    """At a small size where it takes any, with another batch than it was written with, and in OpenVINO where that is."""
    model = models.get(name)
    nn.manual_seed(0)
    net, rng, shape = model.build().eval(), np.random.default_rng(0), model.input_shape
    if shape[0] == 3 and shape[1] > 64 and not name.startswith(("vit", "mixer", "vgg", "alexnet", "pix2pix")):
        shape = (3, 80, 80) if name == "inception_v3" else (3, 64, 64)  # which takes 75 pixels at least
    shape = (16,) if name == "gpt2" else shape
    x = rng.integers(0, 100, (2, *shape)) if model.dtype == "int64" else rng.standard_normal((2, *shape)).astype(np.float32)
    written = grt.to_onnx(net, None, (x[:1],))
    expected = grt.compile(net, (x,), target="cpu")(x)
    expected = expected[0] if isinstance(expected, tuple) else expected
    found = {"ONNX Runtime": run(written, {written.graph.input[0].name: x})[0]}
    try:
        import openvino
    except ImportError:
        pass
    else:
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        found["OpenVINO"] = openvino.compile_model(openvino.Core().read_model(written.SerializeToString()), "CPU", settings)(x)[
            0
        ]
    for what, y in found.items():
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(expected).max()), err_msg=what)


def test_a_torch_module_keeps_its_names() -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Flatten(),
                              torch.nn.Linear(18, 3)).eval()  # fmt: skip
    x = torch.randn(4, 1, 5, 5)
    model = grt.to_onnx(net, None, (x,))
    assert {i.name for i in model.graph.initializer} >= {"0.weight", "1.running_mean", "4.bias"}
    (found,) = run(model, {model.graph.input[0].name: x.numpy()})
    np.testing.assert_allclose(found, net(x).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_a_graph_keeps_its_sizes() -> None:
    g = grt.Graph()
    x = g.input("x", (2, 3))
    g.output("y", x)
    g.output("z", F.relu(x) @ g.parameter("w", np.ones((3, 2), np.float32)))
    model = grt.to_onnx(g)
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3]
    feeds = {"x": np.array([[1, -1, 2], [0, 1, 1]], np.float32)}
    y, z = run(model, feeds)
    assert (y == feeds["x"]).all() and (z == [[3, 3], [2, 2]]).all()


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    g = grt.Graph()
    x = g.input("x", (2, 3))
    g.output("y", F.erfinv(x))  # this line
    with pytest.raises(ConversionError, match=r"erfinv_0 \(.*test_to_onnx.py:\d+\) cannot be written as ONNX: .*erfinv"):
        grt.to_onnx(g, tmp_path / "net.onnx")
    assert not (tmp_path / "net.onnx").exists()

    class Mean(nn.Module):
        def forward(self, x: grt.Value) -> grt.Value:
            return x * (1.0 / x.shape[0])

    with pytest.raises(ConversionError, match="depends on the batch: 0.5 for 2 examples, 0.33.* dynamic_batch=False"):
        grt.to_onnx(Mean(), None, np.zeros((2, 3), np.float32))
    assert grt.to_onnx(Mean(), None, np.zeros((2, 3), np.float32), dynamic_batch=False)

    class Pairs(nn.Module):
        def forward(self, x: grt.Value) -> grt.Value:
            return F.reshape(x, (2, 6))

    with pytest.raises(ConversionError, match="(?s)with 2 examples: reshape .*with dynamic_batch=False the batch stays"):
        grt.to_onnx(Pairs(), None, np.zeros((4, 3), np.float32))
    net = nn.Linear(3, 2)
    with pytest.raises(ArgumentError, match="a model with example_inputs; got Linear without"):
        grt.to_onnx(net)
    with pytest.raises(ArgumentError, match="opset must be 17 to"):
        grt.to_onnx(net, None, np.zeros((1, 3), np.float32), opset=16)
    graph = nn.trace(nn.BatchNorm1d(3), np.zeros((4, 3), np.float32), train=True)
    with pytest.raises(ArgumentError, match="inference graphs, and this one updates num_batches_tracked, running_mean"):
        grt.to_onnx(graph)
