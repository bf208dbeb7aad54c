"""Mixed precision: what autocast casts, that training under it follows torch's, and dynamic loss scaling."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch
from conftest import target_parameters

import graphrt as grt
from graphrt import nn, optim
from graphrt import ops as F
from graphrt.errors import ArgumentError, DTypeError

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


class Net(nn.Module):
    """Two convolutions, a norm, a residual sum and a linear layer."""

    def __init__(self) -> None:
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.linear = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: grt.Value) -> grt.Value:
        h = F.relu(self.conv1(x))
        h = F.relu(self.norm(self.conv2(h)) + h)
        return self.linear(F.mean(h, (2, 3)))


def _step(half: str | None, scaler: optim.GradScaler | None = None, size: int = 8) -> grt.Graph:
    """One training step of the network on four images."""
    nn.manual_seed(0)
    net = Net()
    graph = grt.Graph()
    x, y = graph.input("x", (4, 3, size, size)), graph.input("y", (4,), "int64")
    with graph.autocast(half or "bfloat16", enabled=half is not None):
        loss = graph.output("loss", F.cross_entropy(net(x), y))
    params = graph.parameters()
    if scaler is None:
        optim.SGD(0.1, momentum=0.9).apply(params, grt.grad(loss, params), graph.input("lr"))
    else:
        scaler.apply(optim.SGD(0.1, momentum=0.9), params, grt.grad(scaler.scale(loss), params), graph.input("lr"))
    return graph


def _feeds(rng: np.random.Generator, size: int = 8) -> dict[str, object]:
    x = rng.standard_normal((4, 3, size, size)).astype(np.float32)
    return {"x": x, "y": rng.integers(0, 5, 4), "lr": 0.1}


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_contractions_are_halves_and_parameters_are_not(half: str) -> None:
    graph = _step(half)
    contractions = [n for n in graph.nodes if n.op.kind is grt.op.Kind.CONTRACTION]
    assert len(contractions) == 9 and {v.dtype.name for n in contractions for v in (*n.inputs, *n.outputs)} == {half}
    assert {p.dtype.name for p in graph.parameters()} == {"float32"}
    assert graph.outputs["loss"].dtype.name == "float32"
    relus = [n for n in graph.nodes if n.op.name == "relu"]
    assert {n.types[0].dtype.name for n in relus} == {half}, "activations keep the type of what they follow"


def test_what_autocast_is_not_for() -> None:
    graph = grt.Graph()
    with pytest.raises(DTypeError, match="bfloat16 or float16, got int8"), graph.autocast("int8"):
        pass
    x = graph.input("x", (2, 2), "float64")
    with graph.autocast():
        assert F.matmul(x, x).dtype.name == "float64"
        with graph.autocast(enabled=False):
            z = graph.input("z", (2, 2))
            assert F.matmul(z, z).dtype.name == "float32"
        assert F.softmax(F.matmul(z, z)).dtype.name == "float32"
    assert F.matmul(z, z).dtype.name == "float32"


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("target", target_parameters())
def test_training_under_autocast_follows_float32(half: str, target: str, rng: np.random.Generator) -> None:
    """The loss curve within the roundings of a half; the same under torch.autocast, which is further off."""
    exact, mixed = (grt.compile(_step(h), target=target) for h in (None, half))
    feeds = _feeds(rng)
    for i in range(3 if INTERPRETED else 12):
        a, b = (float(p(feeds)["loss"]) for p in (exact, mixed))
        assert b == pytest.approx(a, abs=0.02 if half == "bfloat16" else 0.004), f"step {i}"
    assert {n: mixed.state.types[n] for n in mixed.state} == exact.state.types, (
        "weights stay float32; halves are nobody's state"
    )


def test_lenet_follows_torch_autocast() -> None:
    nn.manual_seed(0)
    net = grt.models.get("lenet5").build()
    layers: list[torch.nn.Module] = []
    for c in ((1, 6), (6, 16)):
        layers += [torch.nn.Conv2d(*c, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    layers += [torch.nn.Flatten(), torch.nn.Linear(400, 120), torch.nn.ReLU(), torch.nn.Linear(120, 84), torch.nn.ReLU()]
    other = torch.nn.Sequential(*layers, torch.nn.Linear(84, 10))
    other.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in net.state_dict().items()})
    trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.05, momentum=0.9), target="cpu", autocast="bfloat16")
    sgd = torch.optim.SGD(other.parameters(), 0.05, 0.9)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 32)
    x = (rng.standard_normal((32, 1, 32, 32)) + y[:, None, None, None] / 5).astype(np.float32)
    ours, theirs = [], []
    for _ in range(15):
        ours.append(trainer.step(x, y)["loss"])
        sgd.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(other(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        sgd.step()
        theirs.append(loss.item())
    np.testing.assert_allclose(ours, theirs, atol=0.03)
    assert ours[-1] < ours[0]


@pytest.mark.skipif(INTERPRETED, reason="torch exports in the lane that compiles")
@pytest.mark.parametrize("train", [False, True])
def test_a_torch_module_is_taken_as_it_is_under_torch_autocast(train: bool) -> None:
    """Around the export or within the module: the same casts, results as far from torch's as a rounding may be."""
    torch.manual_seed(0)
    norm, linear = torch.nn.BatchNorm2d(8), torch.nn.Linear(8, 5)
    layers = [torch.nn.Conv2d(3, 8, 3), norm, torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 1), torch.nn.AdaptiveAvgPool2d(1)]
    net, x = torch.nn.Sequential(*layers, torch.nn.Flatten(), linear).train(train), torch.randn(4, 3, 8, 8)

    class Within(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.net(x)

    with torch.autocast("cpu", torch.bfloat16):
        around, other = grt.from_torch(net, (x,), train=train), copy.deepcopy(net)
        expected = other(x)
    for graph in (around, grt.from_torch(Within(), (x,), train=train)):
        products = [n.types[0].dtype.name for n in graph.nodes if n.op.kind is grt.op.Kind.CONTRACTION]
        assert products == ["bfloat16"] * 3 and {p.dtype.name for p in graph.parameters()} == {"float32"}
        found = grt.compile(graph, target="cpu")(x)
        assert found.dtype == expected.dtype == torch.bfloat16
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_scaling_does_not_change_what_is_exact(rng: np.random.Generator) -> None:
    """A factor that is a power of two leaves every bit of a float32 step as it is."""
    plain, scaled = grt.compile(_step(None), target="cpu"), grt.compile(_step(None, optim.GradScaler()), target="cpu")
    feeds = _feeds(rng)
    for _ in range(3):
        plain(feeds), scaled(feeds)
    for name in plain.state:
        np.testing.assert_allclose(plain.state[name], scaled.state[name], rtol=1e-6, atol=1e-7)


def test_scaler_skips_what_overflows_and_grows_again(rng: np.random.Generator) -> None:
    program = grt.compile(_step("float16", optim.GradScaler(init_scale=2.0**30, growth_interval=3)), target="cpu")
    feeds, state = _feeds(rng), program.state
    counted = ("scaler", "norm.running", "norm.num_batches")  # these go on
    before = {name: state[name].copy() for name in state if not name.startswith(counted)}
    program(feeds)
    assert state["scaler.scale"] == 2.0**29 and state["scaler.growth_tracker"] == 0
    for name, value in before.items():
        np.testing.assert_array_equal(state[name], value, err_msg=f"{name} changed in a step that was skipped")
    skipped = 1
    while state["scaler.growth_tracker"] == 0:
        program(feeds)
        skipped += 1
    good = 2.0 ** (31 - skipped)
    assert state["scaler.scale"] == good < 2.0**25
    program(feeds), program(feeds)
    assert state["scaler.scale"] == 2 * good and state["scaler.growth_tracker"] == 0


def test_scaler_arguments() -> None:
    with pytest.raises(ArgumentError, match="growth_factor > 1"):
        optim.GradScaler(growth_factor=1.0)
    graph = grt.Graph()
    p = graph.parameter("p", np.ones(2, np.float32))
    with pytest.raises(ArgumentError, match=r"scaler.scale\(loss\)"):
        optim.GradScaler().apply(optim.SGD(0.1), [p], [p], graph.input("lr"))


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_checkpoints_and_predictions(half: str, rng: np.random.Generator, tmp_path: object) -> None:
    nn.manual_seed(0)
    net = grt.models.get("mlp").build()
    trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.1), target="cpu", autocast=half)
    x, y = rng.standard_normal((8, 784)).astype(np.float32), rng.integers(0, 10, 8)
    trainer.step(x, y)
    assert trainer.predict(x).dtype == np.float32
    trainer.save(f"{tmp_path}/a.safetensors")
    again = grt.Trainer(grt.models.get("mlp").build(), nn.CrossEntropyLoss(), optim.SGD(0.1), target="cpu", autocast=half)
    again.load(f"{tmp_path}/a.safetensors")
    assert again.step(x, y) == trainer.step(x, y)


@pytest.mark.skipif(INTERPRETED, reason="compiles kernels, which cannot be under TRITON_INTERPRET=1")
@pytest.mark.aot
@pytest.mark.parametrize(
    ("half", "precision", "instruction"),
    [("bfloat16", "highest", "MMA"), (None, "highest", ""), (None, "high", "MMA"), (None, "medium", "MMA")],
)
def test_tensor_cores(half: str | None, precision: str, instruction: str) -> None:
    """Contractions of halves run on tensor cores; those of float32 do when they may."""
    program = grt.compile(_step(half, size=16), target="cuda:sm_90", float32_matmul_precision=precision)
    contractions = [r for r in program.kernels() if r.name.split("__")[0] in ("matmul", "conv", "conv_dgrad", "conv_wgrad")]
    assert len(contractions) == 8, "the gradient of the images is not asked for"
    for r in contractions:
        assert any("MMA" in i for i in r.instructions) == bool(instruction), r
        assert not r.spills
