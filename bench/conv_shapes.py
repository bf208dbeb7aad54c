"""How fast are single convolutions? Forward, input gradient and filter gradient over the layers of ResNet-20 and ResNet-50.

python -m bench.conv_shapes [--work ResNet-50] [--rounds 5] [--save]

The operands are state of graphrt's program, which keeps them in the layout that they have inside a network, and a feature map
that results is summed over pixels, as by a batch norm behind it: that pass is part of graphrt's time. Torch gets channels_last
tensors and keeps what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer

import graphrt
from bench.measure import interleave, report
from graphrt import ops

Shape = tuple[int, int, int, int, int, int]  # batch, channels, image, output channels, kernel, stride
RESNET20 = [(64, 3, 32, 16, 3, 1), (64, 16, 32, 16, 3, 1), (64, 16, 32, 32, 3, 2), (64, 32, 16, 32, 3, 1),
            (64, 32, 16, 64, 3, 2), (64, 64, 8, 64, 3, 1)]  # fmt: skip
RESNET50 = [(8, 3, 224, 64, 7, 2), (8, 64, 56, 64, 1, 1), (8, 64, 56, 64, 3, 1), (8, 64, 56, 256, 1, 1), (8, 256, 56, 64, 1, 1),
            (8, 256, 56, 512, 1, 2), (8, 128, 56, 128, 3, 2), (8, 128, 28, 128, 3, 1), (8, 128, 28, 512, 1, 1),
            (8, 512, 28, 128, 1, 1), (8, 512, 28, 1024, 1, 2), (8, 256, 28, 256, 3, 2), (8, 256, 14, 256, 3, 1),
            (8, 256, 14, 1024, 1, 1), (8, 1024, 14, 256, 1, 1), (8, 1024, 14, 2048, 1, 2), (8, 512, 14, 512, 3, 2),
            (8, 512, 7, 512, 3, 1), (8, 512, 7, 2048, 1, 1), (8, 2048, 7, 512, 1, 1)]  # fmt: skip
WORK = {"ResNet-20": RESNET20, "ResNet-50": RESNET50}
KINDS = ("forward", "input gradient", "filter gradient")


def graphrt_run(kind: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray, stride: int, pad: int) -> Callable[[], Any]:
    graph = graphrt.Graph()
    a, b, g = (graph.parameter(n, v, trainable=False) for n, v in (("x", x), ("w", w), ("dy", dy)))
    y = ops.conv2d(a, b, None, stride, pad)
    result = y if kind == "forward" else graphrt.grad(y, [a if kind == "input gradient" else b], g)[0]
    if kind == "filter gradient":
        graph.update(graph.parameter("out", np.zeros(result.shape, np.float32), trainable=False), result)
    else:
        graph.output("out", ops.sum(result, (0, 2, 3)))
    return graphrt.compile(graph, target="auto")


def torch_run(kind: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray, stride: int, pad: int) -> Callable[[], Any]:
    a, b, g = (torch.from_numpy(v).contiguous(memory_format=torch.channels_last) for v in (x, w, dy))
    if kind == "forward":
        return lambda: torch.nn.functional.conv2d(a, b, None, stride, pad)
    mask = [kind == "input gradient", kind != "input gradient", False]
    backward = torch.ops.aten.convolution_backward
    return lambda: backward(g, a, b, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, mask)


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks; both when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 5,
    calls: Annotated[int, typer.Option(min=1, help="runs in a turn")] = 3,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/conv_shapes.jsonl")] = False,
) -> None:
    """Prints GFLOP/s of graphrt and of torch channels_last for each shape, and the geometric mean of the ratios."""
    rows, ratios = [], []
    rng = np.random.default_rng(0)
    for name in work or WORK:
        for n, c, size, k, kernel, stride in WORK[name]:
            pad, out = kernel // 2, (size + 2 * (kernel // 2) - kernel) // stride + 1
            shapes = (n, c, size, size), (k, c, kernel, kernel), (n, k, out, out)
            arrays = tuple(rng.standard_normal(s).astype(np.float32) for s in shapes)
            flops = 2 * n * k * out * out * c * kernel * kernel
            for kind in KINDS:
                if c == 3 and kind == "input gradient":
                    continue  # nothing asks for it
                candidates = {
                    "graphrt": graphrt_run(kind, *arrays, stride, pad),
                    "torch": torch_run(kind, *arrays, stride, pad),
                }
                found = interleave(candidates, rounds, calls)
                ours, theirs = (flops / t.median / 1e6 for t in found.values() if t is not None)
                ratios.append(ours / theirs)
                shape = f"{n}x{c}x{size}x{size} -> {k}, {kernel}x{kernel} / {stride}"
                about = {"work": name, "shape": shape, "kind": kind}
                rows.append({**about, "graphrt GF/s": ours, "torch GF/s": theirs, "ratio": ratios[-1]})
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    about = {"work": "all", "shape": f"least {min(ratios):.2f}", "kind": "geometric mean"}
    rows.append({**about, "graphrt GF/s": "", "torch GF/s": "", "ratio": mean})
    report("convolutions, float32 (ratio: graphrt / torch channels_last)", rows, "conv_shapes" if save else None)


if __name__ == "__main__":
    typer.run(main)
