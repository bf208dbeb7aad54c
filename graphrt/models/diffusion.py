"""Denoising diffusion (Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020).

picture ─▶ a little noise ─▶ more ─▶ ... ─▶ noise      fixed: q(x_t | x_0) = N(sqrt(a_t) x_0, (1 - a_t))
picture ◀─ U-Net ◀── ... ◀── U-Net ◀─────── noise      learnt: which noise is in x_t?
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np

import graphrt.ops as F
from graphrt import nn
from graphrt.compiler import compile as compile_graph
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.nn.trace import trace


def time_embedding(time: Value, dim: int) -> Value:
    """Times [N] as sines and cosines [N, dim] of frequencies from 1 down to 1 / 10000; ``dim`` is even, and at least 4."""
    if dim < 4 or dim % 2:
        raise ArgumentError(f"dim must be even and at least 4, got {dim}")
    half = dim // 2
    rates = np.exp(-math.log(10000.0) * np.arange(half) / (half - 1)).astype(np.float32)
    angles = F.unsqueeze(F.cast(time, "float32"), 1) * time.graph.constant(rates)
    return F.concat([F.sin(angles), F.cos(angles)], 1)


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, scale: float = 1.0) -> nn.Conv2d:
    """A convolution started as in the paper's program; with ``scale`` 0 it adds nothing at first."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    assert conv.bias is not None
    nn.init.xavier_uniform_(conv.weight, scale)
    nn.init.zeros_(conv.bias)
    return conv


def _dense(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    assert layer.bias is not None
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _norm(channels: int) -> nn.GroupNorm:
    """32 groups as in the paper, or as many as leave each at least four channels."""
    return nn.GroupNorm(math.gcd(32, max(channels // 4, 1)), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two convolutions [N, inputs, H, W] -> [N, outputs, H, W] beside a shortcut, told the time [N, times] between them."""

    def __init__(self, inputs: int, outputs: int, times: int, dropout: float) -> None:
        self.norm1, self.conv1 = _norm(inputs), _conv(inputs, outputs)
        self.time = _dense(times, outputs)
        self.norm2, self.dropout, self.conv2 = _norm(outputs), nn.Dropout(dropout), _conv(outputs, outputs, scale=0.0)
        self.shortcut: nn.Module = nn.Identity() if inputs == outputs else _conv(inputs, outputs, 1)

    def forward(self, input: Value, time: Value) -> Value:
        y = self.conv1(F.silu(self.norm1(input)))
        y = y + F.reshape(self.time(F.silu(time)), (*y.shape[:2], 1, 1))
        return self.shortcut(input) + self.conv2(self.dropout(F.silu(self.norm2(y))))


class SelfAttention(nn.Module):
    """Each pixel of [N, channels, H, W] gets what it attends to among all, by one head."""

    def __init__(self, channels: int) -> None:
        self.norm = _norm(channels)
        self.query, self.key, self.value = (_conv(channels, channels, 1) for _ in range(3))
        self.out = _conv(channels, channels, 1, scale=0.0)

    def forward(self, input: Value) -> Value:
        x = self.norm(input)

        def rows(projection: nn.Module) -> Value:
            return F.transpose(F.flatten(projection(x), 2), 1, 2)

        mixed = F.scaled_dot_product_attention(rows(self.query), rows(self.key), rows(self.value))
        return input + self.out(F.reshape(F.transpose(mixed, 1, 2), input.shape))


class DenoisingUNet(nn.Module):
    """(noisy pictures [N, channels, H, W], times int [N]) -> the noise in them, of their shape.

    ``width`` channels times each of ``multiples``, by levels of half the size, with so many ``blocks`` each, ``dropout``
    inside, and attention on the levels in ``attention`` and in the middle. Halvings must divide H and W.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        multiples: Sequence[int],
        blocks: int,
        attention: Collection[int],
        dropout: float = 0.0,
    ) -> None:
        self.width, times = width, 4 * width
        self.embed = nn.Sequential(_dense(width, times), nn.SiLU(), _dense(times, times))

        def attended(size: int, level: int) -> nn.Module:
            return SelfAttention(size) if level in attention else nn.Identity()

        self.stem = _conv(channels, width)
        self.down, self.halve = list[nn.Module](), list[nn.Module]()
        here, kept = width, [width]
        for level, multiple in enumerate(multiples):
            for _ in range(blocks):
                inputs, here = here, width * multiple
                self.down += [ResidualBlock(inputs, here, times, dropout), attended(here, level)]
                kept.append(here)
            if level < len(multiples) - 1:
                self.halve.append(_conv(here, here, stride=2))
                kept.append(here)
        self.middle = [
            ResidualBlock(here, here, times, dropout),
            SelfAttention(here),
            ResidualBlock(here, here, times, dropout),
        ]
        self.up, self.double = list[nn.Module](), list[nn.Module]()
        for level, multiple in reversed(list(enumerate(multiples))):
            for _ in range(blocks + 1):
                self.up += [
                    ResidualBlock(here + kept.pop(), width * multiple, times, dropout),
                    attended(width * multiple, level),
                ]
                here = width * multiple
            if level:
                self.double.append(_conv(here, here))
        self.norm, self.score = _norm(here), _conv(here, channels, scale=0.0)
        self.blocks = blocks

    def forward(self, input: Value, time: Value) -> Value:
        told = self.embed(time_embedding(time, self.width))
        x = self.stem(input)
        kept = [x]
        for level, pairs in enumerate(_levels(self.down, self.blocks)):
            if level:
                x = self.halve[level - 1](x)
                kept.append(x)
            for block, attention in pairs:
                x = attention(block(x, told))
                kept.append(x)
        first, attention, second = self.middle
        x = second(attention(first(x, told)), told)
        for level, pairs in enumerate(_levels(self.up, self.blocks + 1)):
            if level:
                x = self.double[level - 1](F.interpolate(x, scale_factor=2))
            for block, attention in pairs:
                x = attention(block(F.concat([x, kept.pop()], 1), told))
        return self.score(F.silu(self.norm(x)))


def _levels(layers: Sequence[nn.Module], blocks: int) -> Iterator[list[tuple[nn.Module, nn.Module]]]:
    """Blocks with the attention behind each, by levels of so many ``blocks``."""
    pairs = list(zip(layers[::2], layers[1::2], strict=True))
    return (pairs[i : i + blocks] for i in range(0, len(pairs), blocks))


class Diffusion(nn.Module):
    """Pictures [N, ...] in [-1, 1] -> (the noise that ``net`` finds in a noisy version of each, the noise that was added).

    The time of each is drawn among ``steps``. The variance that each adds rises evenly between two ``betas``, 1e-4 and 0.02
    for the paper's 1000 steps, and more where there are fewer. ``diffusion_loss`` compares the pair, and ``ddpm_sample`` draws
    pictures.
    """

    def __init__(self, net: nn.Module, steps: int = 1000, betas: tuple[float, float] | None = None) -> None:
        betas = betas or (0.1 / steps, 20.0 / steps)
        if not 0 < betas[0] <= betas[1] < 1:
            raise ArgumentError(f"betas must rise within (0, 1), got {betas} for {steps} steps")
        self.net, self.steps = net, steps
        beta = np.linspace(*betas, steps)
        left = np.cumprod(1 - beta)  # of the picture's variance
        self.beta, self.signal, self.noise = nn.Buffer(beta), nn.Buffer(np.sqrt(left)), nn.Buffer(np.sqrt(1 - left))

    def at(self, schedule: nn.Buffer, time: Value, like: Value) -> Value:
        """A ``schedule``'s numbers at times [N], to be multiplied with ``like`` [N, ...]."""
        found = F.index_select(schedule.value(time.graph), 0, time)
        return F.reshape(found, (time.shape[0], *[1] * (like.ndim - 1)))

    def forward(self, input: Value) -> tuple[Value, Value]:
        time = F.randint(input.graph, 0, self.steps, (input.shape[0],))
        noise = F.normal_like(input)
        noisy = self.at(self.signal, time, input) * input + self.at(self.noise, time, input) * noise
        return self.net(noisy, time), noise


def diffusion_loss(output: tuple[Value, Value], target: Value) -> Value:
    """The mean squared difference of a ``Diffusion``'s ``output``, a pair: the paper's simple loss. ``target`` is not used."""
    found, noise = output
    return F.mse_loss(found, noise)


class Denoise(nn.Module):
    """A step of sampling: (pictures [N, ...] at ``time``, an int scalar) -> those a time before, of which 0 is the last.

    The paper's algorithm 2, with the variance of each step as its own: the noise that ``diffusion.net`` finds is taken out, and
    but for the last step new noise is drawn.
    """

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion

    def forward(self, input: Value, time: Value) -> Value:
        times = F.broadcast_to(time, (input.shape[0],))
        beta, noise = (self.diffusion.at(b, times, input) for b in (self.diffusion.beta, self.diffusion.noise))
        mean = (input - self.diffusion.net(input, times) * (beta / noise)) / F.sqrt(1.0 - beta)
        return mean + F.where(F.gt(time, 0), F.sqrt(beta), 0.0) * F.normal_like(input)


def ddpm_sample(diffusion: Diffusion, shape: Sequence[int], seed: int = 0, target: str = "auto") -> np.ndarray:
    """Pictures float32 of ``shape`` [N, ...] in [-1, 1]: a program of one step runs as often as ``diffusion`` has steps.

    ``seed`` draws the noise, the same on every ``target``.
    """
    start = Graph()
    F.manual_seed(start, seed)
    x = compile_graph(F.normal(start, shape), target=target)()
    step = trace(Denoise(diffusion), (x, np.int64(0)))
    F.manual_seed(step, seed + 1)
    program = compile_graph(step, target=target)
    for time in reversed(range(diffusion.steps)):
        x = program(x, np.int64(time))
    return np.clip(x, -1.0, 1.0)


def ddpm(
    channels: int = 3,
    width: int = 128,
    multiples: Sequence[int] = (1, 2, 2, 2),
    blocks: int = 2,
    attention: Collection[int] = (1,),
    dropout: float = 0.1,
    steps: int = 1000,
    betas: tuple[float, float] | None = None,
) -> nn.Module:
    """Pictures [N, channels, H, W] in [-1, 1] -> (noise found, noise added); 35,746,307 parameters by default.

    Ho et al., NeurIPS 2020, for pictures of 32x32 pixels (35.7 M in the paper): a ``Diffusion`` of ``steps`` and ``betas`` by a
    ``DenoisingUNet`` of ``width`` channels times ``multiples``, with ``blocks`` on each level, ``attention`` on those levels,
    and ``dropout``. Train it with ``diffusion_loss`` and any targets, and let ``ddpm_sample`` draw.
    """
    return Diffusion(DenoisingUNet(channels, width, multiples, blocks, attention, dropout), steps, betas)
