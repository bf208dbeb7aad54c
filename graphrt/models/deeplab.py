"""DeepLab v3 (Chen et al., "Rethinking atrous convolution for semantic image segmentation", 2017), as torchvision has it.

                     ┌ 1x1 ──────────┐
image ─▶ trunk ─▶ map┼ 3x3, rate 12 ─┤
         1/8         ├ 3x3, rate 24 ─┼ beside ─▶ 1x1 ─▶ 3x3 ─▶ 1x1 ─▶ bilinear ─▶ a class for each pixel
                     ├ 3x3, rate 36 ─┤
                     └ mean of all ──┘
"""

from __future__ import annotations

from collections.abc import Sequence

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value
from graphrt.models.fpn import ResNetMaps
from graphrt.models.resnet import Bottleneck, ResNet


def _unit(inputs: int, outputs: int, kernel: int = 1, rate: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, whose filter has its elements ``rate`` pixels apart, its norm and activation."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: [N, inputs, H, W] -> [N, width, H, W].

    A 1x1 convolution, a 3x3 one of each of ``rates`` and the mean of the whole map, of ``width`` channels each, lie side by
    side and are mixed by another 1x1 convolution, behind which is ``dropout``.
    """

    def __init__(self, inputs: int, width: int = 256, rates: Sequence[int] = (12, 24, 36), dropout: float = 0.5) -> None:
        branches = [nn.Sequential(*_unit(inputs, width)), *(nn.Sequential(*_unit(inputs, width, 3, rate)) for rate in rates)]
        self.convs = [*branches, nn.Sequential(nn.AdaptiveAvgPool2d(1), *_unit(inputs, width))]
        self.project = nn.Sequential(*_unit(len(self.convs) * width, width), nn.Dropout(dropout))

    def forward(self, input: Value) -> Value:
        *local, whole = (branch(input) for branch in self.convs)
        whole = F.broadcast_to(whole, local[0].shape)  # one pixel, enlarged
        return self.project(F.concat([*local, whole], 1))


class SegmentationNet(nn.Module):
    """[N, 3, H, W] -> logits [N, num_classes, H, W] for any H and W.

    ``backbone`` makes maps, of the last of which ``classifier`` makes scores, which are enlarged bilinearly. With an
    ``aux_classifier``, of the map before, training mode returns a pair: logits, and its logits.
    """

    def __init__(self, backbone: nn.Module, classifier: nn.Module, aux_classifier: nn.Module | None = None) -> None:
        self.backbone, self.classifier, self.aux_classifier = backbone, classifier, aux_classifier

    def forward(self, input: Value) -> Value | tuple[Value, Value]:
        maps = self.backbone(input)

        def enlarged(scores: Value) -> Value:
            return F.interpolate(scores, input.shape[2:], mode="bilinear")

        logits = enlarged(self.classifier(maps[-1]))
        if self.aux_classifier is None or not self.training:
            return logits
        return logits, enlarged(self.aux_classifier(maps[-2]))


def deeplab_head(
    inputs: int, num_classes: int, width: int = 256, rates: Sequence[int] = (12, 24, 36), dropout: float = 0.5
) -> nn.Sequential:
    """Maps [N, inputs, H, W] -> scores [N, num_classes, H, W]: an ``ASPP`` of ``width``, ``rates`` and ``dropout``, a 3x3
    convolution, and a 1x1 one."""
    return nn.Sequential(ASPP(inputs, width, rates, dropout), *_unit(width, width, 3), nn.Conv2d(width, num_classes, 1))


def _fcn_head(inputs: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(*_unit(inputs, inputs // 4, 3), nn.Dropout(0.1), nn.Conv2d(inputs // 4, num_classes, 1))


def _atrous(stage: nn.Sequential, before: int, rate: int) -> None:
    """Takes the stride out of ``stage``, and spreads its filters ``rate`` pixels, the first of them as those ``before`` it."""
    for i, block in enumerate(stage):
        assert isinstance(block, Bottleneck)
        block.conv2.dilation = block.conv2.padding = rate if i else before
        for conv in (block.conv2, *(m for m in block.downsample.modules() if isinstance(m, nn.Conv2d))):
            conv.stride = 1


def _of_resnet(layers: Sequence[int], head: nn.Module, num_classes: int, aux_loss: bool) -> nn.Module:
    trunk = ResNet(Bottleneck, layers, 1)
    _atrous(trunk.layer3, 1, 2)
    _atrous(trunk.layer4, 2, 4)
    return SegmentationNet(ResNetMaps(trunk, 3), head, _fcn_head(1024, num_classes) if aux_loss else None)


def deeplabv3_resnet50(num_classes: int = 21, aux_loss: bool = False) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes, H, W]; 39,638,869 parameters with 21 classes, 42,004,074 with ``aux_loss``.

    Chen et al., "Rethinking atrous convolution for semantic image segmentation", 2017: ResNet-50 with an output stride of 8.
    ``aux_loss`` adds a classifier of the third stage, whose logits are returned behind the others in training mode:
    ``Trainer(net, [loss, (loss, 0.5)], ...)``. Parameters are called as in torchvision.
    """
    return _of_resnet((3, 4, 6, 3), deeplab_head(2048, num_classes), num_classes, aux_loss)


def deeplabv3_resnet101(num_classes: int = 21, aux_loss: bool = False) -> nn.Module:
    """``deeplabv3_resnet50`` of ResNet-101: 58,630,997 parameters, 60,996,202 with ``aux_loss``; ``num_classes`` as there."""
    return _of_resnet((3, 4, 23, 3), deeplab_head(2048, num_classes), num_classes, aux_loss)


def fcn_resnet50(num_classes: int = 21, aux_loss: bool = False) -> nn.Module:
    """[N, 3, H, W] -> logits [N, num_classes, H, W]; 32,957,013 parameters with 21 classes, 35,322,218 with ``aux_loss``.

    Two convolutions behind ResNet-50 with an output stride of 8, as torchvision has it; arguments as of
    ``deeplabv3_resnet50``.
    """
    return _of_resnet((3, 4, 6, 3), _fcn_head(2048, num_classes), num_classes, aux_loss)


def fcn_resnet101(num_classes: int = 21, aux_loss: bool = False) -> nn.Module:
    """``fcn_resnet50`` of ResNet-101: 51,949,141 parameters, 54,314,346 with ``aux_loss``; ``num_classes`` as there."""
    return _of_resnet((3, 4, 23, 3), _fcn_head(2048, num_classes), num_classes, aux_loss)
