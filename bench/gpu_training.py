"""Training on a GPU, beside torch: milliseconds of a step, loss curves, peak memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as T
from torch import nn

import graphrt
from bench import peers
from bench.gpu_parts import Row, Settings, timed
from graphrt import models, optim

MODES = ("eager", "default", "reduce-overhead", "max-autotune")
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


def our_step(
    net: graphrt.nn.Module, x: Any, y: Any, settings: Settings, half: bool, library: str = "never"
) -> Callable[[], Any]:
    """One step of graphrt; its loss stays on the device."""
    optimizer = optim.SGD(lr=0.01, momentum=0.9)
    autocast = "bfloat16" if half else None
    loss = graphrt.nn.CrossEntropyLoss()
    trainer = graphrt.Trainer(net, loss, optimizer, metrics=(), target=settings.target, autocast=autocast, library=library)
    program = trainer.program("train", x, y)
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
    """What a training step is to reach: ratios to torch by mode ("best" of all), images a second, milliseconds."""

    modes: dict[str, float]
    images: float | None = None
    ms: float | None = None


def training(name: str, batch: int, goals: Goals, half: bool = True, at: str = "") -> Callable[[Settings], Iterator[Row]]:
    """The part that measures the step of ``name``; after each further peer there are new rows, which replace the old ones."""
    part = at or f"{name} train b{batch}"

    def run(settings: Settings) -> Iterator[Row]:
        if NETWORKS[name].model not in models.MODELS:
            yield Row(part, "graphrt", note=f"missing: graphrt.models has no {NETWORKS[name].model}")
            return
        yield Row(part, "graphrt", note="not run: the time was over while it compiled")
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = half  # float32 means float32 on both sides
        ours = models.get(NETWORKS[name].model).build()
        x, y = batch_of(name, 2 if settings.dry else batch, settings.device)
        steps = {"graphrt": our_step(ours, x, y, settings, half)}
        missing: dict[str, str] = {}
        for peer in (*(f"torch {mode}" for mode in MODES), BY_LIBRARY):
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
                    step = their_step(NETWORKS[name].theirs(), x, y, mode, half)
                if not settings.dry:
                    step()  # which compiles it
                timings = timed({**steps, peer: step}, settings)
                steps[peer] = step
            except Exception as error:  # out of memory, or whatever a compiler raises: the others go on
                missing[peer] = f"failed: {type(error).__name__}"
                continue
            yield from rows(part, batch, timings, goals)
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
        x, y = batch_of("ResNet-50", 2 if settings.dry else 256, settings.device)
        net = models.get("resnet50").build() if side == "graphrt" else None
        step = our_step(net, x, y, settings, True) if net else their_step(NETWORKS["ResNet-50"].theirs(), x, y, "eager", True)
        for _ in range(1 if settings.dry else 3):
            step()
        settings.sync()
        found[side] = 0.0 if settings.dry else (torch.cuda.max_memory_allocated() - before) / 2**20
        del step, net, x, y
    ratio = found["graphrt"] / found["torch eager"] if found["torch eager"] else 0.0
    yield Row(part, "graphrt / torch eager, AMP", found["graphrt"], "MB", ratio, 0.6, True)
    yield Row(part, "torch eager", found["torch eager"], "MB")
