"""pix2pix (Isola et al., "Image-to-image translation with conditional adversarial networks", CVPR 2017).

The generator is a U-Net, the discriminator tells pairs (input, target) from (input, drawn) by patches:

input ─▶ down ───── beside ─────▶ up ─▶ drawn       input, picture ─▶ down ─▶ down ─▶ ... ─▶ a logit for each patch
          └▶ down ─ beside ─▶ up ─┘
               └▶ ... ──▶ up ─┘
"""

from __future__ import annotations

from collections.abc import Callable

import graphrt.ops as F
from graphrt import nn
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value


def _conv(kind: type[nn.Module], inputs: int, outputs: int, stride: int, bias: bool) -> nn.Module:
    """A convolution of 4x4 filters, started as in the paper."""
    made = kind(inputs, outputs, 4, stride, 1, bias=bias)  # type: ignore[call-arg]
    nn.init.normal_(made.weight, std=0.02)  # type: ignore[attr-defined]
    if bias:
        nn.init.zeros_(made.bias)  # type: ignore[attr-defined]
    return made


def _norm(channels: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels)
    assert made.weight is not None
    nn.init.normal_(made.weight, 1.0, 0.02)
    return made


class UNetGenerator(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H, W] in [-1, 1]; ``2**depth`` must divide H and W.

    Each of ``depth`` convolutions halves the map, from ``width`` channels to eight times as many, and each transposed one
    doubles it and has the map of that size beside it. The first three of these have ``dropout``.
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, dropout: float) -> None:
        widths = [width * 2 ** min(i, 3) for i in range(depth)]
        self.down, self.up = list[nn.Module](), list[nn.Module]()
        for i, (above, here) in enumerate(zip([inputs, *widths], widths, strict=False)):
            before: list[nn.Module] = [nn.LeakyReLU(0.2)] if i else []
            behind: list[nn.Module] = [_norm(here)] if 0 < i < depth - 1 else []
            self.down.append(nn.Sequential(*before, _conv(nn.Conv2d, above, here, 2, bias=False), *behind))
        for i in reversed(range(depth)):
            here, above = widths[i] * (1 if i == depth - 1 else 2), widths[i - 1] if i else outputs
            conv = _conv(nn.ConvTranspose2d, here, above, 2, bias=not i)
            behind = [_norm(above)] if i else [nn.Tanh()]
            behind += [nn.Dropout(dropout)] if dropout and i and depth - 4 <= i < depth - 1 else []
            self.up.append(nn.Sequential(nn.ReLU(), conv, *behind))

    def forward(self, input: Value) -> Value:
        least = 2 ** len(self.down)
        if input.shape[2] % least or input.shape[3] % least:
            raise ShapeError(f"{len(self.down)} halvings need sizes that {least} divides, got {list(input.shape)}")
        x, maps = input, list[Value]()
        for down in self.down:
            x = down(x)
            maps.append(x)
        x = self.up[0](maps.pop())
        for up in self.up[1:]:
            x = up(F.concat([maps.pop(), x], 1))
        return x


def patch_discriminator(channels: int, width: int = 64, layers: int = 3) -> nn.Sequential:
    """[N, channels, H, W] -> logits [N, 1, H', W'], one for each patch that a logit sees: 70 pixels wide with 3 ``layers``,
    convolutions that halve the map; 34 with 2, 16 with 1. ``width`` are the channels of the first."""
    found: list[nn.Module] = [_conv(nn.Conv2d, channels, width, 2, bias=True), nn.LeakyReLU(0.2)]
    here = width
    for i in range(1, layers + 1):
        before, here = here, width * 2 ** min(i, 3)
        found += [_conv(nn.Conv2d, before, here, 2 if i < layers else 1, bias=False), _norm(here), nn.LeakyReLU(0.2)]
    return nn.Sequential(*found, _conv(nn.Conv2d, here, 1, 1, bias=True))


class Pix2Pix(nn.Module):
    """``generator``: [N, inputs, H, W] -> [N, outputs, H, W] in [-1, 1]; ``discriminator``: both, side by side -> logits."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        self.generator, self.discriminator = generator, discriminator

    def forward(self, input: Value) -> Value:
        return self.generator(input)


def pix2pix(
    inputs: int = 3, outputs: int = 3, width: int = 64, depth: int = 8, layers: int = 3, dropout: float = 0.5
) -> nn.Module:
    """Pictures [N, inputs, H, W] -> pictures [N, outputs, H, W] in [-1, 1]; 57,182,660 parameters by default.

    Isola et al., CVPR 2017: 54,413,955 parameters of the generator for pictures of 256x256 pixels, which has ``depth``
    halvings, and 2,768,705 of the discriminator of patches 70 pixels wide, of ``layers`` halvings; ``width`` channels in the
    first layer of each. ``dropout`` behind the innermost layers is the only noise; evaluation has none. ``pix2pix_step``
    trains both.
    """
    if depth < 2 or layers < 1:
        raise ArgumentError(f"depth must be at least 2 and layers at least 1, got {depth} and {layers}")
    generator = UNetGenerator(inputs, outputs, width, depth, dropout)
    return Pix2Pix(generator, patch_discriminator(inputs + outputs, width, layers))


def pix2pix_step(
    net: Pix2Pix, x: Value, y: Value, minimize: Callable[[Value, nn.Module], None], weight: float = 100.0
) -> dict[str, Value]:
    """The ``step`` of a Trainer: the discriminator learns from pairs of ``x`` with ``y`` and with what is drawn of it, then the
    generator from it and from the distance of what it draws to ``y`` in [-1, 1], of ``weight`` (100 in the paper).

    ``net`` is a ``pix2pix``, and ``minimize`` updates a part by its loss. Gives the generator's loss, the discriminator's,
    halved as in the paper, and the mean absolute difference ``l1``.

        Trainer(pix2pix(), step=pix2pix_step, optimizer={"discriminator": Adam(2e-4), "generator": Adam(2e-4)})
    """

    def loss(picture: Value, label: float) -> Value:
        logits = net.discriminator(F.concat([x, picture], 1))
        return F.binary_cross_entropy_with_logits(logits, F.full_like(logits, label))

    drawn = net.generator(x)
    told = (loss(y, 1.0) + loss(F.stop_gradient(drawn), 0.0)) * 0.5
    minimize(told, net.discriminator)
    l1 = F.l1_loss(drawn, y)
    found = loss(drawn, 1.0) + l1 * weight
    minimize(found, net.generator)
    return {"loss": found, "discriminator_loss": told, "l1": l1}
