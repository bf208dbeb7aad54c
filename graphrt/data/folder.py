"""Images in folders, one a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from graphrt.arguments import misfit
from graphrt.data.dataset import Examples
from graphrt.errors import ArgumentError, InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


class ImageFolder(Examples):
    """The pictures below ``folder``: class number i is the i-th folder by name, as torchvision's ImageFolder has it.

    x is float32 [C, H, W] in [0, 1], resized to ``size`` (H, W), or to a square of that many pixels, if given; ``mode`` "RGB"
    has 3 channels, "L" one. ``transform`` and ``workers`` as of ``Examples``. ``classes`` are the folders' names, ``files`` the
    paths and ``labels`` [N] the classes of the examples. Raises ArgumentError for a ``size`` or ``mode`` that is none,
    InputError for a folder without classes and for a file that is no picture.
    """

    def __init__(
        self,
        folder: str | Path,
        size: int | tuple[int, int] | None = None,
        mode: str = "RGB",
        transform: Any = None,
        workers: int = 1,
    ) -> None:
        super().__init__(self, transform, workers)
        try:
            import PIL.Image
        except ImportError as error:
            raise ImportError(f"pictures are read with a package that is missing ({error}): pip install pillow") from None
        if mode not in ("RGB", "L"):
            raise ArgumentError(f'mode must be "RGB" or "L", got {mode!r}')
        sides = (size, size) if isinstance(size, int) else size
        if sides is not None and (misfit(tuple[int, int], sides) or min(sides) < 1):
            raise ArgumentError(f"size must be pixels, or two of them as in (height, width), got {size!r}")
        self.folder, self.size, self.mode = Path(folder), sides, mode
        self.classes = sorted(p.name for p in self.folder.iterdir() if p.is_dir()) if self.folder.is_dir() else []
        found = [(p, i) for i, name in enumerate(self.classes) for p in sorted((self.folder / name).rglob("*")) if _is_image(p)]
        if not found:
            raise InputError(f"{folder} has no folders with pictures ({', '.join(SUFFIXES)}), one for each class")
        self.files, self.labels = [p for p, _ in found], np.array([i for _, i in found], np.int64)
        for path in self.files:
            try:
                PIL.Image.open(path).close()  # reads its head alone
            except OSError as error:
                raise InputError(f"{path} is no picture that can be read: {error}") from None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.int64]:
        import PIL.Image

        try:
            with PIL.Image.open(self.files[row]) as file:
                picture = file.convert(self.mode)
        except OSError as error:
            raise InputError(f"{self.files[row]} is no picture that can be read: {error}") from None
        if self.size is not None:
            picture = picture.resize(self.size[::-1], PIL.Image.Resampling.BILINEAR)
        pixels = np.asarray(picture, np.float32) / 255.0
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)), self.labels[row]


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES
