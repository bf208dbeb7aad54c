"""Convolutions with what stands around them in networks for images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as T
from torch import Tensor

import graphrt.ops as F
from graphrt.bench.builder import Builder, Pattern, Sizes
from graphrt.ir import Value

Activation = Callable[[Any], Any]

MAPS = {"n": (2, 2, 128), "c": (3, 64, 128), "k": (5, 64, 128), "h": (9, 28, 28)}
BLOCK = {"n": (2, 1, 64), "c": (5, 64, 128), "h": (8, 28, 28)}


def _conv_norm(b: Builder, x: Value, name: str, k: int, filter: int, stride: int = 1, training: bool = True) -> Value:
    """A convolution without bias and its batch norm, whose operands are named after ``name``."""
    w = b.parameter(f"{name}.w", k, x.shape[1], filter, filter)
    gamma, beta = b.parameter(f"{name}.gamma", k, low=0.5, high=1.5), b.parameter(f"{name}.beta", k)
    mean = b.parameter(f"{name}.mean", k, trainable=False)
    var = b.parameter(f"{name}.var", k, low=0.5, high=1.5, trainable=False)
    return F.batch_norm(F.conv2d(x, w, stride=stride, padding=filter // 2), mean, var, gamma, beta, training)


def _torch_conv_norm(x: Tensor, operands: tuple[Tensor, ...], stride: int = 1, training: bool = True) -> Tensor:
    """The same of the five operands."""
    w, gamma, beta, mean, var = operands
    return T.batch_norm(T.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2), mean, var, gamma, beta, training)


def _conv_bias(activation: Activation, b: Builder) -> Value:
    x, w, bias = b.input("x", "n", "c", "h", "h"), b.parameter("w", "k", "c", 3, 3), b.parameter("bias", "k")
    return activation(F.conv2d(x, w, bias, padding=1))


def _torch_conv_bias(activation: Activation, _: Sizes, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return activation(T.conv2d(x, w, bias, padding=1))


def _conv_bias_pattern(name: str, ours: Activation, theirs: Activation, about: str) -> Pattern:
    build, peer = partial(_conv_bias, ours), partial(_torch_conv_bias, theirs)
    return Pattern(f"conv_bias_{name}", "conv", f"{about} of a 3x3 convolution and its bias: one launch", build, MAPS, peer)


def _conv_norm_relu(training: bool, b: Builder) -> Value:
    return F.relu(_conv_norm(b, b.input("x", "n", "c", "h", "h"), "conv", b["k"], 3, training=training))


def _torch_conv_norm_relu(training: bool, _: Sizes, x: Tensor, *operands: Tensor) -> Tensor:
    return T.relu(_torch_conv_norm(x, operands, training=training))


def _conv_relu_max_pool(b: Builder) -> Value:
    return F.max_pool2d(_conv_bias(F.relu, b), 2)


def _torch_conv_relu_max_pool(sizes: Sizes, *operands: Tensor) -> Tensor:
    return T.max_pool2d(_torch_conv_bias(T.relu, sizes, *operands), 2)


def _depthwise_separable(b: Builder) -> Value:
    x, c, k = b.input("x", "n", "c", "h", "h"), b["c"], b["k"]
    y = F.relu6(F.conv2d(x, b.parameter("depth", c, 1, 3, 3), b.parameter("depth_bias", c), padding=1, groups=c))
    return F.relu6(F.conv2d(y, b.parameter("point", k, c, 1, 1), b.parameter("point_bias", k)))


def _torch_depthwise_separable(
    sizes: Sizes, x: Tensor, depth: Tensor, depth_bias: Tensor, point: Tensor, point_bias: Tensor
) -> Tensor:
    return T.relu6(T.conv2d(T.relu6(T.conv2d(x, depth, depth_bias, padding=1, groups=sizes["c"])), point, point_bias))


def _inception(b: Builder) -> Value:
    x, k = b.input("x", "n", "c", "h", "h"), b["k"]

    def conv(name: str, x: Value, filter: int) -> Value:
        w, bias = b.parameter(f"{name}.w", k, x.shape[1], filter, filter), b.parameter(f"{name}.bias", k)
        return F.relu(F.conv2d(x, w, bias, padding=filter // 2))

    return F.cat(
        [
            conv("one", x, 1),
            conv("three", conv("three_in", x, 1), 3),
            conv("five", conv("five_in", x, 1), 5),
            conv("pool", F.max_pool2d(x, 3, 1, 1), 1),
        ],
        1,
    )


def _torch_inception(_: Sizes, x: Tensor, *operands: Tensor) -> Tensor:
    def conv(i: int, x: Tensor) -> Tensor:
        w, bias = operands[2 * i : 2 * i + 2]
        return T.relu(T.conv2d(x, w, bias, padding=w.shape[-1] // 2))

    return torch.cat([conv(0, x), conv(2, conv(1, x)), conv(4, conv(3, x)), conv(5, T.max_pool2d(x, 3, 1, 1))], 1)


def _unet_skip(b: Builder) -> Value:
    below, skip = b.input("below", "n", "c", "h", "h"), b.input("skip", "n", "k", 2 * b["h"], 2 * b["h"])
    joined = F.cat([F.interpolate(below, scale_factor=2), skip], 1)
    return F.relu(F.conv2d(joined, b.parameter("w", "k", b["c"] + b["k"], 3, 3), b.parameter("bias", "k"), padding=1))


def _torch_unet_skip(_: Sizes, below: Tensor, skip: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return T.relu(T.conv2d(torch.cat([T.interpolate(below, scale_factor=2), skip], 1), w, bias, padding=1))


def _squeeze_excite(b: Builder) -> Value:
    x = b.input("x", "n", "c", "h", "h")
    squeezed = F.relu(F.linear(F.mean(x, (2, 3)), b.parameter("w0", "r", "c"), b.parameter("bias0", "r")))
    scale = F.sigmoid(F.linear(squeezed, b.parameter("w1", "c", "r"), b.parameter("bias1", "c")))
    return x * F.reshape(scale, (b["n"], b["c"], 1, 1))


def _torch_squeeze_excite(_: Sizes, x: Tensor, w0: Tensor, bias0: Tensor, w1: Tensor, bias1: Tensor) -> Tensor:
    return x * T.linear(T.relu(T.linear(x.mean((2, 3)), w0, bias0)), w1, bias1).sigmoid()[:, :, None, None]


def _residual_basic(b: Builder) -> Value:
    x = b.input("x", "n", "c", "h", "h")
    y = F.relu(_conv_norm(b, x, "a", b["c"], 3))
    return F.relu(_conv_norm(b, y, "b", b["c"], 3) + x)


def _torch_residual_basic(_: Sizes, x: Tensor, *operands: Tensor) -> Tensor:
    y = T.relu(_torch_conv_norm(x, operands[:5]))
    return T.relu(_torch_conv_norm(y, operands[5:]) + x)


def _residual_bottleneck(b: Builder) -> Value:
    x, c, k = b.input("x", "n", "c", "h", "h"), b["c"], b["k"]
    y = F.relu(_conv_norm(b, x, "a", k, 1))
    y = F.relu(_conv_norm(b, y, "b", k, 3))
    return F.relu(_conv_norm(b, y, "c", c, 1) + x)


def _torch_residual_bottleneck(_: Sizes, x: Tensor, *operands: Tensor) -> Tensor:
    y = T.relu(_torch_conv_norm(x, operands[:5]))
    y = T.relu(_torch_conv_norm(y, operands[5:10]))
    return T.relu(_torch_conv_norm(y, operands[10:]) + x)


def _residual_projection(b: Builder) -> Value:
    x, k = b.input("x", "n", "c", "h", "h"), 2 * b["c"]
    y = F.relu(_conv_norm(b, x, "a", k, 3, stride=2))
    return F.relu(_conv_norm(b, y, "b", k, 3) + _conv_norm(b, x, "projection", k, 1, stride=2))


def _torch_residual_projection(_: Sizes, x: Tensor, *operands: Tensor) -> Tensor:
    y = T.relu(_torch_conv_norm(x, operands[:5], 2))
    return T.relu(_torch_conv_norm(y, operands[5:10]) + _torch_conv_norm(x, operands[10:], 2))


PATTERNS = (
    _conv_bias_pattern("relu", F.relu, T.relu, "ReLU"),
    _conv_bias_pattern("leaky_relu", F.leaky_relu, T.leaky_relu, "leaky ReLU, which reads its input twice,"),
    _conv_bias_pattern("gelu", F.gelu, T.gelu, "GELU, which reads its input twice,"),
    _conv_bias_pattern("hardswish", F.hardswish, T.hardswish, "hardswish, which reads its input often,"),
    Pattern(
        "conv_bn_relu_eval",
        "conv",
        "convolution, batch norm by the running statistics, ReLU: one launch, the norm's factors folded or inlined",
        partial(_conv_norm_relu, False),
        MAPS,
        partial(_torch_conv_norm_relu, False),
        backward=False,
    ),
    Pattern(
        "conv_bn_relu_train",
        "conv",
        "convolution, batch norm by the batch's statistics, ReLU: the sums are taken behind the convolution",
        partial(_conv_norm_relu, True),
        MAPS,
        partial(_torch_conv_norm_relu, True),
    ),
    Pattern(
        "conv_relu_max_pool",
        "conv",
        "convolution, bias, ReLU and a 2x2 max pool, as in LeNet and VGG: the pool keeps what the backward pass needs",
        _conv_relu_max_pool,
        MAPS,
        _torch_conv_relu_max_pool,
    ),
    Pattern(
        "depthwise_separable",
        "conv",
        "depthwise 3x3 and pointwise convolution, each with bias and ReLU6 (MobileNet): two launches",
        _depthwise_separable,
        {"n": (2, 2, 128), "c": (6, 64, 256), "k": (5, 128, 256), "h": (9, 28, 28)},
        _torch_depthwise_separable,
    ),
    Pattern(
        "inception_block",
        "conv",
        "four branches of convolutions and a pool, concatenated: each writes its part in place, 1x1 ones go together",
        _inception,
        {"n": (2, 1, 64), "c": (5, 64, 192), "k": (3, 16, 64), "h": (8, 28, 28)},
        _torch_inception,
    ),
    Pattern(
        "unet_skip",
        "conv",
        "what is upsampled and what is skipped to, concatenated, convolved, ReLU: neither copy is stored",
        _unet_skip,
        {"n": (2, 1, 16), "c": (4, 64, 128), "k": (3, 32, 64), "h": (5, 14, 64)},
        _torch_unet_skip,
    ),
    Pattern(
        "squeeze_excite",
        "conv",
        "channels scaled by a gate made of their means (SENet): a reduction, two small products, one scaling",
        _squeeze_excite,
        {"n": (2, 16, 128), "c": (8, 64, 256), "r": (3, 16, 16), "h": (7, 28, 28)},
        _torch_squeeze_excite,
    ),
    Pattern(
        "residual_basic",
        "conv",
        "two 3x3 convolutions with batch norm and a shortcut (ResNet-18), in training: norm, sum and ReLU in one pass",
        _residual_basic,
        BLOCK,
        _torch_residual_basic,
    ),
    Pattern(
        "residual_bottleneck",
        "conv",
        "1x1, 3x3 and 1x1 convolutions with batch norm and a shortcut (ResNet-50), in training",
        _residual_bottleneck,
        {"n": (2, 1, 64), "c": (8, 128, 512), "k": (4, 32, 128), "h": (8, 28, 28)},
        _torch_residual_bottleneck,
    ),
    Pattern(
        "residual_projection",
        "conv",
        "a block of stride 2 whose shortcut is a 1x1 convolution, in training: both norms and the sum in one pass",
        _residual_projection,
        BLOCK,
        _torch_residual_projection,
    ),
)
