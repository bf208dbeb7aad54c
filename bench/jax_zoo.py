"""Networks of ``bench.zoo`` as a user of JAX writes them: plain jax.numpy and jax.lax, a jitted step with SGD, or forward pass.

Images are NHWC and filters HWIO, as in ``bench.jax_peers``, whose layers these are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bench.jax_peers import Arrays, Variables, batch_norm, conv, linear, max_pool

Network = Callable[[Variables, jax.Array], jax.Array]


def layer_norm(v: Variables, name: str, x: jax.Array, eps: float = 1e-5) -> jax.Array:
    mean, var = jnp.mean(x, -1, keepdims=True), jnp.var(x, -1, keepdims=True)
    scale, bias = v.param(f"{name}.weight", x.shape[-1:], value=1.0), v.param(f"{name}.bias", x.shape[-1:])
    return (x - mean) * lax.rsqrt(var + eps) * scale + bias


def embedding(v: Variables, name: str, x: jax.Array, tokens: int, width: int) -> jax.Array:
    return v.param(name, (tokens, width), fan_in=2)[x]


def perceptron(v: Variables, name: str, x: jax.Array, inner: int) -> jax.Array:
    """Two linear layers with a GELU between them."""
    return linear(v, f"{name}.2", jax.nn.gelu(linear(v, f"{name}.1", x, inner), approximate=False), x.shape[-1])


def mlp(widths: Sequence[int], v: Variables, x: jax.Array) -> jax.Array:
    for i, width in enumerate(widths):
        x = linear(v, f"fc{i}", jax.nn.relu(x) if i else x, width)
    return x


def attention(v: Variables, name: str, x: jax.Array, heads: int, causal: bool) -> jax.Array:
    parts = jnp.split(linear(v, f"{name}.qkv", x, 3 * x.shape[-1]), 3, -1)
    q, k, values = (part.reshape(*x.shape[:2], heads, -1) for part in parts)
    y = jax.nn.dot_product_attention(q, k, values, is_causal=causal)
    return linear(v, f"{name}.out", y.reshape(x.shape), x.shape[-1])


def blocks(v: Variables, x: jax.Array, heads: int, layers: int, causal: bool) -> jax.Array:
    """Transformer blocks with the norms in front, and a norm behind."""
    for i in range(layers):
        x = x + attention(v, f"{i}.attention", layer_norm(v, f"{i}.norm1", x), heads, causal)
        x = x + perceptron(v, f"{i}.mlp", layer_norm(v, f"{i}.norm2", x), 4 * x.shape[-1])
    return layer_norm(v, "norm", x)


def gpt(v: Variables, x: jax.Array) -> jax.Array:
    h = embedding(v, "embedding", x, 65, 192) + v.param("position", (128, 192))
    h = blocks(v, h, 6, 4, True)
    return (h @ v.param("head", (192, 65), fan_in=192)).reshape(-1, 65)


def patches(v: Variables, x: jax.Array, width: int) -> jax.Array:
    y = conv(v, "patches", x, width, 8, 8) + v.param("patches.bias", (width,))
    return y.reshape(len(x), -1, width)


def vit(v: Variables, x: jax.Array) -> jax.Array:
    h = patches(v, x, 192) + v.param("position", (64, 192))
    return linear(v, "head", jnp.mean(blocks(v, h, 3, 12, False), 1), 100)


def mixer(v: Variables, x: jax.Array) -> jax.Array:
    h = patches(v, x, 256)
    for i in range(8):
        turned = jnp.swapaxes(layer_norm(v, f"{i}.norm1", h), 1, 2)
        h = h + jnp.swapaxes(perceptron(v, f"{i}.tokens", turned, 128), 1, 2)
        h = h + perceptron(v, f"{i}.channels", layer_norm(v, f"{i}.norm2", h), 1024)
    return linear(v, "head", jnp.mean(layer_norm(v, "norm", h), 1), 100)


def char_lstm(v: Variables, x: jax.Array) -> jax.Array:
    """Both of torch's biases, of which the second is added to the first."""
    width = 128
    h = embedding(v, "embedding", x, 65, width)
    given = linear(v, "rnn.input", h, 4 * width) + v.param("rnn.bias", (4 * width,))
    recurrent = v.param("rnn.weight", (width, 4 * width), fan_in=width)

    def step(carry: tuple[jax.Array, jax.Array], one: jax.Array) -> Any:
        hidden, cell = carry
        i, f, g, o = jnp.split(one + hidden @ recurrent, 4, -1)
        cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
        return (hidden, cell), hidden

    zero = jnp.zeros((len(x), width), jnp.float32)
    _, states = lax.scan(step, (zero, zero), jnp.swapaxes(given, 0, 1))
    return linear(v, "head", jnp.swapaxes(states, 0, 1), 65).reshape(-1, 65)


def _twice(v: Variables, name: str, x: jax.Array, width: int) -> jax.Array:
    for i in range(2):
        x = jax.nn.relu(batch_norm(v, f"{name}.{i}.norm", conv(v, f"{name}.{i}", x, width, 3, padding=1)))
    return x


def unet(v: Variables, x: jax.Array) -> jax.Array:
    widths, kept = (16, 32, 64, 128), []
    for i, width in enumerate(widths):
        x = _twice(v, f"down{i}", max_pool(x) if i else x, width)
        kept.append(x)
    for i, width in reversed(list(enumerate(widths[:-1]))):
        filter = v.param(f"up{i}", (2, 2, x.shape[-1], width), fan_in=x.shape[-1])
        up = lax.conv_transpose(x, filter, (2, 2), "VALID") + v.param(f"up{i}.bias", (width,))
        x = _twice(v, f"join{i}", jnp.concatenate([up, kept[i]], -1), width)
    return conv(v, "head", x, 4, 1) + v.param("head.bias", (4,))


NETWORKS: dict[str, Network] = {
    "char LSTM": char_lstm,
    "GPT": gpt,
    "ViT-Ti": vit,
    "MLP-Mixer": mixer,
    "MLP 1024-4096-4096": partial(mlp, (4096, 4096, 10)),
    "MLP 4-64-64-2, batch 1": partial(mlp, (64, 64, 2)),
    "U-Net": unet,
}


def call_of(work: str, x: np.ndarray, target: np.ndarray, parameters: int, train: bool, rate: float) -> Callable[[], Any]:
    """A step of SGD of ``work`` at ``rate``, or a forward pass; the network must have ``parameters``."""
    network = NETWORKS[work]
    data, labels = jnp.asarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x), jnp.asarray(target)
    first = Variables({}, {})
    network(first, data)
    found = sum(p.size for p in first.params.values())
    assert found == parameters, f"different networks: {found} and {parameters} parameters"
    if not train:
        forward = jax.jit(lambda params, data: network(Variables(params, {}), data))
        return lambda: np.asarray(forward(first.params, data))

    def loss(params: Arrays, stats: Arrays, data: jax.Array, labels: jax.Array) -> tuple[jax.Array, Arrays]:
        v = Variables(params, stats)
        scores = jax.nn.log_softmax(network(v, data))
        return -jnp.mean(jnp.take_along_axis(scores, labels[..., None], -1)), v.stats

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Arrays, stats: Arrays, data: jax.Array, labels: jax.Array) -> Any:
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, data, labels)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), stats, value

    state = first.params, first.stats

    def call() -> float:
        nonlocal state
        params, stats, value = step(*state, data, labels)
        state = params, stats
        return float(value)

    return call
