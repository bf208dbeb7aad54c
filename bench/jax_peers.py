"""Networks of ``bench.peers`` as a user of JAX writes them: plain jax.numpy and jax.lax, one jitted training step.

Images are NHWC and filters HWIO, the order XLA likes on a CPU; the batch is transposed once, before anything is timed.
Parameters are drawn at first use from one seeded generator, so a network is one function and not an init and an apply.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Arrays = dict[str, jax.Array]


class Variables:
    """The arrays of a network by name; a missing one is made by ``init``. ``stats`` are the running averages."""

    def __init__(self, params: Arrays, stats: Arrays) -> None:
        self.params, self.stats = dict(params), dict(stats)
        self._rng = np.random.default_rng(0)

    def param(self, name: str, shape: tuple[int, ...], fan_in: int = 0, value: float = 0.0) -> jax.Array:
        """A parameter: normal with He's deviation for ``fan_in``, or ``value`` everywhere."""
        if name not in self.params:
            drawn = self._rng.standard_normal(shape) * (2 / fan_in) ** 0.5 if fan_in else np.full(shape, value)
            self.params[name] = jnp.asarray(drawn, jnp.float32)
        return self.params[name]

    def track(self, name: str, value: jax.Array, initial: float, momentum: float = 0.1) -> None:
        """Moves the running average of ``name`` towards ``value``."""
        old = self.stats.get(name, jnp.full(value.shape, initial, jnp.float32))
        self.stats[name] = (1 - momentum) * old + momentum * lax.stop_gradient(value)


def linear(v: Variables, name: str, x: jax.Array, outputs: int) -> jax.Array:
    w = v.param(f"{name}.weight", (x.shape[-1], outputs), fan_in=x.shape[-1])
    return x @ w + v.param(f"{name}.bias", (outputs,))


def conv(v: Variables, name: str, x: jax.Array, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> jax.Array:
    w = v.param(f"{name}.weight", (kernel, kernel, x.shape[-1], outputs), fan_in=kernel * kernel * x.shape[-1])
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def batch_norm(v: Variables, name: str, x: jax.Array, eps: float = 1e-5) -> jax.Array:
    """Batch statistics; the running variance is the unbiased one, as in torch."""
    mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    count = x.size // x.shape[-1]
    v.track(f"{name}.mean", mean, 0.0)
    v.track(f"{name}.var", var * (count / (count - 1)), 1.0)
    scale = v.param(f"{name}.weight", mean.shape, value=1.0) * lax.rsqrt(var + eps)
    return (x - mean) * scale + v.param(f"{name}.bias", mean.shape)


def max_pool(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def mlp(v: Variables, x: jax.Array) -> jax.Array:
    return linear(v, "fc2", jax.nn.relu(linear(v, "fc1", x, 128)), 10)


def lenet5(v: Variables, x: jax.Array) -> jax.Array:
    for name, channels in (("conv1", 6), ("conv2", 16)):
        bias = v.param(f"{name}.bias", (channels,))
        x = max_pool(jax.nn.relu(conv(v, name, x, channels, 5) + bias))
    x = x.reshape(len(x), -1)
    x = jax.nn.relu(linear(v, "fc1", x, 120))
    return linear(v, "fc3", jax.nn.relu(linear(v, "fc2", x, 84)), 10)


def resnet20(v: Variables, x: jax.Array) -> jax.Array:
    """Shortcuts are padded with zeros, as in ``graphrt.models.resnet20``."""
    x = jax.nn.relu(batch_norm(v, "bn", conv(v, "conv", x, 16, 3, padding=1)))
    for stage, width in enumerate((16, 32, 64)):
        for i in range(3):
            name, stride = f"{stage}.{i}", 2 if stage and i == 0 else 1
            y = jax.nn.relu(batch_norm(v, f"{name}.bn1", conv(v, f"{name}.conv1", x, width, 3, stride, 1)))
            y = batch_norm(v, f"{name}.bn2", conv(v, f"{name}.conv2", y, width, 3, padding=1))
            more = (width - x.shape[-1]) // 2
            x = jax.nn.relu(y + jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (more, more))))
    return linear(v, "fc", jnp.mean(x, (1, 2)), 10)


NETWORKS: dict[str, Callable[[Variables, jax.Array], jax.Array]] = {
    "MLP 784-128-10": mlp,
    "LeNet-5": lenet5,
    "ResNet-20": resnet20,
}


def training_step(work: str, x: np.ndarray, y: np.ndarray, parameters: int) -> Callable[[], float]:
    """One step of ``work``, which must have ``parameters``: forward, backward, SGD with momentum; the loss is read."""
    network = NETWORKS[work]
    data = jnp.asarray(x.transpose(0, 2, 3, 1) if x.ndim == 4 else x)
    target = jnp.asarray(y)

    def loss(params: Arrays, stats: Arrays, data: jax.Array, target: jax.Array) -> tuple[jax.Array, Arrays]:
        v = Variables(params, stats)
        scores = jax.nn.log_softmax(network(v, data))
        return -jnp.mean(jnp.take_along_axis(scores, target[:, None], 1)), v.stats

    @partial(jax.jit, donate_argnums=(0, 1, 2))  # the old state makes room for the new one
    def step(params: Arrays, stats: Arrays, moments: Arrays, data: jax.Array, target: jax.Array) -> Any:
        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params, stats, data, target)
        moments = jax.tree.map(lambda m, g: 0.9 * m + g, moments, grads)
        return jax.tree.map(lambda p, m: p - 0.01 * m, params, moments), stats, moments, value

    first = Variables({}, {})
    network(first, data)
    found = sum(p.size for p in first.params.values())
    assert found == parameters, f"different networks: {found} and {parameters} parameters"
    state = first.params, first.stats, jax.tree.map(jnp.zeros_like, first.params)

    def call() -> float:
        nonlocal state
        *new, value = step(*state, data, target)
        state = new[0], new[1], new[2]
        return float(value)

    return call
