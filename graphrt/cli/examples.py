"""Examples from files: pictures, and arrays."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from graphrt.data.folder import SUFFIXES
from graphrt.errors import InputError

ARRAYS = (".npy", ".npz", ".safetensors")


def examples(paths: Sequence[Path], shape: Sequence[int], channels: int) -> Iterator[tuple[str, np.ndarray]]:
    """The examples in ``paths``, one at a time with its name, for a network of input ``shape``.

    Pictures come as float32 [channels, H, W] in [0, 1]. Raises InputError.
    """
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in (*SUFFIXES, *ARRAYS))
            if not found:
                raise InputError(f"{path} has no pictures and no arrays")
            yield from examples(found, shape, channels)
        elif not path.exists():
            raise InputError(f"there is no file {path}")
        elif path.suffix.lower() in SUFFIXES:
            yield str(path), picture(path, channels)
        elif path.suffix.lower() in ARRAYS:
            for name, array in _arrays(path).items():
                yield from _each(f"{path}{name}", array, shape)
        else:
            raise InputError(f"{path} is neither a picture ({', '.join(SUFFIXES)}) nor an array ({', '.join(ARRAYS)})")


def picture(path: Path, channels: int) -> np.ndarray:
    """The picture at ``path`` as float32 [channels, H, W] in [0, 1]. Raises InputError, ImportError."""
    try:
        import PIL.Image
    except ImportError as error:
        raise ImportError(f"pictures are read with a package that is missing ({error}): pip install pillow") from None
    try:
        with PIL.Image.open(path) as file:
            pixels = np.asarray(file.convert("L" if channels == 1 else "RGB"), np.float32) / 255.0
    except OSError as error:
        raise InputError(f"{path} is no picture that can be read: {error}") from None
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by what is added to its name."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.suffix == ".safetensors":
            return {f":{name}": array for name, array in load_file(path).items()}
        found = np.load(path, allow_pickle=False)
        return {"": found} if isinstance(found, np.ndarray) else {f":{name}": found[name] for name in found.files}
    except (ValueError, EOFError, zlib.error, zipfile.BadZipFile, SafetensorError) as error:
        raise InputError(f"{path} is no array that can be read: {error}") from None


def _each(name: str, array: np.ndarray, shape: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    """``array`` as examples: itself, a picture without channels, or each of its first dimension."""
    if len(shape) == 3 and array.ndim == 2:
        array = array[None]
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {array.dtype}, and an example is of numbers")
    if not np.isfinite(array).all():
        raise InputError(f"{name} holds NaN or infinity")
    if array.ndim == len(shape):
        yield name, array
    elif array.ndim == len(shape) + 1:
        yield from ((f"{name}[{i}]", one) for i, one in enumerate(array))
    else:
        raise InputError(f"{name} has shape {list(array.shape)}; an example has {len(shape)} dimensions")
