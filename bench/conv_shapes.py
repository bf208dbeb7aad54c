"""How fast is each convolution? Forward, input and weight gradient of the layers of residual networks, beside torch.

python -m bench.conv_shapes [--work ResNet-20] [--rounds 10] [--save]

Each program of graphrt holds one contraction (and the sum of its parts, where a weight gradient is split). An input of a
program is row-major, and would cost a layout change inside; a parameter lies as its reader likes it. So all operands are
parameters: channels-last, but for images of few channels, which stay row-major as they do in training. torch has
channels_last operands throughout. Results are new arrays on both sides; a weight gradient is row-major on graphrt's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

import graphrt
import graphrt.ops as F
from bench.measure import interleave, report
from bench.peers import WORK, chosen

Shape = tuple[int, ...]
Layer = tuple[Shape, Shape, int, int]  # shapes of input and weight, stride, padding
KINDS = ("forward", "input gradient", "weight gradient")


def layers(work: str, batch: int = 0) -> Counter[Layer]:
    """The distinct convolutions of a network with the number of times each occurs, in order of first occurrence.

    ``batch`` is that of ``WORK`` unless it is given.
    """
    found: Counter[Layer] = Counter()

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        padding = module.padding[0]
        assert isinstance(padding, int)
        found[tuple(inputs[0].shape), tuple(module.weight.shape), module.stride[0], padding] += 1

    with torch.device("meta"):
        net = WORK[work].theirs()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        net(torch.empty(batch or WORK[work].batch, *WORK[work].image))
    return found


def operands(layer: Layer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and dy of a layer."""
    (n, _, *image), (k, _, *kernel), stride, padding = layer
    out = [(size + 2 * padding - r) // stride + 1 for size, r in zip(image, kernel, strict=True)]
    rng = np.random.default_rng(0)
    x, w, dy = (rng.standard_normal(shape, np.float32) for shape in (layer[0], layer[1], (n, k, *out)))
    return x, w, dy


def graphrt_kernel(layer: Layer, kind: str) -> Callable[[], Any]:
    """The kernel of ``kind`` alone: what the result does not depend on is dead code."""
    x, w, dy = operands(layer)
    graph = graphrt.Graph()
    xv, wv, dyv = graph.parameter("x", x), graph.parameter("w", w), graph.parameter("dy", dy)
    result = F.conv2d(xv, wv, stride=layer[2], padding=layer[3])
    if kind != "forward":
        (result,) = graphrt.grad(result, [xv if kind == "input gradient" else wv], dyv)
    program = graphrt.compile(result)
    return lambda: program()


def torch_kernel(layer: Layer, kind: str) -> Callable[[], Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, w, dy = (torch.from_numpy(a).to(device, memory_format=torch.channels_last) for a in operands(layer))
    settings = ([layer[2]] * 2, [layer[3]] * 2, [1, 1], False, [0, 0], 1)
    mask = [kind == "input gradient", kind == "weight gradient", False]

    def call() -> Any:
        if kind == "forward":
            result = torch.ops.aten.convolution(x, w, None, *settings)
        else:
            result = torch.ops.aten.convolution_backward(dy, x, w, None, *settings, mask)
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return call


def check(ours: Any, theirs: Any) -> None:
    """Raises AssertionError unless both computed the same."""
    a, (b,) = np.asarray(ours), [t for t in (theirs if isinstance(theirs, tuple) else (theirs,)) if t is not None]
    error = np.abs(a - b.numpy(force=True)).max() / np.abs(a).max()
    assert error < 1e-3, f"the results differ by {error:.1e} of the largest"


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks; ResNet-20 and ResNet-50 when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 10,
    calls: Annotated[int, typer.Option(min=1, help="calls in a turn")] = 3,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/conv_shapes.jsonl")] = False,
) -> None:
    """Prints GF/s of both for each shape, the ratio graphrt / torch, and its geometric mean for each network and kind."""
    rows: list[dict[str, Any]] = []
    for name in chosen(work or ["ResNet-20", "ResNet-50"]):
        ratios: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for layer, count in layers(name).items():
            (n, c, h, w), (k, _, r, s), stride, _ = layer
            p, q = operands(layer)[2].shape[2:]
            flops = 2 * n * k * p * q * c * r * s
            for kind in KINDS:
                if kind == "input gradient" and c == WORK[name].image[0]:
                    continue  # nothing asks for the gradient of the images
                ours, theirs = graphrt_kernel(layer, kind), torch_kernel(layer, kind)
                check(ours(), theirs())
                timings = interleave({"graphrt": ours, "torch": theirs}, rounds, calls)
                a, b = timings["graphrt"], timings["torch"]
                assert a is not None and b is not None
                ratios[kind].append(b.median / a.median)
                rows.append(
                    {"work": name, "layer": f"{n}x{c}x{h}x{w} {k}x{r}x{s} /{stride}", "times": count, "kind": kind}
                    | {"ms": a.median, "p10": a.low, "p90": a.high, "torch ms": b.median, "torch p10": b.low}
                    | {"torch p90": b.high, "GF/s": flops / a.median / 1e6, "torch GF/s": flops / b.median / 1e6}
                    | {"speed ratio": ratios[kind][-1]}
                )
        rows += [
            dict.fromkeys(rows[0], "")
            | {"work": name, "layer": "geometric mean", "kind": kind}
            | {"speed ratio": float(np.exp(np.mean(np.log(found))))}
            for kind, found in ratios.items()
        ]
    report("convolutions, float32 (speed ratio: graphrt / torch channels_last)", rows, "conv_shapes" if save else None)


if __name__ == "__main__":
    typer.run(main)
