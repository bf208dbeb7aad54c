"""Matrix products with what stands before and behind them in transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as T
from torch import Tensor

import graphrt.ops as F
from graphrt.bench.builder import Builder, Pattern, Sizes
from graphrt.ir import Value

Activation = Callable[[Any], Any]

ROWS = {"n": (5, 256, 8192), "c": (7, 256, 1024), "k": (9, 512, 4096)}
SQUARE = {"n": (5, 256, 8192), "c": (7, 384, 1024)}


def _linear(b: Builder, x: Value, bias: bool = True) -> Value:
    return F.linear(x, b.parameter("w", "k", "c"), b.parameter("bias", "k") if bias else None)


def _linear_bias(activation: Activation, b: Builder) -> Value:
    return activation(_linear(b, b.input("x", "n", "c")))


def _torch_linear_bias(activation: Activation, _: Sizes, x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    return activation(T.linear(x, w, bias))


def _linear_bias_pattern(name: str, ours: Activation, theirs: Activation, about: str) -> Pattern:
    build, peer = partial(_linear_bias, ours), partial(_torch_linear_bias, theirs)
    return Pattern(f"linear_bias_{name}", "linear", f"{about} of a matrix product and its bias: one launch", build, ROWS, peer)


def _linear_residual(b: Builder) -> Value:
    x = b.input("x", "n", "c")
    return x + F.linear(b.input("y", "n", "c"), b.parameter("w", "c", "c"), b.parameter("bias", "c"))


def _swiglu(b: Builder) -> Value:
    x = b.input("x", "n", "c")
    return F.silu(F.linear(x, b.parameter("gate", "k", "c"))) * F.linear(x, b.parameter("up", "k", "c"))


def _qkv(b: Builder) -> tuple[Value, ...]:
    n, length, heads, size = b["n"], b["l"], b["h"], b["e"]
    width = heads * size
    x = b.input("x", n, length, width)
    y = F.linear(x, b.parameter("w", 3 * width, width), b.parameter("bias", 3 * width))
    return tuple(F.transpose(F.reshape(part, (n, length, heads, size)), 1, 2) for part in F.chunk(y, 3, -1))


def _torch_qkv(sizes: Sizes, x: Tensor, w: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    parts = T.linear(x, w, bias).chunk(3, -1)
    return tuple(part.unflatten(-1, (sizes["h"], sizes["e"])).transpose(1, 2) for part in parts)


def _matmul_scale_softmax(b: Builder) -> Value:
    query, key = b.input("query", "n", "l", "e", kind="normal"), b.input("key", "n", "l", "e", kind="normal")
    return F.softmax(F.matmul(query, F.transpose(key, -1, -2)) * b["e"] ** -0.5, -1)


def _torch_matmul_scale_softmax(sizes: Sizes, query: Tensor, key: Tensor) -> Tensor:
    return ((query @ key.mT) * sizes["e"] ** -0.5).softmax(-1)


def _linear_layer_norm_relu(b: Builder) -> Value:
    y = _linear(b, b.input("x", "n", "c"))
    return F.relu(F.layer_norm(y, b["k"], b.parameter("gamma", "k", low=0.5, high=1.5), b.parameter("beta", "k")))


def _torch_linear_layer_norm_relu(sizes: Sizes, x: Tensor, w: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return T.relu(T.layer_norm(T.linear(x, w, bias), (sizes["k"],), gamma, beta))


def _rms_norm_linear(b: Builder) -> Value:
    x = b.input("x", "n", "c", kind="normal")
    return _linear(b, F.rms_norm(x, b["c"], b.parameter("gamma", "c", low=0.5, high=1.5), 1e-6), bias=False)


def _torch_rms_norm_linear(sizes: Sizes, x: Tensor, gamma: Tensor, w: Tensor) -> Tensor:
    return T.linear(T.rms_norm(x, (sizes["c"],), gamma, 1e-6), w)


def _linear_row_sums(b: Builder) -> tuple[Value, Value]:
    y = _linear(b, b.input("x", "n", "c"), bias=False)
    return y, F.sum(y, -1)


def _torch_linear_row_sums(_: Sizes, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    y = T.linear(x, w)
    return y, y.sum(-1)


def _lora(b: Builder) -> Value:
    x = b.input("x", "n", "c")
    frozen = F.linear(x, b.parameter("w", "k", "c", trainable=False), b.parameter("bias", "k", trainable=False))
    return frozen + F.linear(F.linear(x, b.parameter("down", "r", "c")), b.parameter("up", "k", "r")) * 2.0


def _torch_lora(_: Sizes, x: Tensor, w: Tensor, bias: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return T.linear(x, w, bias) + T.linear(T.linear(x, down), up) * 2.0


def _int8_weights(b: Builder) -> Value:
    x = b.input("x", "n", "c")
    w = b.parameter("w", "k", "c", dtype="int8", low=-127, high=128, trainable=False)
    scale = b.parameter("scale", "k", 1, low=0.5 / 127, high=1.0 / 127, trainable=False)
    return F.linear(x, F.cast(w, "float32") * scale, b.parameter("bias", "k", trainable=False))


def _torch_int8_weights(_: Sizes, x: Tensor, w: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return T.linear(x, w.float() * scale, bias)


def _mlp(b: Builder) -> Value:
    x = b.input("x", "n", "c")
    hidden = F.gelu(F.linear(x, b.parameter("w0", "k", "c"), b.parameter("bias0", "k")))
    return x + F.linear(hidden, b.parameter("w1", "c", "k"), b.parameter("bias1", "c"))


def _torch_mlp(_: Sizes, x: Tensor, w0: Tensor, bias0: Tensor, w1: Tensor, bias1: Tensor) -> Tensor:
    return x + T.linear(T.gelu(T.linear(x, w0, bias0)), w1, bias1)


PATTERNS = (
    _linear_bias_pattern("relu", F.relu, T.relu, "ReLU"),
    _linear_bias_pattern("gelu", F.gelu, T.gelu, "GELU, which reads its input twice,"),
    _linear_bias_pattern(
        "tanh_gelu",
        partial(F.gelu, approximate="tanh"),
        partial(T.gelu, approximate="tanh"),
        "GELU by tanh, which reads its input often,",
    ),
    Pattern(
        "linear_residual",
        "linear",
        "a matrix product and its bias added to a shortcut: one launch",
        _linear_residual,
        SQUARE,
        lambda _, x, y, w, bias: x + T.linear(y, w, bias),
    ),
    Pattern(
        "mlp_residual",
        "linear",
        "the two layers of a transformer's MLP with GELU and shortcut: two launches",
        _mlp,
        {"n": (5, 128, 8192), "c": (7, 192, 1024), "k": (9, 768, 4096)},
        _torch_mlp,
    ),
    Pattern(
        "swiglu",
        "linear",
        "SiLU of one product times another of the same rows (Shazeer, 2020): one launch over both",
        _swiglu,
        {"n": (5, 256, 8192), "c": (7, 256, 2048), "k": (9, 384, 5632)},
        lambda _, x, gate, up: T.silu(T.linear(x, gate)) * T.linear(x, up),
    ),
    Pattern(
        "qkv_projection",
        "linear",
        "one product for query, key and value, each as [N, heads, L, E]: one launch that writes all three",
        _qkv,
        {"n": (2, 2, 16), "l": (5, 128, 512), "h": (3, 4, 16), "e": (5, 64, 64)},
        _torch_qkv,
    ),
    Pattern(
        "matmul_scale_softmax",
        "linear",
        "softmax of scaled scores of queries and keys: the scale is the product's, the softmax one pass",
        _matmul_scale_softmax,
        {"n": (2, 8, 256), "l": (7, 128, 512), "e": (5, 64, 64)},
        _torch_matmul_scale_softmax,
    ),
    Pattern(
        "linear_layer_norm_relu",
        "linear",
        "a matrix product and its bias, layer norm, ReLU: the norm and what follows are one pass",
        _linear_layer_norm_relu,
        {"n": (5, 256, 8192), "c": (7, 256, 1024), "k": (9, 384, 1024)},
        _torch_linear_layer_norm_relu,
    ),
    Pattern(
        "rms_norm_linear",
        "linear",
        "RMS norm of a product's rows: normalised as they are read, or stored once",
        _rms_norm_linear,
        {"n": (5, 256, 8192), "c": (7, 384, 2048), "k": (9, 384, 2048)},
        _torch_rms_norm_linear,
    ),
    Pattern(
        "linear_row_sums",
        "linear",
        "a matrix product and the sum of each of its rows: taken from the tile, not from memory",
        _linear_row_sums,
        ROWS,
        _torch_linear_row_sums,
    ),
    Pattern(
        "lora",
        "linear",
        "a frozen layer plus one of low rank (Hu et al., 2021): the second product adds to the first's result",
        _lora,
        {"n": (5, 256, 8192), "c": (7, 384, 4096), "k": (9, 384, 4096), "r": (2, 8, 16)},
        _torch_lora,
    ),
    Pattern(
        "int8_weights",
        "linear",
        "a product with int8 weights that are multiplied by a scale as they are loaded: no float copy of them",
        _int8_weights,
        {"n": (3, 16, 16), "c": (7, 1024, 4096), "k": (9, 1024, 4096)},
        _torch_int8_weights,
        backward=False,
    ),
)
