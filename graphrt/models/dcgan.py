"""DCGAN (Radford et al., "Unsupervised representation learning with deep convolutional generative adversarial networks", 2016):
two networks, one that draws pictures and one that tells them from real ones."""

from __future__ import annotations

from collections.abc import Callable

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value


class DCGAN(nn.Module):
    """``generator``: codes [N, latent] -> pictures [N, channels, 32, 32]; ``discriminator``: those -> logits [N, 1]."""

    def __init__(self, latent: int, width: int, channels: int) -> None:
        def conv(kind: type[nn.Module], inputs: int, outputs: int, stride: int, bias: bool = False) -> nn.Module:
            made = kind(inputs, outputs, 4, stride, 1 if stride == 2 else 0, bias=bias)  # type: ignore[call-arg]
            nn.init.normal_(made.weight, std=0.02)  # type: ignore[attr-defined]
            return made

        up: list[nn.Module] = [nn.Unflatten(1, (latent, 1, 1))]
        for inputs, outputs, stride in ((latent, 4 * width, 1), (4 * width, 2 * width, 2), (2 * width, width, 2)):
            up += [conv(nn.ConvTranspose2d, inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.generator = nn.Sequential(*up, conv(nn.ConvTranspose2d, width, channels, 2), nn.Tanh())
        down: list[nn.Module] = [conv(nn.Conv2d, channels, width, 2), nn.LeakyReLU(0.2)]
        for inputs, outputs in ((width, 2 * width), (2 * width, 4 * width)):
            down += [conv(nn.Conv2d, inputs, outputs, 2), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
        self.discriminator = nn.Sequential(*down, conv(nn.Conv2d, 4 * width, 1, 1), nn.Flatten())
        self.latent = latent

    def forward(self, input: Value) -> Value:
        return self.generator(input)


def dcgan(latent: int = 64, width: int = 32, channels: int = 1) -> nn.Module:
    """Codes [N, latent] -> pictures [N, channels, 32, 32] in [-1, 1], by its ``generator``; its ``discriminator`` gives logits.

    Radford et al., 2016, with ``width`` channels at 16x16 pixels; 462,656 parameters by default. ``dcgan_step`` trains both.
    """
    return DCGAN(latent, width, channels)


def dcgan_step(net: DCGAN, x: Value, y: Value, minimize: Callable[[Value, nn.Module], None]) -> dict[str, Value]:
    """The ``step`` of a Trainer: the discriminator learns from pictures ``x`` in [-1, 1] and drawn ones, the generator from it.

    ``net`` is a ``dcgan``, ``y`` is not used, and ``minimize`` updates a part by its loss. Gives both losses.

        Trainer(dcgan(), step=dcgan_step, optimizer={"discriminator": Adam(2e-4), "generator": Adam(2e-4)})
    """

    def loss(logits: Value, label: float) -> Value:
        return F.binary_cross_entropy_with_logits(logits, F.full_like(logits, label))

    drawn = net.generator(F.normal(x.graph, (x.shape[0], net.latent)))
    told = loss(net.discriminator(x), 1.0) + loss(net.discriminator(F.stop_gradient(drawn)), 0.0)
    minimize(told, net.discriminator)
    fooled = loss(net.discriminator(drawn), 1.0)
    minimize(fooled, net.generator)
    return {"loss": told, "generator_loss": fooled}
