"""Every network that has torchvision's names, beside torchvision's: names, shapes, order, and outputs with the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import models, nn

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision", reason="no dependency: pip install torchvision of torch's own release")
pytestmark = pytest.mark.skipif(INTERPRETED, reason="whole networks take too long interpreted; their parts are tested so")

SHARED = [name for name in models.MODELS if hasattr(torchvision.models, name)]
AUXILIARY = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}
SIZES = {"vit_b_16": 224, "inception_v3": 107}  # others see 64x64 pixels


def theirs(name: str, **options: object) -> Any:
    torch.manual_seed(0)
    auxiliary = {"aux_logits": False} if name in AUXILIARY else {}
    return torchvision.models.get_model(name, weights=None, **AUXILIARY.get(name, {}), **{**auxiliary, **options})


def test_what_is_shared() -> None:
    assert {"alexnet", "vgg16_bn", "googlenet", "inception_v3", "resnet50", "densenet121", "vit_b_16"} <= set(SHARED)


@pytest.mark.parametrize("name", SHARED)
def test_a_network_of_the_same_name_is_the_same(name: str) -> None:
    """By float64, and with statistics of norms that are small enough for an eps of another size to show."""
    net = theirs(name).eval()
    draw = np.random.default_rng(0)
    for key, tensor in net.state_dict().items():
        if key.endswith("running_var"):
            tensor.copy_(torch.from_numpy(draw.uniform(0.2, 0.6, tensor.shape)))
        elif key.endswith(("running_mean", "layer_scale", "class_token")) or not tensor.any():  # a head that starts at 0, too
            tensor.copy_(torch.from_numpy(draw.normal(0, 0.1, tensor.shape)))
    with nn.init.skip_init():
        own = models.get(name).build()
    assert dict(own._named()).keys() == net.state_dict().keys()
    assert [n for n, _ in own.named_parameters()] == [n for n, _ in net.named_parameters()]
    report = grt.load_weights(own, net.state_dict())
    assert not report.missing and not report.unexpected
    side = SIZES.get(name, 64)
    x = draw.standard_normal((2, 3, side, side)).astype(np.float32)
    with torch.no_grad():
        expected = net.double()(torch.from_numpy(x).double()).numpy()
    found = grt.compile(own, (x,), target="cpu")(x)
    scale = np.abs(expected).max()
    assert expected.std() > 1e-3 * scale, "an output that says nothing"
    np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize("name", AUXILIARY)
def test_auxiliary_classifiers_have_the_same_names(name: str) -> None:
    net = theirs(name, aux_logits=True)
    with nn.init.skip_init():
        own = getattr(models, name)(aux_logits=True)
    assert {n: p.shape for n, p in own._named()} == {n: tuple(t.shape) for n, t in net.state_dict().items()}
