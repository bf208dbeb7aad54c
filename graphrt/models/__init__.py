"""Models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from graphrt.errors import ArgumentError, unknown
from graphrt.models.alexnet import alexnet, alexnet_2012
from graphrt.models.anchors import Detector, anchor_boxes, default_boxes, kept
from graphrt.models.autoencoder import conv_autoencoder, vae, vae_loss
from graphrt.models.convnext import convnext_tiny
from graphrt.models.dcgan import dcgan, dcgan_step
from graphrt.models.deeplab import (
    ASPP,
    SegmentationNet,
    deeplab_head,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
    fcn_resnet50,
    fcn_resnet101,
)
from graphrt.models.densenet import densenet121, densenet169, densenet201
from graphrt.models.diffusion import Denoise, DenoisingUNet, Diffusion, ddpm, ddpm_sample, diffusion_loss
from graphrt.models.efficientnet import efficientnet_b0, efficientnet_b1, efficientnet_b2, efficientnet_b3, efficientnet_b4
from graphrt.models.fast_rcnn import FastRCNN, fastrcnn_vgg16
from graphrt.models.faster_rcnn import FasterRCNN, fasterrcnn_resnet50_fpn
from graphrt.models.fcn import FCN, fcn8s, fcn16s, fcn32s
from graphrt.models.googlenet import googlenet
from graphrt.models.inception import inception_v3
from graphrt.models.lenet import lenet5
from graphrt.models.mask_rcnn import MaskRCNN, maskrcnn_resnet50_fpn
from graphrt.models.mlp import logistic, mlp, playground
from graphrt.models.mobilenet import mobilenet_v1, mobilenet_v2
from graphrt.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small
from graphrt.models.pix2pix import Pix2Pix, patch_discriminator, pix2pix, pix2pix_step
from graphrt.models.rcnn import RCNN, rcnn_alexnet
from graphrt.models.regions import SumOfLosses
from graphrt.models.resnet import (
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    wide_resnet50_2,
    wide_resnet101_2,
)
from graphrt.models.retinanet import RetinaNet, RetinaNetLoss, retinanet_resnet50_fpn
from graphrt.models.shufflenet import shufflenet_v2_x0_5, shufflenet_v2_x1_0
from graphrt.models.small import circle_regressor, conv_trunk, spoof_classifier
from graphrt.models.squeezenet import squeezenet1_0, squeezenet1_1
from graphrt.models.ssd import SSD, SSDLoss, ssd300_vgg16
from graphrt.models.style import StyleLoss, style_transfer, total_variation, vgg_features
from graphrt.models.text import char_lstm, gpt2, gpt_small
from graphrt.models.unet import UNet, unet
from graphrt.models.vgg import (
    vgg11,
    vgg11_bn,
    vgg11_cifar,
    vgg11_lrn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg16_c,
    vgg19,
    vgg19_bn,
)
from graphrt.models.vit import mixer_b16, mixer_s16, vit_b_16, vit_tiny
from graphrt.models.weights import timm_names
from graphrt.models.yolo import YOLO, YOLOLoss, yolo_v1
from graphrt.nn import Module


@dataclass(frozen=True)
class Model:
    """How to build a network, ``build()``, and the ``input_shape`` and ``dtype`` of one example it takes, without the batch.

    One that is ``dense`` gives scores for each pixel, others for each example; ``outputs`` is their number where ``build``
    takes no ``num_classes``, and ``more`` has the shapes of other inputs by name.
    """

    build: Callable[[], Module]
    input_shape: tuple[int, ...]
    dtype: str = "float32"
    dense: bool = False
    outputs: int = 0
    more: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


_IMAGENET, _CIFAR = (3, 224, 224), (3, 32, 32)
MODELS: dict[str, Model] = {
    "alexnet": Model(alexnet, _IMAGENET),
    "alexnet_2012": Model(alexnet_2012, (3, 227, 227)),
    "char_lstm": Model(char_lstm, (64,), "int64"),
    "circle_regressor": Model(circle_regressor, (1, 32, 32), outputs=3),
    "conv_autoencoder": Model(conv_autoencoder, (1, 28, 28)),
    "convnext_tiny": Model(convnext_tiny, _IMAGENET),
    "dcgan": Model(dcgan, (64,)),
    "deeplabv3_resnet50": Model(deeplabv3_resnet50, _IMAGENET, dense=True),
    "deeplabv3_resnet101": Model(deeplabv3_resnet101, _IMAGENET, dense=True),
    "densenet121": Model(densenet121, _IMAGENET),
    "densenet169": Model(densenet169, _IMAGENET),
    "densenet201": Model(densenet201, _IMAGENET),
    "efficientnet_b0": Model(efficientnet_b0, _IMAGENET),
    "efficientnet_b1": Model(efficientnet_b1, (3, 240, 240)),
    "efficientnet_b2": Model(efficientnet_b2, (3, 260, 260)),
    "efficientnet_b3": Model(efficientnet_b3, (3, 300, 300)),
    "efficientnet_b4": Model(efficientnet_b4, (3, 380, 380)),
    "fcn16s": Model(fcn16s, _IMAGENET, dense=True),
    "fcn32s": Model(fcn32s, _IMAGENET, dense=True),
    "fcn8s": Model(fcn8s, _IMAGENET, dense=True),
    "fcn_resnet50": Model(fcn_resnet50, _IMAGENET, dense=True),
    "fcn_resnet101": Model(fcn_resnet101, _IMAGENET, dense=True),
    "googlenet": Model(googlenet, _IMAGENET),
    "gpt2": Model(gpt2, (1024,), "int64"),
    "gpt_small": Model(gpt_small, (64,), "int64"),
    "inception_v3": Model(inception_v3, (3, 299, 299)),
    "lenet5": Model(lenet5, (1, 32, 32)),
    "logistic": Model(logistic, (1, 28, 28)),
    "mixer_b16": Model(mixer_b16, _IMAGENET),
    "mixer_s16": Model(mixer_s16, _IMAGENET),
    "mlp": Model(mlp, (1, 28, 28)),
    "mobilenet_v1": Model(mobilenet_v1, _IMAGENET),
    "mobilenet_v2": Model(mobilenet_v2, _IMAGENET),
    "mobilenet_v3_large": Model(mobilenet_v3_large, _IMAGENET),
    "mobilenet_v3_small": Model(mobilenet_v3_small, _IMAGENET),
    "pix2pix": Model(pix2pix, (3, 256, 256)),
    "playground": Model(playground, (2,)),
    "resnet18": Model(resnet18, _IMAGENET),
    "resnet20": Model(resnet20, _CIFAR),
    "resnet32": Model(resnet32, _CIFAR),
    "resnet34": Model(resnet34, _IMAGENET),
    "resnet44": Model(resnet44, _CIFAR),
    "resnet50": Model(resnet50, _IMAGENET),
    "resnet56": Model(resnet56, _CIFAR),
    "resnet101": Model(resnet101, _IMAGENET),
    "resnet110": Model(resnet110, _CIFAR),
    "resnet152": Model(resnet152, _IMAGENET),
    "resnext50_32x4d": Model(resnext50_32x4d, _IMAGENET),
    "resnext101_32x8d": Model(resnext101_32x8d, _IMAGENET),
    "shufflenet_v2_x0_5": Model(shufflenet_v2_x0_5, _IMAGENET),
    "shufflenet_v2_x1_0": Model(shufflenet_v2_x1_0, _IMAGENET),
    "spoof_classifier": Model(spoof_classifier, _CIFAR),
    "squeezenet1_0": Model(squeezenet1_0, _IMAGENET),
    "squeezenet1_1": Model(squeezenet1_1, _IMAGENET),
    "unet": Model(unet, (1, 572, 572), dense=True),
    "vae": Model(vae, (1, 28, 28)),
    "vgg11": Model(vgg11, _IMAGENET),
    "vgg11_bn": Model(vgg11_bn, _IMAGENET),
    "vgg11_cifar": Model(vgg11_cifar, _CIFAR),
    "vgg11_lrn": Model(vgg11_lrn, _IMAGENET),
    "vgg13": Model(vgg13, _IMAGENET),
    "vgg13_bn": Model(vgg13_bn, _IMAGENET),
    "vgg16": Model(vgg16, _IMAGENET),
    "vgg16_bn": Model(vgg16_bn, _IMAGENET),
    "vgg16_c": Model(vgg16_c, _IMAGENET),
    "vgg19": Model(vgg19, _IMAGENET),
    "vgg19_bn": Model(vgg19_bn, _IMAGENET),
    "vit_b_16": Model(vit_b_16, _IMAGENET),
    "vit_tiny": Model(vit_tiny, _CIFAR),
    "wide_resnet50_2": Model(wide_resnet50_2, _IMAGENET),
    "wide_resnet101_2": Model(wide_resnet101_2, _IMAGENET),
}


_PICTURE, _PROPOSALS = (3, 512, 512), {"proposals": (256, 4)}
DETECTORS: dict[str, Model] = {
    "fasterrcnn_resnet50_fpn": Model(fasterrcnn_resnet50_fpn, _PICTURE),
    "fastrcnn_vgg16": Model(fastrcnn_vgg16, _PICTURE, more=_PROPOSALS),
    "maskrcnn_resnet50_fpn": Model(maskrcnn_resnet50_fpn, _PICTURE),
    "rcnn_alexnet": Model(rcnn_alexnet, _PICTURE, more=_PROPOSALS),
    "retinanet_resnet50_fpn": Model(retinanet_resnet50_fpn, _PICTURE),
    "ssd300_vgg16": Model(ssd300_vgg16, (3, 300, 300)),
    "yolo_v1": Model(yolo_v1, (3, 448, 448)),
}


def get(name: str) -> Model:
    """The model called ``name``, of those whose result a loss takes as it is. Raises ArgumentError with the names there are."""
    if name in DETECTORS:
        raise ArgumentError(
            f"{name} finds boxes, of which data and losses are others' (docs/detection.md); graphrt summary has it"
        )
    if name not in MODELS:
        raise ArgumentError(unknown("model", name, MODELS))
    return MODELS[name]


__all__ = [
    "ASPP",
    "DETECTORS",
    "FCN",
    "MODELS",
    "RCNN",
    "SSD",
    "YOLO",
    "Denoise",
    "DenoisingUNet",
    "Detector",
    "Diffusion",
    "FastRCNN",
    "FasterRCNN",
    "MaskRCNN",
    "Model",
    "Pix2Pix",
    "RetinaNet",
    "RetinaNetLoss",
    "SSDLoss",
    "SegmentationNet",
    "StyleLoss",
    "SumOfLosses",
    "UNet",
    "YOLOLoss",
    "alexnet",
    "alexnet_2012",
    "anchor_boxes",
    "char_lstm",
    "circle_regressor",
    "conv_autoencoder",
    "conv_trunk",
    "convnext_tiny",
    "dcgan",
    "dcgan_step",
    "ddpm",
    "ddpm_sample",
    "deeplab_head",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "default_boxes",
    "densenet121",
    "densenet169",
    "densenet201",
    "diffusion_loss",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "fasterrcnn_resnet50_fpn",
    "fastrcnn_vgg16",
    "fcn8s",
    "fcn16s",
    "fcn32s",
    "fcn_resnet50",
    "fcn_resnet101",
    "get",
    "googlenet",
    "gpt2",
    "gpt_small",
    "inception_v3",
    "kept",
    "lenet5",
    "logistic",
    "maskrcnn_resnet50_fpn",
    "mixer_b16",
    "mixer_s16",
    "mlp",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "patch_discriminator",
    "pix2pix",
    "pix2pix_step",
    "playground",
    "rcnn_alexnet",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "retinanet_resnet50_fpn",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "spoof_classifier",
    "squeezenet1_0",
    "squeezenet1_1",
    "ssd300_vgg16",
    "style_transfer",
    "timm_names",
    "total_variation",
    "unet",
    "vae",
    "vae_loss",
    "vgg11",
    "vgg11_bn",
    "vgg11_cifar",
    "vgg11_lrn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg16_c",
    "vgg19",
    "vgg19_bn",
    "vgg_features",
    "vit_b_16",
    "vit_tiny",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "yolo_v1",
]
