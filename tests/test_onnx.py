"""from_onnx: whole models beside torch and ONNX Runtime, what becomes of initialisers, shapes and control flow."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import INTERPRETED
from onnx import TensorProto, helper, numpy_helper
from onnx_models import X, info, model, ort, run

import graphrt as grt
from graphrt import optim
from graphrt.errors import ArgumentError, ConversionError

pytestmark = pytest.mark.skipif(INTERPRETED, reason="what a model means does not depend on the target")


# --- whole models as torch exports them ----------------------------------------------------------------------------


class Residual(torch.nn.Module):
    """What image networks are made of: strides, depthwise filters, norms, a shortcut, resizing, pooling, dropout, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(8), torch.nn.SiLU())
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = torch.nn.GroupNorm(2, 8)
        self.pool = torch.nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.up = torch.nn.ConvTranspose2d(8, 4, 3, 2, 1, 1)
        self.dropout, self.head = torch.nn.Dropout(), torch.nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = torch.nn.functional.hardswish(self.norm(self.depthwise(y)) + y)
        y = torch.nn.functional.interpolate(self.pool(y), scale_factor=2, mode="bilinear")
        y = torch.nn.functional.adaptive_avg_pool2d(torch.nn.functional.gelu(self.up(y)), 1)
        return self.head(self.dropout(y.view(y.size(0), -1))).softmax(-1)


class Tagger(torch.nn.Module):
    """An embedding, an LSTM in both directions, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = torch.nn.Embedding(11, 6), torch.nn.Linear(8, 3)
        self.lstm = torch.nn.LSTM(6, 4, bidirectional=True, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(x))[0])


def transformer() -> torch.nn.Module:
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True, activation="gelu")
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


EXPORTED = {
    "cnn": (Residual, lambda: torch.randn(2, 3, 16, 16), {0: "batch"}),
    "transformer": (transformer, lambda: torch.randn(2, 5, 16), {0: "batch", 1: "time"}),
    "lstm": (Tagger, lambda: torch.randint(0, 11, (2, 7)), {0: "batch"}),
}


def export(name: str, opset: int = 17) -> tuple[torch.nn.Module, torch.Tensor, onnx.ModelProto]:
    build, example, axes = EXPORTED[name]
    torch.manual_seed(0)
    net, x, buffer = build().eval(), example(), io.BytesIO()
    if name == "cnn":  # statistics that are not the neutral ones
        net.train()(x)
        net.eval()
    names = dict(input_names=["x"], output_names=["y"])
    torch.onnx.export(net, (x,), buffer, dynamo=False, dynamic_axes={"x": axes}, opset_version=opset, **names)
    return net, x, onnx.load_model_from_string(buffer.getvalue())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", ["reference", "cpu"])
@pytest.mark.parametrize("name", EXPORTED)
def test_exported_models_equal_torch_and_onnxruntime(name: str, target: str) -> None:
    net, x, proto = export(name)
    graph = grt.from_onnx(proto, shapes={"x": x.shape})
    graph.verify()
    y = grt.compile(graph, target=target)(x=x)["y"]
    torch.testing.assert_close(y, net(x), rtol=1e-4, atol=1e-5)
    assert not [n for n in graph.nodes if n.op.name == "input" and n.name != "x"]
    np.testing.assert_allclose(y, ort(proto, x=x.numpy()), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_learns() -> None:
    """Its parameters are like any others: gradients, an optimizer, a state that programs share."""
    _, x, proto = export("cnn")
    graph = grt.from_onnx(proto, shapes={"batch": 2})
    loss = grt.ops.mse_loss(graph.outputs["y"], graph.input("target", (2, 5)))
    graph.output("loss", loss)
    values = graph.parameters()
    optim.SGD(lr=2.0).apply(values, grt.grad(loss, values), graph.constant(2.0))
    program = grt.compile(graph, target="cpu")
    target = np.eye(5, dtype=np.float32)[:2]
    losses = [float(program(x=x.numpy(), target=target)["loss"]) for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]
    assert program.state["head.weight"].shape == (5, 4)


# --- initialisers, shapes, constants -------------------------------------------------------------------------------


def test_initialisers_are_parameters_and_statistics_are_not_trained() -> None:
    nodes = [helper.make_node("BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["y"])]
    rows = {n: np.full(3, i + 1, np.float32) for i, n in enumerate(("scale", "bias", "mean", "var"))}
    graph = grt.from_onnx(model(nodes, [X], initial=rows))
    assert {v.name for v in graph.parameters()} == {"scale", "bias"}
    assert {v.name for v in graph.parameters(trainable=False)} == {"scale", "bias", "mean", "var"}
    x = np.ones((2, 3), np.float32)
    program = grt.compile(graph, target="reference")
    np.testing.assert_allclose(program(x=x)["y"], (x - 3) / np.sqrt(4 + 1e-5) + 2, rtol=1e-6)
    program.state.set("bias", np.zeros(3))
    np.testing.assert_allclose(program(x=x)["y"], (x - 3) / np.sqrt(4 + 1e-5), rtol=1e-6)


def test_a_default_of_an_input_is_an_initialiser_and_can_be_fixed() -> None:
    proto = model([helper.make_node("Mul", ["x", "w"], ["y"])], [X, info("w", [3])], initial={"w": np.ones(3, np.float32)})
    assert "w" in grt.from_onnx(proto).initial
    fixed = grt.from_onnx(proto, constants={"w": np.full(3, 2, np.float32)})
    assert not fixed.parameters()
    assert grt.compile(fixed, target="reference")(x=np.ones((2, 3), np.float32))["y"][0, 0] == 2


def test_shape_arithmetic_is_done_at_import() -> None:
    """y = x reshaped to [batch, 2 * the rest]: what torch exports for ``view(x.size(0), -1)`` and worse."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["rows"]),
        helper.make_node("Slice", ["shape", "one", "two"], ["rest"]),
        helper.make_node("Div", ["rest", "one"], ["again"]),
        helper.make_node("Concat", ["rows", "again"], ["target"], axis=0),
        helper.make_node("ConstantOfShape", ["target"], ["ones"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        helper.make_node("Range", ["start", "batch", "step"], ["counts"]),
        helper.make_node("Reshape", ["x", "target"], ["flat"]),
        helper.make_node("Add", ["flat", "ones"], ["y"]),
        helper.make_node("Identity", ["counts"], ["z"]),
    ]
    initial = {n: np.asarray(v, np.int64) for n, v in {"zero": 0, "axis": [0], "one": [1], "two": [2]}.items()}
    initial |= {"start": np.asarray(0, np.int64), "step": np.asarray(1, np.int64)}
    graph = grt.from_onnx(model(nodes, [info("x", ["n", 3])], ("y", "z"), initial), shapes={"n": 4})
    assert {n.op.name for n in graph.nodes} <= {"input", "parameter", "add", "constant", "broadcast"}
    outputs = grt.compile(graph, target="reference")(x=np.zeros((4, 3), np.float32))
    assert outputs["y"].tolist() == [[1.0] * 3] * 4 and outputs["z"].tolist() == [0, 1, 2, 3]


def test_origins_name_the_file_and_the_node(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"], name="/layer/Relu")], [X])
    onnx.save(proto, tmp_path / "net.onnx")
    graph = grt.from_onnx(tmp_path / "net.onnx")
    (relu,) = [n for n in graph.nodes if n.op.name == "relu"]
    assert str(relu.origin) == "net.onnx:1 fwd of /layer/Relu"


def test_external_data(tmp_path: Path) -> None:
    w = np.arange(600, dtype=np.float32).reshape(3, 200)
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [X], initial={"w": w})
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    assert (tmp_path / "net.data").stat().st_size >= w.nbytes
    graph = grt.from_onnx(str(tmp_path / "net.onnx"))
    np.testing.assert_array_equal(graph.initial["w"], w)
    (tmp_path / "net.data").unlink()
    with pytest.raises(ArgumentError, match="net.onnx cannot be read as an ONNX model: .*net.data"):
        grt.from_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("place", ["../secret", "ABSOLUTE", "link", "there/../../secret"])
def test_external_data_stays_in_the_models_folder(place: str, tmp_path: Path) -> None:
    """A model names files of its folder only: a link to elsewhere is none."""
    secret, inside = tmp_path / "secret", tmp_path / "models"
    (inside / "there").mkdir(parents=True)
    (inside / "link").symlink_to(secret)
    w = np.arange(600, dtype=np.float32).reshape(3, 200)
    secret.write_bytes(w.tobytes())
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [X], initial={"w": w})
    (tensor,) = proto.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret) if place == "ABSOLUTE" else place)
    (inside / "net.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ArgumentError, match="net.onnx cannot be read as an ONNX model"):
        grt.from_onnx(inside / "net.onnx")


def test_an_older_model_is_converted() -> None:
    """Before opset 13 Squeeze had its axes as an attribute, and softmax flattened."""
    nodes = [helper.make_node("Unsqueeze", ["x"], ["wide"], axes=[0]), helper.make_node("Squeeze", ["wide"], ["y"], axes=[0])]
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(model(nodes, [X], opset=11), x=x), x)


def test_functions_of_the_model_are_expanded() -> None:
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 21)]
    )
    proto = model([helper.make_node("Twice", ["x"], ["y"], domain="mine")], [X], functions=[function])
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    assert run(proto, x=np.ones((2, 3), np.float32))[0, 0] == 2


@pytest.mark.parametrize("softcap", [0.0, 1e6])
def test_what_has_no_entry_is_expanded_by_its_definition(softcap: float) -> None:
    """Attention has one, but for a bound on scores. Names inside are a node's own, so two in one model do not meet."""
    wired = [(["q", "q", "q"], "h"), (["h", "q", "q"], "y")]
    nodes = [helper.make_node("Attention", inputs, [output], softcap=softcap) for inputs, output in wired]
    proto = model(nodes, [info("q", [1, 2, 3, 4])], opset=23)
    graph = grt.from_onnx(proto)
    assert sum(n.op.template == "attention" for n in graph.nodes) == (0 if softcap else 2)
    q = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)
    t = torch.from_numpy(q)
    attend = torch.nn.functional.scaled_dot_product_attention
    np.testing.assert_allclose(run(proto, q=q), attend(attend(t, t, t), t, t), rtol=1e-5, atol=1e-6)


# --- control flow --------------------------------------------------------------------------------------------------


def branch(op: str) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node(op, ["x"], [f"{op}_out"])], op, [], [info(f"{op}_out", None)])


def choice(condition: str) -> onnx.NodeProto:
    return helper.make_node("If", [condition], ["y"], then_branch=branch("Neg"), else_branch=branch("Abs"), name="choice")


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_is_taken_at_import(taken: bool) -> None:
    y = run(model([choice("c")], [X], initial={"c": np.asarray(taken)}), x=np.ones((2, 3), np.float32))
    assert y[0, 0] == (-1 if taken else 1)


def test_a_condition_the_program_decides_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"If \(node 'choice', number 1 of model.onnx, opset 21\): input 'cond' \('c'\)"):
        grt.from_onnx(model([choice("c")], [X, info("c", [], TensorProto.BOOL)]))


def test_a_loop_is_unrolled() -> None:
    """Doubles x as often as it says, and collects each value; a name inside is another one at each step."""
    body = helper.make_graph(
        [
            helper.make_node("Add", ["s", "s"], ["next"]),
            helper.make_node("Cast", ["i"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["next", "number"], ["row"]),
            helper.make_node("Identity", ["go"], ["proceed"]),
        ],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("s", None)],
        [info("proceed", [], TensorProto.BOOL), info("next", None), info("row", None)],
    )
    proto = model(
        [helper.make_node("Loop", ["count", "", "x"], ["last", "y"], body=body)],
        [X],
        initial={"count": np.asarray(3, np.int64)},
    )
    y = run(proto, x=np.ones((2, 3), np.float32))
    assert y[:, 0, 0].tolist() == [2 + 0, 4 + 1, 8 + 2]


def test_a_loop_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphrt.frontends.onnx.operators.control._LONGEST", 20)
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["proceed"]), helper.make_node("Neg", ["s"], ["next"])],
        "body",
        [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("s", None)],
        [info("proceed", [], TensorProto.BOOL), info("next", None)],
    )
    with pytest.raises(ConversionError, match="Loop .*it runs more than 20 times, too many to unroll"):
        grt.from_onnx(model([helper.make_node("Loop", ["", "", "x"], ["y"], body=body)], [X]))


def test_sequences_are_lists_at_import() -> None:
    """x in rows, the last one erased, another one put in front of it, one after the other: rows 1, 0."""
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["rows"], axis=0),
        helper.make_node("SequenceAt", ["rows", "last"], ["row"]),
        helper.make_node("SequenceErase", ["rows"], ["first"]),
        helper.make_node("SequenceInsert", ["first", "row", "zero"], ["both"]),
        helper.make_node("SequenceLength", ["both"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "zero"], ["count"]),
        helper.make_node("ConcatFromSequence", ["both"], ["joined"], axis=0),
        helper.make_node("Concat", ["count", "last"], ["shape"], axis=0),
        helper.make_node("Reshape", ["joined", "shape"], ["y"]),
    ]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    proto = model(nodes, [X], initial={"last": np.asarray([-1]), "zero": np.asarray([0])})
    np.testing.assert_array_equal(run(proto, x=x), x[::-1])


# --- operators that ONNX's own cases leave out --------------------------------------------------------------------


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_numbers_are_new_at_every_run(op: str) -> None:
    sized = {} if op.endswith("Like") or op == "Bernoulli" else {"shape": [400, 5]}
    node = helper.make_node(op, [] if sized else ["x"], ["y"], **sized)
    program = grt.compile(grt.from_onnx(model([node], [] if sized else [info("x", [400, 5])])), target="reference")
    feeds = {} if sized else {"x": np.full((400, 5), 0.5, np.float32)}
    first, second = (program(feeds)["y"] for _ in range(2))
    assert (first != second).any() and first.shape == (400, 5)
    mean, spread = (0.0, 1.0) if "Normal" in op else (0.5, 0.5 if op == "Bernoulli" else 12**-0.5)
    assert abs(first.mean() - mean) < 0.1 and abs(first.std() - spread) < 0.1


def test_global_lp_pool_and_max_roi_pool() -> None:
    x = np.random.default_rng(0).standard_normal((1, 2, 6, 6)).astype(np.float32)
    y = run(model([helper.make_node("GlobalLpPool", ["x"], ["y"], p=3)], [info("x", x.shape)], opset=13), x=x)
    np.testing.assert_allclose(y[0, :, 0, 0], (np.abs(x[0]) ** 3).sum((1, 2)) ** (1 / 3), rtol=1e-5)
    proto = model(
        [helper.make_node("MaxRoiPool", ["x", "r"], ["y"], pooled_shape=[2, 2])], [info("x", x.shape), info("r", [1, 5])]
    )
    y = run(proto, x=x, r=np.asarray([[0, 0, 0, 3, 3]], np.float32))
    np.testing.assert_array_equal(y[0], x[0, :, :4, :4].reshape(2, 2, 2, 2, 2).max((2, 4)))


def test_quantised_weights_stay_integers() -> None:
    """A QDQ model: int8 weights are dequantised in the program, activations rounded to a grid."""
    rng = np.random.default_rng(0)
    w, scale = rng.integers(-128, 128, (4, 3)).astype(np.int8), np.asarray([0.1, 0.2, 0.3], np.float32)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["grid"]),
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weights"], axis=1),
        helper.make_node("MatMul", ["grid", "weights"], ["y"]),
    ]
    initial = {"w": w, "scale": scale, "s": np.asarray(0.05, np.float32), "z": np.asarray(3, np.uint8)}
    proto = model(nodes, [info("x", [2, 4])], initial=initial)
    graph = grt.from_onnx(proto)
    assert graph.sources["w"].types[0].dtype.name == "int8" and not graph.sources["w"].attrs["trainable"]
    x = rng.standard_normal((2, 4)).astype(np.float32)
    np.testing.assert_allclose(grt.compile(graph, target="cpu")(x=x)["y"], ort(proto, x=x), rtol=1e-4, atol=1e-5)


def test_whole_division_and_powers_of_integers() -> None:
    """Of the smallest too: Div rounds towards zero, Mod down or, with fmod, towards zero; Pow wraps around."""
    x, y = np.array([-128, -128, -128, 127, -7, 7, -7], np.int8), np.array([2, 3, -1, -3, 3, -3, -3], np.int8)
    nodes = [helper.make_node("Div", ["x", "y"], ["div"]), helper.make_node("Mod", ["x", "y"], ["mod"])]
    nodes += [helper.make_node("Mod", ["x", "y"], ["fmod"], fmod=1), helper.make_node("Pow", ["w", "y"], ["pow"])]
    given = [helper.make_tensor_value_info(n, t, [7]) for n, t in zip("xyw", (3, 3, TensorProto.INT64), strict=True)]
    results = [helper.make_tensor_value_info(n, TensorProto.INT8, [7]) for n in ("div", "mod", "fmod")]
    results.append(helper.make_tensor_value_info("pow", TensorProto.INT64, [7]))
    made = helper.make_model(helper.make_graph(nodes, "g", given, results), opset_imports=[helper.make_opsetid("", 17)])
    w = np.array([2**40 + 1, 3**20, -1, -1, -3, 1, 2], np.int64)
    found = grt.compile(grt.from_onnx(made), target="cpu")(x=x, y=y, w=w)
    assert found["div"].tolist() == [-64, -42, -128, -42, -2, -2, 2]
    assert found["mod"].tolist() == [0, 1, 0, -2, 2, -2, -1]
    assert found["fmod"].tolist() == [0, -2, 0, 1, -1, 1, -1]
    assert found["pow"].tolist() == [2**41 + 1, pow(3, 60, 2**64) - 2**64, -1, -1, -27, 1, 0]
