"""2-D pooling, its gradients, and the gradient of max pooling's gradient, each in gather form.

Every kernel computes BLOCK consecutive output elements per program, in memory order (channel innermost when CHANNELS_LAST,
else column innermost), and hands them to the epilogue; loaders return 0 where mask is false. Max pooling: NaN wins over
everything, the first tap wins a tie, padding never wins; the winner is named by its tap ``r * S + s`` (int32, 0 for a window
that lies wholly in padding, whose maximum is -inf). Gradients visit, for each input pixel, the windows that cover it and add
in a fixed order: deterministic, no atomics. ACC is the type of comparison and accumulation. PAD is the low side.
Grids: ``cdiv(outputs, BLOCK)`` programs (``config.pool_grid``), outputs being N*C*P*Q, for gradients N*C*H*W.
"""

import triton
import triton.language as tl

from .tiles import inside


@triton.jit
def element(pid, N: tl.constexpr, C: tl.constexpr, H: tl.constexpr, W: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr):
    """(n, c, h, w, mask) of the elements of block ``pid`` in memory order."""
    i = pid * BLOCK + tl.arange(0, BLOCK)
    mask = inside(i, N * C * H * W, BLOCK)
    if LAST:
        return i // (H * W * C), i % C, i // (W * C) % H, i // C % W, mask
    else:
        return i // (C * H * W), i // (H * W) % C, i // W % H, i % W, mask


@triton.jit
def covering(
    x, i: tl.constexpr, R: tl.constexpr, OUT: tl.constexpr, STRIDE: tl.constexpr, PAD: tl.constexpr, DIL: tl.constexpr
):
    """(window, tap, valid) of the i-th of ``covers(R, STRIDE, DIL)`` candidate windows over coordinate x of one axis."""
    if (R - 1) * DIL < R * STRIDE:  # windows from the last that covers x backwards: about R / STRIDE of them
        window = (x + PAD) // STRIDE - i
        offset = x + PAD - window * STRIDE
        tap = offset // DIL
        valid = (offset % DIL == 0) & (tap < R)
    else:  # wide dilation: fewer taps than windows
        offset = x + PAD - i * DIL
        window = offset // STRIDE
        tap = i
        valid = (offset >= 0) & (offset % STRIDE == 0)
    return window, tap, valid & (window >= 0) & (window < OUT)
