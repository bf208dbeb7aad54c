"""The networks: published parameter counts, and a training step of each kind beside the same network in torch."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import INTERPRETED
from torch_models import Inception as TorchInception
from torch_models import InvertedResidual as TorchInverted

import graphrt as grt
import graphrt.ops as F
from graphrt import models, nn, optim
from graphrt.errors import ArgumentError

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench.peers import Block, alexnet, residual, vgg11_cifar, vgg_features

pytestmark = pytest.mark.skipif(INTERPRETED, reason="whole networks take too long interpreted; their parts are tested so")


COUNTS = {
    "alexnet": 61_100_840,
    "alexnet_2012": 62_378_344,
    "char_lstm": 103_552,
    "circle_regressor": 136_387,
    "conv_autoencoder": 9_569,
    "convnext_tiny": 28_589_128,
    "dcgan": 462_656,
    "deeplabv3_resnet50": 39_638_869,
    "deeplabv3_resnet101": 58_630_997,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
    "efficientnet_b4": 19_341_616,
    "fcn16s": 134_385_914,
    "fcn32s": 134_432_597,
    "fcn8s": 134_382_239,
    "fcn_resnet50": 32_957_013,
    "fcn_resnet101": 51_949_141,
    "googlenet": 6_624_904,
    "gpt2": 124_439_808,
    "gpt_small": 817_920,
    "inception_v3": 23_834_568,
    "lenet5": 61_706,
    "logistic": 7_850,
    "mixer_b16": 59_880_472,
    "mixer_s16": 18_528_264,
    "mlp": 101_770,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v3_large": 5_483_032,
    "mobilenet_v3_small": 2_542_856,
    "pix2pix": 57_182_660,
    "playground": 25,
    "resnet18": 11_689_512,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet34": 21_797_672,
    "resnet44": 658_586,
    "resnet50": 25_557_032,
    "resnet56": 853_018,
    "resnet101": 44_549_160,
    "resnet110": 1_727_962,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "shufflenet_v2_x0_5": 1_366_792,
    "shufflenet_v2_x1_0": 2_278_604,
    "spoof_classifier": 23_761,
    "squeezenet1_0": 1_248_424,
    "squeezenet1_1": 1_235_496,
    "unet": 31_030_658,
    "vae": 652_824,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg11_cifar": 9_231_114,
    "vgg11_lrn": 132_863_336,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg16_c": 133_638_952,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
    "vit_b_16": 86_567_656,
    "vit_tiny": 2_693_578,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
}
OUTPUTS = {
    "char_lstm": (2, 128, 64),
    "circle_regressor": (2, 3),
    "conv_autoencoder": (2, 1, 28, 28),
    "dcgan": (2, 1, 32, 32),
    **dict.fromkeys(("deeplabv3_resnet50", "deeplabv3_resnet101", "fcn_resnet50", "fcn_resnet101"), (2, 21, 224, 224)),
    "fcn16s": (2, 21, 224, 224),
    "fcn32s": (2, 21, 224, 224),
    "fcn8s": (2, 21, 224, 224),
    "gpt2": (2, 50257, 1024),
    "gpt_small": (2, 128, 64),
    "pix2pix": (2, 3, 256, 256),
    "playground": (2, 1),
    "spoof_classifier": (2, 1),
    "unet": (2, 2, 388, 388),
    "vae": (2, 1, 28, 28),
}


@pytest.mark.parametrize("name", models.MODELS)
def test_parameter_counts(name: str) -> None:
    """Published ones; and what the network makes of two examples, without compiling it."""
    model = models.get(name)
    with nn.init.skip_init():
        net = model.build()
    assert nn.count_parameters(net, trainable=False) == COUNTS[name]
    graph = grt.Graph()
    found = net.eval()(graph.input("x", (2, *model.input_shape), model.dtype))
    found = found[0] if isinstance(found, tuple) else found
    few = model.input_shape[1:] in ((32, 32), (28, 28))
    assert found.shape == OUTPUTS.get(name, (2, 10 if few else 1000))


def test_parameter_counts_of_options() -> None:
    with nn.init.skip_init():
        assert nn.count_parameters(models.vgg11_cifar(batch_norm=False)) == 9_225_610
        assert nn.count_parameters(models.googlenet(aux_logits=True)) == 13_004_888
        assert nn.count_parameters(models.inception_v3(aux_logits=True)) == 27_161_264
        assert nn.count_parameters(models.deeplabv3_resnet50(aux_loss=True)) == 42_004_074
        assert nn.count_parameters(models.fcn_resnet101(aux_loss=True)) == 54_314_346
        assert nn.count_parameters(models.ddpm()) == 35_746_307
        assert nn.count_parameters(models.pix2pix().generator) == 54_413_955
        assert nn.count_parameters(models.logistic(784, 1)) == 785
        assert nn.count_parameters(models.spoof_classifier(models.resnet20(), 10)) == 269_722 + 11


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", ["features.0.weight", "features.10.bias", "classifier.1.weight", "classifier.6.bias"]),
        ("vgg16_bn", ["features.0.weight", "features.41.weight", "classifier.0.weight", "classifier.6.bias"]),
        ("mobilenet_v2", ["features.0.0.weight", "features.1.conv.0.0.weight", "features.17.conv.3.bias", "classifier.1.bias"]),
        ("densenet121", ["features.conv0.weight", "features.denseblock4.denselayer16.norm2.bias", "features.norm5.weight"]),
        ("densenet121", ["features.transition3.conv.weight", "classifier.weight"]),
        (
            "squeezenet1_0",
            ["features.0.weight", "features.3.squeeze.bias", "features.12.expand3x3.weight", "classifier.1.bias"],
        ),
        (
            "mobilenet_v3_large",
            ["features.0.0.weight", "features.4.block.2.fc1.bias", "features.16.1.bias", "classifier.3.bias"],
        ),
        ("efficientnet_b0", ["features.1.0.block.1.fc1.weight", "features.7.0.block.3.1.bias", "features.8.0.weight"]),
        ("shufflenet_v2_x1_0", ["conv1.0.weight", "stage2.0.branch1.2.weight", "stage4.3.branch2.5.weight", "conv5.0.weight"]),
        (
            "convnext_tiny",
            ["features.0.1.weight", "features.1.0.layer_scale", "features.5.8.block.5.weight", "classifier.2.bias"],
        ),
        (
            "vit_b_16",
            ["class_token", "encoder.pos_embedding", "encoder.layers.encoder_layer_11.mlp.3.weight", "heads.head.bias"],
        ),
        ("vit_b_16", ["conv_proj.weight", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight", "encoder.ln.bias"]),
        ("mixer_b16", ["stem.proj.weight", "blocks.11.mlp_tokens.fc2.weight", "norm.weight", "head.bias"]),
        ("googlenet", ["conv1.conv.weight", "inception3a.branch2.1.bn.weight", "inception5b.branch4.1.conv.weight", "fc.bias"]),
        ("resnet152", ["conv1.weight", "layer2.7.conv3.weight", "layer3.35.bn3.bias", "layer4.0.downsample.1.weight"]),
    ],
)
def test_parameters_are_called_as_in_torchvision(name: str, expected: list[str]) -> None:
    with nn.init.skip_init():
        names = [n for n, _ in models.get(name).build().named_parameters()]
    assert not set(expected) - set(names)


def test_unknown_model() -> None:
    with pytest.raises(ArgumentError, match="no model 'vgg'; did you mean vgg19"):
        models.get("vgg")


def small_residual() -> tuple[nn.Module, torch.nn.Module]:
    """A bottleneck with a projection and a basic block without, as ResNet-50 and -18 have them."""
    from graphrt.models.resnet import BasicBlock, Bottleneck

    ours = nn.Sequential(Bottleneck(16, 8, 2), BasicBlock(32, 32))
    theirs = torch.nn.Sequential(Block(16, 8, 32, 2, (1, 3, 1), False), Block(32, 32, 32, 1, (3, 3), False))
    return ours, theirs


def small_inverted() -> tuple[nn.Module, torch.nn.Module]:
    """MobileNetV2's blocks: without expansion, with a stride, and with the shortcut."""
    from graphrt.models.mobilenet import InvertedResidual

    kinds = ((8, 8, 1, 1), (8, 12, 2, 6), (12, 12, 1, 6))
    theirs = (TorchInverted(*kind, torch.nn.ReLU6, None) for kind in kinds)
    return nn.Sequential(*(InvertedResidual(*kind) for kind in kinds)), torch.nn.Sequential(*theirs)


def small_inception() -> tuple[nn.Module, torch.nn.Module]:
    from graphrt.models.googlenet import Inception

    sizes = (8, 4, 6, 8, 2, 4, 3)
    return Inception(*sizes), TorchInception(*sizes)


def small_alexnet() -> tuple[nn.Module, torch.nn.Module]:
    return models.alexnet(dropout=0.0), alexnet(dropout=0.0)


def vgg16_features() -> tuple[nn.Module, torch.nn.Module]:
    theirs = vgg_features((64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0), False)
    return models.vgg16()[0], torch.nn.Sequential(*theirs)


@pytest.mark.parametrize(
    ("pair", "shape"),
    [
        (lambda: (models.resnet20(), residual((3, 3, 3), (16, 32, 64), 1, 10, padded=True)), (3, 3, 32, 32)),
        pytest.param(lambda: (models.vgg11_cifar(), vgg11_cifar()), (3, 3, 32, 32), marks=pytest.mark.proof),
        (small_residual, (3, 16, 10, 10)),
        (small_inverted, (3, 8, 9, 9)),
        (small_inception, (3, 8, 9, 9)),
        pytest.param(small_alexnet, (2, 3, 64, 64), marks=pytest.mark.proof),
        pytest.param(vgg16_features, (2, 3, 32, 32), marks=pytest.mark.proof),
    ],
    ids=["resnet20", "vgg11", "blocks", "mobilenet", "inception", "alexnet", "vgg16"],
)
@pytest.mark.at_O3
def test_gradients_equal_torch(pair: object, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 that is summed directly: by more rounding more ReLUs near 0 turn over, and with one of them the gradients of a
    network that is one pixel wide in the end."""
    assert callable(pair)
    nn.manual_seed(0)  # whatever ran before
    monkeypatch.setenv("GRAPHRT_WINOGRAD", "0")
    ours, theirs = pair()
    parameters = list(ours.named_parameters())
    for (name, p), q in zip(parameters, theirs.parameters(), strict=True):
        assert p.shape == tuple(q.shape), name
        q.data = torch.from_numpy(p.array.copy())
    theirs = theirs.double().train()
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    graph = grt.Graph()
    y = graph.output("y", ours(graph.input("x", shape)))
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    values = [graph.sources[name].outputs[0] for name, _ in parameters]
    for (name, _), g in zip(parameters, grt.grad(y, values, graph.input("dy", y.shape)), strict=True):
        graph.output(f"d {name}", g)
    outputs = grt.compile(graph, target="cpu")(x=x, dy=dy)
    expected = theirs(torch.from_numpy(x).double())
    expected.backward(torch.from_numpy(dy).double())
    np.testing.assert_allclose(outputs["y"], expected.detach(), rtol=1e-3, atol=1e-3)
    for (name, _), q in zip(parameters, theirs.parameters(), strict=True):
        assert q.grad is not None
        scale = max(float(q.grad.abs().max()), 1e-2)  # a bias before a norm has none but rounding
        np.testing.assert_allclose(outputs[f"d {name}"] / scale, q.grad / scale, atol=5e-3, err_msg=name)


# --- what is trained ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: _part("densenet", "DenseBlock", 64, 2, 8), id="densenet"),
        pytest.param(lambda: _part("squeezenet", "Fire", 64, 8, 16), id="squeezenet"),
        pytest.param(
            lambda: _part("mobilenet_v3", "InvertedResidual", 64, (5, 96, 64, True, True, 1), 1e-3), id="mobilenet_v3"
        ),
        pytest.param(lambda: _part("efficientnet", "MBConv", 64, 64, 6, 3, 1, 0.5), id="efficientnet"),
        pytest.param(
            lambda: nn.Sequential(*(_part("shufflenet", "InvertedResidual", 64, 64, s) for s in (2, 1))), id="shufflenet"
        ),
        pytest.param(lambda: _part("convnext", "CNBlock", 64, 0.5), id="convnext"),
    ],
)
def test_blocks_equal_the_reference(make: object) -> None:
    """Forward and backward in training mode, against float64."""
    from conftest import check

    assert callable(make)
    nn.manual_seed(0)
    net = make()
    graph = grt.Graph()
    x = graph.input("x", (2, 64, 6, 6))
    graph.output("loss", F.mean(F.square(net(x))))
    for p, g in zip(graph.parameters(), grt.grad(graph.outputs["loss"], graph.parameters()), strict=True):
        graph.output(f"d {p.name}", g)
    if "rng.seed" in graph.sources:
        F.manual_seed(graph, 3)
    check(graph, {"x": np.random.default_rng(1).standard_normal((2, 64, 6, 6)).astype("f")}, "cpu", 200)


def _part(file: str, name: str, *given: object) -> nn.Module:
    return getattr(importlib.import_module(f"graphrt.models.{file}"), name)(*given)


def test_stochastic_depth_leaves_out_whole_examples() -> None:
    from graphrt.models.efficientnet import StochasticDepth

    graph = grt.Graph()
    net = nn.Sequential(StochasticDepth(0.25))
    graph.output("y", net(graph.input("x", (400, 3, 2, 2))))
    F.manual_seed(graph, 1)
    y = grt.compile(graph, target="cpu")(x=np.ones((400, 3, 2, 2), "f"))["y"].reshape(400, -1)
    assert (y == y[:, :1]).all() and np.unique(y).tolist() == pytest.approx([0, 4 / 3]) and 0.15 < (y[:, 0] == 0).mean() < 0.35


def test_auxiliary_classifiers_of_googlenet() -> None:
    """Three outputs in training and one in evaluation, in the order of torchvision; they take part in the loss."""
    nn.manual_seed(0)
    net = models.googlenet(5, aux_logits=True)
    loss = nn.CrossEntropyLoss()
    trainer = grt.Trainer(net, [loss, (loss, 0.3), (loss, 0.3)], optim.SGD(0.01), target="null")
    x, y = ((2, 3, 64, 64), "float32"), ((2,), "int64")
    training, evaluation = trainer.training_graph(x, y), trainer.evaluation_graph(x, y)
    assert {"loss", "0_loss", "1_loss", "2_loss", "accuracy"} == training.outputs.keys()
    assert {"loss", "0_loss", "accuracy"} == {n for n in evaluation.outputs if not n.startswith("denominator")}
    assert {"aux1.fc1.weight", "aux2.fc2.bias"} <= training.updates.keys()
    assert not any(n.startswith("aux") for n in evaluation.sources)


def test_networks_that_give_their_input_back_learn() -> None:
    """The variational one by its bound, which is that of hand-written NumPy where nothing is drawn."""
    rng = np.random.default_rng(0)
    x = (rng.random((32, 1, 28, 28)) < 0.2).astype("f")
    for net, loss in ((models.conv_autoencoder(), nn.MSELoss()), (models.vae(), models.vae_loss)):
        trainer = grt.Trainer(net, loss, optim.Adam(0.003), target="reference")
        losses = [trainer.step(x, x)["loss"] for _ in range(8)]
        assert losses[-1] < losses[0]
    g = grt.Graph()
    logits, mean, log_var = (g.input(n, s) for n, s in (("logits", (4, 1, 2, 2)), ("mean", (4, 3)), ("log_var", (4, 3))))
    target = g.input("target", (4, 1, 2, 2))
    g.output("loss", models.vae_loss((logits, mean, log_var), target))
    a, m, v = (rng.standard_normal(s) for s in ((4, 1, 2, 2), (4, 3), (4, 3)))
    t = rng.random((4, 1, 2, 2))
    found = grt.compile(g, target="reference")(
        **{n: z.astype("f") for n, z in zip(("logits", "mean", "log_var", "target"), (a, m, v, t), strict=True)}
    )
    pixels = (np.log1p(np.exp(a)) - a * t).sum() / 4
    divergence = 0.5 * (m**2 + np.exp(v) - v - 1).sum() / 4
    assert found["loss"] == pytest.approx(pixels + divergence, rel=1e-5)


def test_the_loss_of_a_vae_is_of_a_picture() -> None:
    """Whatever the batch, in training, where the code is drawn, and in evaluation."""
    nn.manual_seed(0)
    x = (np.random.default_rng(0).random((22, 1, 8, 8)) < 0.2).astype("f")
    trainer = grt.Trainer(models.vae(64, 16, 4), models.vae_loss, optim.Adam(0.0), target="cpu")
    found = [trainer.evaluate((x, x), size)["loss"] for size in (22, 8, 4)]
    assert found == pytest.approx([found[0]] * 3, rel=1e-5) and 0.8 * found[0] < trainer.step(x, x)["loss"] < 1.2 * found[0]
    assert trainer.predict(x)["out0"].shape == x.shape


def test_a_generator_of_any_width_draws_pictures_of_one_size() -> None:
    with nn.init.skip_init():
        for width in (8, 16, 32):  # 16 has as many channels as a code has numbers
            net, graph = models.dcgan(width=width), grt.Graph()
            assert net(graph.input("z", (2, 64))).shape == (2, 1, 32, 32)
            assert net.discriminator(grt.Graph().input("x", (2, 1, 32, 32))).shape == (2, 1)


@pytest.mark.parametrize("name", ["gpt_small", "char_lstm"])
def test_language_models_learn_and_do_not_look_ahead(name: str) -> None:
    nn.manual_seed(0)
    kind = {"gpt_small": lambda: models.text.GPT(11, 8, 32, 1, 2), "char_lstm": lambda: models.char_lstm(11, 8, 32)}
    net = kind[name]()
    trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.Adam(0.01), target="cpu")
    rng = np.random.default_rng(0)
    start = rng.integers(0, 11, (64, 1))
    text = (start + 3 * np.arange(9)) % 11
    losses = [trainer.step(text[:, :-1], text[:, 1:])["loss"] for _ in range(60)]
    assert losses[0] == pytest.approx(np.log(11), abs=0.3) and losses[-1] < 0.5
    changed = text[:, :-1].copy()
    changed[:, 4:] = 0
    before, after = trainer.predict(text[:, :-1]), trainer.predict(changed)
    np.testing.assert_allclose(before[:, :, :4], after[:, :, :4], rtol=1e-4, atol=1e-4)
    assert np.abs(before[:, :, 4:] - after[:, :, 4:]).max() > 0.1
