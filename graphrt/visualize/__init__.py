"""Looking into networks: what each layer computes, which pixels decide, what a unit answers to, and pictures of all of that.

Functions that compute return arrays; those that draw return a matplotlib Figure, and write it to ``path`` (PNG) if that is
given. A network ``net`` is taken in evaluation mode on a batch ``x`` [N, ...], with classes or numbers ``y`` to ``loss``;
``found`` is what another function of this package returned. A ``layer`` is named by its path, as ``nn.summary`` and
``named_modules`` have it, and ``target`` is that of ``compile``. ``most`` is the number of pictures at most, ``bins`` that of a
histogram's bars; ``columns`` pictures stand side by side, under their ``titles``.
"""

from graphrt.visualize.attribution import grad_cam, maximize_activation, saliency
from graphrt.visualize.layers import Statistics, activations, gradient_norms, statistics
from graphrt.visualize.pictures import (
    confusion_matrix,
    curves,
    decision_boundary,
    feature_maps,
    filters,
    heatmap,
    histograms,
    image_grid,
    norms,
)

__all__ = [
    "Statistics", "activations", "confusion_matrix", "curves", "decision_boundary", "feature_maps", "filters", "grad_cam",
    "gradient_norms", "heatmap", "histograms", "image_grid", "maximize_activation", "norms", "saliency", "statistics",
]  # fmt: skip
