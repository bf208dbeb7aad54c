"""Convolutions of every rank, transposed and local ones, unfold and the shuffles, beside torch in float64."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, assert_close, check, examples
from hypothesis import given, settings
from test_functional import TARGET, Call, compare, data, same

import graphrt as grt
from graphrt import nn
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


@st.composite
def cases(draw: st.DrawFn, rank: int, transposed: bool = False) -> dict[str, Any]:
    """Sizes and arguments of a convolution that exists, all dimensions drawn on their own."""
    many = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    kernel, dilation, stride = many(1, 3), many(1, 2), many(1, 3)
    size = tuple(d * (k - 1) + 1 + draw(st.integers(0, 3)) for k, d in zip(kernel, dilation, strict=True))
    arguments: dict[str, Any] = {
        "stride": stride,
        "padding": tuple(draw(st.integers(0, d * (k - 1) // 2)) for k, d in zip(kernel, dilation, strict=True)),
        "dilation": dilation,
        "groups": draw(st.sampled_from([1, 1, 2, 3])),
    }
    if transposed:
        arguments["output_padding"] = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    g, c, k = arguments["groups"], draw(st.integers(1, 3)), draw(st.integers(1, 3))
    batch = draw(st.sampled_from([(), (1,), (2,)]))
    weight = (c * g, k, *kernel) if transposed else (k * g, c, *kernel)
    return {"x": (*batch, c * g, *size), "w": weight, "b": (k * g,), "arguments": arguments}


def call(name: str, case: dict[str, Any]) -> Call:
    return same(name, [data(*case["x"]), data(*case["w"], seed=1), data(*case["b"])], **case["arguments"])


@given(st.data())
@settings(max_examples=examples(8, 2))
def test_convolutions(draw: st.DataObject) -> None:
    drawn = {f"conv{r}d {i}": draw.draw(cases(r)) for r in (1, 2, 3) for i in range(1 if INTERPRETED else 2)}
    compare({f"{name} {c}": call(name.split()[0], c) for name, c in drawn.items()}, 100)


@given(st.data())
@settings(max_examples=examples(8, 2))
def test_transposed_convolutions(draw: st.DataObject) -> None:
    drawn = {f"conv_transpose{r}d {i}": draw.draw(cases(r, True)) for r in (1, 2, 3) for i in range(1 if INTERPRETED else 2)}
    compare({f"{name} {c}": call(name.split()[0], c) for name, c in drawn.items()}, 100)


def test_padding_forms() -> None:
    calls: dict[str, Call] = {}
    sizes = (7, 8, 6)
    for rank in (1, 2, 3):
        x, w = data(2, 3, *sizes[:rank]), data(4, 3, *(3, 2, 4)[:rank])
        for padding in ("same", "valid"):
            calls[f"{padding} {rank}"] = same(f"conv{rank}d", [x, w], padding=padding, dilation=(1, 3, 1)[:rank])
        pairs = ((1, 0), (0, 2), (3, 1))[:rank]
        calls[f"uneven {rank}"] = (
            lambda x, w, r=rank, p=pairs: F.FUNCTIONS[f"conv{r}d"](x, w, padding=p),
            lambda x, w, r=rank, p=pairs: getattr(T, f"conv{r}d")(T.pad(x, [n for q in reversed(p) for n in q]), w),
            [x, w],
        )
    calls["transposed uneven"] = (
        lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=((1, 0), (0, 2))),
        lambda x, w: T.conv_transpose2d(x, w, stride=2)[:, :, 1:, :-2],
        [data(2, 3, 4, 5), data(3, 2, 3, 3)],
    )
    compare(calls, 100)


def test_empty_batch() -> None:
    calls = {f"conv{r}d": same(f"conv{r}d", [data(0, 2, *(5,) * r), data(3, 2, *(3,) * r), data(3)], padding=1) for r in (1, 2)}
    calls["transposed"] = same("conv_transpose2d", [data(0, 2, 5, 5), data(2, 3, 3, 3)], stride=2)
    compare(calls)


def test_numbers_from_the_lectures() -> None:
    graph = grt.Graph()
    x, w = graph.input("x", (1, 3, 32, 32)), graph.input("w", (10, 3, 5, 5))
    assert F.conv2d(x, w, stride=1, padding=2).shape == (1, 10, 32, 32)
    assert F.conv2d(graph.input("s", (1, 1, 7, 7)), graph.input("v", (1, 1, 3, 3)), stride=2).shape == (1, 1, 3, 3)


def test_local_convolution() -> None:
    """Each output position against a plain convolution of its own window with its own filter."""

    def theirs(x: Any, w: Any, b: Any) -> Any:
        p, q, k, c, r, s = w.shape
        columns = T.unfold(x, (r, s), padding=(1, 0), stride=(2, 1))
        y = torch.einsum("lkj,njl->nkl", w.reshape(p * q, k, -1), columns)
        return y.reshape(x.shape[0], k, p, q) + b

    shapes = [(2, 3, 5, 4), (3, 3, 4, 3, 3, 2), (4, 3, 3)]
    compare(
        {
            "local": (
                lambda x, w, b: F.local_conv2d(x, w, b, stride=(2, 1), padding=(1, 0)),
                theirs,
                [data(*s, seed=i) for i, s in enumerate(shapes)],
            )
        },
        60,
    )


def test_unfold_and_shuffles() -> None:
    x = data(2, 3, 7, 6)
    calls = {
        "unfold": same("unfold", [x], kernel_size=(3, 2), dilation=(2, 1), padding=(1, 0), stride=(1, 2)),
        "unfold one": same("unfold", [data(3, 5, 5)], kernel_size=2),
        "fold one": same("fold", [data(12, 16)], output_size=5, kernel_size=2),
        "fold far": same("fold", [data(1, 4, 4)], output_size=6, kernel_size=2, stride=3),
        "windows": (lambda x: x.unfold(2, 3, 2) * 1.0, lambda x: x.unfold(2, 3, 2), [x]),
        "windows last": (lambda x: F.windows(x, -1, 2, 1) * 1.0, lambda x: x.unfold(-1, 2, 1), [x]),
        "windows whole": (lambda x: F.windows(x, 0, 2, 5) * 1.0, lambda x: x.unfold(0, 2, 5), [x]),
        "pixel_shuffle": same("pixel_shuffle", [data(2, 12, 3, 2)], upscale_factor=2),
        "pixel_shuffle bare": same("pixel_shuffle", [data(9, 3, 2)], upscale_factor=3),
        "pixel_unshuffle": same("pixel_unshuffle", [data(2, 3, 6, 4)], downscale_factor=2),
        "channel_shuffle": same("channel_shuffle", [data(2, 6, 3, 2)], groups=3),
    }
    calls["fold"] = same(
        "fold", [data(2, 18, 15)], output_size=(7, 6), kernel_size=(3, 2), dilation=(2, 1), padding=(1, 0), stride=(1, 2)
    )
    compare(calls, 30)


def test_half_precision_stays() -> None:
    graph = grt.Graph()
    x = graph.input("x", (1, 2, 4, 4), "float16")
    w, v = graph.input("w", (3, 2, 3, 3), "float16"), graph.input("v", (2, 3, 3, 3), "float16")
    for y in (F.conv2d(x, w, padding=1), F.conv_transpose2d(x, v, stride=2), F.fold(F.unfold(x, 2), 4, 2)):
        assert y.dtype.name == "float16"


LAYERS: dict[str, tuple[Callable[[Any], Any], tuple[int, ...]]] = {
    f"conv{r} {mode}": (
        lambda m, r=r, mode=mode: getattr(m, f"Conv{r}d")(4, 6, 3, 2, 1, groups=2, padding_mode=mode),
        (2, 4, *(6, 5, 4)[:r]),
    )
    for r in (1, 2, 3)
    for mode in ("zeros", "reflect", "replicate", "circular")
} | {
    "same circular": (lambda m: m.Conv2d(1, 2, (3, 4), padding="same", padding_mode="circular"), (1, 1, 5, 5)),
    "transposed1": (lambda m: m.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2), (2, 4, 5)),
    "transposed2": (lambda m: m.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, dilation=2), (4, 5, 4)),
    "transposed3": (lambda m: m.ConvTranspose3d(4, 6, 3, 2, bias=False), (2, 4, 2, 3, 2)),
    "unfold": (lambda m: m.Unfold(2, padding=1), (1, 2, 3, 3)),
    "fold": (lambda m: m.Fold(4, 3, padding=1), (1, 9, 16)),
    "shuffle": (lambda m: m.PixelShuffle(2), (1, 4, 3, 3)),
    "unshuffle": (lambda m: m.PixelUnshuffle(3), (1, 1, 3, 6)),
    "channels": (lambda m: m.ChannelShuffle(2), (1, 4, 3, 3)),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("groups", [1, 6])
def test_halves_behind_a_prologue(dtype: str, groups: int, rng: np.random.Generator) -> None:
    """A batch norm before, which is not 0 at 0, and the gradient behind: operands that a loader computes and rounds."""
    g = grt.Graph()
    x, w = g.input("x", (3, 6, 7, 5), dtype), g.input("w", (6, 6 // groups, 3, 3), dtype)
    scale, shift = g.input("scale", (6, 1, 1)), g.input("shift", (6, 1, 1))
    a = F.cast(F.relu(F.cast(x, "float32") * scale + shift), dtype)
    y = F.conv2d(a, w, padding=1, groups=groups)
    g.output("y", y)
    for name, d in zip(("dx", "dw"), grt.grad(F.sum(F.cast(y * y, "float32")), [x, w]), strict=True):
        g.output(name, d)
    inputs = {"x": x, "w": w, "scale": scale, "shift": shift}
    feeds = {n: rng.standard_normal(v.shape).astype(v.dtype.numpy) for n, v in inputs.items()}
    check(g, feeds, TARGET, 9 * 6)


@given(st.data())
@settings(max_examples=examples(8, 2))
def test_pixels_of_1x1_convolutions(draw: st.DataObject) -> None:
    """With what differs by image, by row, by column and by channel around them, however images lie, and their gradients."""
    n, c, k, h, w = (draw.draw(st.integers(1, high)) for high in (3, 9, 40, 6, 6))
    stride, last, half = draw.draw(st.tuples(st.integers(1, 2), st.booleans(), st.booleans()))
    rng = np.random.default_rng(draw.draw(st.integers(0, 2**32)))
    g = grt.Graph()
    x = g.input("x", (n, h, w, c) if last else (n, c, h, w))
    image = F.permute(x, (0, 3, 1, 2)) if last else x
    p, q = -(-h // stride), -(-w // stride)
    before, after = (g.input("before", draw.draw(part(n, c, h, w))), g.input("after", draw.draw(part(n, k, p, q))))
    weight = g.parameter("w", rng.standard_normal((k, c, 1, 1)).astype("f"))
    with g.autocast("bfloat16", enabled=half):
        y = F.relu(F.conv2d(image * before, weight, stride=stride) * after)
    gradients = grt.grad(F.sum(y * 0.5), [x, weight])
    for name, v in zip(("y", "dx", "dw"), (y, *gradients), strict=True):
        g.output(name, F.cast(v, "bfloat16") if half else v)
    feeds = {"x": x, "before": before, "after": after}
    check(g, {name: rng.standard_normal(v.shape).astype("f") for name, v in feeds.items()}, TARGET, 4 * c)


@pytest.mark.skipif(INTERPRETED, reason="of the templates in C")
@pytest.mark.parametrize(("channels", "outputs", "kernel", "stride"), [(40, 160, 1, 1), (24, 130, 1, 2), (72, 400, 3, 2)])
def test_gradients_of_filters_with_several_blocks_of_channels(
    channels: int, outputs: int, kernel: int, stride: int, rng: np.random.Generator
) -> None:
    """A task packs the input once for a few of them, the last of which is not full."""
    g, size = grt.Graph(), 14 if kernel > 1 else 30
    x = g.input("x", (8, channels, size, size))
    w = g.parameter("w", shape=(outputs, channels, kernel, kernel))
    y = F.conv2d(x, w, stride=stride, padding=kernel // 2)
    g.output("dw", grt.grad(F.sum(y * g.input("dy", y.shape)), [w])[0])
    feeds = {"x": rng.standard_normal(x.shape).astype("f"), "dy": rng.standard_normal(y.shape).astype("f")}
    check(g, feeds, "cpu", y.type.size // outputs)


def part(*shape: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes that are broadcast to ``shape``."""
    return st.tuples(*(st.sampled_from([1, size]) for size in shape))


@pytest.mark.skipif(INTERPRETED, reason="looks at C")
def test_pixels_of_1x1_convolutions_are_found_without_divisions() -> None:
    graph = grt.Graph()
    x = F.permute(graph.input("x", (2, 6, 5, 16)), (0, 3, 1, 2))
    y = F.relu(
        F.conv2d(F.relu(F.conv2d(x, graph.parameter("v", shape=(32, 16, 1, 1)))), graph.parameter("w", shape=(16, 32, 1, 1)))
        + x
    )
    graph.output("y", y)
    graph.output("dx", grt.grad(F.sum(y * y), [x])[0])
    closures = re.findall(r"^GRT_INLINE \w+ \w+_(?:X|DY|store)\(.*?^}", grt.compile(graph, target="cpu").source(), re.M | re.S)
    assert len(closures) == 8 and not [text for text in closures if re.search("[/%]", text)]


def test_layers() -> None:
    graph, feeds, expected = grt.Graph(), dict[str, Any](), dict[str, Any]()
    for i, (name, (build, shape)) in enumerate(LAYERS.items()):
        theirs, ours = build(torch.nn), build(nn)
        ours.load_state_dict(theirs.state_dict())
        for n, p in ours.named_parameters():
            p.name = f"{i}.{n}"
        feeds[f"x{i}"] = data(*shape)
        token = nn.Sequential({f"layer{i}": ours})
        graph.output(name, token(graph.input(f"x{i}", shape)))
        expected[name] = theirs.double()(torch.from_numpy(feeds[f"x{i}"]).double()).detach().numpy()
    outputs = grt.compile(graph, target=TARGET)(feeds)
    for name, value in expected.items():
        assert_close(outputs[name], value, 60, name)


def test_initial_weights_as_torch() -> None:
    """Bounds of the uniform distributions: 1/sqrt(fan in), which torch counts on the second dimension of the weight."""
    for ours, theirs in (
        (nn.ConvTranspose2d(8, 32, 3, groups=2), torch.nn.ConvTranspose2d(8, 32, 3, groups=2)),
        (nn.Conv3d(8, 32, 3), torch.nn.Conv3d(8, 32, 3)),
    ):
        for name, p in ours.named_parameters():
            t = theirs.state_dict()[name].numpy()
            assert p.shape == t.shape
            assert np.abs(p.array).max() == pytest.approx(np.abs(t).max(), rel=0.12)
    local = nn.LocalConv2d(2, 3, (5, 4), 3, stride=2, padding=1)
    assert local(grt.Graph().input("x", (1, 2, 5, 4))).shape == (1, 3, 3, 2)


def _x(g: grt.Graph, *shape: int, dtype: str = "float32") -> grt.Value:
    return g.input(f"i{len(g.sources)}", shape, dtype)


BAD: list[tuple[str, Callable[[grt.Graph], Any]]] = [
    ("conv1d rank", lambda g: F.conv1d(_x(g, 5), _x(g, 1, 1, 2))),
    ("conv1d channels", lambda g: F.conv1d(_x(g, 1, 3, 5), _x(g, 1, 2, 2))),
    ("conv1d filter too long", lambda g: F.conv1d(_x(g, 1, 1, 2), _x(g, 1, 1, 3))),
    ("conv2d weight", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), "w")),
    ("conv2d stride", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), _x(g, 1, 1, 2, 2), stride=0)),
    ("conv2d stride of floats", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), _x(g, 1, 1, 2, 2), stride=1.5)),
    ("conv2d padding", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), _x(g, 1, 1, 2, 2), padding=-1)),
    ("conv2d padding text", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), _x(g, 1, 1, 2, 2), padding="full")),
    ("conv2d padding none", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), _x(g, 1, 1, 2, 2), padding=None)),
    ("conv2d same stride", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), _x(g, 1, 1, 2, 2), padding="same", stride=2)),
    ("conv2d groups", lambda g: F.conv2d(_x(g, 1, 4, 4, 4), _x(g, 3, 2, 2, 2), groups=2)),
    ("conv2d groups 0", lambda g: F.conv2d(_x(g, 1, 4, 4, 4), _x(g, 3, 2, 2, 2), groups=0)),
    ("conv2d bias", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), _x(g, 3, 1, 2, 2), _x(g, 2))),
    ("conv2d dtype", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), _x(g, 3, 1, 2, 2, dtype="float64"))),
    ("conv3d depth", lambda g: F.conv3d(_x(g, 1, 1, 2, 4, 4), _x(g, 1, 1, 3, 3, 3))),
    ("conv3d rank", lambda g: F.conv3d(_x(g, 4, 4, 4), _x(g, 1, 1, 3, 3, 3))),
    ("conv3d dilation", lambda g: F.conv3d(_x(g, 1, 1, 4, 4, 4), _x(g, 1, 1, 3, 3, 3), dilation=(1, 2))),
    ("empty filter", lambda g: F.conv2d(_x(g, 1, 1, 4, 4), _x(g, 1, 1, 0, 2))),
    ("transposed channels", lambda g: F.conv_transpose2d(_x(g, 1, 3, 4, 4), _x(g, 2, 1, 2, 2))),
    ("transposed output_padding", lambda g: F.conv_transpose2d(_x(g, 1, 1, 4, 4), _x(g, 1, 1, 2, 2), output_padding=1)),
    ("transposed padding", lambda g: F.conv_transpose1d(_x(g, 1, 1, 1), _x(g, 1, 1, 2), padding=1)),
    ("transposed same", lambda g: F.conv_transpose3d(_x(g, 1, 1, 1, 1, 1), _x(g, 1, 1, 2, 2, 2), padding="same")),
    ("transposed bias", lambda g: F.conv_transpose1d(_x(g, 1, 1, 3), _x(g, 1, 4, 2), _x(g, 1))),
    ("transposed dtype", lambda g: F.conv_transpose1d(_x(g, 1, 1, 3, dtype="int32"), _x(g, 1, 4, 2, dtype="int32"))),
    ("local weight", lambda g: F.local_conv2d(_x(g, 1, 2, 4, 4), _x(g, 3, 3, 1, 1, 2, 2))),
    ("local positions", lambda g: F.local_conv2d(_x(g, 1, 2, 4, 4), _x(g, 4, 3, 1, 2, 2, 2))),
    ("local bias", lambda g: F.local_conv2d(_x(g, 1, 2, 4, 4), _x(g, 3, 3, 1, 2, 2, 2), _x(g, 1))),
    ("unfold too big", lambda g: F.unfold(_x(g, 1, 1, 3, 3), 4)),
    ("unfold rank", lambda g: F.unfold(_x(g, 3, 3), 2)),
    ("unfold kernel", lambda g: F.unfold(_x(g, 1, 1, 3, 3), (1, 2, 3))),
    ("fold count", lambda g: F.fold(_x(g, 1, 4, 5), 3, 2)),
    ("fold channels", lambda g: F.fold(_x(g, 1, 5, 4), 3, 2)),
    ("fold rank", lambda g: F.fold(_x(g, 1, 1, 4, 4), 3, 2)),
    ("fold size", lambda g: F.fold(_x(g, 1, 4, 4), 0, 2)),
    ("windows dim", lambda g: F.windows(_x(g, 3), 1, 2, 1)),
    ("windows size", lambda g: F.windows(_x(g, 3), 0, 4, 1)),
    ("windows step", lambda g: F.windows(_x(g, 3), 0, 2, 0)),
    ("pixel_shuffle channels", lambda g: F.pixel_shuffle(_x(g, 1, 3, 2, 2), 2)),
    ("pixel_shuffle factor", lambda g: F.pixel_shuffle(_x(g, 1, 4, 2, 2), 0)),
    ("pixel_shuffle rank", lambda g: F.pixel_shuffle(_x(g, 4, 2), 2)),
    ("pixel_unshuffle size", lambda g: F.pixel_unshuffle(_x(g, 1, 4, 3, 2), 2)),
    ("pixel_unshuffle factor", lambda g: F.pixel_unshuffle(_x(g, 1, 4, 4, 2), 2.0)),
    ("pixel_unshuffle rank", lambda g: F.pixel_unshuffle(_x(g, 4, 4), 2)),
    ("channel_shuffle groups", lambda g: F.channel_shuffle(_x(g, 1, 4, 2), 3)),
    ("channel_shuffle zero", lambda g: F.channel_shuffle(_x(g, 1, 4, 2), 0)),
    ("channel_shuffle rank", lambda g: F.channel_shuffle(_x(g, 4, 2), 2)),
    ("conv op 5-D", lambda g: g.append(grt.op.REGISTRY["conv"], [_x(g, 1, 1, 3, 3, 3), _x(g, 1, 1, 1, 1, 1)], _five())),
    ("layer groups", lambda g: nn.Conv1d(3, 4, 2, groups=2)),
    ("layer padding_mode", lambda g: nn.Conv3d(3, 4, 2, padding_mode="mirror")),
    ("layer transposed padding_mode", lambda g: nn.ConvTranspose1d(3, 4, 2, padding_mode="reflect")),
    ("layer local", lambda g: nn.LocalConv2d(1, 1, 3, 4)),
]


def _five() -> dict[str, Any]:
    return dict(stride=(1,) * 3, padding=((0, 0),) * 3, dilation=(1,) * 3, groups=1)


@pytest.mark.skipif(INTERPRETED, reason="plans for a GPU are made in the lane that compiles")
def test_depthwise_convolutions_have_kernels_of_their_own_on_gpus() -> None:
    graph = grt.Graph()
    x, w = graph.input("x", (2, 32, 14, 14)), graph.parameter("w", shape=(32, 1, 3, 3))
    graph.output("y", y := F.conv2d(x, w, padding=1, groups=32))
    for name, d in zip("xw", grt.grad(F.sum(y * y), [x, w]), strict=True):
        graph.output(f"d{name}", d)
    codes = grt.compile(graph, target="cuda:sm_90")._executable._compilation.codes
    assert {code.form.name for code in codes} >= {"depthwise_fwd", "depthwise_dgrad", "depthwise_wgrad"}
