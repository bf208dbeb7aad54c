"""The geometry of a convolution, of its gradients and of pooling: what their templates take as one constant, ``G``.

Letters are the field's: N batch, C input channels, H W input, K output channels, R S filter or window, P Q output. PAD is
the low side of the padding; the high side follows from H, W, P and Q. Written with the fields' names in generated code, so
that its text says what each number is.
"""

from __future__ import annotations

from typing import NamedTuple


class Geometry(NamedTuple):
    """Sizes of a 2-D convolution or pooling. K and GROUPS mean nothing to pooling, the last two only to weight gradients."""

    N: int
    C: int
    H: int
    W: int
    R: int
    S: int
    P: int
    Q: int
    STRIDE_H: int
    STRIDE_W: int
    PAD_H: int
    PAD_W: int
    DIL_H: int
    DIL_W: int
    K: int = 0
    GROUPS: int = 1
    SPLITS: int = 1  # partial sums that a weight gradient is cut into
    K_AXIS: int = 0  # 1: a weight gradient's tile has the output channels along its columns, not along its rows
