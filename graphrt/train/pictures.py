"""Pictures of what a network found: boxes, scores and masks over the images, in a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.files import whole

__all__ = ["boxed", "grid", "painted", "plain", "save_picture"]

COLOURS = np.array([[255, 80, 80], [80, 220, 100], [110, 150, 255], [250, 210, 60], [220, 100, 230]], np.uint8)


def painted(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``images`` float [N, 3, H, W] in [0, 1], without their colours, in those of ``labels`` int [N, H, W], 0 for none."""
    picture = images.mean(1)[..., None] * 255.0
    colours = COLOURS[(labels - 1) % len(COLOURS)]
    return np.where(labels[..., None] > 0, 0.35 * picture + 0.65 * colours, picture).clip(0, 255).astype(np.uint8)


def plain(images: np.ndarray) -> np.ndarray:
    """``images`` float [N, C, H, W] in [0, 1], of 1 or 3 channels, as uint8 [N, H, W, 3]."""
    pixels = (images.transpose(0, 2, 3, 1) * 255.0).clip(0, 255).astype(np.uint8)
    return np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels


def boxed(images: np.ndarray, found: Mapping[str, Any], names: Sequence[str], scale: int = 3, least: float = 0.2) -> np.ndarray:
    """``images`` float [N, 3, H, W] in [0, 1], ``scale`` times as large, with boxes, as uint8.

    ``found`` has ``box`` [N, K, 4], ``class`` [N, K] and perhaps ``score`` [N, K], of which those from ``least`` on are shown,
    and ``mask`` bool [N, K, H, W]; classes below 0 are empty slots, ``names`` those of others. Raises ImportError without
    Pillow.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise ImportError(f"boxes are drawn with a package that is missing ({error}): pip install pillow") from None
    drawn = []
    for i, pixels in enumerate(plain(images)):
        shown = [k for k in range(found["class"].shape[1]) if found["class"][i, k] >= 0]
        shown = [k for k in shown if "score" not in found or found["score"][i, k] >= least]
        pixels = pixels.copy()
        for k in shown if "mask" in found else ():
            inside = np.asarray(found["mask"][i, k], bool)
            pixels[inside] = pixels[inside] // 2 + COLOURS[found["class"][i, k] % len(COLOURS)] // 2
        picture = Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))
        pen = ImageDraw.Draw(picture)
        for k in shown:
            label = int(found["class"][i, k])
            colour = tuple(int(c) for c in COLOURS[label % len(COLOURS)])
            x1, y1, x2, y2 = (float(v) * scale for v in found["box"][i, k])
            pen.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colour)
            score = f" {found['score'][i, k]:.2f}" if "score" in found else ""
            pen.text((x1 + 2, max(y1 - 11, 0)), f"{names[label]}{score}", fill=colour)
        drawn.append(np.asarray(picture))
    return np.stack(drawn)


def grid(rows: Sequence[np.ndarray], scale: int = 1, gap: int = 2) -> np.ndarray:
    """``rows`` of pictures uint8 [N, H, W, 3] of one size, ``gap`` pixels around each, ``scale`` times as large."""
    line = [np.concatenate([np.pad(p, ((gap, gap), (gap, gap), (0, 0))) for p in row], 1) for row in rows]
    return np.concatenate(line, 0).repeat(scale, 0).repeat(scale, 1)


def save_picture(pixels: np.ndarray, path: str | Path) -> None:
    """Writes ``pixels`` uint8 [H, W, 3] as a PNG file at ``path``. Raises ImportError without Pillow, OSError."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f"pictures are written with a package that is missing ({error}): pip install pillow") from None
    with whole(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")
