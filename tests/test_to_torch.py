"""to_torch: programs among modules of torch, gradients both ways."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphrt as grt
from graphrt import errors


def two_outputs() -> grt.Graph:
    g = grt.Graph()
    x, scale = g.input("x", (3, 4)), g.input("scale")
    w = g.parameter("layer.w", torch.arange(8.0).reshape(4, 2) / 8)
    g.parameter("layer.frozen", torch.ones(2), trainable=False)
    h = (x @ w + g.sources["layer.frozen"].outputs[0]).tanh() * scale
    g.output("h", h)
    g.output("best", h.argmax(1))
    g.output("total", h.sum())
    return g


def test_a_program_between_modules_of_torch(target: str) -> None:
    module = grt.to_torch(grt.compile(two_outputs(), target=target))
    assert [n for n, _ in module.named_parameters()] == ["layer.w"]
    assert [n for n, _ in module.named_buffers()] == ["layer.frozen"]
    x = torch.randn(3, 4, requires_grad=True)
    found = module(x=torch.sin(x), scale=2.0)
    assert list(found) == ["h", "best", "total"] and not found["best"].requires_grad
    (found["h"].exp().sum() + 3 * found["total"]).backward()
    y, w = x.detach().clone().requires_grad_(), module.layer.w.detach().clone().requires_grad_()
    h = (torch.sin(y) @ w + 1.0).tanh() * 2.0
    (h.exp().sum() + 3 * h.sum()).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.layer.w.grad, w.grad, rtol=1e-4, atol=1e-5)


def test_an_optimizer_of_torch_trains_the_program() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    other = copy.deepcopy(net)
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    program = grt.compile(grt.from_torch(net, x, train=True), target="cpu")
    module = grt.to_torch(program)
    assert module.state_dict().keys() == net.state_dict().keys()
    ours, theirs = torch.optim.Adam(module.parameters(), 0.05), torch.optim.Adam(other.parameters(), 0.05)
    for _ in range(5):
        losses = []
        for optimizer, f in ((ours, module), (theirs, other)):
            optimizer.zero_grad()
            losses.append(F.cross_entropy(f(x), y))
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    for name, value in other.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=1e-3, atol=1e-5)
        assert module.state_dict()[name].data_ptr() == net.state_dict()[name].data_ptr()
    with torch.no_grad():
        before = net[1].num_batches_tracked.item()
        assert not module(x).requires_grad and net[1].num_batches_tracked.item() == before + 1


def test_the_backward_pass_sees_the_dropout_of_the_forward_pass() -> None:
    x = torch.ones(200, requires_grad=True)
    module = grt.to_torch(grt.compile(grt.from_torch(nn.Dropout(0.5), x, train=True), target="cpu"))
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    first.sum().backward()
    assert torch.equal(x.grad, first.detach())


def test_a_parameter_changed_between_the_passes_is_noticed() -> None:
    module = grt.to_torch(grt.compile(two_outputs(), target="reference"))
    total = module(x=torch.randn(3, 4), scale=1.0)["total"]
    with torch.no_grad():
        module.layer.w.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_only_programs_become_modules() -> None:
    with pytest.raises(errors.ArgumentError, match="takes a Program"):
        grt.to_torch(nn.ReLU())  # type: ignore[arg-type]


def test_programs_of_gradients_are_compiled_as_the_program_was() -> None:
    """With its stages of fusion, and nodes kept apart where they are."""
    g = two_outputs()
    names = [n.name for n in grt.compile(g, target="cpu", fusion="none").graph.nodes if n.op.name not in ("input", "parameter")]
    apart = [(names[0], names[1])]
    module = grt.to_torch(grt.compile(g, target="cpu", fusion="-epilogue", forbid=apart))
    inputs = {n: torch.zeros(t.shape, requires_grad=True) for n, t in module._program.inputs.items() if t.dtype.is_float}
    module(**inputs)
    (pair,) = module._pairs.values()
    assert "epilogue" not in pair.forward.fusion and pair.forward.fusion.apart == {frozenset(apart[0])}
    assert "epilogue" not in pair.backward.fusion and "chain" in pair.backward.fusion
