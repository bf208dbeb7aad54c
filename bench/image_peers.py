"""Networks from image to image as a user of torch writes them, and one training step of each on both sides.

Parameter counts are compared when a pair is made. On both sides the loss is read after each step, and where something is drawn
at random, each side draws it itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as T
from torch import nn

import graphrt
from bench.peers import torch_model, updated
from graphrt import models
from graphrt.models.fpn import SmallMaps


def unit(inputs: int, outputs: int, kernel: int = 3, rate: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*unit(inputs, outputs), *unit(outputs, outputs))


class UNet(nn.Module):
    """Padded, with norms."""

    def __init__(self, inputs: int, classes: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(double(a, b) for a, b in zip([inputs, *widths], widths, strict=False))
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in steps)
        self.join = nn.ModuleList(double(a, b) for a, b in steps)
        self.score = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for level, pair in enumerate(self.down):
            if level:
                kept.append(x)
                x = T.max_pool2d(x, 2)
            x = pair(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([kept.pop(), up(x)], 1))
        return self.score(x)


class DeepLab(nn.Module):
    """Two stages, each with a pool behind it, atrous spatial pyramid pooling, and the head."""

    def __init__(self, widths: tuple[int, int], classes: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        first, last = widths
        self.trunk = nn.Sequential(double(3, first), nn.MaxPool2d(2), double(first, last), nn.MaxPool2d(2))
        convs = [unit(last, width, 1), *(unit(last, width, 3, rate) for rate in rates)]
        self.local = nn.ModuleList(nn.Sequential(*layers) for layers in convs)
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), *unit(last, width, 1))
        self.head = nn.Sequential(*unit((len(rates) + 2) * width, width, 1), *unit(width, width), nn.Conv2d(width, classes, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.trunk(x)
        local = [branch(y) for branch in self.local]
        y = self.head(torch.cat([*local, self.whole(y).expand_as(local[0])], 1))
        return T.interpolate(y, x.shape[2:], mode="bilinear")


class Generator(nn.Module):
    """The U-Net of pix2pix."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2 ** min(i, 3) for i in range(depth)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (a, b) in enumerate(zip([inputs, *widths], widths, strict=False)):
            layers: list[nn.Module] = [nn.LeakyReLU(0.2)] if i else []
            layers += [nn.Conv2d(a, b, 4, 2, 1, bias=False)]
            self.down.append(nn.Sequential(*layers, *([nn.BatchNorm2d(b)] if 0 < i < depth - 1 else [])))
        for i in reversed(range(depth)):
            a, b = widths[i] * (1 if i == depth - 1 else 2), widths[i - 1] if i else outputs
            layers = [nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=not i), nn.BatchNorm2d(b) if i else nn.Tanh()]
            self.up.append(nn.Sequential(*layers, *([nn.Dropout(0.5)] if i and depth - 4 <= i < depth - 1 else [])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        for down in self.down:
            x = down(x)
            kept.append(x)
        x = self.up[0](kept.pop())
        for up in self.up[1:]:
            x = up(torch.cat([kept.pop(), x], 1))
        return x


def discriminator(channels: int, width: int, layers: int) -> nn.Sequential:
    found: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    here = width
    for i in range(1, layers + 1):
        before, here = here, width * 2 ** min(i, 3)
        stride = 2 if i < layers else 1
        found += [nn.Conv2d(before, here, 4, stride, 1, bias=False), nn.BatchNorm2d(here), nn.LeakyReLU(0.2)]
    return nn.Sequential(*found, nn.Conv2d(here, 1, 4, 1, 1))


class Pix2Pix(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int, depth: int, layers: int) -> None:
        super().__init__()
        self.generator = Generator(inputs, outputs, width, depth)
        self.discriminator = discriminator(inputs + outputs, width, layers)

    def compile(self, *args: Any, **options: Any) -> None:
        """Both networks, which a step calls one by one."""
        self.generator.compile(*args, **options)
        self.discriminator.compile(*args, **options)


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(32, max(channels // 4, 1)), channels, eps=1e-6)


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, times: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(times, outputs)
        self.norm2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        y = self.conv1(T.silu(self.norm1(x))) + self.time(T.silu(told))[:, :, None, None]
        return self.shortcut(x) + self.conv2(T.silu(self.norm2(y)))


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.query, self.key, self.value, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        rows = (p(y).flatten(2).transpose(1, 2) for p in (self.query, self.key, self.value))
        return x + self.out(T.scaled_dot_product_attention(*rows).transpose(1, 2).reshape(x.shape))


class DenoisingUNet(nn.Module):
    """One block on each level on the way down, two on the way up; attention on the last level and in the middle."""

    def __init__(self, channels: int, width: int, multiples: Sequence[int]) -> None:
        super().__init__()
        times, self.width, last = 4 * width, width, len(multiples) - 1
        self.embed = nn.Sequential(nn.Linear(width, times), nn.SiLU(), nn.Linear(times, times))
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.halve, self.up, self.widen = (nn.ModuleList() for _ in range(4))
        here, kept = width, [width]
        for level, multiple in enumerate(multiples):
            inputs, here = here, width * multiple
            self.down.append(
                nn.ModuleList([Residual(inputs, here, times), Attention(here) if level == last else nn.Identity()])
            )
            kept.append(here)
            if level < last:
                self.halve.append(nn.Conv2d(here, here, 3, 2, 1))
                kept.append(here)
        self.middle = nn.ModuleList([Residual(here, here, times), Attention(here), Residual(here, here, times)])
        for level, multiple in reversed(list(enumerate(multiples))):
            for _ in range(2):
                inputs, here = here + kept.pop(), width * multiple
                attention = Attention(here) if level == last else nn.Identity()
                self.up.append(nn.ModuleList([Residual(inputs, here, times), attention]))
            if level:
                self.widen.append(nn.Conv2d(here, here, 3, padding=1))
        self.norm, self.score = norm(here), nn.Conv2d(here, channels, 3, padding=1)
        rates = torch.exp(-math.log(10000.0) * torch.arange(width // 2) / (width // 2 - 1))
        self.register_buffer("rates", rates)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        angles = time.float()[:, None] * self.rates
        told = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.stem(x)
        kept = [x]
        for level, (block, attention) in enumerate(self.down):
            if level:
                x = self.halve[level - 1](x)
                kept.append(x)
            x = attention(block(x, told))
            kept.append(x)
        first, attention, second = self.middle
        x = second(attention(first(x, told)), told)
        for i, (block, attention) in enumerate(self.up):
            if i and i % 2 == 0:
                x = self.widen[i // 2 - 1](T.interpolate(x, scale_factor=2))
            x = attention(block(torch.cat([x, kept.pop()], 1), told))
        return self.score(T.silu(self.norm(x)))


Step = Callable[[], Any]


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def _supervised(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    return updated(_adam(net.parameters()), lambda: T.cross_entropy(net(x), y))


def _adversarial(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    assert isinstance(net, Pix2Pix)
    of_generator, of_discriminator = _adam(net.generator.parameters()), _adam(net.discriminator.parameters())

    def judged(picture: torch.Tensor, label: float) -> torch.Tensor:
        logits = net.discriminator(torch.cat([x, picture], 1))
        return T.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    def step() -> float:
        drawn = net.generator(x)
        of_discriminator.zero_grad()
        ((judged(y, 1.0) + judged(drawn.detach(), 0.0)) * 0.5).backward()
        of_discriminator.step()
        of_generator.zero_grad()
        net.discriminator.requires_grad_(False)
        loss = judged(drawn, 1.0) + 100.0 * T.l1_loss(drawn, y)
        loss.backward()
        net.discriminator.requires_grad_(True)
        of_generator.step()
        return loss.item()

    return step


def _denoising(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    left = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0).to(x.device)

    def loss() -> torch.Tensor:
        time, noise = torch.randint(0, 1000, (len(x),), device=x.device), torch.randn_like(x)
        share = left[time].view(-1, 1, 1, 1)
        return T.mse_loss(net(share.sqrt() * x + (1 - share).sqrt() * noise, time), noise)

    return updated(_adam(net.parameters()), loss)


@dataclass(frozen=True)
class Work:
    """A network on both sides, how each is trained, and the batch: pictures of ``image``, targets of ``goal`` or classes."""

    ours: Callable[[], graphrt.nn.Module]
    theirs: Callable[[], nn.Module]
    trained: dict[str, Any]
    step: Callable[[nn.Module, torch.Tensor, torch.Tensor], Step]
    batch: int
    image: tuple[int, int, int]
    goal: tuple[int, int, int] | None = None

    def data(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, *self.image)).astype(np.float32)
        if self.goal is None:
            return x, rng.integers(0, 4, (batch, *self.image[1:]))
        return x, np.tanh(rng.standard_normal((batch, *self.goal))).astype(np.float32)

    def steps(self, modes: Sequence[str], batch: int | None = None) -> dict[str, Step]:
        """A training step of graphrt, and of torch in each of ``modes``, as bench.peers has them, on a ``batch``."""
        ours, theirs = self.ours(), [self.theirs() for _ in modes]
        counts = {graphrt.nn.count_parameters(ours), *(sum(p.numel() for p in t.parameters()) for t in theirs)}
        assert len(counts) == 1, f"different networks: {counts} parameters"
        x, y = self.data(batch or self.batch)
        trained = {k: v() if isinstance(v, type) else v for k, v in self.trained.items()}
        trainer = graphrt.Trainer(ours, metrics=(), **trained)
        found: dict[str, Step] = {"graphrt": lambda: trainer.step(x, y)}
        for mode, net in zip(modes, theirs, strict=True):
            model, given = torch_model(net, x, mode)
            found[f"torch {mode}"] = self.step(model, given, torch.from_numpy(y).to(given.device))
        return found


_ADAM = graphrt.optim.Adam(1e-3)
_CLASSES = {"loss": graphrt.nn.CrossEntropyLoss, "optimizer": _ADAM}
_PARTS = {"step": models.pix2pix_step, "optimizer": {"discriminator": _ADAM, "generator": graphrt.optim.Adam(1e-3)}}
WORK = {
    "U-Net": Work(
        lambda: models.UNet(3, 4, 12, 3, padded=True, batch_norm=True),
        lambda: UNet(3, 4, 12, 3),
        *(_CLASSES, _supervised, 32, (3, 48, 48)),
    ),
    "DeepLab v3": Work(
        lambda: models.SegmentationNet(SmallMaps((24, 48), 1), models.deeplab_head(48, 4, 48, (2, 4, 6), 0.0)),
        lambda: DeepLab((24, 48), 4, 48, (2, 4, 6)),
        *(_CLASSES, _supervised, 32, (3, 48, 48)),
    ),
    "pix2pix": Work(
        lambda: models.pix2pix(1, 3, 16, 6, 2),
        lambda: Pix2Pix(1, 3, 16, 6, 2),
        *(_PARTS, _adversarial, 16, (1, 64, 64), (3, 64, 64)),
    ),
    "diffusion": Work(
        lambda: models.ddpm(1, 32, (1, 2, 2), 1, (2,), 0.0),
        lambda: DenoisingUNet(1, 32, (1, 2, 2)),
        *({"loss": models.diffusion_loss, "optimizer": _ADAM}, _denoising, 64, (1, 16, 16), (1,)),
    ),
}
