"""torch.compile(model, backend="graphrt") beside eager mode."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_from_torch import COMPILED, _grad, leaves
from torch import nn
from torch.nn import functional as F
from torch_cases import FAMILIES, Bundle, close, modes, objective, tensors
from torch_models import MODELS

import graphrt.frontends.torch  # noqa: F401 - registers the backend where the package is not installed
from graphrt.frontends.torch import backend


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing compiled before, every fallback an error, no seed left behind."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "graphrt leaves")
        yield


def compiled(model: Callable[..., Any], target: str = "cpu", **options: Any) -> Any:
    return torch.compile(model, backend="graphrt", options={"target": target}, **options)


@modes("recurrent")  # which dynamo leaves to eager mode itself
def test_modules_of_torch_nn(family: str, train: bool) -> None:
    # every backend of torch.compile gets this loss wrong: torch decomposes it before a backend sees it, and counts padding
    cases = [(make, inputs) for make, inputs in FAMILIES[family] if not isinstance(make(), nn.MultiLabelMarginLoss)]
    module = Bundle(cases).train(train)
    theirs = copy.deepcopy(module)
    args = [inputs for _, inputs in cases]
    mine, other = leaves(args), leaves(args)
    got, expected = compiled(module, "reference", fullgraph=True)(mine), theirs(other)
    for i, (a, b) in enumerate(zip(tensors(got), tensors(expected), strict=True)):
        close(a, b, 1e-4, f"result {i}")
    objective(expected).backward()
    objective(got).backward()
    for i, (a, b) in enumerate(zip(tensors(mine), tensors(other), strict=True)):
        if b.requires_grad:
            close(_grad(a), _grad(b), 1e-3, f"gradient of input {i}")
    for name, p in theirs.named_parameters():
        close(_grad(module.get_parameter(name)), _grad(p), 1e-3, f"gradient of {name}")
    for name, buffer in theirs.named_buffers():
        close(module.get_buffer(name), buffer, 1e-4, f"buffer {name}")


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


LOOPS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], torch.optim.Optimizer]]] = {
    "perceptron": (Perceptron, lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
    "ResNet": (MODELS["ResNet"], lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, weight_decay=1e-4)),
    "ViT": (MODELS["ViT"], lambda p: torch.optim.AdamW(p, 1e-3)),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.proof] if n == "ResNet" else []) for n in LOOPS])
@pytest.mark.parametrize("target", COMPILED)
def test_training_loops_have_the_loss_curve_of_eager_mode(name: str, target: str) -> None:
    make, optimizer_of = LOOPS[name]
    ours = make()
    theirs = copy.deepcopy(ours)
    batches = [(torch.randn(8, 3, 32, 32), torch.randint(10, (8,))) for _ in range(4)]
    curves = []
    for model, call in ((ours, compiled(ours, target)), (theirs, theirs)):
        optimizer, curve = optimizer_of(model.parameters()), []
        for step in range(12):
            x, y = batches[step % 4]
            optimizer.zero_grad()
            loss = F.cross_entropy(call(x), y)
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    assert curves[0] == pytest.approx(curves[1], rel=1e-3, abs=1e-3) and sum(curves[0][-4:]) < sum(curves[0][:4])
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(ours, target)(x), theirs(x), rtol=1e-2, atol=1e-2)


def test_the_loss_may_be_part_of_it_and_the_target_follows_the_device() -> None:
    net = Perceptron()

    @torch.compile(backend="graphrt", fullgraph=True)
    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(net(x), y, label_smoothing=0.1)

    x, y = torch.randn(4, 3, 32, 32), torch.randint(10, (4,))
    loss = step(x, y)
    loss.backward()
    expected = F.cross_entropy(net(x), y, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(expected, [net.layers[1].weight])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(net.layers[1].weight.grad, gradient, rtol=1e-3, atol=1e-5)


def test_modes_no_grad_and_autocast() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 2))
    call, x = compiled(net), torch.randn(4, 3, 5, 5)
    trained = call(x)
    assert trained.requires_grad and net[1].num_batches_tracked.item() == 1
    net.eval()
    torch.testing.assert_close(call(x), net(x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert not call(x).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = call(x), net(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.03)


@torch._dynamo.config.patch(recompile_limit=3)
def test_batches_of_many_sizes_run_up_to_the_limit() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    call = compiled(net, "reference", dynamic=True)
    for n in (2, 3, 4, 3, 2):
        x = torch.randn(n, 4, requires_grad=True)
        y = call(x)
        torch.testing.assert_close(y, net(x))
        y.sum().backward()
        assert x.grad.shape == (n, 4)
    with pytest.warns(UserWarning, match="it has met 3 sets of sizes"), warnings.catch_warnings():
        warnings.filterwarnings("always", "graphrt leaves")
        x = torch.randn(7, 4, requires_grad=True)
        torch.testing.assert_close(call(x), net(x))


class HalfKnown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.matrix_exp(x).sum() + x.sin().sum()


def test_what_has_no_entry_runs_in_eager_mode_with_one_warning() -> None:
    x = torch.randn(3, 3, requires_grad=True)
    call = compiled(HalfKnown(), fullgraph=True)
    with pytest.warns(UserWarning, match=r"(?s)eager mode.*linalg_matrix_exp.default at .*test_torch_compile.py:\d+") as caught:
        warnings.filterwarnings("always", "graphrt leaves")
        found = call(x)
        call(x)
    assert sum("graphrt leaves" in str(w.message) for w in caught) == 1
    found.backward()
    (expected,) = torch.autograd.grad(HalfKnown()(x), [x])
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-5)


def test_a_graph_break_splits_the_model() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x.exp()
        return y.cos() if y.sum() > 3 else y.sin()

    call = compiled(f, "reference")
    for x in (torch.zeros(2), torch.ones(2)):
        torch.testing.assert_close(call(x), f(x))


def test_torch_manual_seed_decides_what_is_dropped() -> None:
    call, x = compiled(nn.Dropout(0.5)), torch.ones(500, requires_grad=True)
    torch.manual_seed(1)
    first = call(x)
    first.sum().backward()
    assert torch.equal(x.grad, first.detach())
    second = call(x)
    torch.manual_seed(1)
    assert torch.equal(call(x), first) and not torch.equal(second, first)


def test_writes_into_arguments_reach_the_caller() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x.add_(y)
        return x.view(-1)[1:] * 2

    x, y = torch.zeros(2, 2), torch.ones(2, 2)
    assert compiled(f)(x, y).tolist() == [2.0, 2.0, 2.0] and x.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_clone_is_another_tensor() -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x + 1
        return x.clone(), y, y.clone(), x

    x = torch.zeros(2)
    copy_of_x, y, copy_of_y, same = compiled(f)(x)
    copy_of_x.add_(5)
    copy_of_y.add_(5)
    assert x.tolist() == [0.0, 0.0] and y.tolist() == [1.0, 1.0] and same is x


def test_options_are_checked_and_the_entry_point_is_the_backend() -> None:
    with pytest.raises(Exception, match="the options of backend graphrt are target"):
        torch.compile(torch.sin, backend="graphrt", options={"speed": 9})(torch.ones(2))
    assert "graphrt" in torch._dynamo.list_backends() and torch._dynamo.lookup_backend("graphrt") is backend


@pytest.mark.parametrize("target", COMPILED)
def test_tensors_of_any_memory_format_are_read_where_they_lie(target: str) -> None:
    net = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1))
    theirs, fast = copy.deepcopy(net), compiled(net, target)
    images = torch.randn(6, 16, 6, 6)
    for x in (images, images.to(memory_format=torch.channels_last), images.permute(3, 1, 0, 2), images[::2]):
        a, b = x.detach().requires_grad_(), x.detach().requires_grad_()
        close(fast(a), theirs(b), 1e-4, f"strides {x.stride()}")
        fast(a).square().sum().backward()
        theirs(b).square().sum().backward()
        close(_grad(a), _grad(b), 1e-3, "gradient")
