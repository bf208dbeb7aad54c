"""What results of torch.compile share, and how they lie in memory: small functions beside eager mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch_cases import tensors

import graphrt.frontends.torch  # noqa: F401 - registers the backend where the package is not installed

pytestmark = pytest.mark.filterwarnings("error:graphrt leaves")  # nothing runs in eager mode

ends_here = torch._dynamo.graph_break
CASES: dict[str, Callable[..., Any]] = {}


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def case(f: Callable[..., Any]) -> Callable[..., Any]:
    CASES[f.__name__] = f
    return f


@case
def halves_of_one_buffer(x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(4, 3)
    a, b = out[:2], out[2:]
    ends_here()
    a.copy_(x.detach())
    b.copy_(-x.detach())
    return out


@case
def a_row(x: torch.Tensor) -> Any:
    y = x * 2
    z = y[0]
    ends_here()
    z.add_(5)
    return y, z


@case
def a_flat_view(x: torch.Tensor) -> Any:
    y = x * 2
    z = y.view(-1)
    ends_here()
    z.add_(5)
    return y, z


@case
def a_transposed_view(x: torch.Tensor) -> Any:
    y = x * 2
    z = y.t()
    ends_here()
    z.add_(5)
    return y, z, (x * 3).t()


@case
def a_detached_view(x: torch.Tensor) -> Any:
    y = x * 2
    z = y.detach()
    ends_here()
    z.add_(5)
    return y, z


@case
def windows(x: torch.Tensor) -> Any:
    y = (x * 2).view(-1)
    return y, y.unfold(0, 3, 1)


@case
def views_of_the_input(x: torch.Tensor) -> Any:
    return (x * 2).t(), x.t(), x.view(-1), x, x[1:, ::2]


@case
def transposed_then_viewed(x: torch.Tensor) -> torch.Tensor:
    y = (x * 2).t()
    ends_here()
    return y.t().view(-1)


@case
def parts(x: torch.Tensor) -> Any:
    y = (x.detach() * 2).contiguous()
    a, b, c = y.split(1, 1)
    ends_here()
    a.add_(1)
    return y, a, b, c, *y.unbind(0)


@case
def many_views(x: torch.Tensor) -> Any:
    y = x + 1
    return y, y, y.expand(2, 2, 3), y.unsqueeze(0), y[:, ::2], y.diagonal(), y.clone()


@case
def writes_into_a_view_of_the_input(x: torch.Tensor) -> Any:
    v = x[0]
    v.mul_(2)
    return x, v, x + 1


@case
def transposes_the_input(x: torch.Tensor) -> torch.Tensor:
    x.t_()
    return x * 2


@case
def channels_last(x: torch.Tensor) -> Any:
    image = x.view(1, 2, 3, 1)
    wide = x[None, None].expand(2, 3, 2, 3).to(memory_format=torch.channels_last)
    return (
        torch.relu(image).contiguous(memory_format=torch.channels_last),
        image.clone(memory_format=torch.channels_last),
        wide * 3,
    )


@case
def by_place_in_memory(x: torch.Tensor) -> Any:
    y = x * 2
    turned = y.t() * 3
    return (
        torch.as_strided(y, (2, 2), (1, 3), 1),
        torch.as_strided(turned, (6,), (1,)) - 1,
        torch.as_strided(y[1:], (2,), (2,)) + 1,
    )


@case
def no_tensor_goes_in(x: torch.Tensor) -> Any:
    y = torch.arange(6.0)
    return y, y.view(2, 3), y[::2]


def described(f: Callable[..., Any], gradients: bool) -> dict[str, Any]:
    """What can be seen of a call of ``f``: its input and results, whose memory they are, and gradients."""
    leaf = torch.arange(1.0, 7.0).view(2, 3).requires_grad_(gradients)
    x = leaf * 1
    found = [x, *tensors(f(x))]
    owners: dict[int, int] = {}
    seen: dict[str, Any] = {
        "values": [t.tolist() for t in found],
        "strides": [(tuple(t.shape), t.stride(), t.storage_offset()) for t in found],
        "memory": [owners.setdefault(t.untyped_storage().data_ptr(), len(owners)) for t in found],
        "the same": [[a is b for a in found] for b in found],
        "differentiable": [t.requires_grad for t in found],
    }
    with_gradient = [t for t in found if t.requires_grad]
    if with_gradient:
        total = sum((t * torch.arange(1.0, t.numel() + 1).view(t.shape)).sum() for t in with_gradient)
        (gradient,) = torch.autograd.grad(total, [leaf])
        seen["gradient"] = gradient.tolist()  # small whole numbers, so exact
    return seen


@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "gradients"])
@pytest.mark.parametrize("name", CASES)
def test_results_share_memory_as_in_eager_mode(name: str, gradients: bool) -> None:
    f = CASES[name]
    expected = described(f, gradients)
    for dynamic in (False, True)[: 1 if gradients else 2]:
        torch._dynamo.reset()
        call = torch.compile(f, backend="graphrt", dynamic=dynamic, options={"target": "reference"})
        found = described(call, gradients)
        for what, right in expected.items():
            assert found[what] == right, what
