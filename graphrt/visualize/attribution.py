"""Pixels that decide, and inputs that a unit answers to: gradients by the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.autodiff import grad
from graphrt.compiler import compile as compile_graph
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.nn.module import Module
from graphrt.visualize.layers import Probe, as_input, probe


def _score(built: Probe, classes: Any) -> tuple[Value, dict[str, np.ndarray]]:
    """The sum of the logits of ``classes`` [N], or of the largest of each row for None, and the inputs that it reads."""
    logits = built.output
    if logits.ndim != 2:
        raise ArgumentError(f"the network gives {list(logits.shape)}, and a class is looked for in logits [N, C]")
    if classes is None:
        return F.sum(F.amax(logits, 1)), {}
    wanted = np.broadcast_to(np.asarray(classes, np.int64), logits.shape[:1])
    if wanted.min() < 0 or wanted.max() >= logits.shape[1]:
        raise ArgumentError(f"classes must lie in 0 to {logits.shape[1] - 1}, got {np.asarray(classes).tolist()}")
    index = logits.graph.input("classes", wanted.shape, "int64")
    return F.sum(F.take_along_dim(logits, F.unsqueeze(index, 1), 1)), {"classes": np.ascontiguousarray(wanted)}


def saliency(net: Module, x: Any, classes: Any = None, target: str = "auto") -> np.ndarray:
    """The absolute gradient of a class's logit by the pixels of ``x`` [N, ...], in its shape.

    ``classes`` [N], or one for all, says which; None is the likeliest of each. ``target`` is that of ``compile``. Simonyan et
    al., "Deep inside convolutional networks", 2014. Raises ArgumentError.
    """
    x = as_input(x)
    built = probe(net, x)
    score, given = _score(built, classes)
    (dx,) = grad(score, [built.input])
    return np.abs(compile_graph(dx, target=target)(x=x, **given))


def grad_cam(net: Module, x: Any, layer: str, classes: Any = None, target: str = "auto") -> np.ndarray:
    """The places in ``x`` [N, C, H, W] where a class was seen: maps [N, H, W] in [0, 1], of the feature maps of ``layer``.

    The maps are weighted by the mean gradient of the class's logit, and brought to the size of ``x``. ``classes`` and
    ``target`` as of ``saliency``. Selvaraju et al., "Grad-CAM", ICCV 2017. Raises ArgumentError for a layer that is none, or
    gives no maps.
    """
    x = as_input(x)
    if x.ndim != 4:
        raise ArgumentError(
            f"x is pictures [N, C, H, W], got {list(x.shape)}{'; x[None] is one of them' if x.ndim == 3 else ''}"
        )
    built = probe(net, x)
    maps = built.layer(layer)
    if maps.ndim != 4:
        raise ArgumentError(f"layer {layer!r} gives {list(maps.shape)}; Grad-CAM needs feature maps [N, C, H, W]")
    score, given = _score(built, classes)
    (d_maps,) = grad(score, [maps])
    weights = F.mean(d_maps, (2, 3), keepdim=True)
    seen = F.relu(F.sum(maps * weights, 1, keepdim=True))
    seen = F.interpolate(seen, size=x.shape[2:], mode="bilinear", align_corners=False)
    found = compile_graph(seen, target=target)(x=x, **given)[:, 0]
    top = found.max((1, 2), keepdims=True)
    return found / np.where(top > 0, top, 1)


def maximize_activation(
    net: Module,
    shape: Sequence[int],
    layer: str,
    unit: int,
    steps: int = 100,
    lr: float = 0.1,
    decay: float = 0.01,
    target: str = "auto",
) -> tuple[np.ndarray, list[float]]:
    """The input of ``shape``, without the batch, that most excites ``unit`` of ``layer`` ("" is the network): gradient ascent.

    A unit is a channel of feature maps, of which the mean is raised, or an element of a vector. Each of ``steps`` moves by
    ``lr`` along the normalised gradient and shrinks the input by ``decay``, from the same noise each time. ``target`` is that
    of ``compile``. Returns the input and the activation before each step. Erhan et al., "Visualizing higher-layer features of a
    deep network", 2009. Raises ArgumentError.
    """
    x = (0.1 * np.random.default_rng(0).standard_normal((1, *shape))).astype(np.float32)
    built = probe(net, x)
    value = built.layer(layer)
    if value.ndim < 2 or not 0 <= unit < value.shape[1]:
        raise ArgumentError(f"layer {layer!r} gives {list(value.shape)}, which has no unit {unit}")
    excited = F.mean(F.index_select(value, 1, built.graph.input("unit", (1,), "int64")))  # a program for all units
    (dx,) = grad(excited, [built.input])
    step = compile_graph({"excited": excited, "dx": dx}, target=target)
    history = []
    for _ in range(steps):
        found = step(x=x, unit=np.array([unit]))
        history.append(float(found["excited"]))
        size = np.sqrt((found["dx"] ** 2).mean())
        x = ((1 - decay) * x + lr * found["dx"] / max(size, 1e-8)).astype(np.float32)
    return x[0], history
