"""Files of weights that load by name, as they are: networks with another library's names and shapes of parameters."""

from __future__ import annotations

_TORCHVISION = """
alexnet convnext_tiny densenet121 densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
efficientnet_b4 googlenet mobilenet_v2 mobilenet_v3_large mobilenet_v3_small resnet18 resnet34 resnet50 resnet101 resnet152
resnext50_32x4d resnext101_32x8d shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 vgg11 vgg11_bn vgg13 vgg13_bn
vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 wide_resnet50_2 wide_resnet101_2
"""
_SEGMENTATION = "deeplabv3_resnet50 deeplabv3_resnet101 fcn_resnet50 fcn_resnet101"
WEIGHTS: dict[str, str] = {
    **{name: f"torchvision.models.{name}" for name in _TORCHVISION.split()},
    **{name: f"torchvision.models.segmentation.{name}" for name in _SEGMENTATION.split()},
    "mixer_b16": "timm's mixer_b16_224",
    "mixer_s16": "timm's mixer_s16_224",
}
