"""The time that a training step's kernels take on one GPU, by graphrt's static model, and when each gradient is there.

Three models of a launch: ``plan``, the longest of its bytes, its flops and 1.5 us (graphrt.runtime.machine); ``tiles``, the
longest of its bytes and of the waves of its tiles (kernels/triton/cost.py, by which graphrt chooses tiles and decides what to
merge), and 4,000 clocks until the next launch's first result; ``compiled``, a bound from its code's instructions. For ResNet-50
the first two take seconds, the last minutes. ``bench/results/scale_kernels.jsonl`` keeps what was found.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any

import typer

from bench.measure import RESULTS

SOURCES = ("plan", "tiles", "compiled")
KEPT = RESULTS / "scale_kernels.jsonl"


@dataclass(frozen=True)
class Kernels:
    """The kernels of one training step of ``network`` at ``batch``: seconds of each phase, and what they make.

    ``gradients`` are (seconds after the start of the step, elements) of each parameter's gradient, the first to be ready first.
    ``source`` says where the seconds are from: one of ``SOURCES``, or otherwise. ``optimizer`` is SGD (with momentum) or LARS,
    ``norms`` are fused, as graphrt compiles them, or apart, in kernels of their own (``norms_apart``).
    """

    network: str
    batch: int
    device: str
    source: str
    forward: float
    backward: float
    update: float
    launches: int
    gradients: tuple[tuple[float, int], ...]
    optimizer: str = "SGD"
    norms: str = "fused"

    @property
    def seconds(self) -> float:
        """Seconds of the whole step on one GPU."""
        return self.forward + self.backward + self.update

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(n for _, n in self.gradients)

    def scaled(self, factor: float, source: str) -> Kernels:
        """The same step with kernels that take ``factor`` times as long."""
        phases = {name: factor * getattr(self, name) for name in ("forward", "backward", "update")}
        return replace(self, source=source, gradients=tuple((factor * ready, n) for ready, n in self.gradients), **phases)


def first_launch(program: Any, phase: str) -> int:
    """The first launch of ``program``, behind the forward pass's products, that computes a node of ``phase`` (bwd, opt)."""
    from graphrt.op import Kind

    computed = [[n for g in launch.groups for n in g.nodes] for launch in program.schedule.launches]
    products = [
        i for i, nodes in enumerate(computed) for n in nodes if n.op.kind is Kind.CONTRACTION and n.origin.phase == "fwd"
    ]
    return next(i for i in range(max(products), len(computed)) if any(n.origin.phase == phase for n in computed[i]))


def gradients_of(program: Any) -> Iterator[tuple[int, int]]:
    """(launch, elements) of each parameter's gradient: the last launch before the updates that it is computed from.

    A program of one GPU finishes many gradients in the launch that updates, where there is nothing to send in between.
    """
    launches = program.schedule.launches
    launch_of = {n: i for i, launch in enumerate(launches) for g in launch.groups for n in (*g.inlined, *g.nodes)}
    first = first_launch(program, "opt")
    for parameter in program.graph.parameters():
        value = program.graph.updates.get(parameter.node.name)
        if value is None or value.node.origin.phase != "opt":
            continue
        found, seen, left = 0, set(), [value.node]
        while left:
            node = left.pop()
            if node in seen:
                continue
            seen.add(node)
            if (at := launch_of.get(node, first)) < first:
                found = max(found, at)
            else:
                left.extend(operand.node for operand in node.inputs)
        yield found, parameter.type.size


def seconds_of(program: Any, device: str, batch: int, by: str) -> list[float]:
    """Seconds of each launch of ``program`` on ``device``, by one of ``SOURCES``."""
    from graphrt.runtime.machine import LAUNCH, find_data_sheet
    from graphrt.runtime.roofline import predict
    from graphrt.targets.triton.emit.launch import CLOCK
    from kernels.triton import cost

    launches = predict(program, find_data_sheet(program.target, device), batch, by == "compiled").launches
    if by != "tiles":
        return [p.seconds for p in launches]
    clocks = [code.choice.clocks for code in program._executable._compilation.codes]
    peaks = [max(v for name, v in p.limits.items() if name != "launch") for p in launches]
    assert LAUNCH < cost.LAUNCH / CLOCK  # which is counted in its place
    return [max(peak, c / CLOCK) + cost.LAUNCH / CLOCK for peak, c in zip(peaks, clocks, strict=True)]


def norms_apart(graph: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments to compile ``graph`` with, beside ``arguments``, so that no convolution computes on maps or sums them up.

    Batch norm, activations and sums of branches then have kernels of their own.
    """
    from graphrt.compiler import compile as compile_graph
    from graphrt.op import Kind

    stages = {"fusion": "-segments"}  # sums of a tile
    nodes = compile_graph(graph, **arguments, **stages).graph.nodes  # passes give names
    rows = next(n.outputs[0].type.shape[0] for n in nodes if n.op.name == "conv")
    maps = [n.name for n in nodes if n.op.kind is Kind.ELEMENTWISE and n.outputs[0].type.shape[:1] == (rows,)]
    convs = [n.name for n in nodes if n.op.name in ("conv", "conv_dgrad", "conv_wgrad")]
    return {**stages, "forbid": [pair for pair in itertools.product(convs, maps)]}


def compiled(network: str, batch: int, optimizer: str = "SGD", norms: str = "fused") -> Any:
    """``network``'s training step in bfloat16, compiled for sm_90."""
    from graphrt import optim
    from graphrt.compiler import compile as compile_graph
    from graphrt.inspection.subject import find as find_subject

    lars = optim.LARS(0.05, weight_decay=5e-5, decay_1d=False) if optimizer == "LARS" else None  # as MLPerf's runs train
    subject = find_subject(network, "cuda:sm_90", batch, True, "bf16", {}, lars)
    more = norms_apart(subject.outputs, subject.arguments) if norms == "apart" else {}
    return compile_graph(subject.outputs, **subject.arguments, **more)


def of_program(program: Any, network: str, batch: int, device: str, by: str, optimizer: str, norms: str) -> Kernels:
    """The kernels of what was ``compiled`` so, on ``device``, by one of ``SOURCES``."""
    ends = list(itertools.accumulate(seconds_of(program, device, batch, by)))
    backward, update = first_launch(program, "bwd"), first_launch(program, "opt")
    return Kernels(
        network,
        batch,
        device,
        by,
        forward=ends[backward - 1],
        backward=ends[update - 1] - ends[backward - 1],
        update=ends[-1] - ends[update - 1],
        launches=len(ends),
        gradients=tuple(sorted((round(ends[at], 9), size) for at, size in gradients_of(program))),
        optimizer=optimizer,
        norms=norms,
    )


def find(network: str, batch: int, device: str, by: str, optimizer: str = "SGD", norms: str = "fused") -> Kernels:
    """The kernels of ``network``'s training step on ``device``, by one of ``SOURCES``."""
    return of_program(compiled(network, batch, optimizer, norms), network, batch, device, by, optimizer, norms)


def kept(network: str, batch: int, device: str, source: str, optimizer: str = "SGD", norms: str = "fused") -> Kernels:
    """The record of ``KEPT``. Raises LookupError where there is none."""
    wanted = dict(network=network, batch=batch, device=device, source=source, optimizer=optimizer, norms=norms)
    for line in KEPT.read_text().splitlines() if KEPT.exists() else ():
        row = {"optimizer": "SGD", "norms": "fused", **json.loads(line)}
        if wanted.items() <= row.items():
            row["gradients"] = tuple((ready, size) for ready, size in row["gradients"])
            return Kernels(**{f.name: row[f.name] for f in fields(Kernels)})
    raise LookupError(
        f"no kernels of {network}, batch {batch}, on {device} by {source}: python -m bench.scale_kernels finds them"
    )


def keep(kernels: Kernels) -> None:
    """Appends ``kernels`` to ``KEPT``."""
    with KEPT.open("a") as file:
        file.write(json.dumps({**asdict(kernels), "predicted": True}) + "\n")


def main(
    network: Annotated[str, typer.Option(help="a model of graphrt.models")] = "resnet50",
    batch: Annotated[int, typer.Option(min=1, help="images of one GPU")] = 16,
    device: Annotated[str, typer.Option(help="whose data sheet counts: H100, H200")] = "H100",
    by: Annotated[str, typer.Option(help="plan, tiles, compiled, with commas between")] = "tiles",
    optimizer: Annotated[str, typer.Option(help="SGD, with momentum, or LARS")] = "SGD",
    norms: Annotated[str, typer.Option(help="fused, or apart: batch norm in kernels of its own")] = "fused",
) -> None:
    """Finds the kernels of one step and keeps them."""
    wanted = by.split(",")
    if unknown := [name for name in wanted if name not in SOURCES]:
        raise typer.BadParameter(f"--by is {', '.join(SOURCES)}; got {unknown[0]!r}")
    if optimizer not in ("SGD", "LARS"):
        raise typer.BadParameter(f"--optimizer is SGD or LARS; got {optimizer!r}")
    if norms not in ("fused", "apart"):
        raise typer.BadParameter(f"--norms is fused or apart; got {norms!r}")
    program = compiled(network, batch, optimizer, norms)
    for name in wanted:
        keep(of_program(program, network, batch, device, name, optimizer, norms))


if __name__ == "__main__":
    typer.run(main)
