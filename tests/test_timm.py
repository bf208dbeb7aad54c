"""Networks that timm has too: its names, mapped, are theirs, and the same weights give the same outputs."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import models, nn
from graphrt.errors import ArgumentError
from graphrt.models.weights import TIMM, timm_names

pytestmark = pytest.mark.skipif(INTERPRETED, reason="whole networks take too long interpreted; their parts are tested so")
COMPUTED = [  # one of each kind
    *("resnet18", "mixer_s16", "efficientnet_b0", "mobilenet_v2", "vit_b_16", "convnext_tiny", "vgg11_bn"),
    *("mobilenet_v1", "mobilenet_v3_small", "mobilenet_v3_large"),
]
AS_TRAINED = {"mobilenet_v1": {"relu6": True}, **dict.fromkeys(("mobilenet_v3_small", "mobilenet_v3_large"), {"eps": 1e-5})}


def test_names_are_mapped() -> None:
    for model, theirs, ours in (
        ("resnet18", "layer1.0.bn1.weight", "layer1.0.bn1.weight"),
        ("vit_b_16", "blocks.3.attn.qkv.bias", "encoder.layers.encoder_layer_3.self_attention.in_proj_bias"),
        ("efficientnet_b0", "blocks.2.1.se.conv_expand.bias", "features.3.1.block.2.fc2.bias"),
        ("mobilenet_v2", "blocks.0.0.conv_pw.weight", "features.1.conv.1.weight"),
        ("mobilenet_v2", "blocks.6.0.bn3.running_mean", "features.17.conv.3.running_mean"),
        ("mobilenet_v1", "blocks.3.2.bn2.bias", "features.16.1.bias"),
        ("mobilenet_v3_small", "blocks.0.0.conv_pw.weight", "features.1.block.2.0.weight"),
        ("mobilenet_v3_large", "blocks.4.1.se.conv_expand.bias", "features.12.block.2.fc2.bias"),
        ("mobilenet_v3_large", "blocks.6.0.bn1.running_var", "features.16.1.running_var"),
        ("mobilenet_v3_large", "conv_head.weight", ("classifier.0.weight", (-1, 960))),
        ("convnext_tiny", "stages.2.blocks.8.mlp.fc2.weight", "features.5.8.block.5.weight"),
        ("convnext_tiny", "stages.3.downsample.0.bias", "features.6.0.bias"),
        ("convnext_tiny", "stages.1.blocks.0.gamma", ("features.3.0.layer_scale", (-1, 1, 1))),
        ("vgg16_bn", "pre_logits.fc1.weight", ("classifier.0.weight", (-1, 25088))),
        ("vgg16_bn", "head.fc.bias", "classifier.6.bias"),
    ):
        with nn.init.skip_init():
            net = models.get(model).build()
        assert timm_names(model)(theirs) == ours and (ours if isinstance(ours, str) else ours[0]) in dict(net._named())
    with pytest.raises(ArgumentError, match="no network of timm 'lenet5'"):
        timm_names("lenet5")


@pytest.mark.parametrize("name", TIMM)
def test_a_file_of_timm_loads(name: str) -> None:
    timm = pytest.importorskip("timm", reason="no dependency: pip install timm")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = timm.create_model(TIMM[name]).eval()
    for tensor in net.state_dict().values():
        if not tensor.any():  # a head that starts at 0
            tensor.copy_(torch.randn(tensor.shape) * 0.1)
    with nn.init.skip_init():
        own = models.get(name).build(**AS_TRAINED.get(name, {}))
    report = grt.load_weights(own, net.state_dict(), names=timm_names(name))
    assert report.complete and not report.ignored
    if name in COMPUTED:
        side = 224 if name.startswith(("vit", "mixer", "vgg")) else 64
        x = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)
        with torch.no_grad():
            expected = net(torch.from_numpy(x)).numpy()
        found = np.asarray(grt.compile(own, (x,), target="cpu")(x))
        np.testing.assert_allclose(found / np.abs(expected).max(), expected / np.abs(expected).max(), atol=1e-4)
