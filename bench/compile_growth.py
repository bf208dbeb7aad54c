"""How does the time to compile a graph grow with the graph? Every kind at three sizes, each twice the one before.

python -m bench.compile_growth [--kind concat] [--doublings 2] [--target cuda:sm_90]

Seconds of each with an empty cache, lines of generated source, launches. Where growth is linear a doubling doubles them, or
less: what launches share is compiled once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Annotated

import typer

import graphrt as grt
from bench.measure import elsewhere
from graphrt import nn, optim
from graphrt import ops as F


def concat(n: int) -> grt.Graph:
    """``n`` inputs one behind the other."""
    g = grt.Graph()
    g.output("y", F.concat([g.input(f"x{i}", (1000,)) for i in range(n)]))
    return g


def stack(n: int) -> grt.Graph:
    """The sum of ``n`` inputs that are stacked."""
    g = grt.Graph()
    g.output("y", F.sum(F.stack([g.input(f"x{i}", (8,)) for i in range(n)])))
    return g


def branches(n: int) -> grt.Graph:
    """The mean of ``n`` branches of one product."""
    g = grt.Graph()
    x, w = g.input("x", (8, 16)), g.input("w", (16, 16))
    g.output("y", F.mean(F.stack([F.tanh(F.matmul(x, w) + float(i)) for i in range(n)]), 0))
    return g


def chain(n: int) -> grt.Graph:
    """``3 n`` elementwise operations, one behind the other."""
    g = grt.Graph()
    x = g.input("x", (64, 64))
    for i in range(n):
        x = F.tanh(x) * 1.01 + float(i)
    g.output("y", x)
    return g


def shifts(n: int) -> grt.Graph:
    """``n`` times the sum of a tensor and itself shifted: computed on load, 2^n elements."""
    g = grt.Graph()
    x = g.input("x", (256,))
    for _ in range(n):
        x = x + F.roll(x, 1, 0)
    g.output("y", x)
    return g


def paddings(n: int) -> grt.Graph:
    """``n`` times padded by reflection and cropped: looked through, 9^n pieces."""
    g = grt.Graph()
    x = g.input("x", (1, 2, 16, 16))
    for _ in range(n):
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 1:, 1:] * 0.5
        x = x[:, :, :16, :16]
    g.output("y", x)
    return g


def assignments(n: int) -> grt.Graph:
    """A mask made by ``n`` assignments to blocks of it, as shifted windows have one: 3^n pieces."""
    g = grt.Graph()
    x = g.input("x", (64, 64))
    for i in range(n):
        a = 3 + 7 * i % 40
        middle = F.concat([x[a : a + 9, :a], F.full(g, (9, 9), float(i)), x[a : a + 9, a + 9 :]], 1)
        x = F.concat([x[:a], middle, x[a + 9 :]])
    g.output("y", F.exp(x))
    return g


def recurrence(n: int) -> grt.Graph:
    """A training step of an LSTM of ``n`` steps."""
    nn.manual_seed(0)
    g = grt.Graph()
    loss = g.output("loss", F.mean(nn.LSTM(8, 16)(g.input("x", (n, 2, 8)))[0][-1]))
    weights = [node.outputs[0] for node in g.nodes if node.op.name == "parameter"]
    for p, d in zip(weights, grt.grad(loss, weights), strict=True):
        g.update(p, p - 0.1 * d)
    return g


def parameters(n: int) -> grt.Graph:
    """A step of AdamW on ``n`` parameters whose products with one input are summed."""
    g = grt.Graph()
    x = g.input("x", (4,))
    weights = [g.parameter(f"w{i}", shape=(4,)) for i in range(n)]
    loss = g.output("loss", F.sum(F.stack([F.sum(w * x) for w in weights])))
    optim.AdamW(1e-3).apply(weights, grt.grad(loss, weights), g.input("lr"))
    return g


KINDS: dict[str, tuple[Callable[[int], grt.Graph], int]] = {  # with the smallest size
    "concat": (concat, 80),
    "stack": (stack, 200),
    "branches": (branches, 40),  # fewer follow the product in its own kernel
    "chain": (chain, 50),
    "shifts": (shifts, 8),
    "paddings": (paddings, 4),
    "assignments": (assignments, 8),
    "recurrence": (recurrence, 8),
    "parameters": (parameters, 30),
}


def compiled(kind: str, n: int, target: str) -> list[float]:
    """Seconds to compile, lines of source and launches; called in a fresh process."""
    graph = KINDS[kind][0](n)
    start = time.perf_counter()
    program = grt.compile(graph, target=target)
    return [time.perf_counter() - start, len(program.source().splitlines()), program.launches]


def main(
    kind: Annotated[list[str] | None, typer.Option(help="kinds of graphs; all when left out")] = None,
    doublings: Annotated[int, typer.Option(min=1, help="how often the size is doubled")] = 2,
    target: Annotated[str, typer.Option(help="what is compiled for")] = "cpu",
) -> None:
    """Prints seconds, lines and launches of each size, and by what the last doubling multiplied the seconds."""
    typer.echo(f"{'kind':<12} {'size':>6} {'seconds':>8} {'lines':>7} {'launches':>8} {'ratio':>6}")
    for name in kind or list(KINDS):
        before = 0.0
        for i in range(doublings + 1):
            n = KINDS[name][1] << i
            with tempfile.TemporaryDirectory() as folder:
                found = elsewhere("bench.compile_growth", "compiled", name, n, target, GRAPHRT_CACHE=folder)
            seconds, lines, launches = found
            ratio = f"{seconds / before:6.2f}" if before else ""
            typer.echo(f"{name:<12} {n:>6} {seconds:>8.2f} {lines:>7.0f} {launches:>8.0f} {ratio}")
            before = seconds


if __name__ == "__main__":
    typer.run(main)
