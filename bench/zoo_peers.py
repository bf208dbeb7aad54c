"""Networks beyond those that were tuned for, as a user of torch writes them; sources are cited where a network has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as T
from torch import nn

from bench.peers import alexnet, residual, vgg_features


class CharLSTM(nn.Module):
    """Characters to characters through one LSTM (Hochreiter and Schmidhuber, 1997)."""

    def __init__(self, characters: int, width: int) -> None:
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(characters, width), nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, characters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embedding(x))[0]).flatten(0, 1)


class Attention(nn.Module):
    """Self-attention of all heads by one projection, causal or not (Vaswani et al., 2017)."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y = T.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention and a perceptron, each behind a norm and around it a shortcut."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads, causal))
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class GPT(nn.Module):
    """A causal transformer over tokens (Radford et al., 2019)."""

    def __init__(self, tokens: int, width: int, heads: int, layers: int, length: int) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(tokens, width), nn.Parameter(torch.zeros(length, width))
        self.body = nn.Sequential(*(TransformerBlock(width, heads, True) for _ in range(layers)), nn.LayerNorm(width))
        self.head = nn.Linear(width, tokens, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embedding(x) + self.position)).flatten(0, 1)


class ViT(nn.Module):
    """A vision transformer whose class is read from the mean of its patches (Dosovitskiy et al., 2021)."""

    def __init__(self, image: int, patch: int, width: int, heads: int, layers: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.zeros((image // patch) ** 2, width))
        self.body = nn.Sequential(*(TransformerBlock(width, heads, False) for _ in range(layers)), nn.LayerNorm(width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.body(x).mean(1))


class MixerBlock(nn.Module):
    """A perceptron over patches, then one over channels (Tolstikhin et al., 2021)."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.tokens = nn.Sequential(nn.Linear(patches, width // 2), nn.GELU(), nn.Linear(width // 2, patches))
        self.channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norms[1](x))


class Mixer(nn.Module):
    """An MLP-Mixer over patches of an image."""

    def __init__(self, image: int, patch: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        count = (image // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.body = nn.Sequential(*(MixerBlock(count, width) for _ in range(layers)), nn.LayerNorm(width))
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: nn.Module | None = None) -> nn.Module:
    """A convolution, batch norm and an activation (ReLU unless ``act``; Identity for none)."""
    layers = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    return nn.Sequential(*layers, nn.ReLU() if act is None else act)


class UNet(nn.Module):
    """Down through ``widths`` and up again, with what was on the way down beside (Ronneberger et al., 2015)."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        pairs = list(zip((3, *widths), widths, strict=False))
        self.down = nn.ModuleList(nn.Sequential(unit(a, b, 3), unit(b, b, 3)) for a, b in pairs)
        upwards = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in upwards)
        self.join = nn.ModuleList(nn.Sequential(unit(2 * b, b, 3), unit(b, b, 3)) for _, b in upwards)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = []
        for i, block in enumerate(self.down):
            x = block(T.max_pool2d(x, 2) if i else x)
            kept.append(x)
        for up, join, beside in zip(self.up, self.join, kept[-2::-1], strict=True):
            x = join(torch.cat([up(x), beside], 1))
        return self.head(x)


class DenseLayer(nn.Module):
    """A layer of a dense block, beside all that the block has seen (Huang et al., 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, 4 * growth, 1, bias=False)),
            *(nn.BatchNorm2d(4 * growth), nn.ReLU(), nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet(growth: int, depths: Sequence[int], classes: int) -> nn.Module:
    layers: list[nn.Module] = [unit(3, 2 * growth, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = 2 * growth
    for i, depth in enumerate(depths):
        layers += [DenseLayer(channels + j * growth, growth) for j in range(depth)]
        channels += depth * growth
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if i < len(depths) - 1:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class SqueezeExcitation(nn.Module):
    """Channels scaled by what a perceptron makes of their means (Hu et al., 2018)."""

    def __init__(self, channels: int, inner: int, gate: nn.Module) -> None:
        super().__init__()
        body = nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1), gate
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(1), *body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.body(x)


class Inverted(nn.Module):
    """An inverted residual: wide, depthwise, narrow (Sandler et al., 2018)."""

    def __init__(
        self, inputs: int, inner: int, outputs: int, kernel: int, stride: int, act: type[nn.Module], squeeze: nn.Module | None
    ) -> None:
        super().__init__()
        wide = [unit(inputs, inner, 1, act=act())] if inner != inputs else []
        between = [squeeze] if squeeze is not None else []
        self.body = nn.Sequential(
            *wide, unit(inner, inner, kernel, stride, inner, act()), *between, unit(inner, outputs, 1, act=nn.Identity())
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def _classifier(features: Sequence[nn.Module], channels: int, classes: int) -> nn.Module:
    return nn.Sequential(*features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def mobilenet_v2(classes: int) -> nn.Module:
    layers, channels = [unit(3, 32, 3, 2, act=nn.ReLU6())], 32
    for expand, outputs, count, stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for i in range(count):
            inner = channels * expand
            layers.append(Inverted(channels, inner, outputs, 3, stride if i == 0 else 1, nn.ReLU6, None))
            channels = outputs
    return _classifier([*layers, unit(channels, 1280, 1, act=nn.ReLU6())], 1280, classes)


def mobilenet_v3_small(classes: int) -> nn.Module:
    """Howard et al., 2019."""
    layers, channels = [unit(3, 16, 3, 2, act=nn.Hardswish())], 16
    relu, swish = nn.ReLU, nn.Hardswish
    for kernel, inner, outputs, squeezed, act, stride in (
        *((3, 16, 16, True, relu, 2), (3, 72, 24, False, relu, 2), (3, 88, 24, False, relu, 1), (5, 96, 40, True, swish, 2)),
        *((5, 240, 40, True, swish, 1), (5, 240, 40, True, swish, 1), (5, 120, 48, True, swish, 1)),
        *(
            (5, 144, 48, True, swish, 1),
            (5, 288, 96, True, swish, 2),
            (5, 576, 96, True, swish, 1),
            (5, 576, 96, True, swish, 1),
        ),
    ):
        squeeze = SqueezeExcitation(inner, inner // 4, nn.Hardsigmoid()) if squeezed else None
        layers.append(Inverted(channels, inner, outputs, kernel, stride, act, squeeze))
        channels = outputs
    return _classifier([*layers, unit(channels, 576, 1, act=nn.Hardswish())], 576, classes)


def efficientnet_b0(classes: int) -> nn.Module:
    """Tan and Le, 2019."""
    layers, channels = [unit(3, 32, 3, 2, act=nn.SiLU())], 32
    for expand, outputs, count, kernel, stride in (
        *((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2)),
        *((6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1)),
    ):
        for i in range(count):
            inner = channels * expand
            squeeze = SqueezeExcitation(inner, max(channels // 4, 1), nn.Sigmoid())
            layers.append(Inverted(channels, inner, outputs, kernel, stride if i == 0 else 1, nn.SiLU, squeeze))
            channels = outputs
    return _classifier([*layers, unit(channels, 1280, 1, act=nn.SiLU())], 1280, classes)


class Fire(nn.Module):
    """A squeezing 1x1 convolution, and 1x1 and 3x3 ones side by side (Iandola et al., 2016)."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = T.relu(self.squeeze(x))
        return torch.cat([T.relu(self.one(x)), T.relu(self.three(x))], 1)


def squeezenet(classes: int) -> nn.Module:
    fires: list[tuple[int, int, int] | None] = [
        *((64, 16, 64), (128, 16, 64), None, (128, 32, 128), (256, 32, 128), None),
        *((256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)),
    ]
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    layers += [nn.MaxPool2d(3, 2, ceil_mode=True) if f is None else Fire(*f) for f in fires]
    return nn.Sequential(*layers, nn.Conv2d(512, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class ConvNeXtBlock(nn.Module):
    """A 7x7 depthwise convolution and a perceptron over channels (Liu et al., 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1))) * self.scale
        return x + y.permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over channels of an image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext(depths: Sequence[int], widths: Sequence[int], classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 4), LayerNorm2d(widths[0])]
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        layers += [LayerNorm2d(widths[i - 1]), nn.Conv2d(widths[i - 1], width, 2, 2)] if i else []
        layers += [ConvNeXtBlock(width) for _ in range(depth)]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(widths[-1]), nn.Linear(widths[-1], classes)
    )


def autoencoder() -> nn.Module:
    """Strided convolutions down, transposed ones up."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 128, 3, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU()),
        nn.ConvTranspose2d(32, 3, 4, 2, 1),
    )


def mlp(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def vgg16_bn(classes: int) -> nn.Module:
    sizes = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
    return nn.Sequential(*vgg_features(sizes, True), nn.Flatten(), mlp(512 * 4, 512, classes))


@dataclass(frozen=True)
class Zoo:
    """A network, the shape of its input, whose elements are tokens below ``tokens`` if there are such, and of its labels.

    ``classes`` is the number of labels; 0 compares the output with the input instead.
    """

    make: Callable[[], nn.Module]
    input: tuple[int, ...]
    classes: int
    tokens: int = 0

    def data(self) -> tuple[torch.Tensor, torch.Tensor]:
        """An input and what the output is compared with."""
        random = torch.Generator().manual_seed(0)
        x = torch.randn(self.input, generator=random)
        if self.tokens:
            x = torch.randint(self.tokens, self.input, generator=random)
        if not self.classes:
            return x, x
        with torch.no_grad():
            shape = self.make().eval()(x).shape
        return x, torch.randint(self.classes, (shape[0], *shape[2:]), generator=random)

    def loss(self, y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy, or the mean square of the difference."""
        return T.cross_entropy(y, target) if self.classes else T.mse_loss(y, target)


ZOO = {
    "char LSTM": Zoo(lambda: CharLSTM(65, 128), (32, 64), 65, tokens=65),
    "GPT": Zoo(lambda: GPT(65, 192, 6, 4, 128), (16, 128), 65, tokens=65),
    "ViT-Ti": Zoo(lambda: ViT(64, 8, 192, 3, 12, 100), (8, 3, 64, 64), 100),
    "MLP-Mixer": Zoo(lambda: Mixer(64, 8, 256, 8, 100), (16, 3, 64, 64), 100),
    "MLP 1024-4096-4096": Zoo(lambda: mlp(1024, 4096, 4096, 10), (256, 1024), 10),
    "MLP 4-64-64-2, batch 1": Zoo(lambda: mlp(4, 64, 64, 2), (1, 4), 2),
    "U-Net": Zoo(lambda: UNet((16, 32, 64, 128), 4), (8, 3, 64, 64), 4),
    "autoencoder": Zoo(autoencoder, (16, 3, 64, 64), 0),
    "DenseNet-121": Zoo(lambda: densenet(32, (6, 12, 24, 16), 100), (8, 3, 64, 64), 100),
    "MobileNet v2": Zoo(lambda: mobilenet_v2(100), (8, 3, 96, 96), 100),
    "MobileNet v3 small": Zoo(lambda: mobilenet_v3_small(100), (8, 3, 96, 96), 100),
    "EfficientNet-B0": Zoo(lambda: efficientnet_b0(100), (8, 3, 96, 96), 100),
    "SqueezeNet": Zoo(lambda: squeezenet(100), (8, 3, 96, 96), 100),
    "ConvNeXt-T": Zoo(lambda: convnext((3, 3, 9, 3), (96, 192, 384, 768), 100), (8, 3, 64, 64), 100),
    "VGG-16-BN": Zoo(lambda: vgg16_bn(100), (8, 3, 64, 64), 100),
    "AlexNet": Zoo(lambda: alexnet(0.0), (8, 3, 224, 224), 1000),
    "ResNet-50": Zoo(lambda: residual((3, 4, 6, 3), (64, 128, 256, 512), 4, 1000), (8, 3, 224, 224), 1000),
}
