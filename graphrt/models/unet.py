"""U-Net (Ronneberger, Fischer and Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015).

572 ─▶ two 3x3 ────────────── cut, beside ──────────▶ two 3x3 ─▶ 1x1 ─▶ 388
          └ pool ─▶ two 3x3 ─ cut, beside ─▶ two 3x3 ─ up ┘
                       └ pool ─▶ ... ─▶ two 3x3 ─ up ┘
"""

from __future__ import annotations

import graphrt.ops as F
from graphrt import nn
from graphrt.errors import ShapeError
from graphrt.ir import Value


def _pair(inputs: int, outputs: int, padded: bool, batch_norm: bool) -> nn.Sequential:
    """Two 3x3 convolutions with their activations."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        conv = nn.Conv2d(channels, outputs, 3, padding=int(padded), bias=not batch_norm)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # deviation sqrt(2 / N), as the paper
        layers += [conv, *([nn.BatchNorm2d(outputs)] if batch_norm else []), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """[N, inputs, H, W] -> logits [N, num_classes, H', W'].

    ``width`` channels at first, twice as many behind each of ``depth`` pools. Without padding, as in the paper, each pair of
    convolutions takes 4 rows and columns; ``padded`` keeps H and W, which 2**depth must divide. ``batch_norm`` puts a norm
    behind each convolution. Raises ShapeError where a pool would cut a row off.
    """

    def __init__(
        self,
        inputs: int = 1,
        num_classes: int = 2,
        width: int = 64,
        depth: int = 4,
        padded: bool = False,
        batch_norm: bool = False,
    ) -> None:
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = [_pair(a, b, padded, batch_norm) for a, b in zip([inputs, *widths], widths, strict=False)]
        self.pool = nn.MaxPool2d(2)
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = [nn.ConvTranspose2d(deep, high, 2, 2) for deep, high in steps]
        self.join = [_pair(deep, high, padded, batch_norm) for deep, high in steps]
        self.score = nn.Conv2d(width, num_classes, 1)

    def forward(self, input: Value) -> Value:
        x, kept = input, list[Value]()
        for level, pair in enumerate(self.down):
            if level:
                if x.shape[2] % 2 or x.shape[3] % 2:
                    raise ShapeError(f"the maps before pool {level} must have even sizes, got {list(x.shape)}")
                kept.append(x)
                x = self.pool(x)
            x = pair(x)
        for up, join in zip(self.up, self.join, strict=True):
            x = up(x)
            x = join(F.concat([_middle(kept.pop(), x), x], 1))
        return self.score(x)


def _middle(x: Value, like: Value) -> Value:
    """The middle of ``x``, as large as ``like``."""
    top, left = ((x.shape[d] - like.shape[d]) // 2 for d in (2, 3))
    return x[:, :, top : top + like.shape[2], left : left + like.shape[3]]


def unet(num_classes: int = 2) -> nn.Module:
    """[N, 1, 572, 572] -> logits [N, num_classes, 388, 388]; 31,030,658 parameters with 2 classes.

    Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015. Convolutions are not
    padded, so a result is 184 pixels smaller than its image, whose sides are 12 and a multiple of 16.
    """
    return UNet(1, num_classes)
