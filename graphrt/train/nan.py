"""The cause of a loss that is NaN, looked for in the batch that made it so."""

from __future__ import annotations

import numpy as np

from graphrt.runtime.arrays import to_numpy
from graphrt.train.batch import Batch


def faults(batch: Batch, classes: int | None, ignored: int | None) -> list[str]:
    """The fault in the numbers of ``batch``; ``classes`` is the number of them where its first targets are indices."""
    arrays = {name: np.asarray(to_numpy(part)) for name, part in batch.named().items()}
    y = _first_target(batch)
    found = []
    for name, array in arrays.items():
        if array.dtype.kind not in "iub" and not np.isfinite(array.astype(np.float32)).all():
            found.append(f"{name} holds NaN or infinity")
    if classes is not None:
        counts = np.full(y.shape, True) if ignored is None else y != ignored
        outside = np.unique(y[counts & ((y < 0) | (y >= classes))])
        if outside.size:
            labels = f"{', '.join(map(str, outside[:5]))}{', ...' if outside.size > 5 else ''}"
            apart = "" if ignored is None else f", and {ignored} for a target that does not count"
            found.append(f"y holds {labels}, and the network has the classes 0 to {classes - 1}{apart}")
    return found


def _first_target(batch: Batch) -> np.ndarray:
    return np.asarray(next(to_numpy(part) for name, part in batch.named().items() if name.split(".")[0] == "y"))


def why_nan(batch: Batch, classes: int | None, ignored: int | None) -> str:
    """The fault of ``batch``, in words; arguments as of ``faults``."""
    found = faults(batch, classes, ignored)
    if classes is not None and ignored is not None and (_first_target(batch) == ignored).all():
        found.append(f"every target is {ignored}, which does not count, so there is nothing to take the mean of")
    if found:
        return " and ".join(found)
    return "nothing in the batch says why, so the learning rate may be too high, or a function left its range (log of 0, 0 / 0)"
