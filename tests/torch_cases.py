"""Modules of torch.nn with inputs, by family: what the torch front end is tested on. Each entry is one set of arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

Case = tuple[Callable[[], nn.Module], tuple[Any, ...]]

_random = torch.Generator().manual_seed(0)
IMAGES = {1: (2, 4, 8), 2: (2, 4, 8, 8), 3: (2, 4, 4, 4, 4)}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=_random)


def uniform(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=_random)


def integers(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, shape, generator=_random)


def signs(*shape: int) -> torch.Tensor:
    return integers(2, *shape) * 2 - 1


def image(rank: int) -> torch.Tensor:
    return normal(*IMAGES[rank])


def _named(name: str, rank: int, arguments: list[dict[str, Any]], *inputs: Any) -> Iterator[Case]:
    """``nn.<name><rank>d`` with each of ``arguments``, on images of that rank unless ``inputs`` says otherwise."""
    for a in arguments:
        yield (lambda a=a: getattr(nn, f"{name}{rank}d")(**a)), inputs or (image(rank),)


def _each(make: Callable[..., nn.Module], arguments: list[dict[str, Any]], *inputs: Any) -> Iterator[Case]:
    for a in arguments:
        yield (lambda a=a: make(**a)), inputs


def _convolution() -> Iterator[Case]:
    both = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    forms = [{}, dict(stride=2, padding=1), dict(dilation=2, groups=2, bias=False), dict(padding="same")]
    turned = [{}, dict(stride=2, padding=1, output_padding=1), dict(groups=2, bias=False, dilation=2)]
    for rank, size in ((1, (2, 4, 9)), (2, (2, 4, 8, 8)), (3, (1, 4, 6, 6, 6))):
        yield from _named("Conv", rank, [{**both, **f} for f in forms], normal(*size))
        yield from _named("ConvTranspose", rank, [{**both, **f} for f in turned], normal(*size[:2], *[4] * rank))


def _normalization() -> Iterator[Case]:
    for rank in (1, 2, 3):
        forms = [{}, dict(affine=False), dict(track_running_stats=False)]
        yield from _named("BatchNorm", rank, [dict(num_features=4, **f) for f in forms])
        forms = [{}, dict(affine=True, track_running_stats=True)]
        yield from _named("InstanceNorm", rank, [dict(num_features=4, **f) for f in forms])
    x = image(2)
    yield from _each(nn.LayerNorm, [dict(normalized_shape=(8, 8)), dict(normalized_shape=8, elementwise_affine=False)], x)
    yield from _each(nn.LayerNorm, [dict(normalized_shape=(4, 8, 8), bias=False)], x)
    yield from _each(nn.GroupNorm, [dict(num_groups=2, num_channels=4), dict(num_groups=1, num_channels=4, affine=False)], x)
    yield from _each(nn.RMSNorm, [dict(normalized_shape=8), dict(normalized_shape=8, eps=1e-3)], x)
    yield from _each(nn.LocalResponseNorm, [dict(size=3), dict(size=2, alpha=0.1, k=2.0)], x)


def _pooling() -> Iterator[Case]:
    forms: list[dict[str, Any]] = [dict(kernel_size=2), dict(kernel_size=3, stride=1, padding=1)]
    forms.append(dict(kernel_size=3, stride=2, ceil_mode=True))
    for rank in (1, 2, 3):
        yield from _named("MaxPool", rank, [*forms, dict(kernel_size=2, return_indices=True)])
        yield from _named("AvgPool", rank, [*forms, dict(kernel_size=3, padding=1, count_include_pad=False)])
        yield from _named("LPPool", rank, [dict(norm_type=2, kernel_size=2)], image(rank).abs())
        yield from _named("AdaptiveAvgPool", rank, [dict(output_size=1), dict(output_size=3)])
        yield from _named("AdaptiveMaxPool", rank, [dict(output_size=1), dict(output_size=3)])
    places = torch.stack([torch.randperm(36, generator=_random)[:9] for _ in range(2)]).view(1, 2, 3, 3)
    yield (lambda: nn.MaxUnpool2d(2)), (normal(1, 2, 3, 3), places)


def _padding_and_resizing() -> Iterator[Case]:
    for rank, linear in enumerate(("linear", "bilinear", "trilinear"), 1):
        for kind in ("ReflectionPad", "ReplicationPad", "CircularPad", "ZeroPad"):
            yield from _named(kind, rank, [dict(padding=1), dict(padding=(2, 1) * rank)])
        yield from _named("ConstantPad", rank, [dict(padding=1, value=3.5), dict(padding=(-1, 2) * rank, value=0.0)])
        forms: list[dict[str, Any]] = [dict(scale_factor=2), dict(scale_factor=1.5, mode="nearest-exact")]
        forms += [dict(scale_factor=s, mode=linear) for s in (2, 1.7)]
        forms.append(dict(size=(5, 6, 7)[:rank], mode=linear, align_corners=True))
        yield from _each(nn.Upsample, forms, image(rank))
    yield from _each(nn.Upsample, [dict(scale_factor=s, mode="bicubic") for s in (2, 1.3)], image(2))
    for mode in ("bilinear", "bicubic"):
        yield from _each(_Smooth, [dict(size=(3, 5), mode=mode), dict(scale_factor=0.6, mode=mode)], image(2))


class _Smooth(nn.Module):
    """``interpolate`` with antialiasing."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, antialias=True, **self.options)


def _activation() -> Iterator[Case]:
    x = normal(3, 6) * 3
    names = "ReLU ReLU6 ELU SELU CELU GELU SiLU Mish Sigmoid Tanh LogSigmoid Softplus Softsign Softshrink Hardshrink"
    for name in f"{names} Hardsigmoid Hardswish Hardtanh LeakyReLU PReLU Tanhshrink GLU".split():
        yield getattr(nn, name), (x,)
    yield from _each(nn.GELU, [dict(approximate="tanh")], x)
    yield from _each(nn.ELU, [dict(alpha=0.5)], x)
    yield from _each(nn.CELU, [dict(alpha=0.5)], x)
    yield from _each(nn.Softplus, [dict(beta=2, threshold=1)], x)
    yield from _each(nn.LeakyReLU, [dict(negative_slope=0.2)], x)
    yield from _each(nn.Hardtanh, [dict(min_val=-2, max_val=0.5)], x)
    yield from _each(nn.Threshold, [dict(threshold=0.1, value=20)], x)
    yield from _each(nn.PReLU, [dict(num_parameters=4)], image(2))
    yield from _each(nn.GLU, [dict(dim=1)], image(2))
    for make in (nn.Softmax, nn.LogSoftmax, nn.Softmin):
        yield from _each(make, [dict(dim=-1), dict(dim=0)], x)
        yield from _each(make, [dict(dim=1)], image(2))
    yield nn.Softmax2d, (image(2),)


def _linear_and_shape() -> Iterator[Case]:
    yield from _each(
        nn.Linear, [dict(in_features=5, out_features=7), dict(in_features=5, out_features=7, bias=False)], normal(3, 5)
    )
    yield from _each(nn.Linear, [dict(in_features=5, out_features=7)], normal(2, 3, 5))
    yield from _each(nn.Bilinear, [dict(in1_features=3, in2_features=4, out_features=5)], normal(6, 3), normal(6, 4))
    yield from _each(nn.Embedding, [dict(num_embeddings=9, embedding_dim=4)], integers(9, 3, 5))
    yield from _each(nn.Embedding, [dict(num_embeddings=9, embedding_dim=4, padding_idx=2)], integers(3, 3, 5))
    x = image(2)
    yield from _each(nn.Flatten, [{}, dict(start_dim=2)], x)
    yield from _each(nn.Unflatten, [dict(dim=1, unflattened_size=(2, 2))], x)
    yield nn.Identity, (x,)
    yield from _each(nn.PixelShuffle, [dict(upscale_factor=2)], x)
    yield from _each(nn.PixelUnshuffle, [dict(downscale_factor=2)], x)
    yield from _each(nn.ChannelShuffle, [dict(groups=2)], x)
    yield from _each(nn.Unfold, [dict(kernel_size=2), dict(kernel_size=3, padding=1, stride=2, dilation=2)], x)
    yield from _each(nn.Fold, [dict(output_size=(8, 8), kernel_size=2, stride=2)], normal(2, 12, 16))
    for make in (nn.Dropout, nn.Dropout2d, nn.AlphaDropout):  # which elements are dropped is a test of its own
        yield from _each(make, [dict(p=0.0)], x)


def _recurrent() -> Iterator[Case]:
    both = {"input_size": 4, "hidden_size": 5}
    for make in (nn.RNN, nn.GRU, nn.LSTM):
        yield from _each(make, [both, dict(**both, num_layers=2, bidirectional=True, batch_first=True)], normal(3, 2, 4))
        yield from _each(make, [dict(**both, bias=False)], normal(3, 2, 4))
    yield from _each(nn.RNN, [dict(**both, nonlinearity="relu")], normal(3, 2, 4))
    for cell in (nn.RNNCell, nn.GRUCell, nn.LSTMCell):
        yield from _each(cell, [both, dict(**both, bias=False)], normal(3, 4))


def _attention() -> Iterator[Case]:
    both = {"embed_dim": 8, "num_heads": 2}
    x, memory = normal(3, 2, 8), normal(4, 2, 8)
    yield from _each(nn.MultiheadAttention, [both, dict(**both, batch_first=True, bias=False, add_zero_attn=True)], x, x, x)
    yield from _each(nn.MultiheadAttention, [dict(**both, kdim=4, vdim=6)], x, normal(5, 2, 4), normal(5, 2, 6))
    layer = {"d_model": 8, "nhead": 2, "dim_feedforward": 16, "dropout": 0.0}
    yield from _each(nn.TransformerEncoderLayer, [layer, dict(**layer, norm_first=True, activation="gelu")], x)
    yield from _each(nn.TransformerDecoderLayer, [layer], x, memory)
    yield from _each(nn.Transformer, [dict(**layer, num_encoder_layers=1, num_decoder_layers=1)], x, memory)


def _loss() -> Iterator[Case]:
    x, classes = normal(3, 5), integers(5, 3)
    for reduction in ("mean", "sum", "none"):
        r = {"reduction": reduction}
        for make in (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss):
            yield from _each(make, [r], x, normal(3, 5))
        yield from _each(nn.CrossEntropyLoss, [r, dict(**r, label_smoothing=0.1, weight=uniform(5))], x, classes)
        yield from _each(nn.CrossEntropyLoss, [r], x, torch.softmax(normal(3, 5), -1))
        yield from _each(nn.CrossEntropyLoss, [dict(**r, ignore_index=1)], normal(3, 5, 4), integers(5, 3, 4))
        yield from _each(nn.NLLLoss, [r], x, classes)
        yield from _each(nn.NLLLoss, [dict(**r, weight=uniform(5), ignore_index=2)], normal(3, 5, 2, 2), integers(5, 3, 2, 2))
        yield from _each(nn.BCELoss, [r], uniform(3, 5), uniform(3, 5))
        yield from _each(nn.BCEWithLogitsLoss, [r, dict(**r, pos_weight=uniform(5))], x, uniform(3, 5))
        yield from _each(nn.KLDivLoss, [r, dict(**r, log_target=True)], x, uniform(3, 5))
        yield from _each(nn.PoissonNLLLoss, [r, dict(**r, full=True, log_input=False)], uniform(3, 5), uniform(3, 5) * 4)
        yield from _each(nn.HingeEmbeddingLoss, [r], x, signs(3, 5))
        yield from _each(nn.MarginRankingLoss, [dict(**r, margin=0.2)], normal(3), normal(3), signs(3))
        yield from _each(nn.CosineEmbeddingLoss, [dict(**r, margin=0.1)], x, normal(3, 5), signs(3))
        yield from _each(nn.SoftMarginLoss, [r], x, signs(3, 5))
        yield from _each(nn.MultiMarginLoss, [r, dict(**r, p=2)], x, classes)
        targets = torch.tensor([[1, 2, -1, 0, 0], [0, -1, 1, 1, 1], [3, 4, 0, 1, -1]])
        yield from _each(nn.MultiLabelMarginLoss, [r], x, targets)
        yield from _each(nn.MultiLabelSoftMarginLoss, [r], x, integers(2, 3, 5).float())
        yield from _each(nn.TripletMarginLoss, [r, dict(**r, swap=True)], x, normal(3, 5), normal(3, 5))
    yield from _each(nn.CosineSimilarity, [{}, dict(dim=0)], x, normal(3, 5))
    yield from _each(nn.PairwiseDistance, [{}, dict(p=1.0)], x, normal(3, 5))


FAMILIES: dict[str, list[Case]] = {
    "convolution": list(_convolution()),
    "normalization": list(_normalization()),
    "pooling": list(_pooling()),
    "padding and resizing": list(_padding_and_resizing()),
    "activation": list(_activation()),
    "linear and shape": list(_linear_and_shape()),
    "recurrent": list(_recurrent()),
    "attention": list(_attention()),
    "loss": list(_loss()),
}


def _two_modes(cases: list[Case]) -> bool:
    """Whether a module of ``cases`` does something else in training than it does in eval mode."""
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.MultiheadAttention)
    return any(isinstance(part, kinds) for make, _ in cases for part in make().modules())


def modes(*left_out: str) -> Any:
    """Parametrizes ``family`` and ``train``: a family of modules that have one mode is tried once."""
    named = [(f, t) for f in FAMILIES if f not in left_out for t in (False, True) if t or _two_modes(FAMILIES[f])]
    return pytest.mark.parametrize(("family", "train"), named, ids=[f"{f}-{'train' if t else 'eval'}" for f, t in named])


class Bundle(nn.Module):
    """Modules that are called one after the other on inputs of their own: one trace for many cases."""

    def __init__(self, cases: list[Case]) -> None:
        super().__init__()
        self.cases = nn.ModuleList(make() for make, _ in cases)

    def forward(self, inputs: list[tuple[Any, ...]]) -> list[Any]:
        return [module(*args) for module, args in zip(self.cases, inputs, strict=True)]


def tensors(tree: Any) -> list[torch.Tensor]:
    """The tensors of nested tuples and lists in order."""
    if isinstance(tree, list | tuple):
        return [t for part in tree for t in tensors(part)]
    return [tree] if isinstance(tree, torch.Tensor) else []


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> None:
    """Asserts equality to ``tolerance`` of the largest element; integers are equal."""
    a, b = actual.detach(), expected.detach()
    assert a.shape == b.shape and a.dtype == b.dtype, f"{what}: {a.dtype}{list(a.shape)}, torch {b.dtype}{list(b.shape)}"
    if not b.is_floating_point():
        assert torch.equal(a, b), what
        return
    scale = max(1.0, b.abs().max().item()) if b.numel() else 1.0
    worst = (a - b).abs().max().item() if b.numel() else 0.0
    assert worst <= tolerance * scale, f"{what}: off by {worst:.3g} of {scale:.3g}"


def objective(outputs: Any) -> torch.Tensor:
    """A scalar that depends on every float output, with weights of its own for each element."""
    total, random = torch.zeros(()), torch.Generator().manual_seed(1)
    for t in tensors(outputs):
        if t.is_floating_point():
            total = total + (t * torch.randn(t.shape, generator=random)).sum()
    return total
