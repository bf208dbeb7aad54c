"""Files of weights that load by name: networks with another library's names and shapes of parameters, and maps of its names."""

from __future__ import annotations

import re
from collections.abc import Callable

from graphrt.errors import ArgumentError, unknown

_TORCHVISION = """
alexnet convnext_tiny densenet121 densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
efficientnet_b4 googlenet mobilenet_v2 mobilenet_v3_large mobilenet_v3_small resnet18 resnet34 resnet50 resnet101 resnet152
resnext50_32x4d resnext101_32x8d shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 vgg11 vgg11_bn vgg13 vgg13_bn
vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 wide_resnet50_2 wide_resnet101_2
"""
_SEGMENTATION = "deeplabv3_resnet50 deeplabv3_resnet101 fcn_resnet50 fcn_resnet101"
_TIMM_ALIKE = """
densenet121 densenet169 densenet201 resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d
wide_resnet50_2 wide_resnet101_2
"""
# networks by the names that timm has for them
TIMM: dict[str, str] = {
    **{name: name for name in _TIMM_ALIKE.split()},
    **{f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(5)},
    "mixer_b16": "mixer_b16_224",
    "mixer_s16": "mixer_s16_224",
    "mobilenet_v2": "mobilenetv2_100",
    "vit_b_16": "vit_base_patch16_224",
}
_SOURCES = (
    *((name, f"torchvision.models.{name}") for name in _TORCHVISION.split()),
    *((name, f"torchvision.models.segmentation.{name}") for name in _SEGMENTATION.split()),
    *((name, f"timm's {theirs}") for name, theirs in TIMM.items()),
)
WEIGHTS: dict[str, str] = {
    name: ", ".join(source for other, source in _SOURCES if other == name) for name in sorted({name for name, _ in _SOURCES})
}

Rules = tuple[tuple[str, str], ...]  # a pattern of timm's names, and what stands for it here
_VIT: Rules = (
    (r"cls_token", "class_token"),
    (r"pos_embed", "encoder.pos_embedding"),
    (r"patch_embed\.proj\.(.*)", r"conv_proj.\1"),
    (r"blocks\.(\d+)\.norm(\d)\.(.*)", r"encoder.layers.encoder_layer_\1.ln_\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.(.*)", r"encoder.layers.encoder_layer_\1.self_attention.in_proj_\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(.*)", r"encoder.layers.encoder_layer_\1.self_attention.out_proj.\2"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(.*)", r"encoder.layers.encoder_layer_\1.mlp.0.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(.*)", r"encoder.layers.encoder_layer_\1.mlp.3.\2"),
    (r"norm\.(.*)", r"encoder.ln.\1"),
    (r"head\.(.*)", r"heads.head.\1"),
)
# the parts of a block: the first stage of a network does not widen, so it has one convolution less
_EFFICIENT = (
    {"conv_dw": "0.0", "bn1": "0.1", "se.conv_reduce": "1.fc1", "se.conv_expand": "1.fc2", "conv_pw": "2.0", "bn2": "2.1"},
    {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "se.conv_reduce": "2.fc1", "se.conv_expand": "2.fc2",
     "conv_pwl": "3.0", "bn3": "3.1"},
)  # fmt: skip
_MOBILE = (
    {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"},
    {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1", "conv_pwl": "2", "bn3": "3"},
)
_MOBILE_BLOCKS = (0, 1, 3, 6, 10, 13, 16)  # before each stage


def timm_names(model: str) -> Callable[[str], str]:
    """The name in ``models.MODELS[model]`` of each in timm's file of ``TIMM[model]``, for ``load_weights``.

        grt.load_weights(net, "model.safetensors", names=models.timm_names("vit_b_16"))

    Raises ArgumentError for a network whose weights timm does not have.
    """
    if model not in TIMM:
        raise ArgumentError(unknown("network of timm", model, TIMM))
    if model == "vit_b_16":
        return lambda name: next((re.sub(p, new, name) for p, new in _VIT if re.fullmatch(p, name)), name)
    if model.startswith("efficientnet"):
        return lambda name: _inverted(name, _EFFICIENT, "block", lambda stage, block: f"{stage + 1}.{block}", "features.8")
    if model == "mobilenet_v2":
        return lambda name: _inverted(
            name, _MOBILE, "conv", lambda stage, block: str(_MOBILE_BLOCKS[stage] + block + 1), "features.18"
        )
    return lambda name: name


def _inverted(
    name: str, parts: tuple[dict[str, str], dict[str, str]], inner: str, at: Callable[[int, int], str], last: str
) -> str:
    """timm's ``name`` in a network of inverted residuals, whose blocks are ``features.AT.INNER.PART``."""
    ends = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": f"{last}.0", "bn2": f"{last}.1"}
    path, _, field = name.rpartition(".")
    if found := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.*)", path):
        stage, block, part = int(found[1]), int(found[2]), found[3]
        return f"features.{at(stage, block)}.{inner}.{parts[stage > 0].get(part, part)}.{field}"
    return f"{ends.get(path, 'classifier.1' if path == 'classifier' else path)}.{field}"
