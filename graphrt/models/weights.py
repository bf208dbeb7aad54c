"""Files of weights that load by name: networks with another library's names and shapes of parameters, and maps of its names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from graphrt.errors import ArgumentError, unknown
from graphrt.models.mobilenet_v3 import LARGE, SMALL

_TORCHVISION = """
alexnet convnext_tiny densenet121 densenet169 densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3
efficientnet_b4 googlenet mobilenet_v2 mobilenet_v3_large mobilenet_v3_small resnet18 resnet34 resnet50 resnet101 resnet152
resnext50_32x4d resnext101_32x8d shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_0 squeezenet1_1 vgg11 vgg11_bn vgg13 vgg13_bn
vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 wide_resnet50_2 wide_resnet101_2
"""
_SEGMENTATION = "deeplabv3_resnet50 deeplabv3_resnet101 fcn_resnet50 fcn_resnet101"
_DETECTION = "fasterrcnn_resnet50_fpn maskrcnn_resnet50_fpn retinanet_resnet50_fpn ssd300_vgg16"
_TIMM_ALIKE = """
convnext_tiny densenet121 densenet169 densenet201 resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d
resnext101_32x8d vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn wide_resnet50_2 wide_resnet101_2
"""
# networks by the names that timm has for them
TIMM: dict[str, str] = {
    **{name: name for name in _TIMM_ALIKE.split()},
    **{f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(5)},
    "mixer_b16": "mixer_b16_224",
    "mixer_s16": "mixer_s16_224",
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    "vit_b_16": "vit_base_patch16_224",
}
_SOURCES = (
    *((name, f"torchvision.models.{name}") for name in _TORCHVISION.split()),
    *((name, f"torchvision.models.segmentation.{name}") for name in _SEGMENTATION.split()),
    *((name, f"torchvision.models.detection.{name}") for name in _DETECTION.split()),
    *((name, f"timm's {theirs}") for name, theirs in TIMM.items()),
)
WEIGHTS: dict[str, str] = {
    name: ", ".join(source for other, source in _SOURCES if other == name) for name in sorted({name for name, _ in _SOURCES})
}

Name = str | tuple[str, tuple[int, ...]]  # what load_weights takes: a name, or with the shape that it has here
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
_CONVNEXT: Rules = (
    (r"stem\.(.*)", r"features.0.\1"),
    *((rf"stages\.{i}\.downsample\.(.*)", rf"features.{2 * i}.\1") for i in range(4)),
    *(
        (rf"stages\.{i}\.blocks\.(\d+)\.{theirs}(.*)", rf"features.{2 * i + 1}.\1.{ours}\2")
        for i in range(4)
        for theirs, ours in {
            **{"gamma": "layer_scale", "conv_dw": "block.0", "norm": "block.2"},
            **{"mlp.fc1": "block.3", "mlp.fc2": "block.5"},
        }.items()
    ),
    (r"head\.norm\.(.*)", r"classifier.0.\1"),
    (r"head\.fc\.(.*)", r"classifier.2.\1"),
)
_VGG: Rules = (
    (r"pre_logits\.fc1\.(.*)", r"classifier.0.\1"),
    (r"pre_logits\.fc2\.(.*)", r"classifier.3.\1"),
    (r"head\.fc\.(.*)", r"classifier.6.\1"),
)
# columns of linear layers that are convolutions there
_VGG_COLUMNS = {"classifier.0.weight": 512 * 49, "classifier.3.weight": 4096}
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


def timm_names(model: str) -> Callable[[str], Name]:
    """The name in ``models.MODELS[model]`` of each in timm's file of ``TIMM[model]``, for ``load_weights``.

        grt.load_weights(net, "model.safetensors", names=models.timm_names("vit_b_16"))

    Where timm has another shape, it comes with the one here. timm's MobileNet v1 and v3 were trained with ``relu6=True`` and
    ``eps=1e-5``. Raises ArgumentError for a network whose weights timm does not have.
    """
    if model not in TIMM:
        raise ArgumentError(unknown("network of timm", model, TIMM))
    if model == "vit_b_16":
        return lambda name: _ruled(name, _VIT)
    if model.startswith("vgg"):
        return lambda name: _as_linear(_ruled(name, _VGG), _VGG_COLUMNS)
    if model.startswith("convnext"):
        return lambda name: (ours, (-1, 1, 1)) if (ours := _ruled(name, _CONVNEXT)).endswith("layer_scale") else ours
    if model == "mobilenet_v1":
        return _mobilenet_v1
    if model.startswith("mobilenet_v3"):
        rows, stages = (SMALL, (0, 1, 3, 6, 8)) if model.endswith("small") else (LARGE, (0, 1, 3, 6, 10, 12))
        columns = {"classifier.0.weight": 6 * rows[-1][2]}
        return lambda name: _as_linear(_mobilenet_v3(name, rows, stages), columns)
    if model.startswith("efficientnet"):
        return lambda name: _inverted(name, _EFFICIENT, "block", lambda stage, block: f"{stage + 1}.{block}", "features.8")
    if model == "mobilenet_v2":
        return lambda name: _inverted(
            name, _MOBILE, "conv", lambda stage, block: str(_MOBILE_BLOCKS[stage] + block + 1), "features.18"
        )
    return lambda name: name


def _ruled(name: str, rules: Rules) -> str:
    """The name here of timm's ``name``, by the first of ``rules`` that speaks of it."""
    return next((re.sub(p, new, name) for p, new in rules if re.fullmatch(p, name)), name)


def _as_linear(name: str, columns: Mapping[str, int]) -> Name:
    """``name``, with the shape of a matrix where ``columns`` says how many it has."""
    return (name, (-1, columns[name])) if name in columns else name


def _mobilenet_v1(name: str) -> str:
    """timm's ``name`` in MobileNet v1, of which each block is two units of ``features``."""
    path, _, field = name.rpartition(".")
    if found := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.*)", path):
        block = (0, 1, 3, 5, 11)[int(found[1])] + int(found[2])
        unit, part = {"conv_dw": (1, 0), "bn1": (1, 1), "conv_pw": (2, 0), "bn2": (2, 1)}[found[3]]
        return f"features.{2 * block + unit}.{part}.{field}"
    return f"{ {'conv_stem': 'features.0.0', 'bn1': 'features.0.1', 'classifier': 'fc'}.get(path, path) }.{field}"


def _mobilenet_v3(name: str, rows: Sequence[tuple[int, int, int, bool, bool, int]], stages: Sequence[int]) -> str:
    """timm's ``name`` in a MobileNet v3 of blocks ``rows``, of which timm's ``stages`` begin at those."""
    path, _, field = name.rpartition(".")
    ends = {"conv_stem": "features.0.0", "bn1": "features.0.1", "conv_head": "classifier.0", "classifier": "classifier.3"}
    found = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.*)", path)
    if found is None:
        return f"{ends.get(path, path)}.{field}"
    stage, part = int(found[1]), found[3]
    if stage == len(stages):
        return f"features.{len(rows) + 1}.{ {'conv': 0, 'bn1': 1}[part] }.{field}"
    block = stages[stage] + int(found[2])
    widens = int(stage > 0)  # the first block has no convolution to more channels
    last = widens + 1 + rows[block][3]
    names = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"] if widens else ["conv_dw", "bn1", "conv_pw", "bn2"]
    places = [0, 1, last] if widens else [0, last]
    inner = {theirs: f"{places[i // 2]}.{i % 2}" for i, theirs in enumerate(names)}
    inner |= {"se.conv_reduce": f"{widens + 1}.fc1", "se.conv_expand": f"{widens + 1}.fc2"}
    return f"features.{block + 1}.block.{inner[part]}.{field}"


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
