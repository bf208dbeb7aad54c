"""Entries of the ATen table one by one beside eager torch: what whole models seldom meet; and what it refuses, with advice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import INTERPRETED
from torch import nn
from torch.nn import functional as T
from torch_cases import close, integers, normal, tensors

import graphrt as grt
from graphrt import errors

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
Tensor = torch.Tensor


def functions(x: Tensor, y: Tensor, n: Tensor, mask: Tensor, table: Tensor, places: Tensor) -> dict[str, Any]:
    """x, y [4, 6], n [4, 6] small integers, mask [4, 6], table [9, 4], places [5] of 9."""
    zeros = torch.zeros_like(x)
    batches = x.reshape(2, 3, 4), y.reshape(2, 4, 3)
    offsets = torch.tensor([0, 2, 2])
    return {
        "addbmm": torch.addbmm(x[:3, :3], *batches, beta=0.5, alpha=2.0),
        "addbmm without": torch.addbmm(x[:3, :3] / 0.0, *batches, beta=0),
        "integers": n @ n.T,
        "integer batches": torch.bmm(n.reshape(2, 3, 4), n.reshape(2, 4, 3)),
        "copysign": torch.copysign(x, y),
        "copysign zero": torch.copysign(x, -zeros),
        "copysign number": torch.copysign(x, -1.0),
        "signbit": torch.signbit(torch.stack([x, zeros, -zeros])),
        "signbit int": torch.signbit(n - 3),
        "shifts": [n << 2, (n << 3) >> n, n.bitwise_left_shift(n), 5 << n, n.__lshift__(1), n.__rshift__(1)],
        "ldexp": torch.ldexp(x, n),
        "dist": [torch.dist(x, y, p) for p in (0, 1, 2, 3.5, float("inf"))],
        "max of bool": [*torch.max(mask, 1), *torch.min(mask, 0, keepdim=True)],
        "diagonal": torch.diagonal_scatter(x, y[0, :4], 1),
        "put": torch.put(x, torch.tensor([0, -1]), y[0, :2]),
        "index_reduce": x.index_reduce(1, torch.tensor([1, 1]), y[:, :2], "prod"),
        "multiply": x.scatter(1, n % 6, 0.5, reduce="multiply"),
        "bucketize": [torch.bucketize(x, y[0].sort()[0], right=r) for r in (False, True)],
        "searchsorted": [torch.searchsorted(y.sort(1)[0], x, side="right"), torch.searchsorted(y[0].sort()[0], 0.3)],
        "isin": torch.isin(n, torch.tensor([1, 3])),
        "nonzero_static": torch.nonzero_static(mask, size=7, fill_value=-2),
        "masked_scatter": x.masked_scatter(mask, y),
        "repeat_interleave": torch.repeat_interleave(torch.tensor([2, 0, 3]), output_size=5),
        "embedding by frequency": T.embedding(places, table, scale_grad_by_freq=True),
        "bags": [T.embedding_bag(places, table, offsets, mode=m) for m in ("sum", "mean", "max")],
        "grid": T.grid_sample(x.reshape(1, 1, 4, 6), y.reshape(1, 3, 4, 2), "bicubic", "reflection", False),
        "affine": T.affine_grid(x[:2, :3].reshape(1, 2, 3), [1, 1, 3, 2], align_corners=True),
        "logsumexp of nothing": [torch.logsumexp(x[:0], 0), torch.logsumexp(x[:0], 1)],
        "replicate and crop": T.pad(x.reshape(1, 4, 6), (-7, 3), "replicate"),
        "reflect and crop": T.pad(x.reshape(1, 4, 6), (-4, 4), "reflect"),
        "circular and crop": T.pad(x.reshape(1, 4, 6), (-2, 4), "circular"),
        "strided": torch.as_strided(x.t() * 1.0, (3, 2), (1, 5), 2),
        "strided view": torch.as_strided_scatter((x * 2.0)[1:], x[0, :2] * 1.0, (2,), (3,)),
        "strided copy": torch.as_strided_copy((x * 2.0)[1:], (2,), (3,), 0),
        "gaussian": T.gaussian_nll_loss(x, y, y.abs(), full=True),
        "negative variance": T.gaussian_nll_loss(x, y, x.abs() + 1.0, eps=1.5, reduction="none"),
        "narrow": torch.narrow(x, 1, n[0, 0] % 3, 2),
        "item": x * n[0, 0].item() + x[n[0, 1].item() % 4],
    }


def examples() -> tuple[Tensor, ...]:
    return normal(4, 6), normal(4, 6), integers(6, 4, 6), normal(4, 6) > 0.0, normal(9, 4), integers(9, 5)


@pytest.mark.parametrize("where", ["reference", "interpret" if INTERPRETED else "cpu"])
def test_functions(where: str) -> None:
    args = examples()
    found, expected = grt.compile(functions, args, target=where)(*args), functions(*args)
    for name, theirs in expected.items():
        for a, b in zip(tensors([found[name]]), tensors([theirs]), strict=True):
            both = torch.isfinite(b)
            assert torch.equal(torch.isfinite(a), both) and torch.equal(a[~both], b[~both]), name
            close(torch.where(both, a, torch.zeros_like(a)), torch.where(both, b, torch.zeros_like(b)), 1e-5, name)


def _strided(x: Tensor, s: Tensor) -> Tensor:
    y = x.t() * 1.0
    y.as_strided((2,), (5,), 1).copy_(s)
    return y * y


def _diagonal(x: Tensor) -> Tensor:
    y = torch.zeros(5, 5)
    y.diagonal(1).copy_(x)
    return y * x.sum()


PLACES, STARTS, MASK = torch.tensor([1, 4, 1, 8, 0, 4, 1]), torch.tensor([0, 2, 2]), torch.tensor([True, False, True])
GRADIENTS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "cumprod": (lambda x: x.relu().cumprod(1), ((3, 4),)),
    "masked_scatter": (lambda x, s: x.masked_scatter(MASK, s), ((4, 3), (9,))),
    "grid": (lambda x, g: T.grid_sample(x, g, align_corners=False), ((1, 2, 4, 4), (1, 3, 3, 2))),
    "volume": (lambda x, g: T.grid_sample(x, g, "nearest", "border", True), ((1, 2, 3, 4, 2), (1, 2, 3, 1, 3))),
    "affine": (lambda t: T.affine_grid(t, [2, 1, 3, 4], align_corners=False), ((2, 2, 3),)),
    "strided": (_strided, ((3, 4), (2,))),
    "diagonal": (_diagonal, ((4,),)),
    "frequency": (lambda w: T.embedding(PLACES, w, padding_idx=4, scale_grad_by_freq=True), ((9, 3),)),
    "weighted": (
        lambda w, p: T.embedding_bag(PLACES, w, STARTS, mode="sum", per_sample_weights=p, padding_idx=4),
        ((9, 3), (7,)),
    ),
    **{
        f"bag {mode} {padding}": (
            lambda w, m=mode, p=padding: T.embedding_bag(PLACES, w, STARTS, mode=m, padding_idx=p),
            ((9, 3),),
        )
        for mode, padding in (("sum", None), ("mean", 1), ("max", None))
    },
}


@pytest.mark.skipif(INTERPRETED, reason="torch.compile runs on the cpu target here, and on a GPU's in its own tests")
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_torch_compile_stay_in_graphrt(name: str) -> None:
    function, shapes = GRADIENTS[name]
    mine = [normal(*s).requires_grad_() for s in shapes]
    other = [t.detach().clone().requires_grad_() for t in mine]
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*to eager mode.*")
        y, z = torch.compile(function, backend="graphrt")(*mine), function(*other)
        close(y, z, 1e-5, name)
        weights = normal(*z.shape)
        (y * weights).sum().backward()
        (z * weights).sum().backward()
    for a, b in zip(mine, other, strict=True):
        assert a.grad is not None and b.grad is not None
        close(a.grad, b.grad, 1e-5, name)


@pytest.mark.skipif(INTERPRETED, reason="torch.compile runs on the cpu target here, and on a GPU's in its own tests")
@pytest.mark.parametrize("first", [False, True])
def test_an_encoder_layer_in_eval_mode_stays_in_graphrt(first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=first, activation="gelu").eval()
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True).eval(), normal(3, 5, 8)
    hidden, causal = torch.arange(5) > torch.tensor([[2], [4], [9]]), nn.Transformer.generate_square_subsequent_mask(5)

    def run(x: Tensor) -> list[Tensor]:
        masked = layer(x, src_mask=causal, src_key_padding_mask=hidden)
        return [layer(x), layer(x, src_mask=causal), layer(x, src_key_padding_mask=hidden), masked, *attention(x, x, x)]

    torch._dynamo.reset()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("error", ".*to eager mode.*")
        for a, b in zip(torch.compile(run, backend="graphrt")(x), run(x), strict=True):
            close(a, b, 1e-5, "encoder layer")


def attended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, added: Tensor) -> list[Tensor]:
    """Attention in each of torch's forms."""
    attend = T.scaled_dot_product_attention
    grouped = attend(q, k[:, :2], v[:, :2], is_causal=True, enable_gqa=True)
    matrices = attend(q[0, 0], k[0, 0], v[0, 0])
    return [
        attend(q, k, v),
        attend(q, k, v, is_causal=True, scale=0.3),
        attend(q, k, v, seen),
        attend(q, k, v, added),
        grouped,
        matrices,
    ]


@pytest.mark.skipif(INTERPRETED, reason="torch.compile runs on the cpu target here, and on a GPU's in its own tests")
def test_attention_stays_whole() -> None:
    """One launch each by from_torch; by torch.compile with gradients, those of the operator of torch's CPU kernel."""
    heads = [normal(2, 4, 9, 8) for _ in range(3)]
    seen, added = torch.arange(9) <= torch.tensor([3, 9])[:, None, None, None], normal(9, 9)
    seen = seen & torch.ones(2, 1, 9, 1, dtype=torch.bool)
    seen[0, 0, 3] = False
    program = grt.compile(grt.from_torch(attended, (*heads, seen, added)), target="cpu")
    assert program.launches == 6, program.plan_text()
    for a, b in zip(program(*heads, seen, added), attended(*heads, seen=seen, added=added), strict=True):
        close(torch.as_tensor(a), b, 1e-5, "from_torch")

    def gradients(function: Callable[..., list[Tensor]]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_() for x in heads]
        ys = function(*leaves, seen, added)
        dys = [torch.linspace(-1, 1, y.numel()).view(y.shape) for y in ys]
        return [*ys, *torch.autograd.grad(ys, leaves, dys)]

    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*to eager mode.*")
        for a, b in zip(gradients(torch.compile(attended, backend="graphrt")), gradients(attended), strict=True):
            close(a, b, 1e-5, "torch.compile")


ADVICE: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "masked_select": (lambda x: torch.masked_select(x, x > 0), r"masked_select.default at .*depends on the data.*torch.where"),
    "nonzero": (lambda x: torch.nonzero(x), "nonzero.default at .*torch.nonzero_static"),
    "unique": (lambda x: torch.unique(x), "_unique2.default at .*depends on the data; sort"),
    "complex": (lambda x: torch.fft.fft(x).abs(), "_fft_r2c.default at .*no complex numbers; keep real and imaginary parts"),
    "qr": (lambda x: torch.linalg.qr(x)[0], "linalg_qr.default at .*compute it outside the model"),
    "repeats": (lambda x: torch.repeat_interleave(torch.tensor([1, 2])), "repeat_interleave.Tensor.*give output_size"),
}


@pytest.mark.skipif(INTERPRETED, reason="what is refused does not depend on the target")
@pytest.mark.parametrize("name", ADVICE)
def test_what_a_graph_cannot_hold_says_what_to_write(name: str) -> None:
    function, message = ADVICE[name]
    with pytest.raises(errors.ConversionError, match=f"(?s){message}") as caught:
        grt.from_torch(function, normal(3, 3))
    assert "To add one" not in str(caught.value)


@pytest.mark.skipif(INTERPRETED, reason="what is refused does not depend on the target")
def test_complex_inputs_and_negative_variances() -> None:
    with pytest.raises(errors.DTypeError, match="no complex numbers, got torch.complex64; keep real and imaginary parts"):
        grt.from_torch(lambda x: x * 2, torch.zeros(3, dtype=torch.complex64))
    with pytest.raises(errors.ConversionError, match="var is of incorrect size"):
        grt.from_torch(T.gaussian_nll_loss, (normal(3, 4), normal(3, 4), normal(2)))
    args = normal(3), normal(3), torch.tensor([1.0, -1.0, 2.0])
    found = grt.compile(lambda *a: T.gaussian_nll_loss(*a, reduction="none"), args, target="reference")(*args)
    assert torch.isnan(found).tolist() == [False, True, False]
