"""Hand-written closures for the templates: contiguous operands, plain stores and a fused bias with ReLU.

They serve benchmarks and tests, and show what generated closures look like. Each family reads its tensors and sizes
from fixed places of ARGS. Matmul: ``(a, b, c, bias, M, N, K)``, row-major. Convolution, for all three directions: ``(x,
w, y, bias, C, H, W, K, R, S, CG, P, Q, scale, shift, other)``, maps channels-last, filters [R, S, C / groups, K];
scale and shift have a number for each channel of what is loaded, other has the shape of what is stored or, in
``load_y_batch_norm``, of y. Pooling: ``(x, y, index, C, H, W, P, Q)``, channels-last. Every loader returns 0 where mask
is false.
"""

import triton
import triton.language as tl

from .tiles import cast

# --- matmul ------------------------------------------------------------------------------------------------------


@triton.jit
def load_a(b, m, k, mask, ARGS):
    return tl.load(ARGS[0] + (b * ARGS[4] + m) * ARGS[6] + k, mask=mask, other=0.0)


@triton.jit
def load_b(b, k, n, mask, ARGS):
    return tl.load(ARGS[1] + (b * ARGS[6] + k) * ARGS[5] + n, mask=mask, other=0.0)


@triton.jit
def load_b_transposed(b, k, n, mask, ARGS):
    """The right operand stored [N, K], as a linear layer stores its weight."""
    return tl.load(ARGS[1] + (b * ARGS[5] + n) * ARGS[6] + k, mask=mask, other=0.0)


@triton.jit
def store_c(acc, b, m, n, mask, ARGS):
    tl.store(ARGS[2] + (b * ARGS[4] + m) * ARGS[5] + n, acc, mask=mask)


@triton.jit
def store_c_bias_relu(acc, b, m, n, mask, ARGS):
    acc += tl.load(ARGS[3] + n, mask=n < ARGS[5], other=0.0).to(acc.dtype)
    tl.store(ARGS[2] + (b * ARGS[4] + m) * ARGS[5] + n, tl.maximum(acc, 0.0), mask=mask)


# --- convolution -------------------------------------------------------------------------------------------------


@triton.jit
def load_x(n, c, h, w, mask, ARGS):
    return tl.load(ARGS[0] + ((n * ARGS[5] + h) * ARGS[6] + w) * ARGS[4] + c, mask=mask, other=0.0)


@triton.jit
def load_x_affine_relu(n, c, h, w, mask, ARGS):
    """relu(x * scale + shift): a batch norm and its ReLU applied on load. It is not 0 at 0, so padding is masked after it."""
    x = tl.load(ARGS[0] + ((n * ARGS[5] + h) * ARGS[6] + w) * ARGS[4] + c, mask=mask, other=0.0)
    scale = tl.load(ARGS[13] + c, mask=c < ARGS[4], other=0.0)
    shift = tl.load(ARGS[14] + c, mask=c < ARGS[4], other=0.0)
    return tl.where(mask, cast(tl.maximum(x.to(tl.float32) * scale + shift, 0.0), x.dtype), 0)


@triton.jit
def load_w(k, c, r, s, mask, ARGS):
    return tl.load(ARGS[1] + ((r * ARGS[9] + s) * ARGS[10] + c) * ARGS[7] + k, mask=mask, other=0.0)


@triton.jit
def load_y(n, k, p, q, mask, ARGS):
    return tl.load(ARGS[2] + ((n * ARGS[11] + p) * ARGS[12] + q) * ARGS[7] + k, mask=mask, other=0.0)


@triton.jit
def load_y_batch_norm(n, k, p, q, mask, ARGS):
    """dy * scale + other * shift: the gradient of a batch norm's input, two maps for one operand."""
    at = ((n * ARGS[11] + p) * ARGS[12] + q) * ARGS[7] + k
    dy = tl.load(ARGS[2] + at, mask=mask, other=0.0)
    other = tl.load(ARGS[15] + at, mask=mask, other=0.0)
    scale = tl.load(ARGS[13] + k, mask=k < ARGS[7], other=0.0)
    shift = tl.load(ARGS[14] + k, mask=k < ARGS[7], other=0.0)
    return tl.where(mask, cast(dy.to(tl.float32) * scale + other.to(tl.float32) * shift, dy.dtype), 0)


@triton.jit
def store_x(acc, n, c, h, w, mask, ARGS):
    tl.store(ARGS[0] + ((n * ARGS[5] + h) * ARGS[6] + w) * ARGS[4] + c, acc, mask=mask)


@triton.jit
def store_x_where(acc, n, c, h, w, mask, ARGS):
    """The gradient through a ReLU whose output is in x: masked where that is not positive."""
    at = ((n * ARGS[5] + h) * ARGS[6] + w) * ARGS[4] + c
    kept = tl.load(ARGS[15] + at, mask=mask, other=0.0) > 0
    tl.store(ARGS[0] + at, tl.where(kept, acc, 0.0), mask=mask)


@triton.jit
def store_w(acc, split, k, c, r, s, mask, ARGS):
    """Partial filters [split, R, S, C / groups, K]."""
    row = ((split * ARGS[8] + r) * ARGS[9] + s) * ARGS[10] + c
    tl.store(ARGS[1] + row * ARGS[7] + k, acc, mask=mask)


@triton.jit
def store_y(acc, n, k, p, q, mask, ARGS):
    tl.store(ARGS[2] + ((n * ARGS[11] + p) * ARGS[12] + q) * ARGS[7] + k, acc, mask=mask)


@triton.jit
def store_y_bias_relu(acc, n, k, p, q, mask, ARGS):
    acc += tl.load(ARGS[3] + k, mask=k < ARGS[7], other=0.0).to(acc.dtype)
    tl.store(ARGS[2] + ((n * ARGS[11] + p) * ARGS[12] + q) * ARGS[7] + k, tl.maximum(acc, 0.0), mask=mask)


@triton.jit
def store_y_bias_add_relu(acc, n, k, p, q, mask, ARGS):
    """relu(acc + bias + other): a residual block's end."""
    at = ((n * ARGS[11] + p) * ARGS[12] + q) * ARGS[7] + k
    acc += tl.load(ARGS[3] + k, mask=k < ARGS[7], other=0.0).to(acc.dtype)
    acc += tl.load(ARGS[15] + at, mask=mask, other=0.0).to(acc.dtype)
    tl.store(ARGS[2] + at, tl.maximum(acc, 0.0), mask=mask)


# --- pooling -----------------------------------------------------------------------------------------------------


@triton.jit
def pool_load_x(n, c, h, w, mask, ARGS):
    return tl.load(ARGS[0] + ((n * ARGS[4] + h) * ARGS[5] + w) * ARGS[3] + c, mask=mask, other=0.0)


@triton.jit
def pool_load_y(n, c, p, q, mask, ARGS):
    return tl.load(ARGS[1] + ((n * ARGS[6] + p) * ARGS[7] + q) * ARGS[3] + c, mask=mask, other=0.0)


@triton.jit
def pool_load_index(n, c, p, q, mask, ARGS):
    return tl.load(ARGS[2] + ((n * ARGS[6] + p) * ARGS[7] + q) * ARGS[3] + c, mask=mask, other=0)


@triton.jit
def pool_store_x(acc, n, c, h, w, mask, ARGS):
    tl.store(ARGS[0] + ((n * ARGS[4] + h) * ARGS[5] + w) * ARGS[3] + c, acc, mask=mask)


@triton.jit
def pool_store_y(acc, n, c, p, q, mask, ARGS):
    tl.store(ARGS[1] + ((n * ARGS[6] + p) * ARGS[7] + q) * ARGS[3] + c, acc, mask=mask)


@triton.jit
def pool_store_both(acc, index, n, c, p, q, mask, ARGS):
    at = ((n * ARGS[6] + p) * ARGS[7] + q) * ARGS[3] + c
    tl.store(ARGS[1] + at, acc, mask=mask)
    tl.store(ARGS[2] + at, index, mask=mask)


@triton.jit
def pool_store_sum(acc, index, n, c, p, q, mask, ARGS):
    tl.store(ARGS[1] + ((n * ARGS[6] + p) * ARGS[7] + q) * ARGS[3] + c, acc, mask=mask)
