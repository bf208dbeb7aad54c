"""Single kernels on a GPU: the convolutions of ResNet-50 beside cuDNN, memory-bound groups beside a copy; bfloat16.

And two choices that predictions make, which a step's time hangs on, each way beside the other.

Operands and results of graphrt's programs are parameters, which stay where they are, as a training step's values do; results
are permuted so that they lie channels-last, which costs nothing. torch has channels_last tensors and cudnn.benchmark. Both
sides are timed as many runs in one captured graph: a kernel of a few microseconds ends before the host launches the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as T

import graphrt
import graphrt.ops as F
from bench.conv_shapes import Layer, layers
from bench.gpu_parts import Clock, Part, Row, Settings, clocked, ours, switched, theirs
from graphrt import Graph, Program, Value
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton import target as of_triton

GOALS = {"forward": 0.90, "dgrad": 0.85, "wgrad": 0.85, "forward + BN + ReLU": 1.15}
LAST = (0, 2, 3, 1)


def running(graph: Graph, settings: Settings) -> Program:
    """The program of ``graph``, which takes no inputs; its parameters get random values."""
    program = graphrt.compile(graph, target=settings.target)
    for value in graph.parameters() if not (settings.ahead or settings.full) else ():
        program.state.tensor(value.node.name).normal_()
    return program


def kept(graph: Graph, result: Value) -> None:
    """Writes ``result`` to a buffer of the program."""
    result = F.permute(result, LAST) if result.ndim == 4 else result
    graph.update(graph.parameter("result", shape=result.shape, dtype=result.dtype.name, trainable=False), result)


def our_conv(layer: Layer, kind: str, settings: Settings) -> Program:
    """One convolution or gradient of graphrt."""
    g = Graph()
    (n, _, *image), (k, _, *kernel), stride, padding = layer
    out = [(size + 2 * padding - r) // stride + 1 for size, r in zip(image, kernel, strict=True)]
    x, w = g.parameter("x", shape=layer[0], dtype="bfloat16"), g.parameter("w", shape=layer[1], dtype="bfloat16")
    y = F.conv2d(x, w, stride=stride, padding=padding)
    if kind in ("dgrad", "wgrad"):
        dy = g.parameter("dy", shape=(n, k, *out), dtype="bfloat16")
        (y,) = graphrt.grad(y, [x if kind == "dgrad" else w], dy)
    elif kind != "forward":
        scale, shift = (g.parameter(name, shape=(k, 1, 1)) for name in ("scale", "shift"))
        y = F.cast(F.relu(F.cast(y, "float32") * scale + shift), "bfloat16")
    kept(g, y)
    return running(g, settings)


def their_conv(layer: Layer, kind: str, device: str) -> Callable[[], Any]:
    """The same in torch; batch norm by its running statistics and ReLU are calls of their own."""
    (n, _, *image), (k, _, *kernel), stride, padding = layer
    out = [(size + 2 * padding - r) // stride + 1 for size, r in zip(image, kernel, strict=True)]

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, dtype=torch.bfloat16).to(memory_format=torch.channels_last)

    x, w, dy = random(*layer[0]), random(*layer[1]), random(n, k, *out)
    mean, variance, scale, shift = (torch.rand(k, device=device) + 0.5 for _ in range(4))
    settings = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
    mask = [kind == "dgrad", kind == "wgrad", False]

    def call() -> Any:
        if kind in ("dgrad", "wgrad"):
            return torch.ops.aten.convolution_backward(dy, x, w, None, *settings, mask)
        y = torch.ops.aten.convolution(x, w, None, *settings)
        return y if kind == "forward" else T.relu_(T.batch_norm(y, mean, variance, scale, shift))

    return call


def small(layer: Layer, settings: Settings) -> Layer:
    """``layer`` at the batch of torch's side."""
    (n, *rest), *others = layer
    return ((settings.theirs(n), *rest), *others)  # type: ignore[return-value]


def convolutions(kind: str) -> Part:
    """The part for ``kind``: each distinct convolution of ResNet-50 at batch 256, and the geometric mean of the ratios."""
    part = f"ResNet-50 convolutions b256, {kind}"

    def run(settings: Settings) -> Iterator[Row]:
        torch.backends.cudnn.benchmark = True
        ratios: list[float] = []
        shapes = [*layers("ResNet-50", settings.ours(256))]
        wanted = [shape for shape in shapes if kind != "dgrad" or shape[0][1] != 3]  # nobody asks for the images' gradient
        for layer in settings.some(wanted):
            if ratios and settings.left() < 0:
                break  # the next kind is measured too
            (n, c, h, w), (k, _, r, s), stride, _ = layer
            what = f"{n}x{c}x{h}x{w} {k}x{r}x{s} /{stride}"
            peer = theirs(their_conv(small(layer, settings), kind, settings.device), settings)
            timings = clocked({"graphrt": ours(our_conv(layer, kind, settings)), "torch": peer}, settings, 5)
            ms, library = timings["graphrt"].median, timings["torch"].median
            ratios.append(library / ms if ms else 1.0)
            yield Row(part, what, ms, "ms", ratios[-1], note=f"cuDNN {library:.4g} ms", detail=True)
            name = "geometric mean, cuDNN / graphrt"
            if len(ratios) < len(wanted):
                yield Row(part, name, note=f"not complete: {len(ratios)} of {len(wanted)} shapes")
            else:
                yield Row(part, name, ratio=float(np.exp(np.mean(np.log(ratios)))), goal=GOALS[kind])

    return run


def all_convolutions(settings: Settings) -> Iterator[Row]:
    """Measures what predictions chose between, then every kind, each within its share of what is left, a shape at least."""
    yield from ways(settings)
    for i, kind in enumerate(GOALS):
        yield from convolutions(kind)(replace(settings, seconds=settings.left() / (len(GOALS) - i), start=time.monotonic()))


# --- what predictions chose between ---------------------------------------------------------------------------------------


def behind_norm(settings: Settings) -> Graph:
    """A 3x3 convolution of ResNet-50's 256 channels, 14x14, of what a norm and a ReLU make of them."""
    g, n = Graph(), settings.ours(256)
    x = g.parameter("x", shape=(n, 256, 14, 14), dtype="bfloat16")
    w = g.parameter("w", shape=(256, 256, 3, 3), dtype="bfloat16")
    scale, shift = (g.parameter(name, shape=(256, 1, 1)) for name in ("scale", "shift"))
    kept(g, F.conv2d(F.cast(F.relu(F.cast(x, "float32") * scale + shift), "bfloat16"), w, padding=1))
    return g


def product(settings: Settings) -> Graph:
    """A matrix product, 4096 in each dimension."""
    g, n = Graph(), settings.ours(4096, 256)
    kept(g, g.parameter("a", shape=(n, n), dtype="bfloat16") @ g.parameter("b", shape=(n, n), dtype="bfloat16"))
    return g


def only_bytes() -> AbstractContextManager[Any]:
    """Bytes decide inside what is computed on load, and not predicted times."""
    return patch.object(of_triton, "on_load", lambda options: None)


def smaller_tiles() -> AbstractContextManager[Any]:
    """No tile is larger than 128x128 inside."""
    find_kernels()
    from graphrt.kernels.triton import cost

    return patch.object(cost, "_LARGE", [])


class Choice(NamedTuple):
    """A graph, the way that predictions choose for it, and the other one, which is compiled inside ``without``."""

    make: Callable[[Settings], Graph]
    chosen: str
    other: str
    without: Callable[[], AbstractContextManager[Any]]

    def programs(self, settings: Settings) -> dict[str, Program]:
        """The program of either way."""
        found = {self.chosen: running(self.make(settings), settings)}
        with self.without():
            found[self.other] = running(self.make(settings), settings)
        return found


CHOICES = {
    "3x3 behind norm and ReLU": Choice(behind_norm, "map stored", "on load", only_bytes),
    "product of 4096": Choice(product, "tile 128x256", "tile 128x128", smaller_tiles),
}


def ways(settings: Settings) -> Iterator[Row]:
    """Each way that was chosen beside the other: is the model right?"""
    for name, choice in CHOICES.items():
        timings = clocked({way: ours(program) for way, program in choice.programs(settings).items()}, settings, 5)
        ms, other = timings[choice.chosen].median, timings[choice.other].median
        note = f"{choice.other} {other:.4g} ms"
        yield Row("predicted to be faster", f"{name}: {choice.chosen}", ms, "ms", other / ms if ms else 0.0, 1.0, note=note)


def descriptors(settings: Settings) -> Iterator[Row]:
    """The same convolutions of graphrt with pointer loads and through tensor descriptors (TMA), where these can serve."""
    part = "ResNet-50 convolutions b256, by pointers and through descriptors"
    shapes = [(kind, shape) for shape in layers("ResNet-50", settings.ours(256)) for kind in ("forward", "dgrad")]
    wanted = [(kind, shape) for kind, shape in shapes if shape[0][1] % 8 == 0 and (kind == "forward" or shape[2] == 1)]
    for kind, layer in settings.some(wanted):
        (n, c, h, w), (k, _, r, s), stride, _ = layer
        programs = {"pointers": our_conv(layer, kind, settings)}
        with switched("GRAPHRT_TMA"):
            programs["descriptors"] = our_conv(layer, kind, settings)
        what = f"{kind} {n}x{c}x{h}x{w} {k}x{r}x{s} /{stride}"
        if not any(found.form == "conv_tma" for found in programs["descriptors"].configurations()):
            yield Row(part, what, note="no descriptors here: they are of sm_90 and newer, and some strides have none")
            continue
        timings = clocked({name: ours(program) for name, program in programs.items()}, settings, 5)
        pointers, through = timings["pointers"].median, timings["descriptors"].median
        note = f"ratio beside pointers, {pointers:.4g} ms"
        yield Row(part, what, through, "ms", pointers / through if through else 1.0, note=note, detail=True)


# --- memory-bound groups --------------------------------------------------------------------------------------------


def elementwise(g: Graph, n: int) -> Value:
    x, y = (g.parameter(name, shape=(n, 1024), dtype="bfloat16") for name in "xy")
    return F.relu(x * y + 1.0)


def batch_norm(g: Graph, n: int) -> Value:
    """BN-apply and ReLU with the sums that it needs: x is read twice where it does not stay in the cache."""
    x = g.parameter("x", shape=(n // 4, 64, 8, 8), dtype="bfloat16")
    wide = F.cast(x, "float32")
    mean = F.mean(wide, (0, 2, 3), keepdim=True)
    variance = F.mean((wide - mean) * (wide - mean), (0, 2, 3), keepdim=True)
    scale, shift = (g.parameter(name, shape=(64, 1, 1)) for name in ("scale", "shift"))
    return F.cast(F.relu((wide - mean) * F.rsqrt(variance + 1e-5) * scale + shift), "bfloat16")


def softmax(g: Graph, n: int) -> Value:
    return F.softmax(g.parameter("x", shape=(n, 1024), dtype="bfloat16"), -1)


def layer_norm(g: Graph, n: int) -> Value:
    scale, shift = (g.parameter(name, shape=(1024,), dtype="bfloat16") for name in ("scale", "shift"))
    return F.layer_norm(g.parameter("x", shape=(n, 1024), dtype="bfloat16"), 1024, scale, shift)


GROUPS: dict[str, tuple[Callable[[Graph, int], Value], int]] = {  # and the bytes that an element of x moves
    "elementwise": (elementwise, 6),
    "batch norm": (batch_norm, 6),
    "softmax": (softmax, 4),
    "layer norm": (layer_norm, 4),
}


def momentum(n: int, settings: Settings) -> tuple[Program, int]:
    """SGD with momentum on a float32 parameter, and the bytes that it moves: three tensors read, two written."""
    g = Graph()
    w, v, d = (g.parameter(name, shape=(n, 1024)) for name in ("w", "v", "d"))
    moved = v * 0.9 + d
    g.update(v, moved)
    g.update(w, w - moved * 0.01)
    return running(g, settings), 20 * n * 1024


def bandwidth(settings: Settings) -> Iterator[Row]:
    """GB/s of groups, from the bytes that they must move, beside those of a copy of as many bytes."""
    n = settings.ours(1 << 18, 64)  # rows: 512 MB of bfloat16
    for name in [*GROUPS, "SGD with momentum"]:
        if name in GROUPS:
            build, each = GROUPS[name]
            g = Graph()
            kept(g, build(g, n))
            program, moved = running(g, settings), each * n * 1024
        else:
            program, moved = momentum(n, settings)
        source = torch.ones(settings.theirs(moved // 8, 64), device=settings.device)
        target = torch.zeros_like(source)
        clocks: dict[str, Clock] = {"graphrt": ours(program), "copy": theirs(lambda a=source, b=target: b.copy_(a), settings)}
        timings = clocked(clocks, settings)
        ms, copy = timings["graphrt"].median, timings["copy"].median
        speed = moved / ms / 1e6 if ms else 0.0
        note = f"copy {moved / copy / 1e6:.0f} GB/s" if copy else ""
        yield Row("memory-bound groups", name, speed, "GB/s", copy / ms if ms else 0.0, 0.9, note=note)
        del source, target, program, clocks
