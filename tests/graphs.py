"""The small models whose plans and kernels are held by golden files, at the level of the graph."""

from __future__ import annotations

import numpy as np

import graphrt as grt
from graphrt import ops as F


def lenet_step(batch: int = 64) -> grt.Graph:
    """The training step of LeNet-5 with SGD and momentum, at the level of the graph."""
    g = grt.Graph()
    x, target = g.input("x", (batch, 1, 32, 32)), g.input("target", (batch,), "int64")

    def weight(name: str, *shape: int) -> grt.Value:
        return g.parameter(name, np.zeros(shape, np.float32))

    h = F.max_pool2d(F.relu(F.conv2d(x, weight("conv1.weight", 6, 1, 5, 5), weight("conv1.bias", 6))), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, weight("conv2.weight", 16, 6, 5, 5), weight("conv2.bias", 16))), 2)
    h = F.flatten(h, 1)
    for i, (a, b) in enumerate(((400, 120), (120, 84), (84, 10)), 1):
        h = F.linear(h, weight(f"fc{i}.weight", b, a), weight(f"fc{i}.bias", b))
        h = F.relu(h) if i < 3 else h
    loss = g.output("loss", F.cross_entropy(h, target))
    parameters = g.parameters()
    gradients = grt.grad(loss, parameters)
    with g.phase("opt"):
        lr = g.input("lr")
        for p, d in zip(parameters, gradients, strict=True):
            momentum = g.parameter(f"{p.name}.momentum", shape=p.shape, trainable=False)
            velocity = momentum * 0.9 + d
            g.update(momentum, velocity)
            g.update(p, p - velocity * lr)
    return g


def _step(g: grt.Graph, loss: grt.Value) -> grt.Graph:
    g.output("loss", loss)
    parameters = g.parameters()
    gradients = grt.grad(loss, parameters)
    with g.phase("opt"):
        lr = g.input("lr")
        for p, d in zip(parameters, gradients, strict=True):
            g.update(p, p - d * lr)
    return g


def mlp_step() -> grt.Graph:
    g = grt.Graph()
    x, target = g.input("x", (64, 784)), g.input("target", (64,), "int64")
    h = F.relu(F.linear(x, g.parameter("w1", shape=(128, 784)), g.parameter("b1", shape=(128,))))
    return _step(g, F.cross_entropy(F.linear(h, g.parameter("w2", shape=(10, 128)), g.parameter("b2", shape=(10,))), target))


def _conv_bn(g: grt.Graph, x: grt.Value, name: str, channels: int, kernel: int = 3) -> grt.Value:
    h = F.conv2d(x, g.parameter(f"{name}.w", shape=(channels, x.shape[1], kernel, kernel)), padding=kernel // 2)
    mean = g.parameter(f"{name}.mean", shape=(channels,), trainable=False)
    var = g.parameter(f"{name}.var", np.ones(channels, np.float32), trainable=False)
    return F.batch_norm(
        h, mean, var, g.parameter(f"{name}.g", shape=(channels,)), g.parameter(f"{name}.b", shape=(channels,)), training=True
    )


def conv_bn_relu() -> grt.Graph:
    g = grt.Graph()
    h = F.relu(_conv_bn(g, g.input("x", (32, 16, 32, 32)), "a", 16))
    return _step(g, F.mean(h * h))


def residual_block() -> grt.Graph:
    g = grt.Graph()
    x = g.input("x", (32, 16, 32, 32))
    h = F.relu(_conv_bn(g, F.relu(_conv_bn(g, x, "a", 16)), "b", 16) + x)
    return _step(g, F.mean(h * h))


def inception_step(batch: int = 64, channels: int = 64, size: int = 14, blocks: int = 2, autocast: str = "") -> grt.Graph:
    """The training step of a few blocks of GoogLeNet, each of the four branches a quarter of the channels."""
    g = grt.Graph()
    x = g.input("x", (batch, channels, size, size))
    with g.autocast(autocast or "bfloat16", enabled=bool(autocast)):
        h = F.relu(_conv_bn(g, x, "stem", channels, 1))
        for i in range(blocks):

            def unit(v: grt.Value, name: str, share: int, kernel: int = 1, block: str = f"block{i}") -> grt.Value:
                return F.relu(_conv_bn(g, v, f"{block}.{name}", channels // share, kernel))

            pooled = unit(F.max_pool2d(h, 3, 1, 1), "4", 4)
            wide, narrow = unit(unit(h, "2a", 2), "2b", 4, 3), unit(unit(h, "3a", 4), "3b", 4, 3)
            h = F.concat([unit(h, "1", 4), wide, narrow, pooled], 1)
        out = F.mean(h, (2, 3))
    return _step(g, F.mean(out * out))


def one_kernel_each() -> grt.Graph:
    """What training is made of beside contractions, as separate results: each is to be one group."""
    g = grt.Graph()
    rows, weight, bias = g.input("rows", (64, 256)), g.input("weight", (256,)), g.input("bias", (256,))
    maps, scores = g.input("maps", (8, 32, 16, 16)), g.input("scores", (4, 8, 64, 64))
    target = g.input("target", (64,), "int64")
    g.output("softmax", F.softmax(rows))
    loss = F.nll_loss(F.log_softmax(rows), target, reduction="none")
    g.output("nll", loss)
    g.output("nll_gradient", grt.grad(loss, [rows], g.input("dloss", (64,)))[0])
    g.output("layer_norm", F.layer_norm(rows, 256, weight, bias))
    g.output("rms_norm", F.rms_norm(rows, 256, weight))
    g.output("group_norm", F.group_norm(maps, 4))
    g.output("gelu", F.gelu(rows))
    g.output("dropout_add", F.dropout(maps, 0.1) + maps)
    g.output("attention", F.softmax(F.masked_fill(scores * 0.125, g.input("mask", (64, 64), "bool"), float("-inf"))))
    with g.phase("opt"):
        p, m, v = (g.parameter(n, shape=(64, 256)) for n in ("p", "m", "v"))
        d, lr = g.input("gradient", (64, 256)), g.input("lr")
        first, second = m * 0.9 + d * 0.1, v * 0.999 + d * d * 0.001
        for old, new in ((m, first), (v, second), (p, p - lr * first / (F.sqrt(second) + 1e-8))):
            g.update(old, new)
    return g


def index_and_scan_ops(dtype: str = "float32", wide: str = "float32") -> grt.Graph:
    """Every template that walks one dimension, with arithmetic around it; and of matrices, in ``wide``."""
    g = grt.Graph()
    x, table, token = g.input("x", (64, 1000), dtype), g.input("table", (5000, 256), dtype), g.input("token", (8, 32), "int64")
    rows = F.embedding(token, table)
    results = [F.cumsum(F.relu(x), 1), F.logcumsumexp(x, 1), F.cumprod(x, 0), F.cummax(x, 1)[0], F.topk(x, 10)[0]]
    results += [rows, grt.grad(F.sum(rows * rows), [table])[0], F.erfinv(F.tanh(x)) + F.atan2(x, F.expm1(x))]
    for i, y in enumerate(results):
        g.output(f"{i}", y)
    g.output("kept", F.nms(g.input("boxes", (300, 4)), g.input("scores", (300,)), 0.5))
    g.output("values", F.svdvals(F.relu(g.input("matrices", (3, 60, 40), wide))))
    g.output("inverse", F.inv(g.input("square", (3, 40, 40), wide)))
    return g
