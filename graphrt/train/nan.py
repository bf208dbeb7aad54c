"""The cause of a loss that is NaN, looked for in the batch that made it so."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphrt.runtime.arrays import to_numpy


def why_nan(batch: tuple[Any, Any], classes: int | None, ignored: int | None) -> str:
    """The fault of ``batch``, in words; ``classes`` is the number of them where its targets are class indices."""
    x, y = (np.asarray(to_numpy(part)) for part in batch)
    found = []
    for name, array in (("x", x), ("y", y)):
        if array.dtype.kind not in "iub" and not np.isfinite(array.astype(np.float32)).all():
            found.append(f"{name} holds NaN or infinity")
    if classes is not None:
        counts = np.full(y.shape, True) if ignored is None else y != ignored
        outside = np.unique(y[counts & ((y < 0) | (y >= classes))])
        if outside.size:
            labels = f"{', '.join(map(str, outside[:5]))}{', ...' if outside.size > 5 else ''}"
            apart = "" if ignored is None else f", and {ignored} for a target that does not count"
            found.append(f"y holds {labels}, and the network has the classes 0 to {classes - 1}{apart}")
        if not counts.any():
            found.append(f"every target is {ignored}, which does not count, so there is nothing to take the mean of")
    if found:
        return " and ".join(found)
    return "nothing in the batch says why, so the learning rate may be too high, or a function left its range (log of 0, 0 / 0)"
