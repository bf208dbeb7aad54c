"""Patterns in jax.numpy, by name: functions of the sizes and of the arrays that ``Builder.operands`` gives, in their order.

What jax has in one function (softmax, gelu, convolution) is taken from there. Imports jax: ``peers`` asks first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax, nn

EPSILON = 1e-5


def _conv(x: Any, w: Any, bias: Any, groups: int = 1) -> Any:
    dimensions = ("NCHW", "OIHW", "NCHW")
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=groups)
    return y + bias[:, None, None]


def _conv_bias(activation: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda _, x, w, bias: activation(_conv(x, w, bias))


def _linear(x: Any, w: Any, bias: Any = 0.0) -> Any:
    return x @ w.T + bias


def _linear_bias(activation: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda _, x, w, bias: activation(_linear(x, w, bias))


def _layer_norm(x: Any, gamma: Any, beta: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + EPSILON) * gamma + beta


def _rms_norm(x: Any, gamma: Any) -> Any:
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6) * gamma


def _group_norm(sizes: Mapping[str, int], x: Any, gamma: Any, beta: Any) -> Any:
    y = x.reshape(x.shape[0], sizes["g"], -1)
    y = (y - y.mean(-1, keepdims=True)) * lax.rsqrt(y.var(-1, keepdims=True) + EPSILON)
    return y.reshape(x.shape) * gamma[:, None, None] + beta[:, None, None]


def _attention(mask: Callable[[Any], Any]) -> Callable[..., Any]:
    def attention(_: Mapping[str, int], query: Any, key: Any, value: Any, *bias: Any) -> Any:
        scores = query @ key.swapaxes(-1, -2) * query.shape[-1] ** -0.5
        return nn.softmax(mask(scores + bias[0] if bias else scores), -1) @ value

    return attention


def _causal(scores: Any) -> Any:
    return jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)


def _mean_var_max(_: Mapping[str, int], x: Any) -> tuple[Any, ...]:
    return x.mean(-1), x.var(-1, ddof=1), x.max(-1)


def _swiglu(_: Mapping[str, int], x: Any, gate: Any, up: Any) -> Any:
    return nn.silu(_linear(x, gate)) * _linear(x, up)


def _mlp_residual(_: Mapping[str, int], x: Any, w0: Any, bias0: Any, w1: Any, bias1: Any) -> Any:
    return x + _linear(nn.gelu(_linear(x, w0, bias0), approximate=False), w1, bias1)


def _cross_entropy(_: Mapping[str, int], x: Any, target: Any) -> Any:
    return -jnp.take_along_axis(nn.log_softmax(x, -1), target[:, None], 1).mean()


PATTERNS: Mapping[str, Callable[..., Any]] = {
    "conv_bias_relu": _conv_bias(nn.relu),
    "conv_bias_leaky_relu": _conv_bias(nn.leaky_relu),
    "conv_bias_gelu": _conv_bias(lambda y: nn.gelu(y, approximate=False)),
    "conv_bias_hardswish": _conv_bias(nn.hard_swish),
    "linear_bias_relu": _linear_bias(nn.relu),
    "linear_bias_gelu": _linear_bias(lambda y: nn.gelu(y, approximate=False)),
    "linear_bias_tanh_gelu": _linear_bias(nn.gelu),
    "mlp_residual": _mlp_residual,
    "swiglu": _swiglu,
    "matmul_scale_softmax": lambda s, q, k: nn.softmax(q @ k.swapaxes(-1, -2) * s["e"] ** -0.5, -1),
    "linear_layer_norm_relu": lambda _, x, w, bias, gamma, beta: nn.relu(_layer_norm(_linear(x, w, bias), gamma, beta)),
    "rms_norm_linear": lambda _, x, gamma, w: _linear(_rms_norm(x, gamma), w),
    "linear_row_sums": lambda _, x, w: ((y := _linear(x, w)), y.sum(-1)),
    "lora": lambda _, x, w, bias, down, up: _linear(x, w, bias) + _linear(_linear(x, down), up) * 2.0,
    "layer_norm": lambda _, x, gamma, beta: _layer_norm(x, gamma, beta),
    "rms_norm": lambda _, x, gamma: _rms_norm(x, gamma),
    "group_norm": _group_norm,
    "group_norm_silu": lambda sizes, *given: nn.silu(_group_norm(sizes, *given)),
    "add_rms_norm": lambda _, shortcut, x, gamma: ((y := shortcut + x), _rms_norm(y, gamma)),
    "mean_var_max": _mean_var_max,
    "row_and_column_sums": lambda _, x: (x.sum(-1), x.sum(0)),
    "softmax": lambda _, x: nn.softmax(x, -1),
    "log_softmax": lambda _, x: nn.log_softmax(x, -1),
    "masked_softmax": lambda _, x, keep: nn.softmax(jnp.where(keep, x, -1e9), -1),
    "causal_softmax": lambda _, x: nn.softmax(_causal(x * 0.125), -1),
    "softmax_argmax": lambda _, x: ((y := nn.softmax(x, -1)), y.argmax(-1)),
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": lambda s, x, w, target: _cross_entropy(s, _linear(x, w), target),
    "attention": _attention(lambda scores: scores),
    "attention_causal": _attention(_causal),
    "attention_biased": _attention(lambda scores: scores),
    "transpose_add": lambda _, x, y: x + y.T,
}


def call(name: str, sizes: Mapping[str, int], given: Mapping[str, Any], wrt: tuple[str, ...], dys: Mapping[int, Any]) -> Any:
    """The pattern ``name`` jitted, as a function of nothing that returns when all is computed; None where it has no entry.

    Its arrays are ``given``, by name. With ``wrt`` it finds the gradients of those too, of the results times ``dys``; a result
    that is a number is its own loss.
    """
    function = PATTERNS.get(name)
    if function is None:
        return None
    names, arrays = list(given), [jnp.asarray(array) for array in given.values()]

    def forward(*args: Any) -> Any:
        return function(sizes, *args)

    def both(*args: Any) -> Any:
        def loss(some: tuple[Any, ...]) -> tuple[Any, Any]:
            every = dict(zip(names, args, strict=True)) | dict(zip(wrt, some, strict=True))
            found = forward(*every.values())
            results = found if isinstance(found, tuple) else (found,)
            floats = [(i, y) for i, y in enumerate(results) if jnp.issubdtype(y.dtype, jnp.floating)]
            return sum((y * dys[i]).sum() if i in dys else y.sum() for i, y in floats), found

        gradients, found = jax.grad(loss, has_aux=True)(tuple(args[names.index(n)] for n in wrt))
        return found, gradients

    step = jax.jit(both if wrt else forward)
    return lambda: jax.block_until_ready(step(*arrays))
