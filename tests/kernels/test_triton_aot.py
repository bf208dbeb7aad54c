"""The Triton templates compiled ahead of time for sm_80, sm_90 and gfx942 over the layers of real networks; no GPU is needed.

Asserts what the default configurations promise about code quality: no register spills, at least four warps on a
multiprocessor, tensor cores for halves, 128-bit accesses where 16 bytes lie side by side, and a kernel named by NAME. A
few layers run by default, all of them with ``pytest -m kernels``. Skipped under TRITON_INTERPRET=1, where nothing is
compiled.
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles, so it cannot run under TRITON_INTERPRET=1", allow_module_level=True)

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from ahead import SIZES, TARGETS, Report, build  # noqa: E402
from layers import CONVS, LINEAR, conv  # noqa: E402

from kernels.triton import closures as cl  # noqa: E402
from kernels.triton import config as cfg  # noqa: E402
from kernels.triton.conv import conv_dgrad, conv_fwd, conv_wgrad  # noqa: E402
from kernels.triton.cost import Machine, tilings  # noqa: E402
from kernels.triton.depthwise import depthwise_dgrad, depthwise_fwd, depthwise_wgrad  # noqa: E402
from kernels.triton.geometry import Geometry  # noqa: E402
from kernels.triton.matmul import matmul  # noqa: E402
from kernels.triton.matmul_tma import matmul_tma  # noqa: E402
from kernels.triton.philox import uniform  # noqa: E402
from kernels.triton.pool import max_pool_gather, max_pool_grad, pool, sum_pool_grad  # noqa: E402
from kernels.triton.reduce import argmax, argmin, maximum  # noqa: E402

pytestmark = [pytest.mark.aot, pytest.mark.proof]

CORES = {"sm_80": "HMMA", "sm_90": "HGMMA", "gfx942": "v_mfma"}


def check(r: Report, target: str, name: str) -> None:
    assert r.name == name
    assert not r.spills, r
    assert r.programs(target) * r.warps >= 4, r


def check_cores(r: Report, target: str, rows: int) -> None:
    """Tensor cores; on sm_90 those that take four warps and read operands from shared memory, if the tile has the rows."""
    assert r.uses("HMMA" if target == "sm_90" and rows < 64 else CORES[target]), r


def check_vectors(r: Report, target: str, plain: bool) -> None:
    """16 bytes at a time; vectors for each channel, which a prologue or an epilogue adds, may be narrower, but not halves.

    Triton's back end for gfx942 stores from the registers of its matrix cores, 8 bytes at most.
    """
    if target == "gfx942":
        loads, wide = r.accesses("global_load", "buffer_load"), "x4"
    else:
        loads, wide = r.accesses("LDG.E", "LDGSTS.E"), ".128"
        assert all(".128" in i for i in r.accesses("STG.E")), r
    assert any(wide in i for i in loads), r
    assert all(wide in i for i in loads) or not plain, r
    assert not any(re.search(r"[US](8|16)\b|short|byte", i) for i in loads), r


# --- matmul ------------------------------------------------------------------------------------------------------


@triton.jit
def load_a_transposed(b, m, k, mask, ARGS):
    """The left operand stored [K, M]."""
    return tl.load(ARGS[0] + (b * ARGS[6] + k) * ARGS[4] + m, mask=mask, other=0.0)


@triton.jit
def load_a_relu(b, m, k, mask, ARGS):
    x = tl.load(ARGS[0] + (b * ARGS[4] + m) * ARGS[6] + k, mask=mask, other=0.0)
    return tl.where(mask, tl.maximum(x.to(tl.float32), 0.0).to(x.dtype), 0)


def build_matmul(
    ty: str,
    target: str,
    mnk: tuple[int, int, int],
    precision: str = "tf32",
    a: Any = cl.load_a,
    b: Any = cl.load_b,
    store: Any = cl.store_c,
    **tile: int,
) -> Report:
    (m, n, k), size, batch = mnk, SIZES[ty], 1
    if not tile:
        options = Machine(target, precision=precision)
        batch = cfg.matmul_splits(dict(BATCH=1, M=m, N=n, K=k), size, options)
        loads = (size if a is load_a_relu else 0, 0)
        k //= batch
        tile = cfg.matmul_config(dict(BATCH=batch, M=m, N=n, K=k), size, options, prologues=loads, plain=not any(loads))
    types = ["*" + ty, "*" + ty, "*fp32" if batch > 1 else "*" + ty, "*fp32"]
    acc = tl.float64 if ty == "fp64" else tl.float32
    report = build(
        matmul, target, [*types, m, n, k], tile, LOAD_A=a, LOAD_B=b, EPILOGUE=store, BATCH=batch, M=m, N=n, K=k,
        INPUT_PRECISION=precision, ACC=acc, NAME="mm",
    )  # fmt: skip
    check(report, target, "mm")
    if size == 2:
        check_cores(report, target, tile["BM"])
    return report


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("ty", ["fp16", "fp32", "fp64"])
def test_matmul(ty: str, target: str) -> None:
    # In tf32 the tensor cores of sm_90 take a right operand with k innermost only, so this one is turned round on its way.
    precision = "ieee" if ty == "fp64" else "tf32"  # as programs ask for it: Triton 3.6 and 3.7 have no other on gfx942
    check_vectors(build_matmul(ty, target, (4096, 4096, 1000), precision), target, ty != "fp32" or target != "sm_90")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("a", [cl.load_a, load_a_transposed], ids=["mk", "km"])
@pytest.mark.parametrize("b", [cl.load_b, cl.load_b_transposed], ids=["kn", "nk"])
def test_matmul_reads_any_layout_in_vectors(a: Any, b: Any, target: str) -> None:
    check_vectors(build_matmul("bf16", target, (4096, 1024, 1024), a=a, b=b), target, True)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", [pytest.param(n, marks=[] if "mlp" in n else pytest.mark.kernels) for n in LINEAR])
def test_linear_layers(layer: str, target: str) -> None:
    a, b = {"forward": (load_a_relu, cl.load_b_transposed), "input": (load_a_relu, cl.load_b),
            "weight": (load_a_transposed, cl.load_b)}[layer.split("-")[1]]  # fmt: skip
    report = build_matmul("bf16", target, LINEAR[layer], a=a, b=b, store=cl.store_c_bias_relu)
    if all(size % 8 == 0 for size in LINEAR[layer]):
        check_vectors(report, target, False)


@pytest.mark.parametrize("programs", [0, 264])
@pytest.mark.parametrize("a_rows", [True, False])
@pytest.mark.parametrize("b_rows", [True, False])
def test_matmul_tma(a_rows: bool, b_rows: bool, programs: int) -> None:
    """Operands come by the memory accelerator alone, and take no registers for addresses."""
    sizes = dict(BATCH=2, M=4096, N=1000, K=1024)
    tile = dict(BM=128, BN=128, BK=64, num_warps=8, num_stages=3, PROGRAMS=programs)
    report = build(
        matmul_tma, "sm_90", ["*bf16", "*bf16", "*bf16", "*fp32", 4096, 1000, 1024], tile, EPILOGUE=cl.store_c, A=0, B=1,
        A_ROWS=a_rows, B_ROWS=b_rows, **sizes, INPUT_PRECISION="tf32", ACC=tl.float32, NAME="mm",
    )  # fmt: skip
    check(report, "sm_90", "mm")
    check_cores(report, "sm_90", 128)
    assert report.uses("UTMALDG") and not report.accesses("LDG.E", "LDGSTS.E"), report


@pytest.mark.parametrize("a_rows", [True, False])
@pytest.mark.parametrize("b_rows", [True, False])
@pytest.mark.parametrize("columns,stages", [(256, 3), (128, 4)])
def test_matmul_tma_by_groups_of_warps(columns: int, stages: int, a_rows: bool, b_rows: bool) -> None:
    """One group of four warps loads and gives its registers to the two that multiply; nothing spills."""
    sizes = dict(BATCH=1, M=4096, N=4096, K=4096)
    found = [c for _, c in cfg.matmul_specialized(sizes, 2, Machine("sm_90"), plain=True)]
    (tile,) = (c for c in found if (c["BN"], c["num_stages"]) == (columns, stages))
    report = build(
        matmul_tma, "sm_90", ["*bf16", "*bf16", "*bf16", "*fp32", 4096, 4096, 4096], tile, EPILOGUE=cl.store_c, A=0, B=1,
        A_ROWS=a_rows, B_ROWS=b_rows, **sizes, INPUT_PRECISION="tf32", ACC=tl.float32, NAME="mm",
    )  # fmt: skip
    check(report, "sm_90", "mm")
    assert report.warps == 12 and report.uses("USETMAXREG") and report.uses("UTMALDG") and report.uses("HGMMA"), report
    assert not cfg.matmul_specialized(sizes, 2, Machine("sm_90")) and not cfg.matmul_specialized(
        {**sizes, "K": 192}, 2, plain=True
    )
    assert not any(cfg.matmul_specialized(sizes, 2, Machine(arch), plain=True) for arch in ("sm_80", "sm_100"))


FLOATS = [("fp32", "ieee"), ("fp32", "tf32"), ("fp32", "tf32x3"), ("fp32", "bf16x3"), ("fp64", "ieee")]


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_split_products_are_three(target: str) -> None:
    """On one tile: three products of tf32 for one, or of bfloat16, which takes half the instructions; none for exact ones.

    One step deep, since assemblers differ in which loops they unroll.
    """
    tile = dict(BM=64, BN=32, BK=32, num_warps=4, num_stages=3, PROGRAMS=0)
    cores: dict[str, dict[str, int]] = {}
    for precision in ("tf32", "tf32x3", "bf16x3", "ieee"):
        report = build_matmul("fp32", target, (1024, 1024, 32), precision, **tile)
        cores[precision] = {i: count for i, count in report.instructions.items() if i.startswith(CORES[target])}
        assert report.uses("FFMA") == (precision == "ieee"), report
    (one, count), (three, thrice), (half, fewer) = (*cores["tf32"].items(), *cores["tf32x3"].items(), *cores["bf16x3"].items())
    assert one == three and one.endswith(".TF32") and half.endswith(".BF16") and not cores["ieee"]
    assert thrice == 3 * count and 2 * fewer == 3 * count, cores


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("ty,precision", [("bf16", "tf32"), *FLOATS])
@pytest.mark.kernels
def test_every_tile(ty: str, precision: str, target: str) -> None:
    gemm = cfg.matmul_gemm(dict(BATCH=1, M=1000, N=1000, K=1000), SIZES[ty])._replace(plain=True)
    options = Machine(target, precision=precision)
    found = {(p.bm, p.bn, p.bk, p.warps): p for p in tilings(gemm, options)}  # of each the one with most stages
    assert len(found) >= 5
    for p in found.values():
        tile = dict(BM=p.bm, BN=p.bn, BK=p.bk, num_warps=p.warps, num_stages=p.stages, PROGRAMS=0)
        build_matmul(ty, target, (1000, 1000, 1000), precision, **tile)


# --- convolution -------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Any, Any]] = {
    "fwd": (conv_fwd, depthwise_fwd),
    "dgrad": (conv_dgrad, depthwise_dgrad),
    "wgrad": (conv_wgrad, depthwise_wgrad),
}
PLAIN: dict[str, tuple[Any, ...]] = {
    "fwd": (cl.load_x, cl.load_w, cl.store_y),
    "dgrad": (cl.load_y, cl.load_w, cl.store_x),
    "wgrad": (cl.load_y, cl.load_x, cl.store_w),
}
# As in a training step: the batch norm before, the residual behind; the batch norm's gradient, the ReLU behind.
FUSED: dict[str, tuple[Any, ...]] = {
    "fwd": (cl.load_x_affine_relu, cl.load_w, cl.store_y_bias_add_relu),
    "dgrad": (cl.load_y_batch_norm, cl.load_w, cl.store_x_where),
    "wgrad": (cl.load_y_batch_norm, cl.load_x_affine_relu, cl.store_w),
}
LOADS = {"fwd": (1, 0), "dgrad": (2, 0), "wgrad": (2, 1)}  # maps of each prologue


def build_conv(kind: str, z: Geometry, target: str, ty: str = "bf16", precision: str = "tf32", fused: bool = False) -> Report:
    """Also checks everything that holds for each of them."""
    fn, few = KINDS[kind]
    size, depthwise, options = SIZES[ty], cfg.is_depthwise(z), Machine(target, precision=precision)
    turn = kind == "wgrad" and target == "gfx942"  # there rows are filters' (tiling.oriented)
    if kind == "wgrad":
        z = z._replace(K_AXIS=int(turn and not depthwise))
        z = z._replace(SPLITS=cfg.wgrad_splits(z, size, options))
    if depthwise:
        fn, config = few, cfg.depthwise_config(kind, z, size)
    else:
        loads = tuple(size * maps if fused else 0 for maps in LOADS[kind][:: -1 if turn else 1])
        config = cfg.conv_config(kind, z, size, options, prologues=loads, plain=not fused)
    types = ["*" + ty, "*fp32" if z.SPLITS > 1 else "*" + ty, "*" + ty, "*fp32"]
    sizes = [z.C, z.H, z.W, z.K, z.R, z.S, z.C // z.GROUPS, z.P, z.Q]
    constants = dict(zip(fn.arg_names[1:4], (FUSED if fused else PLAIN)[kind], strict=True))
    precisions = {} if depthwise else {"INPUT_PRECISION": precision}
    acc = tl.float64 if ty == "fp64" else tl.float32
    r = build(
        fn, target, [*types, *sizes, "*fp32", "*fp32", "*" + ty], config, **constants, G=z, **precisions, ACC=acc, NAME=kind
    )
    check(r, target, kind)
    if size == 2 and not depthwise:
        check_cores(r, target, config["BM"])
    if size == 2 and z.C // z.GROUPS % 8 == z.K // z.GROUPS % 8 == 0:
        check_vectors(r, target, not fused)
    return r


FEW = ["resnet50-3x224-64-7x7s2", "resnet50-64x56-64-1x1", "resnet50-128x56-128-3x3s2", "resnet50-256x14-256-3x3",
       "resnet50-2048x7-512-1x1", "lenet5-6x14-16-5x5s1"]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", [pytest.param(n, marks=[] if n in FEW else pytest.mark.kernels) for n in CONVS])
@pytest.mark.parametrize("kind", KINDS)
def test_conv_fused(kind: str, layer: str, target: str) -> None:
    build_conv(kind, CONVS[layer], target, fused=True)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", [pytest.param(n, marks=[] if n in FEW[2:3] else pytest.mark.kernels) for n in CONVS])
@pytest.mark.parametrize("kind", KINDS)
def test_conv_plain(kind: str, layer: str, target: str) -> None:
    build_conv(kind, CONVS[layer], target)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("ty,precision", FLOATS)
@pytest.mark.parametrize("layer", [pytest.param(FEW[0], marks=pytest.mark.kernels), FEW[2]])
@pytest.mark.parametrize("kind", KINDS)
def test_conv_wide(kind: str, layer: str, ty: str, precision: str, target: str) -> None:
    build_conv(kind, CONVS[layer], target, ty, precision, fused=ty == "fp32")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_depthwise(kind: str, target: str) -> None:
    r = build_conv(kind, conv(128, 96, 56, 96, 3, 1, 1, 96), target, fused=True)
    wide = {"gfx942": "dwordx4"}.get(target, ".128")
    assert any(wide in i for i in r.accesses("LDG", "global_load", "buffer_load")), r


# --- everything else ---------------------------------------------------------------------------------------------

POOLS: dict[str, tuple[Any, ...]] = {
    "max": (pool, {"LOAD_X": cl.pool_load_x, "EPILOGUE": cl.pool_store_both, "OP": "max"}, False),
    "sum": (pool, {"LOAD_X": cl.pool_load_x, "EPILOGUE": cl.pool_store_sum, "OP": "sum"}, False),
    "max_grad": (
        max_pool_grad,
        {"LOAD_DY": cl.pool_load_y, "LOAD_INDEX": cl.pool_load_index, "EPILOGUE": cl.pool_store_x},
        True,
    ),
    "sum_grad": (sum_pool_grad, {"LOAD_DY": cl.pool_load_y, "EPILOGUE": cl.pool_store_x}, True),
    "gather": (
        max_pool_gather,
        {"LOAD_X": cl.pool_load_x, "LOAD_INDEX": cl.pool_load_index, "EPILOGUE": cl.pool_store_y},
        False,
    ),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", POOLS)
def test_pool(name: str, target: str) -> None:
    fn, extra, gradient = POOLS[name]
    z = conv(32, 64, 112, 64, 3, 2, 1)
    channels = cfg.pool_channels(z, True, gradient)
    config = cfg.pool_config(cfg.pool_outputs(z, gradient, channels), 2)
    args = ["*fp16", "*fp16", "*u8", z.C, z.H, z.W, z.P, z.Q]
    more = {"CHANNELS_LAST": True, "CHANNELS": channels, "ACC": tl.float32, "NAME": name}
    report = build(fn, target, args, config, G=z, **extra, **more)
    check(report, target, name)
    if target != "gfx942" and name != "gather":
        assert "LDG.E.128" in report.instructions


@pytest.mark.parametrize("name", [n for n in POOLS if n != "gather"])
def test_a_large_window_is_a_loop(name: str) -> None:
    """A compiler's time grows with what is written out; of 56 x 56 taps that took minutes."""
    fn, extra, gradient = POOLS[name]
    z = conv(32, 64, 56, 64, 56, 1, 28)
    config = cfg.pool_config(cfg.pool_outputs(z, gradient), 2)
    args = ["*fp16", "*fp16", "*u8", z.C, z.H, z.W, z.P, z.Q]
    report = build(fn, "sm_90", args, config, G=z, **extra, ACC=tl.float32, CHANNELS_LAST=True, NAME=name)
    check(report, "sm_90", name)
    assert sum(report.instructions.get(i, 0) for i in report.instructions if i.startswith("LDG")) <= 64


@triton.jit(repr=lambda s: s.constants["NAME"])
def helpers(ARGS, BLOCK: tl.constexpr, NAME: tl.constexpr):
    i = tl.arange(0, BLOCK)
    u = uniform(tl.load(ARGS[0]), tl.load(ARGS[0] + 1), 3, i)
    tl.store(ARGS[1] + i, u)
    value, at = argmax(u, i, 0)
    low, low_at = argmin(u, i, 0)
    tl.store(ARGS[1] + BLOCK, value + low + tl.reduce(u, 0, maximum) + at + low_at)


@pytest.mark.parametrize("target", TARGETS)
def test_philox_and_reductions(target: str) -> None:
    config = {"num_warps": 4, "num_stages": 1}
    check(build(helpers, target, ["*i64", "*fp32"], config, BLOCK=1024, NAME="draw"), target, "draw")
