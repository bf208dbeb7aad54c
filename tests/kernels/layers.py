"""The convolutions and products of the published networks, as the templates take them."""

from __future__ import annotations

from kernels.triton.geometry import Geometry


def conv(n: int, c: int, hw: int, k: int, rs: int, stride: int = 1, pad: int | None = None, groups: int = 1) -> Geometry:
    pad = rs // 2 if pad is None else pad
    p = (hw + 2 * pad - rs) // stride + 1
    return Geometry(
        N=n, C=c, H=hw, W=hw, K=k, R=rs, S=rs, P=p, Q=p, STRIDE_H=stride, STRIDE_W=stride, PAD_H=pad, PAD_W=pad, DIL_H=1,
        DIL_W=1, GROUPS=groups,
    )  # fmt: skip


def _named(net: str, batch: int, *layers: tuple[int, ...]) -> dict[str, Geometry]:
    found = {}
    for c, hw, k, rs, *more in layers:
        found[f"{net}-{c}x{hw}-{k}-{rs}x{rs}" + (f"s{more[0]}" if more else "")] = conv(batch, c, hw, k, rs, *more)
    return found


RESNET50 = _named(
    "resnet50", 256, (3, 224, 64, 7, 2),
    (64, 56, 64, 1), (64, 56, 64, 3), (64, 56, 256, 1), (256, 56, 64, 1),
    (256, 56, 128, 1), (128, 56, 128, 3, 2), (128, 28, 512, 1), (256, 56, 512, 1, 2), (512, 28, 128, 1), (128, 28, 128, 3),
    (512, 28, 256, 1), (256, 28, 256, 3, 2), (256, 14, 1024, 1), (512, 28, 1024, 1, 2), (1024, 14, 256, 1), (256, 14, 256, 3),
    (1024, 14, 512, 1), (512, 14, 512, 3, 2), (512, 7, 2048, 1), (1024, 14, 2048, 1, 2), (2048, 7, 512, 1), (512, 7, 512, 3),
)  # fmt: skip
VGG16 = _named(
    "vgg16", 256, (3, 224, 64, 3), (64, 224, 64, 3), (64, 112, 128, 3), (128, 112, 128, 3), (128, 56, 256, 3),
    (256, 56, 256, 3), (256, 28, 512, 3), (512, 28, 512, 3), (512, 14, 512, 3),
)  # fmt: skip
ALEXNET = _named(
    "alexnet", 1024, (3, 224, 64, 11, 4, 2), (64, 27, 192, 5), (192, 13, 384, 3), (384, 13, 256, 3), (256, 13, 256, 3)
)
LENET5 = _named("lenet5", 64, (1, 32, 6, 5, 1, 0), (6, 14, 16, 5, 1, 0))
RESNET20 = _named(
    "resnet20", 128, (3, 32, 16, 3), (16, 32, 16, 3), (16, 32, 32, 3, 2), (32, 16, 32, 3), (32, 16, 64, 3, 2), (64, 8, 64, 3)
)
CONVS = {**RESNET50, **VGG16, **ALEXNET, **LENET5, **RESNET20}

# (M, N, K) of linear layers: forward, by the input, by the weight
LINEAR = {
    f"{net}-{way}": {"forward": (b, o, i), "input": (b, i, o), "weight": (o, i, b)}[way]
    for net, b, i, o in (
        ("vgg16fc1", 256, 25088, 4096),
        ("vgg16fc3", 256, 4096, 1000),
        ("alexnetfc1", 1024, 9216, 4096),
        ("resnet50fc", 256, 2048, 1000),
        ("mlp1", 64, 784, 128),
        ("mlp2", 64, 128, 10),
        ("lenet5fc1", 64, 400, 120),
    )
    for way in ("forward", "input", "weight")
}
