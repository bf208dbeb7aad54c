"""The table of layers: exact counts of known networks, and receptive fields against gradients."""

from __future__ import annotations

import numpy as np
import pytest

import graphrt as grt
from graphrt import models, nn
from graphrt import ops as F


def test_counts_of_known_networks() -> None:
    with nn.init.skip_init():
        alexnet = nn.layers(models.alexnet_2012(), (1, 3, 227, 227))
        resnet = nn.layers(models.resnet18(), (1, 3, 224, 224))
        inception = nn.layers(models.googlenet(), (1, 3, 224, 224))
    maps = [row for row in alexnet if row.kind in ("Conv2d", "MaxPool2d")]
    assert [row.shape[2] for row in maps] == [55, 27, 27, 13, 13, 13, 13, 6] and maps[-1].field == (195, 195)
    counts = [34_944, 614_656, 885_120, 1_327_488, 884_992, 37_752_832, 16_781_312, 4_097_000]
    assert [row.parameters for row in alexnet if row.parameters] == counts
    assert next(row for row in alexnet if row.path == "features.0").multiplications == 105_415_200
    assert sum(row.multiplications for row in resnet) == 1_814_073_344 and resnet[-2].field == (307, 307)
    assert next(row for row in resnet if row.path == "layer4.1.bn2").field == (435, 435) and resnet[-1].field is None
    module = {row.path: row.multiplications for row in inception}
    found = nn.layers(models.lenet5(), (1, 1, 32, 32))
    lenet = [row for row in found if row.kind in ("Conv2d", "MaxPool2d", "Linear")]
    assert [row.shape[1:] for row in lenet[:4]] == [(6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5)]
    assert [row.parameters for row in lenet if row.parameters] == [156, 2_416, 48_000 + 120, 10_080 + 84, 850]
    assert module["inception3a.branch1.conv"] == 9_633_792


class Mixed(nn.Module):
    """Views, a transposed path, a concatenation, dilation and strides."""

    def __init__(self) -> None:
        self.a, self.b = nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, padding=2, dilation=2)
        self.norm, self.c, self.pool = nn.LayerNorm(3), nn.Conv2d(6, 1, (1, 3)), nn.AvgPool2d(2)

    def forward(self, x: grt.Value) -> grt.Value:
        y = self.a(x)
        z = F.permute(self.norm(F.permute(self.b(y), (0, 2, 3, 1))), (0, 3, 1, 2))
        return self.pool(self.c(F.concat([y, z], 1)))


@pytest.mark.parametrize(
    "make", [Mixed, lambda: nn.Sequential(*list(models.lenet5())[:1], nn.MaxPool2d(3, 2), nn.Conv2d(6, 1, 3))]
)
def test_receptive_fields_are_where_gradients_are(make: type[nn.Module]) -> None:
    net = make()
    channels = 2 if make is Mixed else 1
    graph = grt.Graph()
    x = graph.input("x", (1, channels, 32, 32))
    y = net.eval()(x)
    middle = F.sum(F.square(y[:, :, y.shape[2] // 2, y.shape[3] // 2]))
    graph.output("dx", grt.grad(middle, [x])[0])
    dx = grt.compile(graph, target="reference")(x=np.random.default_rng(0).random((1, channels, 32, 32)).astype("f"))["dx"]
    seen = [np.ptp(np.flatnonzero(np.abs(dx).sum((0, 1)).any(axis))) + 1 for axis in (1, 0)]
    field = nn.layers(net, (1, channels, 32, 32))[-1].field
    assert field is not None
    if make is Mixed:
        assert field == tuple(seen)
    else:  # a maximum passes its gradient to one element
        assert all(a <= b for a, b in zip(seen, field, strict=True)) and field == (5 + 2 + 4, 5 + 2 + 4)


def test_the_table() -> None:
    with nn.init.skip_init():
        text = nn.summary(models.lenet5(), (1, 1, 32, 32))
        words = nn.summary(models.gpt_small(), (1, 64), "int64")
    assert text.splitlines()[1].split() == ["0", "Conv2d", "1x6x28x28", "156", "117,600", "18,816", "5x5"]
    assert text.splitlines()[-1].split() == ["total", "61,706", "416,520", "60,008"]
    assert "all" not in words and "functions" in words and words.splitlines()[-1].split()[1] == "817,920"
    assert nn.summary(models.lenet5()).splitlines()[-1].split() == ["total", "61,706"]


class Joined(nn.Module):
    def __init__(self) -> None:
        self.first, self.second = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, left: grt.Value, right: grt.Value) -> grt.Value:
        return self.first(left) * self.second(right)


def test_a_network_of_several_inputs_is_told_their_shapes_by_name() -> None:
    shapes = {"left": (2, 3), "right": (2, 5)}
    assert [(row.path, row.multiplications) for row in nn.layers(Joined(), shapes)] == [("first", 24), ("second", 40)]
    assert "64" in nn.summary(Joined(), shapes).splitlines()[-1]
