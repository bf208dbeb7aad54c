"""Networks of convolutions alone (Long et al., "Fully convolutional networks for semantic segmentation", CVPR 2015).

image ─▶ stages ─▶ 1/8 ─▶ 1/16 ─▶ 1/32 ─▶ head ─▶ scores ─▶ x2 ─(+)─▶ x2 ─(+)─▶ x8 ─▶ a class for each pixel
                    └ scores ──────────────────────────────────────────┘ (8s)
                            └ scores ───────────────────────┘ (16s, 8s)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphrt import nn
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.models.vgg import VGG16, features


def _bilinear(channels: int, stride: int, fixed: bool) -> nn.ConvTranspose2d:
    """A layer that enlarges ``stride`` times, bilinearly at first; a ``fixed`` one keeps to that, each channel by itself."""
    groups = channels if fixed else 1
    layer = nn.ConvTranspose2d(channels, channels, 2 * stride, stride, stride // 2, groups=groups, bias=False)
    near = 1.0 - np.abs(np.arange(2 * stride) - stride + 0.5) / stride
    weight = np.zeros(layer.weight.shape, np.float32)
    weight[np.arange(channels), 0 if fixed else np.arange(channels)] = np.outer(near, near)
    layer.weight = nn.Parameter(weight, trainable=not fixed)
    return layer


def _scores(channels: int, num_classes: int) -> nn.Conv2d:
    """A 1x1 convolution that starts from zeros, as the paper's."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class FCN(nn.Module):
    """[N, 3, H, W] -> logits [N, num_classes, H, W] for any H and W.

    ``stages`` are the channels of each 3x3 convolution by stage, behind each of which a pool halves the map; ``head`` channels
    and a filter of ``head_kernel`` make the two layers that were VGG's linear ones, behind each of which is ``dropout``;
    ``batch_norm`` puts a norm behind each convolution of a stage. Scores are enlarged to the maps of earlier
    stages, whose own are added, down to ``stride`` pixels, and from there bilinearly. Raises ArgumentError for a stride that no
    stage has.
    """

    def __init__(
        self,
        num_classes: int,
        stride: int = 8,
        stages: Sequence[Sequence[int]] = VGG16,
        head: int = 4096,
        head_kernel: int = 7,
        batch_norm: bool = False,
        dropout: float = 0.5,
    ) -> None:
        deepest = 2 ** len(stages)
        if stride not in (2**i for i in range(1, len(stages) + 1)):
            raise ArgumentError(f"stride must be a power of two up to {deepest}, got {stride}")
        self.features = features(stages, batch_norm, ceil_mode=True)
        self.head = nn.Sequential(
            *(nn.Conv2d(abs(stages[-1][-1]), head, head_kernel, padding=head_kernel // 2), nn.ReLU(), nn.Dropout2d(dropout)),
            *(nn.Conv2d(head, head, 1), nn.ReLU(), nn.Dropout2d(dropout), _scores(head, num_classes)),
        )
        earlier = list(reversed(stages[:-1]))[: len(stages) - stride.bit_length() + 1]
        self.skips = [_scores(abs(stage[-1]), num_classes) for stage in earlier]
        self.doublings = [_bilinear(num_classes, 2, fixed=False) for _ in earlier]
        self.enlarge = _bilinear(num_classes, stride, fixed=True)

    def forward(self, input: Value) -> Value:
        x, pooled = input, []
        for layer in self.features:
            x = layer(x)
            pooled += [x] if isinstance(layer, nn.MaxPool2d) else []
        y = self.head(x)
        for skip, double, earlier in zip(self.skips, self.doublings, reversed(pooled[:-1]), strict=False):
            y = _cut(double(y), earlier) + skip(earlier)
        return _cut(self.enlarge(y), input)


def _cut(x: Value, like: Value) -> Value:
    """``x`` without the rows and columns that ``like`` has not: pools round sizes up."""
    return x[:, :, : like.shape[2], : like.shape[3]]


def fcn32s(num_classes: int = 21) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes, H, W]; 134,432,597 parameters with 21 classes (134 M in the paper).

    Long et al., "Fully convolutional networks for semantic segmentation", CVPR 2015, of VGG-16. Where the paper pads the image
    by 100 pixels and cuts the result, convolutions are padded and pools round sizes up.
    """
    return FCN(num_classes, 32)


def fcn16s(num_classes: int = 21) -> nn.Module:
    """``fcn32s`` with the scores of the fourth stage added at 1/16 of the size; ``num_classes`` as there."""
    return FCN(num_classes, 16)


def fcn8s(num_classes: int = 21) -> nn.Module:
    """``fcn16s`` with the scores of the third stage added at 1/8 of the size; ``num_classes`` as of ``fcn32s``."""
    return FCN(num_classes, 8)
