"""Neural style transfer: one photograph in the style of another, by a VGG-19 of random filters, which no download needs.

``python examples/style.py 300 64 2`` takes 300 steps with the network's full width, on photographs half as large, in minutes.
Left in style.png are the content, the style and the result. With published weights, loaded into ``vgg_features()`` by name,
shapes follow too; random ones carry colours and textures over.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import graphrt as grt
from graphrt import data, models, nn
from graphrt.train import pictures


def main(steps: int = 40, width: int = 8, factor: int = 8, seed: int = 0) -> dict[str, object]:
    """``factor`` says how much smaller than 427 by 640 pixels the photographs are."""
    nn.manual_seed(seed)
    temple, flower = (smaller(p, factor) for p in data.load_photographs())
    weights = {"content": 1.0, "style": 20.0, "variation": 2.0}
    loss = models.StyleLoss(models.vgg_features(width), temple, flower, weights=weights)
    graph = grt.Graph()
    program = grt.compile(loss(graph.input("picture", (1, *temple.shape))))
    drawn = models.style_transfer(loss, temple, steps)
    before, after = program(picture=temple[None]), program(picture=drawn[None])
    return {"temple": temple, "flower": flower, "drawn": drawn, "before": before, "after": after}


def smaller(picture: np.ndarray, factor: int) -> np.ndarray:
    """The means of squares of ``factor`` pixels of [3, H, W]; what is left over at the edges is cut off."""
    h, w = (n // factor for n in picture.shape[1:])
    return picture[:, : h * factor, : w * factor].reshape(3, h, factor, w, factor).mean((2, 4))


if __name__ == "__main__":
    found = main(*map(int, sys.argv[1:]))
    shown = np.stack([np.asarray(found[name]) for name in ("temple", "flower", "drawn")])
    pictures.save_picture(pictures.grid([pictures.plain(shown)], scale=2), Path("style.png"))
    print({name: [float(found[when][name]) for when in ("before", "after")] for name in ("content", "style")})  # type: ignore[index]
