"""Neural style transfer (Gatys et al., "A neural algorithm of artistic style", 2015): the picture is the parameter.

picture ─▶ conv ─▶ ... ─▶ conv ─▶ ... ─▶ conv      maps beside those of the content,
            Gram           Gram           Gram     Gram matrices beside those of the style
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

import graphrt.ops as F
from graphrt import nn, optim
from graphrt.autodiff import grad
from graphrt.compiler import compile as compile_graph
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Graph, Value
from graphrt.models.vgg import VGG19, features

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures, which published weights expect


class Maps(nn.Module):
    """Pictures [N, 3, H, W] in [0, 1] -> the maps of ``net`` behind the activations of ``layers``, by name.

    ``net`` is a VGG's ``features``, of which ``conv3_1`` is the first convolution behind the second pool. Pools take means, as
    the paper's do. Raises ArgumentError for a layer that there is not.
    """

    def __init__(self, net: nn.Sequential, layers: Collection[str]) -> None:
        self.layers = list[tuple[str, nn.Module]]()
        stage, place = 1, 0
        for layer in net:
            if isinstance(layer, nn.MaxPool2d):
                stage, place = stage + 1, 0
            place += isinstance(layer, nn.Conv2d)
            self.layers.append((f"conv{stage}_{place}", layer))
        self.net, self.wanted = net, set(layers)
        if missing := self.wanted - {name for name, _ in self.layers}:
            raise ArgumentError(f"the network has no layer {', '.join(sorted(missing))}")

    def forward(self, input: Value) -> dict[str, Value]:
        graph, found = input.graph, dict[str, Value]()
        mean, std = (graph.constant(np.array(v, np.float32).reshape(1, 3, 1, 1)) for v in (_MEAN, _STD))
        x = (input - mean) / std
        for name, layer in self.layers:
            if isinstance(layer, nn.MaxPool2d):
                if len(found) == len(self.wanted):
                    break
                x = F.avg_pool2d(x, 2)
                continue
            x = layer(x)
            if isinstance(layer, nn.ReLU) and name in self.wanted:
                found[name] = x
        return found


class StyleLoss(nn.Module):
    """A picture [1, 3, H, W] in [0, 1] -> how far it is from ``content`` [3, H, W], and its style from that of ``style``.

    The style's picture is [3, H', W']. The content's part is the mean squared difference of the maps of ``content_layers``, the
    style's that of the Gram matrices of ``style_layers``, squared differences summed, with the maps of ``net``
    (``vgg_features()``, or those of any VGG). The variation is the mean squared difference of neighbouring pixels. Returns
    content, style and variation, and as loss their sum by ``weights``, which do not depend on the pictures' sizes (Johnson et
    al., ECCV 2016, divide so). ``target`` is where the goals are computed, once. Raises ArgumentError, ShapeError.
    """

    def __init__(
        self,
        net: nn.Sequential,
        content: np.ndarray,
        style: np.ndarray,
        content_layers: Sequence[str] = ("conv4_2",),
        style_layers: Sequence[str] = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"),
        weights: Mapping[str, float] | None = None,
        target: str = "auto",
    ) -> None:
        for name, picture in (("content", content), ("style", style)):
            if picture.ndim != 3 or picture.shape[0] != 3:
                raise ShapeError(f"{name} must be [3, H, W], got {list(picture.shape)}")
        self.weights = {"content": 1.0, "style": 1.0, "variation": 0.0} | dict(weights or {})
        if len(self.weights) != 3:
            raise ArgumentError(f"weights are of content, style and variation, got {', '.join(self.weights)}")
        self.content_layers, self.style_layers = tuple(content_layers), tuple(style_layers)
        net.requires_grad_(False).eval()
        self.content_maps = self._goals(net, content, self.content_layers, target)
        self.grams = self._goals(net, style, self.style_layers, target, gram=True)
        self.maps = Maps(net, {*self.content_layers, *self.style_layers})

    @staticmethod
    def _goals(
        net: nn.Sequential, picture: np.ndarray, layers: Sequence[str], target: str, gram: bool = False
    ) -> dict[str, nn.Buffer]:
        graph = Graph()
        found = Maps(net, layers)(graph.input("picture", (1, *picture.shape)))
        program = compile_graph({n: F.gram_matrix(v) if gram else v for n, v in found.items()}, target=target)
        return {name: nn.Buffer(array) for name, array in program(picture=picture[None].astype(np.float32)).items()}

    def forward(self, picture: Value) -> dict[str, Value]:
        maps = self.maps(picture)
        content = [F.mse_loss(maps[n], self.content_maps[n].value(picture.graph)) for n in self.content_layers]
        style = [
            F.mse_loss(F.gram_matrix(maps[n]), self.grams[n].value(picture.graph), reduction="sum") for n in self.style_layers
        ]
        found = {"content": _mean(content), "style": _mean(style), "variation": total_variation(picture)}
        total = picture.graph.constant(0.0)
        for name, weight in self.weights.items():
            total = total + found[name] * weight
        return {"loss": total, **found}


def _mean(parts: Sequence[Value]) -> Value:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total * (1.0 / len(parts))


def total_variation(input: Value) -> Value:
    """The mean squared difference of the pixels of ``input`` [N, C, H, W] from their neighbours right and below, a scalar."""
    down, across = input[:, :, 1:] - input[:, :, :-1], input[:, :, :, 1:] - input[:, :, :, :-1]
    return F.mean(F.square(down)) + F.mean(F.square(across))


def vgg_features(width: int = 64) -> nn.Sequential:
    """The convolutions of VGG-19, of which ``StyleLoss`` takes maps, with ``width`` channels in the first, and random weights.

    Those of ``vgg19`` fit that of 64, whose ``features`` they are. Random ones keep the deviation of maps and have style too
    (He et al., "A powerful generative model using random weights for the deep image representation", NIPS 2016).
    """
    net = features([[channels * width // 64 for channels in stage] for stage in VGG19], False)
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            assert layer.bias is not None
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


def style_transfer(loss: StyleLoss, start: np.ndarray, steps: int = 300, lr: float = 0.02, target: str = "auto") -> np.ndarray:
    """The picture float32 [3, H, W] in [0, 1] that ``steps`` of Adam at rate ``lr`` make of ``start`` [3, H, W] along ``loss``.

    All steps run one program on ``target``, of which the picture is the only parameter that is updated.
    """
    graph = Graph()
    picture = graph.parameter("picture", start[None].astype(np.float32))
    total = graph.output("loss", loss(picture)["loss"])
    optim.Adam(lr).apply([picture], grad(total, [picture]), graph.input("lr"))
    program = compile_graph(graph, target=target)
    for _ in range(steps):
        program(lr=lr)
    return np.clip(program.state["picture"][0], 0.0, 1.0)
