"""Networks from image to image: sizes and losses of the papers, beside NumPy and torch, and a training step of small ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, check
from test_functional import TARGET

import graphrt as grt
from graphrt import models, nn, optim
from graphrt import ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.models.diffusion import ResidualBlock, SelfAttention, time_embedding
from graphrt.models.fpn import SmallMaps
from graphrt.models.pix2pix import UNetGenerator
from graphrt.models.style import Maps
from graphrt.models.vgg import features
from graphrt.targets.reference.evaluate import evaluate
from graphrt.train import tasks
from graphrt.train.batch import Batch, spec_of

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
only_here = pytest.mark.skipif(INTERPRETED, reason="no kernel is run, or whole networks, which take too long interpreted")


class Parts(nn.Module):
    """A part of each network, small enough for the interpreter."""

    def __init__(self) -> None:
        self.pooled, self.drawn = models.ASPP(3, 4, (2,), 0.0), UNetGenerator(3, 2, 2, 2, 0.5)
        self.block, self.attention = ResidualBlock(4, 6, 8, 0.0), SelfAttention(6)

    def forward(self, x: grt.Value, time: grt.Value) -> dict[str, grt.Value]:
        y = self.pooled(x)
        return {"drawn": self.drawn(x), "attended": self.attention(self.block(y, time_embedding(time, 8)))}


def test_parts_of_the_networks() -> None:
    """Forward and backward in training mode, beside float64."""
    nn.init.manual_seed(0)
    net, rng, graph = Parts(), np.random.default_rng(1), grt.Graph()
    for p in net.parameters():  # what starts from zeros would hide what is behind it
        p.array[...] += 0.1 * rng.standard_normal(p.shape).astype(np.float32)
    found = net(graph.input("x", (2, 3, 8, 8)), graph.input("time", (2,), "int64"))
    loss = F.mean(F.square(found["drawn"])) + F.mean(F.square(found["attended"]))
    for p, g in zip(graph.parameters(), grt.grad(loss, graph.parameters()), strict=True):
        graph.output(f"d {p.name}", g)
    for name, value in found.items():
        graph.output(name, value)
    F.manual_seed(graph, 3)
    check(graph, {"x": rng.standard_normal((2, 3, 8, 8)).astype("f"), "time": np.array([3, 700])}, TARGET, 2000)


SMALL: dict[str, tuple[Any, dict[str, Any], tuple[int, ...], tuple[int, ...] | None]] = {
    "deeplab": (
        lambda: models.SegmentationNet(SmallMaps((4, 6), 2), models.deeplab_head(6, 4, 4, (2,), 0.0), nn.Conv2d(4, 4, 1)),
        {"loss": [nn.CrossEntropyLoss(), (nn.CrossEntropyLoss(), 0.5)], "optimizer": optim.SGD(0.05)},
        (4, 3, 13, 10),
        None,
    ),
    "pix2pix": (
        lambda: models.pix2pix(1, 3, 4, 3, 1),
        {
            "step": models.pix2pix_step,
            "optimizer": {part: optim.SGD(lr) for part, lr in (("discriminator", 0.1), ("generator", 0.002))},
        },
        (4, 1, 16, 16),
        (4, 3, 16, 16),
    ),
    "diffusion": (
        lambda: models.ddpm(1, 8, (1, 1), 1, (1,), 0.1, 50),
        {"loss": models.diffusion_loss, "optimizer": optim.SGD(0.1)},
        (16, 1, 8, 8),
        (16,),
    ),
}


@only_here
@pytest.mark.parametrize(
    "name", ["pix2pix", *(pytest.param(name, marks=pytest.mark.proof) for name in ("deeplab", "diffusion"))]
)
def test_a_training_step(name: str) -> None:
    """One program: the loss and what is updated are those of the float64 reference, and the loss falls."""
    build, arguments, shape, goal = SMALL[name]
    nn.init.manual_seed(0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    y: Any = rng.integers(0, 4, (shape[0], *shape[2:]))
    if goal is not None:
        y = np.tanh(rng.standard_normal(goal)).astype(np.float32)
    trainer = grt.Trainer(build(), metrics=(), target="cpu", **arguments)
    graph = trainer.training_graph(spec_of(x), spec_of(y))
    named = {**Batch(x, y).named(), "lr": trainer.optimizer.lr}
    exact = evaluate(graph, {**graph.initial, **named})
    program = trainer.program("train", x, y)
    found = program(named)
    for n, v in graph.outputs.items():
        assert found[n] == pytest.approx(float(exact[v]), rel=1e-4), n
    trained = {n for n, _ in trainer.net.named_parameters()}
    assert trained <= graph.updates.keys(), "every parameter is updated"
    steps = {n: (program.state[n] - graph.initial[n], exact[graph.updates[n]] - graph.initial[n]) for n in trained}
    for part in trainer.parts or [""]:
        own = {n: pair for n, pair in steps.items() if n.startswith(part)}
        largest = max(float(np.abs(wanted).max()) for _, wanted in own.values())
        for n, (step, wanted) in own.items():
            np.testing.assert_allclose(step, wanted, rtol=5e-3, atol=1e-3 * largest, err_msg=n)
    losses = [float(found["loss"]), *(trainer.step(x, y)["loss"] for _ in range(11))]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]), losses


# --- DeepLab ------------------------------------------------------------------------------------------------------


@only_here
def test_the_trunk_of_deeplab_keeps_an_eighth_of_the_size() -> None:
    with nn.init.skip_init():
        net = models.deeplabv3_resnet50(5, aux_loss=True)
    x = grt.Graph().input("x", (2, 3, 65, 97))
    assert [m.shape for m in net.backbone(x)] == [(2, 1024, 9, 13), (2, 2048, 9, 13)]
    assert [v.shape for v in net(x)] == [(2, 5, 65, 97)] * 2 and net.eval()(x).shape == (2, 5, 65, 97)
    rates = [block.conv2.dilation for stage in (net.backbone.layer3, net.backbone.layer4) for block in stage]
    assert rates == [1, 2, 2, 2, 2, 2, 2, 4, 4]


@only_here
@pytest.mark.proof
@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fcn_resnet50"])
def test_segmentation_networks_are_those_of_torchvision(name: str) -> None:
    """With the same random weights, loaded by name, and as many of them; an odd size."""
    try:
        from torchvision.models import segmentation
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs a torchvision that goes with this torch: {error}")
    torch.manual_seed(0)
    theirs = getattr(segmentation, name)(weights=None, weights_backbone=None, aux_loss=True)
    rng = np.random.default_rng(0)
    for key, tensor in theirs.state_dict().items():  # statistics that show
        if key.endswith("running_var"):
            tensor.copy_(torch.from_numpy(rng.uniform(0.5, 1.0, tensor.shape)))
        elif key.endswith("running_mean"):
            tensor.copy_(torch.from_numpy(rng.normal(0, 0.1, tensor.shape)))
    with nn.init.skip_init():
        ours = getattr(models, name)(aux_loss=True)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    report = grt.load_weights(ours, theirs.state_dict())
    assert not report.missing and not report.unexpected and not report.mismatched
    x = rng.standard_normal((1, 3, 65, 49)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs.eval().double()(torch.from_numpy(x).double())["out"].numpy()
    found = grt.compile(ours, (x,), target="cpu")(x)
    np.testing.assert_allclose(found / np.abs(wanted).max(), wanted / np.abs(wanted).max(), atol=1e-4)


# --- pix2pix ------------------------------------------------------------------------------------------------------


@only_here
def test_a_logit_of_pix2pix_sees_a_patch() -> None:
    """Of 70, 34 or 16 pixels, as in the paper: what lies outside has no gradient."""
    for layers, size in ((3, 70), (2, 34), (1, 16)):
        net, graph = models.patch_discriminator(1, 4, layers).eval(), grt.Graph()
        x = graph.input("x", (1, 1, 96, 96))
        logits = net(x)
        middle = logits.shape[2] // 2
        (dx,) = grt.grad(logits[0, 0, middle, middle], [x])
        seen = grt.compile(dx, target="reference")(x=np.random.default_rng(0).standard_normal((1, 1, 96, 96)).astype("f"))
        rows = np.flatnonzero(np.abs(seen[0, 0]).max(1))
        assert rows[-1] - rows[0] + 1 == size


@only_here
def test_what_pix2pix_refuses() -> None:
    with pytest.raises(ShapeError, match="3 halvings need sizes that 8 divides"):
        models.pix2pix(1, 1, 4, 3)(grt.Graph().input("x", (1, 1, 16, 12)))
    with pytest.raises(ArgumentError, match="depth must be at least 2"):
        models.pix2pix(depth=1)


# --- diffusion ----------------------------------------------------------------------------------------------------


class Finds(nn.Module):
    """The noise in pictures of which all pixels are ``value``, or with None the noisy pictures themselves."""

    def __init__(self, value: float | None) -> None:
        self.value = value
        self.of: Callable[[], models.Diffusion]  # which it is a part of

    def forward(self, input: grt.Value, time: grt.Value) -> grt.Value:
        if self.value is None:
            return input
        diffusion = self.of()
        signal, noise = (diffusion.at(b, time, input) for b in (diffusion.signal, diffusion.noise))
        return (input - signal * self.value) / noise


def test_noise_is_added_by_the_schedule() -> None:
    """Each picture is seen at a time of its own, at which the noise has the variance that the picture has lost."""
    net = models.Diffusion(Finds(None), 1000)
    assert net.beta.array[0] == np.float32(1e-4) and net.beta.array[-1] == np.float32(0.02)
    left = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(net.signal.array**2, left, rtol=1e-5)
    graph = grt.Graph()
    x = np.full((64, 1, 2, 2), 0.5, np.float32)
    for name, value in zip(("noisy", "noise"), net(graph.input("x", x.shape)), strict=True):
        graph.output(name, value)
    F.manual_seed(graph, 1)
    found = grt.compile(graph, target=TARGET)(x=x)
    away = (
        found["noisy"]
        - np.sqrt(left)[:, None, None, None, None] * x
        - np.sqrt(1 - left)[:, None, None, None, None] * found["noise"]
    )
    away = np.abs(away).max((2, 3, 4))  # [1000, 64]
    assert away.min(0).max() < 1e-5, "a time explains each"
    times = away.argmin(0)
    assert len(set(times.tolist())) > 50 and times.min() < 200 and times.max() > 800


def test_sampling_with_perfect_knowledge_ends_in_the_picture() -> None:
    """The noise that is in x_t if the picture is known leads there; a step is the paper's, and the seed decides."""
    net = models.Diffusion(Finds(0.25), 4, (0.05, 0.5))
    net.net.of = lambda: net
    drawn = models.ddpm_sample(net, (2, 1, 4, 4), 5, TARGET)
    np.testing.assert_allclose(drawn, 0.25, atol=1e-5)
    x, time = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 1, 4, 4), 2
    graph = nn.trace(models.Denoise(net), (x, np.int64(0)))
    F.manual_seed(graph, 2)
    program = grt.compile(graph, target=TARGET)
    beta, left = (a.astype(np.float64)[time] for a in (net.beta.array, net.signal.array**2))
    eps = (x - np.sqrt(left) * 0.25) / np.sqrt(1 - left)
    mean = (x - beta / np.sqrt(1 - left) * eps) / np.sqrt(1 - beta)
    steps = np.stack([program(x, np.int64(time)) for _ in range(300 if not INTERPRETED else 8)])
    noise = (steps - mean) / np.sqrt(beta)
    assert abs(noise.mean()) < 0.15 and noise.std() == pytest.approx(1.0, abs=0.1)


@only_here
def test_schedules_that_make_no_sense() -> None:
    with pytest.raises(ArgumentError, match="betas must rise"):
        models.Diffusion(Finds(None), 10)
    with pytest.raises(ArgumentError, match="even and at least 4"):
        time_embedding(grt.Graph().input("t", (3,), "int64"), 3)


# --- style --------------------------------------------------------------------------------------------------------


def small_vgg() -> nn.Sequential:
    nn.init.manual_seed(0)
    net = features(((4,), (6, 6)), False)
    for p in net.parameters():
        nn.init.normal_(p, std=0.4)
    return net


def test_the_loss_of_style_transfer() -> None:
    """Its parts and the gradient of the picture, beside torch."""
    rng, net = np.random.default_rng(0), small_vgg()
    content, style = rng.random((3, 12, 10)).astype("f"), rng.random((3, 8, 14)).astype("f")
    start = rng.random((1, 3, 12, 10)).astype("f")
    weights = {"content": 2.0, "style": 3.0, "variation": 0.5}
    loss = models.StyleLoss(net, content, style, ("conv2_2",), ("conv1_1", "conv2_1"), weights, TARGET)
    graph = grt.Graph()
    picture = graph.input("picture", start.shape)
    found = {**loss(picture)}
    (found["dx"],) = grt.grad(found["loss"], [picture])
    results = grt.compile(found, target=TARGET)(picture=start)

    def maps(x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = (x - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        kept = {}
        convs = iter([m for m in net if isinstance(m, nn.Conv2d)])
        for name in ("conv1_1", "conv2_1", "conv2_2"):
            conv = next(convs)
            x = T.avg_pool2d(x, 2) if name == "conv2_1" else x
            x = kept[name] = T.relu(
                T.conv2d(x, *(torch.from_numpy(p.array).double() for p in (conv.weight, conv.bias)), padding=1)
            )
        return kept

    def gram(x: torch.Tensor) -> torch.Tensor:
        rows = x[0].flatten(1)
        return rows @ rows.T / rows.numel()

    x = torch.from_numpy(start).double().requires_grad_()
    here, of_content, of_style = maps(x), *(maps(torch.from_numpy(p[None]).double()) for p in (content, style))
    wanted = {
        "content": ((here["conv2_2"] - of_content["conv2_2"]) ** 2).mean(),
        "style": sum(((gram(here[n]) - gram(of_style[n])) ** 2).sum() for n in ("conv1_1", "conv2_1")) / 2,
        "variation": (x.diff(dim=2) ** 2).mean() + (x.diff(dim=3) ** 2).mean(),
    }
    total = sum(wanted[n] * w for n, w in weights.items())
    (slope,) = torch.autograd.grad(total, [x])
    for n, value in {**wanted, "loss": total}.items():
        assert results[n] == pytest.approx(value.item(), rel=1e-4), n
    np.testing.assert_allclose(results["dx"], slope, atol=1e-5 * float(slope.abs().max()) + 1e-7)


@only_here
def test_a_picture_takes_another_style() -> None:
    rng = np.random.default_rng(0)
    content, style = rng.random((3, 12, 12)).astype("f"), rng.random((3, 12, 12)).astype("f") ** 4
    loss = models.StyleLoss(small_vgg(), content, style, ("conv2_2",), ("conv1_1",), {"style": 10.0}, "reference")
    graph = grt.Graph()
    program = grt.compile(loss(graph.input("picture", (1, 3, 12, 12))), target="reference")
    moved = models.style_transfer(loss, content, steps=60, target="reference")
    before, after = program(picture=content[None]), program(picture=moved[None])
    assert before["content"] == pytest.approx(0, abs=1e-9) and after["style"] < 0.2 * before["style"]
    assert program(picture=style[None])["style"] == pytest.approx(0, abs=1e-9)
    assert moved.shape == (3, 12, 12) and moved.min() >= 0 and moved.max() <= 1
    assert all(not p.trainable for p in loss.parameters()), "the picture is the only parameter"


@only_here
def test_what_style_transfer_refuses() -> None:
    picture = np.zeros((3, 8, 8), np.float32)
    with pytest.raises(ArgumentError, match="no layer conv3_1"):
        Maps(small_vgg(), ["conv1_1", "conv3_1"])
    with pytest.raises(ShapeError, match=r"style must be \[3, H, W\]"):
        models.StyleLoss(small_vgg(), picture, picture[0])
    with pytest.raises(ArgumentError, match="weights are of content"):
        models.StyleLoss(small_vgg(), picture, picture, ("conv1_1",), ("conv1_1",), {"colour": 1.0})


# --- sizes --------------------------------------------------------------------------------------------------------


def test_a_program_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    """No more than the limit are kept, those used last; all read the module's own weights."""
    nn.init.manual_seed(0)
    net = nn.Conv2d(1, 1, 1, bias=False)
    by_shape = nn.ByShape(net, limit=2, target=TARGET)
    a, b, c = (np.ones((1, 1, 2, n), np.float32) for n in (3, 4, 5))
    for x in (a, b, a, c, a):
        assert by_shape(x).shape == x.shape
    assert [key[0][1].shape[-1] for key in by_shape.programs] == [5, 3]
    assert capsys.readouterr().err.count("compiled Conv2d") == 3
    net.weight.array[...] = 7.0
    assert (by_shape(a) == 7.0).all() and not capsys.readouterr().err
    by_shape(b)
    assert capsys.readouterr().err.count("compiled Conv2d") == 1, "it was the one used longest ago"
    with pytest.raises(ArgumentError, match="do not fit Conv2d.forward"):
        by_shape(a, a)

    class Sum(nn.Module):
        def forward(self, first: Any, *, scale: float = 1.0, **others: Any) -> Any:
            return sum(others.values(), first * scale)

    total = nn.ByShape(Sum(), target=TARGET, progress=False)
    for given in ({"p": a, "q": a}, {"p": a, "q": a, "scale": 2.0}, {"p": a, "q": a}):
        assert (total(a, **given) == given.get("scale", 1.0) + 2.0).all()
    assert len(total.programs) == 2
    with pytest.raises(ArgumentError, match="at least 1"):
        nn.ByShape(net, limit=0)


# --- tasks --------------------------------------------------------------------------------------------------------


@only_here
@pytest.mark.parametrize("name", ["pix2pix", "diffusion"])
def test_tasks_make_what_training_needs(name: str) -> None:
    task = tasks.get(name)
    held, other = task.held_out(0, 4), task.pictures(4, 0)
    assert held.x.shape == other.x.shape == (4, 1, task.size, task.size) and not np.array_equal(held.x, other.x)
    assert held.x.min() >= -1 and held.x.max() <= 1
    if name == "pix2pix":
        trainer = task.trainer(0, "reference")
        assert task.show(trainer, held, 4).shape[2] == 3
        assert task.figures(trainer, held)["l1_gain"] == 1.0, "it is not trained"


@only_here
@pytest.mark.proof
def test_the_samples_of_the_page_run() -> None:
    names: dict[str, Any] = {"grt": grt}
    for sample in re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "images.md").read_text(), re.DOTALL):
        exec(sample.replace("train(seed=0)", "train(seed=0, share=0.02, progress=False)"), names)
