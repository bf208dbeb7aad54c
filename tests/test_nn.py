"""Modules, initialisation and optimizers, against torch with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphrt
from graphrt import Graph, models, nn, optim
from graphrt.errors import ArgumentError, GraphError, InputError, ShapeError

torch = pytest.importorskip("torch")


def forward(net: nn.Module, x: np.ndarray, target: str = "reference") -> np.ndarray:
    return graphrt.compile(net(Graph().input("x", x.shape)), target=target)(x=x)


LAYERS: list[tuple[str, Callable[[Any], Any], tuple[int, ...]]] = [
    ("linear", lambda m: m.Linear(6, 4), (3, 6)),
    ("linear_no_bias", lambda m: m.Linear(6, 4, bias=False), (2, 3, 6)),
    ("conv", lambda m: m.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 7, 6)),
    ("conv_same", lambda m: m.Conv2d(2, 3, (3, 2), padding="same", dilation=2, bias=False), (1, 2, 8, 7)),
    ("relu", lambda m: m.ReLU(), (5,)),
    ("leaky", lambda m: m.LeakyReLU(), (5,)),
    ("elu", lambda m: m.ELU(), (5,)),
    ("softplus", lambda m: m.Softplus(2.0), (5,)),
    ("sigmoid", lambda m: m.Sigmoid(), (5,)),
    ("tanh", lambda m: m.Tanh(), (5,)),
    ("gelu", lambda m: m.GELU(), (5,)),
    ("gelu_tanh", lambda m: m.GELU(approximate="tanh"), (5,)),
    ("silu", lambda m: m.SiLU(), (5,)),
    ("softmax", lambda m: m.Softmax(dim=1), (2, 5)),
    ("log_softmax", lambda m: m.LogSoftmax(dim=0), (4, 3)),
    ("max_pool", lambda m: m.MaxPool2d(3, 2, padding=1, ceil_mode=True), (1, 2, 8, 7)),
    ("avg_pool", lambda m: m.AvgPool2d(3, 2, padding=1, count_include_pad=False), (1, 2, 8, 7)),
    ("layer_norm", lambda m: m.LayerNorm((3, 4)), (2, 3, 4)),
    ("batch_norm_1d", lambda m: m.BatchNorm1d(3), (4, 3, 5)),
    ("batch_norm_2d", lambda m: m.BatchNorm2d(3, affine=False), (4, 3, 2, 2)),
    ("no_statistics", lambda m: m.BatchNorm1d(3, track_running_stats=False), (4, 3)),
    ("dropout", lambda m: m.Dropout(), (4, 3)),
    ("flatten", lambda m: m.Flatten(), (2, 3, 4)),
    ("identity", lambda m: m.Identity(), (2,)),
    ("constant_pad", lambda m: m.ConstantPad1d((2, -1), 1.5), (2, 3, 4)),
    ("zero_pad", lambda m: m.ZeroPad2d((1, 2, 0, 3)), (2, 3, 4, 5)),
    ("zero_pad_3d", lambda m: m.ZeroPad3d(1), (3, 2, 4, 5)),
    ("reflection_pad", lambda m: m.ReflectionPad2d((1, 2, 3, 0)), (2, 3, 4, 5)),
    ("replication_pad", lambda m: m.ReplicationPad3d(2), (1, 2, 3, 4, 2)),
    ("circular_pad", lambda m: m.CircularPad1d((3, 1)), (2, 3, 4)),
    ("upsample", lambda m: m.Upsample(scale_factor=2.0), (1, 2, 3, 4)),
    ("upsample_bilinear", lambda m: m.Upsample((5, 7), mode="bilinear", align_corners=True), (1, 2, 3, 4)),
]


@pytest.mark.parametrize(("build", "shape"), [pytest.param(b, s, id=n) for n, b, s in LAYERS])
def test_layer_equals_torch(build: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    ours, theirs = build(nn).eval(), build(torch.nn).eval()
    rng = np.random.default_rng(1)
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point():  # running variances are positive
            tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tensor.shape).astype("f")))
        assert name in ours.state_dict() or name == "num_batches_tracked"
    ours.load_state_dict(theirs.state_dict())
    x = rng.standard_normal(shape).astype("f")
    with torch.no_grad():
        np.testing.assert_allclose(forward(ours, x), theirs(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_layers_that_torch_has_not(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 6, 4, 5)).astype("f")
    for rank, widths in ((1, (3, 1)), (2, (1, 2, 3, 0)), (3, (1, 0, 2, 2, 0, 4))):
        layer = getattr(nn, f"SymmetricPad{rank}d")(widths)
        pairs = [(0, 0)] * (4 - rank) + list(zip(widths[-2::-2], widths[-1::-2], strict=True))
        given = x if rank > 1 else x[0]
        np.testing.assert_array_equal(forward(layer, given), np.pad(given, pairs[4 - given.ndim :], "symmetric"))
    np.testing.assert_array_equal(forward(nn.Maxout(3), x), x.reshape(2, 2, 3, 4, 5).max(2))
    for call, message in (
        (lambda: nn.ZeroPad2d((1, 2)), "needs an int, or 4 of them"),
        (lambda: nn.ReflectionPad1d(1)(Graph().input("x", (2, 3, 4, 5))), "ReflectionPad1d needs 2 or 3 dimensions"),
        (lambda: nn.Maxout(4)(Graph().input("x", (2, 6))), "divisible by pool_size 4"),
    ):
        with pytest.raises((ArgumentError, ShapeError), match=message):
            call()


def test_sum_pool() -> None:
    x = np.arange(16, dtype="f").reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(forward(nn.SumPool2d(2), x)[0, 0], [[10, 18], [42, 50]])


def test_batch_norm_updates_statistics_as_torch() -> None:
    ours, theirs = nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    graph = Graph()
    graph.output("y", ours(graph.input("x", (4, 3, 2, 2))))
    program = graphrt.compile(graph, target="reference")
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((4, 3, 2, 2)).astype("f") * 2 + 1
        expected = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(program(x=x)["y"], expected, rtol=1e-4, atol=1e-5)
    for name in ("running_mean", "running_var"):
        np.testing.assert_allclose(program.state[name], getattr(theirs, name).numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "integer"),
    [
        (lambda m: m.CrossEntropyLoss(label_smoothing=0.1), True),
        (lambda m: m.CrossEntropyLoss(ignore_index=1), True),
        (lambda m: m.NLLLoss(), True),
        (lambda m: m.BCEWithLogitsLoss(reduction="sum"), False),
        (lambda m: m.MSELoss(), False),
        (lambda m: m.L1Loss(reduction="none"), False),
    ],
)
def test_loss_equals_torch(build: Callable[[Any], Any], integer: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4)).astype("f")
    y = rng.integers(0, 4, 6) if integer else rng.uniform(size=(6, 4)).astype("f")
    graph = Graph()
    loss = build(nn)(graph.input("x", x.shape), graph.input("y", y.shape, y.dtype.name))
    expected = build(torch.nn)(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    np.testing.assert_allclose(graphrt.compile(loss, target="reference")(x=x, y=y), expected, rtol=1e-5)


# --- modules -----------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        self.features = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.blocks = [nn.Linear(4, 4), nn.Linear(4, 4)]
        self.head = self.blocks[0]  # shared

    def forward(self, *args: Any) -> Any:
        (x,) = args
        x = self.features(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_names_sharing_and_counts() -> None:
    net = Net()
    names = [n for n, _ in net.named_parameters()]
    assert names == [f"{m}.{p}" for m in ("features.0", "blocks.0", "blocks.1") for p in ("weight", "bias")]
    assert nn.count_parameters(net) == 3 * 20
    graph = Graph()
    x = graph.input("x", (2, 4))
    net(x)
    net(x)
    net.features(x)  # another root, the same parameters
    assert [p.name for p in graph.parameters()] == names
    assert "total" in nn.summary(net) and "(features)" in repr(net)


def test_two_modules_may_not_share_a_name() -> None:
    x = Graph().input("x", (2, 4))
    nn.Linear(4, 4)(x)
    with pytest.raises(GraphError, match="both have a parameter 'weight'"):
        nn.Linear(4, 4)(x)


def test_frozen_parameters_are_not_trainable() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.trainable = False
    x = Graph().input("x", (1, 2))
    layer(x)
    assert [p.name for p in x.graph.parameters()] == ["bias"]
    assert nn.count_parameters(layer) == 2 and nn.count_parameters(layer, trainable=False) == 6


def test_load_state_dict_lists_what_does_not_fit() -> None:
    layer = nn.Linear(2, 2)
    before = layer.state_dict()
    with pytest.raises(InputError, match=r"missing \['bias'\], unexpected \['extra'\], misshapen \['weight"):
        layer.load_state_dict({"weight": np.zeros((3, 3)), "extra": np.zeros(1)})
    assert all((before[n] == a).all() for n, a in layer.state_dict().items())
    layer.load_state_dict({"bias": np.ones(2)}, strict=False)
    assert layer.bias is not None and layer.bias.array.tolist() == [1, 1]


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ArgumentError, match="make one with"):
        nn.ReLU()(np.zeros(3))
    with pytest.raises(ShapeError, match="BatchNorm2d"):
        nn.BatchNorm2d(2)(Graph().input("x", (2, 2)))
    with pytest.raises(ArgumentError, match="padding_mode"):
        nn.Conv2d(1, 1, 3, padding_mode="mirror")


# --- initialisation ----------------------------------------------------------------------------------------------


def test_seed_decides_weights() -> None:
    def weights(seed: int) -> list[np.ndarray]:
        nn.manual_seed(seed)
        return list(models.mlp().state_dict().values())

    first, again, other = weights(3), weights(3), weights(4)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not any((a == b).all() for a, b in zip(first, other, strict=True))


def test_default_bounds_are_torchs() -> None:
    conv = nn.Conv2d(4, 64, 5)
    bound = 1 / np.sqrt(100)
    assert conv.bias is not None
    for parameter in (conv.weight, conv.bias):
        assert 0.8 * bound < np.abs(parameter.array).max() <= bound


@pytest.mark.parametrize(
    ("fill", "std"),
    [
        (nn.init.kaiming_normal_, np.sqrt(2 / 200)),
        (lambda p: nn.init.kaiming_uniform_(p, mode="fan_out", nonlinearity="tanh"), 5 / 3 / np.sqrt(300)),
        (nn.init.xavier_normal_, np.sqrt(2 / 500)),
        (nn.init.xavier_uniform_, np.sqrt(2 / 500)),
        (lambda p: nn.init.normal_(p, std=0.3), 0.3),
        (lambda p: nn.init.trunc_normal_(p, std=0.5, a=-0.5, b=0.5), 0.26985),  # of a normal cut at one deviation
        (nn.init.zeros_, 0.0),
        (lambda p: nn.init.constant_(p, 4.0), 0.0),
    ],
)
def test_init_deviation(fill: Callable[[nn.Parameter], nn.Parameter], std: float) -> None:
    assert fill(nn.Parameter(np.empty((300, 200), "f"))).array.std() == pytest.approx(std, rel=0.02)


# --- optimizers --------------------------------------------------------------------------------------------------

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "weight_decay": 0.1, "momentum": 0.9, "centered": True}),
]


@pytest.mark.parametrize(("name", "arguments"), OPTIMIZERS)
def test_optimizer_equals_torch(name: str, arguments: dict[str, Any]) -> None:
    ours, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ours.load_state_dict(theirs.state_dict())
    graph = Graph()
    x, y = graph.input("x", (4, 3)), graph.input("y", (4, 2))
    loss = graph.output("loss", nn.MSELoss()(ours(x), y))
    params = graph.parameters()
    getattr(optim, name)(**arguments).apply(params, graphrt.grad(loss, params), graph.input("lr"))
    assert {n.origin.phase for n in graph.nodes} == {"fwd", "bwd", "opt"}
    program = graphrt.compile(graph, target="cpu")
    optimizer = getattr(torch.optim, name)(theirs.parameters(), **arguments)
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = (rng.standard_normal(s).astype("f") for s in ((4, 3), (4, 2)))
        optimizer.zero_grad()
        expected = torch.nn.functional.mse_loss(theirs(torch.from_numpy(a)), torch.from_numpy(b))
        expected.backward()
        optimizer.step()
        assert float(program(x=a, y=b, lr=arguments["lr"])["loss"]) == pytest.approx(expected.item(), rel=1e-5)
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(program.state[key], tensor.numpy(), rtol=1e-5, atol=1e-6)


def test_optimizer_arguments() -> None:
    with pytest.raises(ArgumentError, match="nesterov"):
        optim.SGD(0.1, nesterov=True)
    with pytest.raises(ArgumentError, match="lr must be at least 0"):
        optim.Adam(-1.0)
    with pytest.raises(ArgumentError, match="betas"):
        optim.Adam(betas=(0.9, 1.0))
    with pytest.raises(ArgumentError, match="alpha"):
        optim.RMSprop(alpha=1.0)
    with pytest.raises(ArgumentError, match="eps must be at least 0"):
        optim.Adagrad(eps=-1.0)


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        (optim.Constant(), (1, 1, 1)),
        (optim.Step((0.5,), 0.1), (1, 0.1, 0.1)),
        (optim.Cosine(), (1, 0.5, 0)),
        (optim.Linear(final=0.5), (1, 0.75, 0.5)),
        (optim.InverseSqrt(0.25), (1, 0.5**0.5, 0.5)),
        (optim.warmup(optim.Linear(), 0.5, first=0.2), (0.2, 1, 0)),
    ],
)
def test_schedules(schedule: optim.LRSchedule, factors: tuple[float, ...]) -> None:
    assert [schedule.lr(step, 10) for step in (0, 5, 10)] == pytest.approx(factors)


def test_a_sequential_says_which_layer_gives_several_results() -> None:
    """torch's message speaks of a tuple that nobody wrote; a layer that takes a tuple may get one."""
    x = Graph().input("x", (5, 3, 4))
    for after, message in ((nn.Linear(6, 2), "input must be a Value"), (nn.ReLU(), "relu at .*input must be a Value")):
        net = nn.Sequential(nn.Identity(), nn.LSTM(4, 6), after)
        where = rf"layer 2 \({type(after).__name__}\) is called with what layer 1 \(LSTM\) returns, a tuple of 2: {message}"
        with pytest.raises(ArgumentError, match=rf"(?s){where}.*passes on one of them: after\(before\(x\)\[0\]\)"):
            net(x)
    with pytest.raises(ShapeError):  # a fault of another kind is told as it is
        nn.Sequential(nn.Linear(4, 2), nn.Linear(3, 2))(x)

    class First(nn.Module):
        def forward(self, input: Any) -> Any:
            return input[0]

    assert nn.Sequential(nn.LSTM(4, 6), First(), nn.Linear(6, 2))(x).shape == (5, 3, 2)
