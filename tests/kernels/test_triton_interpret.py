"""The Triton templates under Triton's interpreter, with hand-written closures, against NumPy.

Run with TRITON_INTERPRET=1 in the environment: the jit decorator chooses between interpreter and compiler at import, so
one process cannot do both. Outputs start as NaN and have a NaN tail: an element not written, or one written out of
bounds, shows. References are direct loops over filter taps, independent of the ones the ops are defined by.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1, set before Triton is imported", allow_module_level=True)

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from kernels.triton import closures as cl  # noqa: E402
from kernels.triton import config as cfg  # noqa: E402
from kernels.triton.conv import conv_dgrad, conv_fwd, conv_wgrad  # noqa: E402
from kernels.triton.cost import Machine  # noqa: E402
from kernels.triton.depthwise import depthwise_dgrad, depthwise_fwd, depthwise_wgrad  # noqa: E402
from kernels.triton.geometry import Geometry  # noqa: E402
from kernels.triton.matmul import matmul  # noqa: E402
from kernels.triton.matmul_tma import matmul_tma  # noqa: E402
from kernels.triton.philox import uniform  # noqa: E402
from kernels.triton.pool import max_pool_gather, max_pool_grad, pool, sum_pool_grad  # noqa: E402
from kernels.triton.reduce import argmax, argmin, maximum, minimum, multiply  # noqa: E402
from kernels.triton.tiles import cast  # noqa: E402

pytestmark = pytest.mark.interpret

HERE = Machine(interpret=True)
TAIL = 64


def poisoned(count: int, dtype: Any = torch.float32) -> Any:
    """Room for count elements and a tail that must stay as it is."""
    return torch.full((count + TAIL,), float("nan") if dtype.is_floating_point else 99, dtype=dtype)


def written(t: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The array in a poisoned buffer, after checking its tail."""
    tail = t[-TAIL:]
    assert bool(torch.isnan(tail).all() if t.dtype.is_floating_point else (tail == 99).all()), "written out of bounds"
    return t[:-TAIL].reshape(shape).numpy()


def device(x: np.ndarray, *order: int) -> Any:
    """x as a contiguous tensor, its dimensions in this order."""
    return torch.from_numpy(np.ascontiguousarray(x.transpose(order) if order else x))


# --- matmul ------------------------------------------------------------------------------------------------------


@triton.jit
def load_a_transposed_relu(b, m, k, mask, ARGS):
    """A stored [K, M], with a prologue whose value outside the mask is not 0 and must be made so."""
    x = tl.load(ARGS[0] + (b * ARGS[6] + k) * ARGS[4] + m, mask=mask, other=0.0)
    y = tl.maximum(x.to(tl.float64 if x.dtype == tl.float64 else tl.float32), 0.0) + 1.0
    return cast(tl.where(mask, y, 0.0), x.dtype)


MATMULS = [(1, 1, 1, 1), (1, 7, 9, 3), (3, 33, 20, 65), (2, 64, 16, 32), (1, 100, 3, 50), (1, 3, 2, 0)]


@pytest.mark.parametrize("batch,m,n,k", MATMULS)
@pytest.mark.parametrize("tile", [(16, 16, 16), (32, 16, 32), None])
def test_matmul(batch: int, m: int, n: int, k: int, tile: tuple[int, int, int] | None) -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((batch, m, k)).astype(np.float32)
    b = rng.standard_normal((batch, k, n)).astype(np.float32)
    config = cfg.matmul_config(dict(BATCH=batch, M=m, N=n, K=k), 4, HERE)
    if tile:
        config.update(zip(("BM", "BN", "BK"), tile, strict=True))
    out = poisoned(batch * m * n)
    sizes = dict(BATCH=batch, M=m, N=n, K=k)
    args = (device(a), device(b), out, torch.zeros(n), m, n, k)
    matmul[(cfg.matmul_grid(sizes, config),)](
        args, LOAD_A=cl.load_a, LOAD_B=cl.load_b, EPILOGUE=cl.store_c, **sizes, INPUT_PRECISION="ieee", ACC=tl.float32,
        NAME="mm", **config,
    )  # fmt: skip
    np.testing.assert_allclose(written(out, (batch, m, n)), a @ b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_matmul_closures_and_types(dtype: str) -> None:
    batch, m, n, k = 2, 33, 20, 40
    rng = np.random.default_rng(1)
    ty = getattr(torch, dtype)
    a = torch.from_numpy(rng.standard_normal((batch, k, m))).to(ty)
    b = torch.from_numpy(rng.standard_normal((batch, n, k))).to(ty)
    bias = torch.from_numpy(rng.standard_normal(n)).to(ty)
    out = poisoned(batch * m * n, torch.float64)
    config = dict(BM=32, BN=16, BK=16, num_warps=4, num_stages=1, PROGRAMS=3)  # for 8 tiles
    acc = tl.float64 if dtype == "float64" else tl.float32
    args = (a, b, out, bias, m, n, k)
    matmul[(cfg.matmul_grid(dict(BATCH=batch, M=m, N=n), config),)](
        args, LOAD_A=load_a_transposed_relu, LOAD_B=cl.load_b_transposed, EPILOGUE=cl.store_c_bias_relu, BATCH=batch,
        M=m, N=n, K=k, INPUT_PRECISION="ieee", ACC=acc, NAME="mm", **config,
    )  # fmt: skip
    left = (a.clamp_min(0) + 1).double().transpose(1, 2)
    expected = (left @ b.double().transpose(1, 2) + bias.double()).clamp_min(0)
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(written(out, (batch, m, n)), expected.numpy(), rtol=tolerance, atol=tolerance)


TMA = [
    *itertools.product((True, False), (True, False), [(1, 8, 8, 8), (3, 24, 40, 72)]),
    (True, True, (3, 7, 8, 24)),
    (True, False, (3, 9, 3, 8)),
    (True, False, (1, 1, 1, 8)),
    (False, True, (3, 8, 24, 1)),
]  # what is not innermost may be odd


@pytest.mark.parametrize("programs", [0, 3])
@pytest.mark.parametrize("a_rows,b_rows,sizes", TMA)
def test_matmul_tma(a_rows: bool, b_rows: bool, sizes: tuple[int, int, int, int], programs: int) -> None:
    batch, m, n, k = sizes
    inner = (k if a_rows else m, n if b_rows else k)
    assert cfg.takes_tma(inner, 2, "sm_90") and not cfg.takes_tma(inner, 2, "sm_80")
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((batch, m, k)).astype(np.float16), rng.standard_normal((batch, k, n)).astype(np.float16)
    out = poisoned(batch * m * n)
    config = dict(BM=16, BN=32, BK=16, num_warps=4, num_stages=1, PROGRAMS=programs)
    known = dict(BATCH=batch, M=m, N=n, K=k)
    args = (device(a) if a_rows else device(a, 0, 2, 1), device(b) if b_rows else device(b, 0, 2, 1), out, out, m, n, k)
    matmul_tma[(cfg.matmul_grid(known, config),)](
        args, EPILOGUE=cl.store_c, A=0, B=1, A_ROWS=a_rows, B_ROWS=b_rows, **known, INPUT_PRECISION="ieee", ACC=tl.float32,
        NAME="mm", **config,
    )  # fmt: skip
    expected = a.astype(np.float32) @ b.astype(np.float32)
    np.testing.assert_allclose(written(out, (batch, m, n)), expected, rtol=1e-4, atol=1e-4)


# --- convolution -------------------------------------------------------------------------------------------------


def conv_case(
    n: int, c: int, hw: tuple[int, int], k: int, rs: tuple[int, int], stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0), dil: tuple[int, int] = (1, 1), groups: int = 1,
) -> Geometry:  # fmt: skip
    """The geometry of a convolution; pads are low and high of H, then of W."""
    p = (hw[0] + pads[0] + pads[1] - dil[0] * (rs[0] - 1) - 1) // stride[0] + 1
    q = (hw[1] + pads[2] + pads[3] - dil[1] * (rs[1] - 1) - 1) // stride[1] + 1
    return Geometry(
        N=n, C=c, H=hw[0], W=hw[1], K=k, R=rs[0], S=rs[1], P=p, Q=q, STRIDE_H=stride[0], STRIDE_W=stride[1],
        PAD_H=pads[0], PAD_W=pads[2], DIL_H=dil[0], DIL_W=dil[1], GROUPS=groups,
    )  # fmt: skip


CONVS = {
    "one_channel": conv_case(1, 1, (7, 9), 20, (3, 3), pads=(1, 1, 1, 1)),
    "stride_asymmetric": conv_case(3, 3, (9, 7), 4, (3, 2), (2, 2), (1, 0, 0, 1)),
    "stride_dilation": conv_case(1, 20, (9, 9), 20, (3, 3), (2, 2), (2, 2, 2, 2), (2, 2)),
    "pointwise_stride": conv_case(3, 20, (7, 7), 6, (1, 1), (2, 2)),
    "grouped": conv_case(3, 4, (7, 9), 6, (3, 3), (1, 2), (2, 0, 1, 1), (2, 1), groups=2),
    "grouped_blocks": conv_case(1, 40, (7, 7), 40, (3, 3), (2, 1), (1, 1, 1, 1), groups=2),
    "depthwise": conv_case(1, 3, (9, 9), 3, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2), groups=3),
    "stem": conv_case(1, 3, (9, 9), 20, (7, 7), (2, 2), (3, 3, 3, 3)),
    "stride_three": conv_case(3, 2, (7, 9), 5, (3, 2), (3, 3), (0, 2, 2, 0), (2, 2)),
    "all_padding": conv_case(1, 1, (1, 1), 1, (3, 3), (1, 1), (4, 4, 4, 4)),
    "stride_beyond": conv_case(1, 3, (5, 5), 2, (2, 2), (3, 4)),
    "aligned": conv_case(2, 16, (4, 4), 16, (3, 3), (1, 1), (1, 1, 1, 1)),
}
LAST = (0, 2, 3, 1)
KERNELS = {
    "fwd": (conv_fwd, depthwise_fwd),
    "dgrad": (conv_dgrad, depthwise_dgrad),
    "wgrad": (conv_wgrad, depthwise_wgrad),
}
TILES = {"flat": (64, 16, 256), "blocks": (32, 16, 16), "config": None}


def meetings(z: Geometry) -> Any:
    """(r, s, p, q, h, w): which input row and column each output meets at each tap, where inside."""
    for r, s, p, q in itertools.product(range(z.R), range(z.S), range(z.P), range(z.Q)):
        h = p * z.STRIDE_H - z.PAD_H + r * z.DIL_H
        w = q * z.STRIDE_W - z.PAD_W + s * z.DIL_W
        if 0 <= h < z.H and 0 <= w < z.W:
            yield r, s, p, q, h, w


def conv_data(z: Geometry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    shapes = (
        (z.N, z.C, z.H, z.W),
        (z.K, z.C // z.GROUPS, z.R, z.S),
        (z.N, z.K, z.P, z.Q),
    )
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    return x, w, dy


def conv_reference(z: Geometry, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, ...]:
    """y, dx and, for each batch entry and row of the output, dw, in float64."""
    g = z.GROUPS
    x, w, dy = (t.astype(np.float64) for t in (x, w, dy))
    y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros((z.N, z.P, *w.shape))
    xg, dxg = (t.reshape(z.N, g, -1, z.H, z.W) for t in (x, dx))
    yg, dyg = (t.reshape(z.N, g, -1, z.P, z.Q) for t in (y, dy))
    wg, dwg = w.reshape(g, -1, *w.shape[1:]), dw.reshape(z.N, z.P, g, -1, *w.shape[1:])
    for r, s, p, q, i, j in meetings(z):
        yg[..., p, q] += np.einsum("ngc,gkc->ngk", xg[..., i, j], wg[..., r, s])
        dxg[..., i, j] += np.einsum("ngk,gkc->ngc", dyg[..., p, q], wg[..., r, s])
        dwg[:, p, ..., r, s] += np.einsum("ngk,ngc->ngkc", dyg[..., p, q], xg[..., i, j])
    return y, dx, dw


def conv_args(z: Geometry, x: Any, w: Any, y: Any) -> tuple[Any, ...]:
    return (x, w, y, torch.zeros(z.K), z.C, z.H, z.W, z.K, z.R, z.S, z.C // z.GROUPS, z.P, z.Q)


def run_conv(kernel: Any, kind: str, z: Geometry, tile: str, args: Any, *closures: Any, **extra: int) -> None:
    g = z._replace(**extra)
    config = cfg.conv_config(kind, g, 4, HERE)
    if TILES[tile]:
        config.update(zip(("BM", "BN", "BK"), TILES[tile], strict=True))
    grid = (cfg.conv_grid(kind, g, config),)
    kernel[grid](args, *closures, G=g, INPUT_PRECISION="ieee", ACC=tl.float32, NAME="conv", **config)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", CONVS)
def test_conv_fwd(name: str, tile: str) -> None:
    z = CONVS[name]
    x, w, dy = conv_data(z)
    out = poisoned(dy.size)
    args = conv_args(z, device(x, 0, 2, 3, 1), device(w, 2, 3, 1, 0), out)
    run_conv(conv_fwd, "fwd", z, tile, args, cl.load_x, cl.load_w, cl.store_y)
    expected = conv_reference(z, x, w, dy)[0].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(written(out, expected.shape), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", CONVS)
def test_conv_dgrad(name: str, tile: str) -> None:
    z = CONVS[name]
    x, w, dy = conv_data(z)
    out = poisoned(x.size)
    args = conv_args(z, out, device(w, 2, 3, 1, 0), device(dy, 0, 2, 3, 1))
    run_conv(conv_dgrad, "dgrad", z, tile, args, cl.load_y, cl.load_w, cl.store_x)
    expected = conv_reference(z, x, w, dy)[1].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(written(out, expected.shape), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tile,splits,k_axis", [("flat", 1, 0), ("flat", 2, 1), ("blocks", 2, 0), ("blocks", 3, 1),
                                                ("config", 3, 1), ("config", 6, 0)])  # fmt: skip
@pytest.mark.parametrize("name", CONVS)
def test_conv_wgrad(name: str, tile: str, splits: int, k_axis: int) -> None:
    z = CONVS[name]
    x, w, dy = conv_data(z)
    out = poisoned(splits * w.size)
    args = conv_args(z, device(x, 0, 2, 3, 1), out, device(dy, 0, 2, 3, 1))
    run_conv(conv_wgrad, "wgrad", z, tile, args, cl.load_y, cl.load_x, cl.store_w, SPLITS=splits, K_AXIS=k_axis)
    expected = wgrad_parts(z, conv_reference(z, x, w, dy)[2], splits)
    np.testing.assert_allclose(written(out, expected.shape), expected, rtol=1e-5, atol=1e-4)


def wgrad_parts(z: Geometry, dw: np.ndarray, splits: int) -> np.ndarray:
    """Each split's filters [split, R, S, C / groups, K] from those of each batch entry and row."""
    each = dw.transpose(0, 1, 4, 5, 3, 2)
    if splits <= z.N or splits % z.N:
        parts = each.sum(1)
    else:  # an image has several splits, of whole rows
        cuts = splits // z.N
        rows = -(-z.P // cuts)
        parts = np.concatenate([np.stack([x[i * rows : (i + 1) * rows].sum(0) for i in range(cuts)]) for x in each])
    share = max(1, -(-z.N // splits))
    return np.stack([parts[i * share : (i + 1) * share].sum(0) for i in range(splits)])


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", ["one_channel", "stride_asymmetric", "pointwise_stride", "grouped_blocks", "stem", "aligned",
                                  "plain", "several"])  # fmt: skip
def test_conv_with_prologue_and_epilogue(name: str, dtype: Any) -> None:
    """As in a training step: batch norm and ReLU before, residual behind, and their gradients; all six kernels."""
    z = CONVS.get(name) or DEPTHWISE[name]
    depthwise = cfg.is_depthwise(z)
    rng = np.random.default_rng(5)
    x, w, dy = (t.astype(dtype) for t in conv_data(z))
    kept, residual = rng.standard_normal(x.shape).astype(dtype), rng.standard_normal(dy.shape).astype(dtype)
    bias, scale_k, shift_k = rng.standard_normal((3, z.K)).astype(np.float32)
    scale_c, shift_c = rng.standard_normal((2, z.C)).astype(np.float32)

    def each(v: np.ndarray) -> np.ndarray:
        return v[:, None, None]

    a = np.maximum(x.astype(np.float32) * each(scale_c) + each(shift_c), 0).astype(dtype)
    g = (dy.astype(np.float32) * each(scale_k) + residual.astype(np.float32) * each(shift_k)).astype(dtype)
    y = np.maximum(conv_reference(z, a, w, dy)[0] + each(bias) + residual, 0)

    def run(kind: str, x: Any, w: Any, y: Any, of: str, other: np.ndarray, *closures: Any, **extra: int) -> None:
        scale, shift = (scale_c, shift_c) if of == "c" else (scale_k, shift_k)
        args = (*conv_args(z, x, w, y), device(scale), device(shift), device(other, *LAST))
        args = (*args[:3], device(bias), *args[4:])
        gemm, vector = KERNELS[kind]
        if depthwise:
            g, config = z._replace(**extra), cfg.depthwise_config(kind, z, 4, HERE)
            grid = (cfg.depthwise_grid(kind, g, config),)
            vector[grid](args, *closures, G=g, ACC=tl.float32, NAME="depthwise", **config)
        else:
            run_conv(gemm, kind, z, "config", args, *closures, **extra)

    x_, w_, dy_ = device(x, *LAST), device(w, 2, 3, 1, 0), device(dy, *LAST)
    tolerance = {"rtol": 1e-3, "atol": 2e-3} if dtype == np.float16 else {"rtol": 1e-5, "atol": 1e-4}
    out = poisoned(y.size)
    run("fwd", x_, w_, out, "c", residual, cl.load_x_affine_relu, cl.load_w, cl.store_y_bias_add_relu)
    np.testing.assert_allclose(written(out, y.transpose(LAST).shape), y.transpose(LAST), **tolerance)
    out = poisoned(x.size)
    if dy.shape == x.shape:  # one argument is the other operand's map and the epilogue's
        expected = np.where(residual > 0, conv_reference(z, a, w, g)[1], 0)
        run("dgrad", out, w_, dy_, "k", residual, cl.load_y_batch_norm, cl.load_w, cl.store_x_where)
    else:
        expected = np.where(kept > 0, conv_reference(z, a, w, dy)[1], 0)
        run("dgrad", out, w_, dy_, "k", kept, cl.load_y, cl.load_w, cl.store_x_where)
    np.testing.assert_allclose(written(out, expected.transpose(LAST).shape), expected.transpose(LAST), **tolerance)
    out = poisoned(w.size)
    axis = {} if depthwise else {"K_AXIS": int(dtype is np.float16)}
    run("wgrad", x_, out, dy_, "k", residual, cl.load_y_batch_norm, cl.load_x, cl.store_w, SPLITS=1, **axis)
    expected = wgrad_parts(z, conv_reference(z, x, w, g)[2], 1)
    np.testing.assert_allclose(written(out, expected.shape), expected, **tolerance)


DEPTHWISE = {
    "plain": CONVS["depthwise"],
    "stride": conv_case(3, 20, (9, 7), 20, (3, 2), (2, 1), (1, 1, 0, 1), groups=20),
    "multiplier": conv_case(1, 3, (7, 9), 6, (3, 3), (2, 3), (2, 0, 1, 1), (1, 2), groups=3),
    "several": conv_case(3, 8, (7, 7), 12, (1, 3), (1, 2), (0, 0, 1, 1), groups=4),
}


@pytest.mark.parametrize("blocks", [{}, {"BM": 32, "BN": 16}])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise(name: str, blocks: dict[str, int]) -> None:
    z = DEPTHWISE[name]
    x, w, dy = conv_data(z)
    y, dx, dw = conv_reference(z, x, w, dy)
    x_, w_, dy_ = device(x, *LAST), device(w, 2, 3, 1, 0), device(dy, *LAST)

    def run(kernel: Any, kind: str, args: Any, *closures: Any, **extra: int) -> None:
        g, config = z._replace(**extra), cfg.depthwise_config(kind, z, 4, HERE) | blocks
        grid = (cfg.depthwise_grid(kind, g, config),)
        kernel[grid](args, *closures, G=g, ACC=tl.float32, NAME="depthwise", **config)

    assert cfg.is_depthwise(z)
    out = poisoned(y.size)
    run(depthwise_fwd, "fwd", conv_args(z, x_, w_, out), cl.load_x, cl.load_w, cl.store_y)
    expected = y.transpose(LAST)
    np.testing.assert_allclose(written(out, expected.shape), expected, rtol=1e-5, atol=1e-5)
    out = poisoned(dx.size)
    run(depthwise_dgrad, "dgrad", conv_args(z, out, w_, dy_), cl.load_y, cl.load_w, cl.store_x)
    expected = dx.transpose(LAST)
    np.testing.assert_allclose(written(out, expected.shape), expected, rtol=1e-5, atol=1e-5)
    for splits in (1, 2, 2 * z.N):
        out = poisoned(splits * w.size)
        run(depthwise_wgrad, "wgrad", conv_args(z, x_, out, dy_), cl.load_y, cl.load_x, cl.store_w, SPLITS=splits)
        expected = wgrad_parts(z, dw, splits)
        np.testing.assert_allclose(written(out, expected.shape), expected, rtol=1e-5, atol=1e-4)


@triton.jit
def load_x_nchw_scaled(n, c, h, w, mask, ARGS):
    """Channels-first input under a per-channel affine and ReLU, as a fused batch norm leaves it."""
    x = tl.load(ARGS[0] + ((n * ARGS[4] + c) * ARGS[5] + h) * ARGS[6] + w, mask=mask, other=0.0)
    shift = tl.load(ARGS[3] + c, mask=c < ARGS[4], other=0.0)
    return tl.where(mask, tl.maximum(x + shift, 0.0), 0.0)


@triton.jit
def load_w_kcrs(k, c, r, s, mask, ARGS):
    return tl.load(ARGS[1] + ((k * ARGS[10] + c) * ARGS[8] + r) * ARGS[9] + s, mask=mask, other=0.0)


@triton.jit
def store_y_nchw(acc, n, k, p, q, mask, ARGS):
    tl.store(ARGS[2] + ((n * ARGS[7] + k) * ARGS[11] + p) * ARGS[12] + q, acc, mask=mask)


def test_conv_closures_own_the_layout() -> None:
    z = CONVS["grouped"]
    x, w, dy = conv_data(z)
    out = poisoned(dy.size)
    shift = np.linspace(-1, 1, z.C, dtype=np.float32)
    args = list(conv_args(z, device(x), device(w), out))
    args[3] = device(shift)
    run_conv(conv_fwd, "fwd", z, "flat", tuple(args), load_x_nchw_scaled, load_w_kcrs, store_y_nchw)
    expected = conv_reference(z, np.maximum(x + shift[:, None, None], 0), w, dy)[0]
    np.testing.assert_allclose(written(out, expected.shape), expected, rtol=1e-5, atol=1e-4)


# --- pooling -----------------------------------------------------------------------------------------------------

POOLS = {
    "plain": conv_case(3, 3, (7, 9), 3, (2, 2), (2, 2)),
    "overlap": conv_case(1, 20, (9, 7), 20, (3, 3), (2, 2), (1, 1, 1, 1)),
    "dilated": conv_case(1, 1, (9, 9), 1, (3, 2), (1, 2), (1, 0, 0, 1), (2, 1)),
    "dilated_stride": conv_case(1, 3, (9, 9), 3, (3, 3), (2, 2), (1, 1, 1, 1), (2, 2)),
    "wide_dilation": conv_case(1, 3, (9, 9), 3, (2, 2), (1, 1), (0, 0, 0, 0), (5, 3)),
    "ceil_mode": conv_case(3, 3, (7, 7), 3, (2, 2), (2, 2), (0, 1, 0, 1)),
    "beyond": conv_case(1, 3, (5, 5), 3, (2, 2), (2, 2), (0, 4, 2, 3)),
    "before": conv_case(1, 3, (5, 4), 3, (2, 2), (2, 3), (5, 0, 4, 0)),
    "sparse": conv_case(1, 3, (3, 4), 3, (3, 2), (1, 2), (3, 3, 5, 5), (4, 5)),
    "global": conv_case(1, 3, (7, 7), 3, (7, 7)),
    "one": conv_case(1, 1, (1, 1), 1, (1, 1)),
}
_FIRST = {"x": ("N", "C", "H", "W"), "y": ("N", "C", "P", "Q")}


@triton.jit
def first_load_x(n, c, h, w, mask, ARGS):
    return tl.load(ARGS[0] + ((n * ARGS[3] + c) * ARGS[4] + h) * ARGS[5] + w, mask=mask, other=0.0)


@triton.jit
def first_load_y(n, c, p, q, mask, ARGS):
    return tl.load(ARGS[1] + ((n * ARGS[3] + c) * ARGS[6] + p) * ARGS[7] + q, mask=mask, other=0.0)


@triton.jit
def first_load_index(n, c, p, q, mask, ARGS):
    return tl.load(ARGS[2] + ((n * ARGS[3] + c) * ARGS[6] + p) * ARGS[7] + q, mask=mask, other=0)


@triton.jit
def first_store_x(acc, n, c, h, w, mask, ARGS):
    tl.store(ARGS[0] + ((n * ARGS[3] + c) * ARGS[4] + h) * ARGS[5] + w, acc, mask=mask)


@triton.jit
def first_store_y(acc, n, c, p, q, mask, ARGS):
    tl.store(ARGS[1] + ((n * ARGS[3] + c) * ARGS[6] + p) * ARGS[7] + q, acc, mask=mask)


@triton.jit
def first_store_both(acc, index, n, c, p, q, mask, ARGS):
    at = ((n * ARGS[3] + c) * ARGS[6] + p) * ARGS[7] + q
    tl.store(ARGS[1] + at, acc, mask=mask)
    tl.store(ARGS[2] + at, index, mask=mask)


@triton.jit
def first_store_sum(acc, index, n, c, p, q, mask, ARGS):
    tl.store(ARGS[1] + ((n * ARGS[3] + c) * ARGS[6] + p) * ARGS[7] + q, acc, mask=mask)


def pool_reference(z: Geometry, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maximum, its tap, sum."""
    shape = tuple(getattr(z, d) for d in _FIRST["y"])
    best, index, total = np.full(shape, -np.inf, np.float32), np.full(shape, -1), np.zeros(shape, np.float32)
    for r, s, p, q, h, w in meetings(z):
        v, b = x[:, :, h, w], best[:, :, p, q]
        wins = (v > b) | (np.isnan(v) & ~np.isnan(b)) | (index[:, :, p, q] < 0)
        best[:, :, p, q] = np.where(wins, v, b)
        index[:, :, p, q] = np.where(wins, r * z.S + s, index[:, :, p, q])
        total[:, :, p, q] += v
    return best, np.maximum(index, 0), total


def run_pool(kernel: Any, z: Geometry, lies: tuple[bool, int, int], args: Any, *closures: Any, **extra: Any) -> None:
    """``lies``: channels last or not, BLOCK (0: as chosen), CHANNELS."""
    gradient, (last, block, channels) = kernel in (max_pool_grad, sum_pool_grad), lies
    config = cfg.pool_config(cfg.pool_outputs(z, gradient, channels), 4, HERE)
    if block:
        config["BLOCK"] = block
    grid = (cfg.pool_grid(z, config, gradient, channels),)
    more = {"CHANNELS_LAST": last, "CHANNELS": channels, "ACC": tl.float32, "NAME": "pool"}
    kernel[grid](args, *closures, G=z, **extra, **more, **config)


def pool_closures(last: bool) -> tuple[Any, ...]:
    """load_x, load_y, load_index, store_x, store_y, store_both, store_sum."""
    if last:
        return (cl.pool_load_x, cl.pool_load_y, cl.pool_load_index, cl.pool_store_x, cl.pool_store_y,
                cl.pool_store_both, cl.pool_store_sum)  # fmt: skip
    return first_load_x, first_load_y, first_load_index, first_store_x, first_store_y, first_store_both, first_store_sum


@pytest.mark.parametrize("lies", [(True, 0, 0), (False, 64, 0), (True, 0, 16), (True, 32, 8)], ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_pools(name: str, lies: tuple[bool, int, int]) -> None:
    z, last = POOLS[name], lies[0]
    rng = np.random.default_rng(3)
    x_shape, y_shape = (tuple(getattr(z, d) for d in _FIRST[t]) for t in "xy")
    x = rng.integers(-3, 3, x_shape).astype(np.float32)  # many ties
    x[rng.random(x_shape) < 0.05] = np.nan
    x[rng.random(x_shape) < 0.3] = -np.inf
    finite = rng.standard_normal(x_shape).astype(np.float32)
    dy = rng.standard_normal(y_shape).astype(np.float32)
    best, index, _ = pool_reference(z, x)
    load_x, load_y, load_index, store_x, store_y, store_both, store_sum = pool_closures(last)
    order = LAST if last else (0, 1, 2, 3)
    tail = (z.C, z.H, z.W, z.P, z.Q)

    def check(out: Any, expected: np.ndarray) -> None:
        expected = expected.transpose(order)
        np.testing.assert_allclose(written(out, expected.shape), expected, rtol=1e-5, atol=1e-5)

    y, chosen = poisoned(dy.size), poisoned(dy.size, torch.uint8)
    run_pool(pool, z, lies, (device(x, *order), y, chosen, *tail), load_x, store_both, OP="max")
    check(y, best)
    check(chosen, index)

    y = poisoned(dy.size)
    run_pool(pool, z, lies, (device(finite, *order), y, y, *tail), load_x, store_sum, OP="sum")
    check(y, pool_reference(z, finite)[2])

    dx, stored = poisoned(x.size), device(index.astype(np.uint8), *order)
    run_pool(max_pool_grad, z, lies, (dx, device(dy, *order), stored, *tail), load_y, load_index, store_x)
    expected = np.zeros(x_shape)
    for r, s, p, q, h, w in meetings(z):
        expected[:, :, h, w] += np.where(index[:, :, p, q] == r * z.S + s, dy[:, :, p, q], 0)
    check(dx, expected)

    dx = poisoned(x.size)
    run_pool(sum_pool_grad, z, lies, (dx, device(dy, *order), stored, *tail), load_y, store_x)
    expected = np.zeros(x_shape)
    for _, _, p, q, h, w in meetings(z):
        expected[:, :, h, w] += dy[:, :, p, q]
    check(dx, expected)

    y = poisoned(dy.size)
    run_pool(max_pool_gather, z, lies, (device(finite, *order), y, stored, *tail), load_x, load_index, store_y)
    expected = np.zeros(y_shape)
    for r, s, p, q, h, w in meetings(z):
        expected[:, :, p, q] += np.where(index[:, :, p, q] == r * z.S + s, finite[:, :, h, w], 0)
    check(y, expected)


# --- random numbers ----------------------------------------------------------------------------------------------


def philox4x32(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 on Python integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@triton.jit
def draw(out, state, STREAM: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, uniform(tl.load(state), tl.load(state + 1), STREAM, i), mask=i < SIZE)


def test_philox_reference_vectors() -> None:
    """The known answers published with Random123."""
    ones = 0xFFFFFFFF
    assert philox4x32([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox4x32([ones] * 4, [ones] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize(
    "seed,counter,stream", [(0, 0, 0), (2**40 + 3, 7, 2), (5, 1, 0), (-1, 2**33 + 5, 9), (2**31, 2**32 - 1, 2**31 - 1)]
)
def test_uniform(seed: int, counter: int, stream: int) -> None:
    out, state = poisoned(100), torch.tensor([seed, counter], dtype=torch.int64)
    draw[(1,)](out, state, STREAM=stream, SIZE=100, BLOCK=128)
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    words = [philox4x32([i, counter & 0xFFFFFFFF, stream, 0], key)[0] for i in range(100)]
    expected = (np.array(words, np.uint64) >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
    got = written(out, (100,))
    assert np.array_equal(got.view(np.uint32), expected.view(np.uint32))
    assert got.min() >= 0 and got.max() < 1


# --- reductions --------------------------------------------------------------------------------------------------


@triton.jit
def reduce_rows(x, out, where, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    v = tl.load(x + row[:, None] * COLUMNS + column[None, :])
    i = tl.broadcast_to(column[None, :], (ROWS, COLUMNS))
    tl.store(out + row, tl.reduce(v, 1, maximum))
    tl.store(out + ROWS + row, tl.reduce(v, 1, minimum))
    tl.store(out + 2 * ROWS + row, tl.reduce(v, 1, multiply))
    high, high_at = argmax(v, i, 1)
    low, low_at = argmin(v, i, 1)
    tl.store(out + 3 * ROWS + row, high)
    tl.store(out + 4 * ROWS + row, low)
    tl.store(where + row, high_at)
    tl.store(where + ROWS + row, low_at)


def test_reductions() -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(-2, 3, (16, 8)).astype(np.float32) / 2
    x[3, 5] = x[7, 2] = x[7, 6] = x[9, 0] = np.nan
    x[5] = -np.inf
    x[6] = np.inf
    t, out, where = device(x), poisoned(80), poisoned(32, torch.int32)
    reduce_rows[(1,)](t, out, where, ROWS=16, COLUMNS=8)
    got, at = written(out, (5, 16)), written(where, (2, 16))
    np.testing.assert_array_equal(got[0], t.amax(1).numpy())
    np.testing.assert_array_equal(got[1], t.amin(1).numpy())
    np.testing.assert_allclose(got[2], t.prod(1).numpy())
    np.testing.assert_array_equal(got[3], got[0])
    np.testing.assert_array_equal(got[4], got[1])
    first: dict[Callable[..., Any], int] = {np.argmax: 0, np.argmin: 1}  # NumPy too: first wins, NaN wins
    for f, row in first.items():
        np.testing.assert_array_equal(at[row], f(x, 1))


# --- casts -------------------------------------------------------------------------------------------------------


@triton.jit
def cast_all(x, out, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out + i, cast(tl.load(x + i), out.dtype.element_ty))


def test_cast_rounds_to_nearest() -> None:
    x = torch.randn(256)
    x[:4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    x[4:6] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])  # halfway: to even
    out = torch.zeros(256, dtype=torch.bfloat16)
    cast_all[(1,)](x, out, SIZE=256)
    np.testing.assert_array_equal(out.float().numpy(), x.bfloat16().float().numpy())
