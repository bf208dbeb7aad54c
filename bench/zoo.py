"""How does graphrt do on networks it was not tuned for? A torch module's training step and its forward pass, beside its peers.

python -m bench.zoo [--work 'U-Net'] [--processes 5] [--save] [--no-compile] [--no-inference] [--half]
python -m bench.zoo --read    prints the last row saved of each network, as the table of docs/speed.md

graphrt takes the module by from_torch; the gradients and SGD are in one program. Each row is measured in processes of its own,
in which graphrt and torch take turns. JAX has the network as ``bench.jax_zoo`` writes it, and OpenVINO, in float32 and as it
chooses by itself (bfloat16 where the processor has it), the torch module's forward pass: each has a process of its own, right
behind, since frameworks that embed LLVM do not live together. With ``--half`` graphrt and torch take the module under
torch.autocast, with weights in float32, and OpenVINO's own choice is their peer.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from typing import Annotated, Any

import torch
import typer

import graphrt
from bench.measure import RESULTS, elsewhere, interleave, report
from bench.measure import save as save_rows
from bench.peers import updated
from bench.zoo_peers import ZOO

RATE = 0.01


def cast(half: bool) -> torch.autocast:
    """The context in which a module is traced and run: products in bfloat16 where ``half`` says so."""
    return torch.autocast("cpu", torch.bfloat16, enabled=half)


def ours(name: str, train: bool, half: bool) -> Callable[[], Any]:
    """A step of graphrt, or a forward pass."""
    zoo = ZOO[name]
    x, target = zoo.data()
    torch.manual_seed(0)
    net = zoo.make().train(train)
    if not train:
        with cast(half):
            program = graphrt.compile(graphrt.from_torch(net, (x,)), target="cpu", freeze=True)
        return lambda: program(x)

    class Loss(torch.nn.Module):
        """The network's loss."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return zoo.loss(self.net(x), target)

    with cast(half):
        graph = graphrt.from_torch(Loss().train(), (x, target), train=True)
    (loss,) = graph.outputs.values()
    parameters = graph.parameters()
    for p, d in zip(parameters, graphrt.grad(loss, parameters), strict=True):
        graph.update(p, p - RATE * d)
    step = graphrt.compile(graph, target="cpu")
    return lambda: step(x, target)


def theirs(name: str, train: bool, half: bool, mode: str) -> Callable[[], Any]:
    """A step of torch, or a forward pass: eager, channels_last or compile."""
    zoo = ZOO[name]
    x, target = zoo.data()
    torch.manual_seed(0)
    net = zoo.make().train(train)
    if mode == "channels_last":
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    model = torch.compile(net) if mode == "compile" else net
    optimizer = torch.optim.SGD(net.parameters(), RATE)

    def forward() -> torch.Tensor:
        with torch.inference_mode(), cast(half):
            return model(x)

    def loss() -> torch.Tensor:
        with cast(half):
            return zoo.loss(model(x), target)

    return updated(optimizer, loss) if train else forward


def jax_call(name: str, train: bool) -> Callable[[], Any]:
    """A step of JAX, or a forward pass."""
    from bench.jax_zoo import call_of

    zoo = ZOO[name]
    x, target = zoo.data()
    parameters = sum(p.numel() for p in zoo.make().parameters())
    return call_of(name, x.numpy(), target.numpy(), parameters, train, RATE)


def openvino_call(name: str, precision: str | None) -> Callable[[], Any]:
    """A forward pass of OpenVINO, with as many threads as torch has, in ``precision`` (None: its own choice)."""
    import openvino

    zoo = ZOO[name]
    x, _ = zoo.data()
    torch.manual_seed(0)
    model = openvino.convert_model(zoo.make().eval(), example_input=x)
    model.reshape(list(x.shape))
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.compile_model(
        model, "CPU", config | ({} if precision is None else {"INFERENCE_PRECISION_HINT": precision})
    )
    array = x.numpy()
    return lambda: compiled(array)[0]


def others(name: str, train: bool, half: bool) -> list[str]:
    """The peers that have ``name`` and are installed, each of which has a process of its own."""
    found = []
    if find_spec("jax") is not None and name in _jax_networks(train) and not half:
        found.append("jax")
    if not train and find_spec("openvino") is not None:
        found += ["openvino"] if half else ["openvino f32", "openvino"]
    return found


def _jax_networks(train: bool) -> Collection[str]:
    from bench.jax_zoo import NETWORKS

    return NETWORKS if train else NETWORKS.keys() - {"U-Net"}  # whose norms take the batch's statistics


def alone(name: str, train: bool, peer: str, rounds: int) -> float:
    """The median milliseconds of ``peer``, one of ``others``."""
    call = jax_call(name, train) if peer == "jax" else openvino_call(name, "f32" if peer.endswith("f32") else None)
    call()
    begin = time.perf_counter()
    call()
    calls = max(1, min(50, round(0.05 / max(time.perf_counter() - begin, 1e-5))))
    timing = interleave({peer: call}, rounds, calls)[peer]
    assert timing is not None
    return timing.median


def measured(name: str, train: bool, half: bool, modes: list[str], rounds: int) -> dict[str, float]:
    """Milliseconds of each candidate, their medians in turns, and of graphrt the seconds to the end of its first call."""
    start = time.perf_counter()
    first = ours(name, train, half)
    first()
    seconds = time.perf_counter() - start
    candidates: dict[str, Callable[[], Any] | None] = {"graphrt": first}
    candidates |= {f"torch {mode}": theirs(name, train, half, mode) for mode in modes}
    for candidate in candidates.values():
        assert candidate is not None
        candidate()
    begin = time.perf_counter()
    first()
    calls = max(1, min(50, round(0.05 / max(time.perf_counter() - begin, 1e-5))))
    timings = interleave(candidates, rounds, calls)
    return {n: t.median for n, t in timings.items() if t is not None} | {"first call, s": seconds}


def row(name: str, train: bool, half: bool, found: list[Mapping[str, float]]) -> dict[str, Any]:
    """The medians over processes, the best peer, and the ratio to it with the least and the largest."""
    choice = () if half else ("openvino",)  # which computes in bfloat16, and is no peer of float32
    peers = [n for n in found[0] if n not in ("graphrt", "first call, s", *choice)]
    ratios = sorted(min(f[n] for n in peers) / f["graphrt"] for f in found)
    ms = {n: statistics.median(f[n] for f in found) for n in ("graphrt", *peers)}
    best = min(peers, key=ms.__getitem__)
    what = ("training step" if train else "forward pass") + (", bfloat16" if half else "")
    about = {"work": name, "what": what, "graphrt ms": ms["graphrt"]}
    about |= {
        "best peer": best,
        "peer ms": ms[best],
        "ratio": statistics.median(ratios),
        "least": ratios[0],
        "most": ratios[-1],
    }
    about["first call, s"] = statistics.median(f["first call, s"] for f in found)
    halves = [f["openvino"] / f["graphrt"] for f in found if "openvino" in f]
    return about | {"OpenVINO's choice": statistics.median(halves) if halves else None}


def table() -> str:
    """The last row that was saved of each network's step and forward pass, in Markdown, with geometric means of the ratios."""
    rows = {(r["what"], r["work"]): r for r in map(json.loads, (RESULTS / "zoo.jsonl").read_text().splitlines())}
    lines = ["| network | what | graphrt, ms | best peer | its ms | ratio (least to most of processes) | first call, s |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    kinds = ["training step", "forward pass", "training step, bfloat16", "forward pass, bfloat16"]
    for (what, name), r in sorted(rows.items(), key=lambda item: (kinds.index(item[0][0]), [*ZOO].index(item[0][1]))):
        ratio = f"{r['ratio']:.2f} ({r['least']:.2f} to {r['most']:.2f})"
        ms = f"{r['graphrt ms']:.3g} | {r['best peer']} | {r['peer ms']:.3g}"
        lines.append(f"| {name} | {what} | {ms} | {ratio} | {r['first call, s']:.1f} |")
    for what in [kind for kind in kinds if any(w == kind for w, _ in rows)]:
        ratios = [r["ratio"] for (w, _), r in rows.items() if w == what]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        lines += ["", f"{what.capitalize()}: geometric mean {mean:.2f}, least {min(ratios):.2f}, {len(ratios)} networks."]
    return "\n".join(lines)


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks to measure; all when left out")] = None,
    processes: Annotated[int, typer.Option(min=1, help="fresh processes for each row")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate in a process")] = 9,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile too")] = True,
    inference: Annotated[bool, typer.Option("--inference/--no-inference", help="forward passes too")] = True,
    train: Annotated[bool, typer.Option("--train/--no-train", help="training steps")] = True,
    half: Annotated[bool, typer.Option("--half", help="products in bfloat16, by autocast")] = False,
    read: Annotated[bool, typer.Option("--read", help="measure nothing; print what was saved last")] = False,
    save: Annotated[bool, typer.Option(help="append each row, as it comes, to bench/results/zoo.jsonl")] = False,
) -> None:
    """Prints, for each network, how many times faster graphrt is than its best peer."""
    if read:
        print(table())
        return
    for name in work or ():
        if name not in ZOO:
            raise typer.BadParameter(f"no network {name!r}; there is {', '.join(ZOO)}", param_hint="--work")
    rows = []
    for training in [True] * train + [False] * inference:
        for name in work or ZOO:
            modes = ["eager"] + (["channels_last"] if len(ZOO[name].input) == 4 else []) + (["compile"] if compiled else [])
            found = []
            for _ in range(processes):
                found.append(elsewhere("bench.zoo", "measured", name, training, half, modes, rounds))
                for peer in others(name, training, half):
                    found[-1][peer] = elsewhere("bench.zoo", "alone", name, training, peer, rounds)
            rows.append(row(name, training, half, found))
            if save:
                save_rows(rows[-1:], "zoo")
            print(f"{rows[-1]['what']}, {name}: {rows[-1]['ratio']:.2f}x of {rows[-1]['best peer']}", flush=True)
    report(f"a torch module, {'bfloat16' if half else 'float32'} (ratio: best peer / graphrt)", rows, None)
    for what in dict.fromkeys(r["what"] for r in rows):
        ratios = [r["ratio"] for r in rows if r["what"] == what]
        print(f"{what}: geometric mean {math.exp(statistics.fmean(map(math.log, ratios))):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    typer.run(main)
