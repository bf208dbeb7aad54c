"""Training on a GPU, beside torch: milliseconds of a step and of its launches, losses, peak memory; tuning."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as T
from torch import nn

import graphrt
from bench import peers
from bench.gpu_parts import Part, Row, Settings, clocked, ours, switched, timed
from graphrt import Program, models, optim
from graphrt.runtime.machine import DataSheet, find_data_sheet
from graphrt.runtime.roofline import Prediction, predict
from graphrt.targets.triton.compile import build
from graphrt.targets.triton.tune.bounds import bound
from graphrt.targets.triton.tune.records import file as records_of
from graphrt.targets.triton.tune.tuner import LACKING, OVER, candidates_of

MODES = ("eager", "default", "reduce-overhead", "max-autotune")
TUNING = 0.7  # of what is left of a step's time: the rest is for measuring what was found
WORST = 5  # launches that are printed: those that lose most beside their predictions
BY_LIBRARY = "graphrt library=always"  # every contraction by cuBLAS or cuDNN: what the templates gain, and what fusion does
IMAGES = 1e3  # milliseconds in a second: batch / ms to images a second


@dataclass(frozen=True)
class Network:
    """A network on both sides: its name in ``graphrt.models``, torch's, the image, and the classes."""

    model: str
    theirs: Callable[[], nn.Module]
    image: tuple[int, ...]
    classes: int = 1000


_IMAGE, _WIDTHS = (3, 224, 224), (64, 128, 256, 512)
NETWORKS = {
    "ResNet-50": Network("resnet50", lambda: peers.residual((3, 4, 6, 3), _WIDTHS, 4, 1000), _IMAGE),
    "ResNet-152": Network("resnet152", lambda: peers.residual((3, 8, 36, 3), _WIDTHS, 4, 1000), _IMAGE),
    "VGG-16": Network("vgg16", peers.vgg16, _IMAGE),
    "AlexNet": Network("alexnet", peers.alexnet, _IMAGE),
    "LeNet-5": Network("lenet5", peers.lenet5, (1, 32, 32), 10),
    "ResNet-20": Network("resnet20", lambda: peers.residual((3, 3, 3), (16, 32, 64), 1, 10, padded=True), (3, 32, 32), 10),
    "MLP 784-128-10": Network("mlp", peers.mlp, (784,), 10),
}


def pair(name: str) -> tuple[graphrt.nn.Module, nn.Module]:
    """Both networks, with the same weights. Raises ArgumentError where graphrt has no such model."""
    ours, theirs = models.get(NETWORKS[name].model).build(), NETWORKS[name].theirs()
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert p.shape == tuple(q.shape), f"{name}: {key} is {p.shape} here and {tuple(q.shape)} in torch"
        q.data = torch.from_numpy(p.array.copy())
    return ours, theirs


def batch_of(name: str, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images, channels last where they are images, and classes, on the device."""
    net, generator = NETWORKS[name], torch.Generator(device).manual_seed(0)
    x = torch.randn(size, *net.image, generator=generator, device=device)
    y = torch.randint(net.classes, (size,), generator=generator, device=device)
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x, y


def small(x: torch.Tensor, y: torch.Tensor, settings: Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of torch's side: all of it, but in a dry run."""
    size = settings.theirs(len(y))
    return x[:size], y[:size]


def step_of(net: graphrt.nn.Module, x: Any, y: Any, settings: Settings, half: bool, library: str = "never") -> Program:
    """The program of one step."""
    optimizer = optim.SGD(lr=0.01, momentum=0.9)
    autocast = "bfloat16" if half else None
    loss = graphrt.nn.CrossEntropyLoss()
    trainer = graphrt.Trainer(net, loss, optimizer, metrics=(), target=settings.target, autocast=autocast, library=library)
    return trainer.program("train", x, y)


def our_step(
    net: graphrt.nn.Module, x: Any, y: Any, settings: Settings, half: bool, library: str = "never"
) -> Callable[[], Any]:
    """One step of graphrt; its loss stays on the device."""
    program = step_of(net, x, y, settings, half, library)
    return lambda: program({"x": x, "y": y, "lr": 0.01})["loss"]


def their_step(net: nn.Module, x: torch.Tensor, y: torch.Tensor, mode: str, half: bool) -> Callable[[], torch.Tensor]:
    """One step of torch, eager or as a mode of torch.compile; its loss stays on the device."""
    device = x.device.type
    net = net.to(device, memory_format=torch.channels_last) if x.ndim == 4 else net.to(device)
    model: Any = net if mode == "eager" else torch.compile(net, mode=mode)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=device == "cuda")

    def step() -> torch.Tensor:
        if mode != "eager":
            torch.compiler.cudagraph_mark_step_begin()  # what the last step returned is not needed any more
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = T.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


@dataclass(frozen=True)
class Goals:
    """The goals of a training step: ratios to torch by mode ("best" of all), images a second, milliseconds."""

    modes: dict[str, float]
    images: float | None = None
    ms: float | None = None


PEERS = (*(f"torch {mode}" for mode in MODES), BY_LIBRARY)


def training(name: str, batch: int, goals: Goals, half: bool = True, at: str = "", peers: Sequence[str] = PEERS) -> Part:
    """The part that measures the step of ``name`` beside ``peers``; after each, new rows replace the old ones."""
    part = at or f"{name} train b{batch}"

    def run(settings: Settings) -> Iterator[Row]:
        if NETWORKS[name].model not in models.MODELS:
            yield Row(part, "graphrt", note=f"missing: graphrt.models has no {NETWORKS[name].model}")
            return
        yield Row(part, "graphrt", note="not run: the time was over while it compiled")
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = half  # float32 means float32 on both sides
        ours = models.get(NETWORKS[name].model).build()
        x, y = batch_of(name, settings.ours(batch), settings.device)
        steps = {"graphrt": our_step(ours, x, y, settings, half)}
        missing: dict[str, str] = {}
        for peer in peers:
            mode = peer.removeprefix("torch ")
            if settings.dry and mode in MODES[1:]:
                missing[peer] = "dry run: nothing is compiled by torch"
                continue
            if settings.left() < 0.1 * settings.seconds:
                missing[peer] = "not run: the time was over"
                continue
            yield Row(part, peer, note="not run: the time was over while it compiled")
            try:
                if peer == BY_LIBRARY:
                    step = our_step(models.get(NETWORKS[name].model).build(), x, y, settings, half, "always")
                else:
                    step = their_step(NETWORKS[name].theirs(), *small(x, y, settings), mode, half)
                if not settings.dry:
                    step()  # which compiles it
                timings = timed({**steps, peer: step}, settings)
                steps[peer] = step
            except Exception as error:  # out of memory, or whatever a compiler raises: the others go on
                missing[peer] = f"failed: {type(error).__name__}"
                continue
            yield from rows(part, batch, timings, goals)
        if len(steps) == 1:
            yield from rows(part, batch, timed(steps, settings), goals)
        yield from (Row(part, peer, note=why) for peer, why in missing.items())

    return run


def rows(part: str, batch: int, timings: Any, goals: Goals) -> Iterator[Row]:
    """The rows of one comparison; the ratio is torch's milliseconds to graphrt's."""
    ours = timings["graphrt"].median
    yield Row(part, "graphrt", ours, "ms", goal=goals.ms, at_most=True, note=f"p10 {timings['graphrt'].low:.4g}")
    yield Row(part, "graphrt throughput", IMAGES * batch / ours if ours else 0.0, "images/s", goal=goals.images)
    others = {n: t.median for n, t in timings.items() if n != "graphrt"}
    for name, ms in others.items():
        yield Row(part, name, ms, "ms", ms / ours if ours else 0.0, goals.modes.get(name.removeprefix("torch ")))
    theirs = [ms for name, ms in others.items() if name.startswith("torch")]
    if "best" in goals.modes and theirs:
        best = min(theirs)
        yield Row(part, "best of torch", best, "ms", best / ours if ours else 0.0, goals.modes["best"])


def compared(name: str, batch: int, goals: Mapping[str, Any], **more: Any) -> Part:
    """``training`` with its goals as plain data."""
    return training(name, batch, Goals(**{"modes": {}, **goals}), **more)


def looked_into(name: str, batch: int, goals: Mapping[str, Any]) -> Part:
    """The part that looks into the step of ``name``: losses beside torch, milliseconds, each launch beside its prediction."""
    part = f"{name} train b{batch}"

    def run(settings: Settings) -> Iterator[Row]:
        torch.backends.cudnn.benchmark = True
        net, theirs = pair(name)
        x, y = batch_of(name, settings.ours(batch), settings.device)
        yield Row(part, "graphrt", note="not run: the time was over while it compiled")
        program, other = step_of(net, x, y, settings, True), their_step(theirs, *small(x, y, settings), "eager", True)
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(1 if settings.dry else 5):
            found[0].append(float(program({"x": x, "y": y, "lr": 0.01})["loss"]))
            found[1].append(float(other()))
        yield Row(part, "losses of five steps, bfloat16: largest difference", apart(found), "", None, 3e-2, True)
        step = timed({"graphrt": lambda: program({"x": x, "y": y, "lr": 0.01})["loss"]}, settings)["graphrt"]
        yield Row(part, "graphrt", step.median, "ms", note=f"p10 {step.low:.4g}")
        speed = IMAGES * batch / step.median if step.median else 0.0
        yield Row(part, "graphrt throughput", speed, "images/s", goal=goals.get("images"))
        measured = program.profile({"x": x, "y": y, "lr": 0.01}, runs=1 if settings.dry else 10)
        predicted = promised(program, settings, batch)
        lost = []
        for one, promise in zip(measured, predicted, strict=True):
            figures = 1e3 * one.seconds, "ms", promise.seconds / one.seconds if one.seconds else None
            note = f"predicted {1e3 * promise.seconds:.4g} ms, bound by {promise.bound}; {one.bytes} bytes, {one.flops} flops"
            yield Row(part, f"launch {promise.name}", *figures, note=note, detail=True)
            lost.append((one.seconds - promise.seconds, Row(part, promise.name[:60], *figures, note=note)))
        yield from (row for _, row in sorted(lost, key=lambda pair: -pair[0])[:WORST])
        total = 1e3 * sum(one.seconds for one in measured)
        note = f"predicted {1e3 * sum(p.seconds for p in predicted):.4g} ms; an event behind each launch"
        yield Row(part, f"all {len(measured)} launches", total, "ms", note=note)

    return run


def promised(program: Program, settings: Settings, batch: int) -> list[Prediction]:
    """The static bound of each launch: from the kit where that has them all, since to read machine code takes a minute."""
    compilation = program._executable._compilation  # type: ignore[attr-defined]
    target = compilation.options.gpu
    known = [bound(build.key(code, target)) if code.grid else (0.0, "launch") for code in compilation.codes]
    found = predict(program, sheet(settings), batch, compiled=None in known).launches
    return [p if b is None else replace(p, seconds=b[0], bound=b[1]) for p, b in zip(found, known, strict=True)]


def sheet(settings: Settings) -> DataSheet:
    """The data sheet of this GPU, or of the first of its architecture."""
    from graphrt.targets.triton.gpu import architecture

    target = "cuda:sm_90" if settings.dry else architecture(0)
    model = "" if settings.dry else torch.cuda.get_device_name(0)
    return next((d for d in graphrt.runtime.machine.DATA_SHEETS if d.name in model), find_data_sheet(target))


def alone(settings: Settings) -> Iterator[Row]:
    """Small networks: the captured graph of a step by itself, and a whole call, which the host takes part in.

    Beside the graph, one whose small launches are joined where that is predicted to be faster (GRAPHRT_PERSISTENT), and one of
    dependent launches: each begins before the one in front has ended (GRAPHRT_PDL).
    """
    for name, batch in (("LeNet-5", 64), ("MLP 784-128-10", 64)):
        part = f"{name} train b{batch}"
        x, y = batch_of(name, settings.ours(batch), settings.device)
        program = step_of(models.get(NETWORKS[name].model).build(), x, y, settings, False)
        programs = {"": program}
        for kind, flag in (("joined ", "GRAPHRT_PERSISTENT"), ("dependent ", "GRAPHRT_PDL")):
            with switched(flag):
                programs[kind] = step_of(models.get(NETWORKS[name].model).build(), x, y, settings, False)
        given = {"x": x, "y": y, "lr": 0.01}
        graphs = clocked({kind: ours(other, given) for kind, other in programs.items()}, settings)
        graph = graphs[""]
        call = timed({"call": lambda program=program, given=given: program(given)["loss"]}, settings)["call"]
        for kind, timing in graphs.items():
            ratio = graph.median / timing.median if kind and timing.median else None
            count = sum(gap == "launch" for gap in programs[kind].gaps())
            note = f"p10 {timing.low:.4g}{'; the ratio is beside the first graph' if kind else ''}"
            yield Row(part, f"graph of {count} {kind}launches", timing.median, "ms", ratio, note=note)
        ratio = graph.median / call.median if call.median else 0.0
        yield Row(part, "whole call", call.median, "ms", None, 0.040, True, f"the graph is {ratio:.0%} of it")


def tuned(name: str, batch: int) -> Part:
    """The part that tunes the step of ``name``, and measures it; what was found is copied to the folder of results.

    GRAPHRT_TUNE is at least 1 in it. Tuned or not is the difference between this part's milliseconds and an earlier one's.
    """
    part = f"{name} train b{batch}, tuned"

    def run(settings: Settings) -> Iterator[Row]:
        network, size = (name, batch) if settings.ours(1, 0) else ("MLP 784-128-10", 2)
        x, y = batch_of(network, size, settings.device)
        if settings.full:  # trials of this size are for a GPU
            os.environ["GRAPHRT_TUNE"] = "0"
            yield Row(
                part, "candidates", note=at_hand(step_of(models.get(NETWORKS[network].model).build(), x, y, settings, True))
            )
            return
        yield Row(part, "graphrt", note="not run: the time was over while it was tuned")
        with switched("GRAPHRT_TUNE_SECONDS", str(TUNING * settings.left())):
            program = step_of(models.get(NETWORKS[network].model).build(), x, y, settings, True)
        yield Row(part, "candidates", note=tried(program))
        found = timed({"graphrt": lambda: program({"x": x, "y": y, "lr": 0.01})["loss"]}, settings)["graphrt"]
        yield Row(part, "graphrt", found.median, "ms", note=f"p10 {found.low:.4g}")
        if not settings.dry and (records := records_of(torch.cuda.get_device_name(0))).exists():
            settings.out.mkdir(parents=True, exist_ok=True)
            shutil.copy(records, settings.out)
            yield Row(part, "records", float(len(records.read_text().splitlines())), "kernels", note=f"in {records.name}")

    return run


def tried(program: Program) -> str:
    """How many kernels were tuned, and how many candidates were not tried, and why."""
    found = program.configurations()
    reasons = [reason for c in found for reason in c.rejected]
    left = {why: sum(int(r.split()[0]) for r in reasons if r.endswith(why)) for why in (LACKING, OVER)}
    tuned = sum(c.record is not None for c in found)
    return "; ".join([f"{tuned} of {len(found)} kernels tuned", *(f"{n} candidates {why}" for why, n in left.items() if n)])


def at_hand(program: Program) -> str:
    """How many of tuning's candidates need not be compiled."""
    compilation = program._executable._compilation  # type: ignore[attr-defined]
    target = compilation.options.gpu
    found: dict[str, bool] = {}
    for code in compilation.codes:
        for choice in candidates_of(code, 1) if code.grid else ():
            one = code.configured(choice, "tuned")
            found.setdefault(build.key(one, target), build.available(one, target))
    return f"{sum(found.values())} of {len(found)} kernels are at hand"


def curve(name: str, steps: int, batch: int, target: str, device: str) -> tuple[list[float], list[float]]:
    """Losses of so many steps from the same weights on the same batches, graphrt's and torch's, in float32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    ours, theirs = pair(name)
    trainer = graphrt.Trainer(ours, graphrt.nn.CrossEntropyLoss(), optim.SGD(lr=0.05, momentum=0.9), metrics=(), target=target)
    theirs.to(device).train()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    rng, net = np.random.default_rng(0), NETWORKS[name]
    x = rng.standard_normal((4 * batch, *net.image)).astype(np.float32)
    y = rng.integers(0, net.classes, 4 * batch)
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(steps):
        part = slice(i % 4 * batch, (i % 4 + 1) * batch)
        found[0].append(trainer.step(x[part], y[part])["loss"])
        loss = T.cross_entropy(theirs(torch.from_numpy(x[part]).to(device)), torch.from_numpy(y[part]).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found[1].append(loss.item())
    return found


def apart(curves: tuple[list[float], list[float]]) -> float:
    """The largest difference of two curves, relative to the second one's first loss."""
    return max(abs(a - b) for a, b in zip(*curves, strict=True)) / curves[1][0]


def curves(settings: Settings) -> Iterator[Row]:
    """Do graphrt and torch learn the same? Where rounding grows step by step, more is allowed."""
    for name, steps, allowed in (("LeNet-5", 50, 1e-3), ("ResNet-20", 20, 2e-2)):
        found = curve(name, 1 if settings.dry else steps, 2 if settings.dry else 64, settings.target, settings.device)
        yield Row("loss curves", f"{name}, {steps} steps, float32: largest difference", apart(found), "", None, allowed, True)


def peak(settings: Settings) -> Iterator[Row]:
    """Bytes of torch's allocator at the worst moment of training ResNet-50, which graphrt's arena comes from too."""
    part, found = "peak memory, ResNet-50 b256", {}
    for side in ("graphrt", "torch eager"):
        gc.collect()
        if not settings.dry:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = 0 if settings.dry else torch.cuda.memory_allocated()
        x, y = batch_of("ResNet-50", settings.ours(256), settings.device)
        net = models.get("resnet50").build() if side == "graphrt" else None
        if net:
            step = our_step(net, x, y, settings, True)
        else:
            step = their_step(NETWORKS["ResNet-50"].theirs(), *small(x, y, settings), "eager", True)
        for _ in range(1 if settings.dry else 3):
            step()
        settings.sync()
        found[side] = 0.0 if settings.dry else (torch.cuda.max_memory_allocated() - before) / 2**20
        del step, net, x, y
    ratio = found["graphrt"] / found["torch eager"] if found["torch eager"] else 0.0
    yield Row(part, "graphrt / torch eager, AMP", found["graphrt"], "MB", ratio, 0.6, True)
    yield Row(part, "torch eager", found["torch eager"], "MB")
