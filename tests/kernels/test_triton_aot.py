"""The Triton templates compiled ahead of time for sm_80, sm_90 and gfx942; no GPU is needed.

Asserts what the templates promise about code quality: no register spills, tensor-core instructions for half-precision
operands, asynchronous 128-bit loads where channels allow, and a kernel named by NAME. Pointers and sizes carry
tt.divisibility as they do at run time; without it loads stay narrow. Skipped under TRITON_INTERPRET=1, where nothing is
compiled.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles, so it cannot run under TRITON_INTERPRET=1", allow_module_level=True)

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.compiler import compile as triton_compile  # noqa: E402

from kernels.triton import closures as cl  # noqa: E402
from kernels.triton import config as cfg  # noqa: E402
from kernels.triton.conv import conv_dgrad, conv_fwd, conv_wgrad  # noqa: E402
from kernels.triton.matmul import matmul  # noqa: E402
from kernels.triton.philox import uniform  # noqa: E402
from kernels.triton.pool import max_pool_gather, max_pool_grad, pool, sum_pool_grad  # noqa: E402
from kernels.triton.reduce import argmax, argmin, maximum  # noqa: E402

pytestmark = pytest.mark.aot

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
SIZES = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}


def build(fn: Any, target: str, args: list[str], config: dict[str, int], **constants: Any) -> Any:
    """Compiles fn, whose first parameter is the tuple of args, as at run time; with blocks and options from config."""
    options = {"num_warps": config["num_warps"], "num_stages": config["num_stages"], "enable_fp_fusion": True}
    constants |= {k: v for k, v in config.items() if k in fn.arg_names}
    attrs = {(0, i): [["tt.divisibility", 16]] for i in range(len(args))}
    signature: dict[str, Any] = dict.fromkeys(fn.arg_names, "constexpr")
    signature[fn.arg_names[0]] = tuple(args)
    source = ASTSource(fn=fn, signature=signature, constexprs=constants, attrs=attrs)
    return triton_compile(source, target=TARGETS[target], options=options)


def dump(kernel: Any, flag: str) -> str:
    if not CUOBJDUMP.exists():
        pytest.skip("Triton was installed without cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(kernel.asm["cubin"])
        f.flush()
        return subprocess.run([str(CUOBJDUMP), flag, f.name], capture_output=True, text=True, check=True).stdout


def check(kernel: Any, target: str, name: str, tensor_cores: bool = False, loads: str = "") -> None:
    """The kernel's name, no spills, and if asked for its tensor-core instructions and a pattern of loads."""
    assert kernel.metadata.name == name
    if target == "gfx942":
        text = kernel.asm["amdgcn"]
        for kind in ("vgpr", "sgpr"):
            assert set(re.findall(rf"\.{kind}_spill_count:\s*(\d+)", text)) == {"0"}
        assert not tensor_cores or "v_mfma_f32" in text
        assert kernel.metadata.shared <= 64 << 10
        return
    stacks = re.findall(r"REG:\d+ STACK:(\d+)", dump(kernel, "-res-usage"))
    assert stacks and set(stacks) == {"0"}, f"spills {stacks}"
    if tensor_cores or loads:
        sass = dump(kernel, "-sass")
        assert not tensor_cores or re.search("HGMMA" if target == "sm_90" else r"\bHMMA", sass)
        assert re.search(loads, sass)


def build_matmul(ty: str, target: str, m: int, n: int, k: int, precision: str = "tf32", **tile: int) -> Any:
    config = cfg.matmul_config(m, n, k, SIZES[ty], precision=precision, target=target) | tile
    acc = tl.float64 if ty == "fp64" else tl.float32
    return build(
        matmul, target, ["*" + ty] * 4 + ["i32"] * 3, config, LOAD_A=cl.load_a, LOAD_B=cl.load_b,
        EPILOGUE=cl.store_c_bias_relu, BATCH=1, M=m, N=n, K=k, INPUT_PRECISION=precision, ACC=acc, NAME="mm_bias_relu",
    )  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("ty", ["fp16", "bf16", "fp32", "fp64"])
def test_matmul(ty: str, target: str) -> None:
    if ty == "fp64" and target == "gfx942" and triton.__version__.startswith("3.6."):
        pytest.skip("Triton 3.6 has no float64 dot for this target")
    kernel = build_matmul(ty, target, 4096, 4096, 1000)
    check(kernel, target, "mm_bias_relu", ty in ("fp16", "bf16"), "LDGSTS.*128")


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("ty,precision", [("bf16", "tf32"), ("fp32", "tf32"), ("fp32", "ieee"), ("fp64", "ieee")])
def test_every_tile_of_the_table(ty: str, precision: str, target: str) -> None:
    for bm, bn, bk, warps, stages in cfg._table(SIZES[ty], precision):
        tile = dict(BM=bm, BN=bn, BK=bk, num_warps=warps, num_stages=stages)
        check(build_matmul(ty, target, 1000, 1000, 1000, precision, **tile), target, "mm_bias_relu")


CONVS: dict[str, tuple[Any, ...]] = {
    "fwd": (conv_fwd, cl.load_x, cl.load_w, cl.store_y_bias_relu),
    "dgrad": (conv_dgrad, cl.load_y, cl.load_w, cl.store_x),
    "wgrad": (conv_wgrad, cl.load_y, cl.load_x, cl.store_w),
}


def conv_sizes(n: int, c: int, hw: int, k: int, rs: int, stride: int) -> dict[str, int]:
    return dict(
        N=n, C=c, H=hw, W=hw, K=k, R=rs, S=rs, P=hw // stride, Q=hw // stride, STRIDE_H=stride, STRIDE_W=stride,
        PAD_H=rs // 2, PAD_W=rs // 2, DIL_H=1, DIL_W=1, GROUPS=1,
    )  # fmt: skip


LAYERS = {"stem": conv_sizes(32, 3, 224, 64, 7, 2), "middle": conv_sizes(32, 128, 28, 128, 3, 1),
          "down": conv_sizes(32, 128, 56, 256, 3, 2), "point": conv_sizes(32, 256, 14, 1024, 1, 1)}  # fmt: skip


@functools.cache
def build_conv(kind: str, layer: str, ty: str, target: str, precision: str) -> Any:
    fn, left, right, epilogue = CONVS[kind]
    sizes = dict(LAYERS[layer])
    if kind == "wgrad":
        sizes["SPLITS"] = cfg.wgrad_splits(sizes, SIZES[ty], target=target)
    config = cfg.conv_config(kind, sizes, SIZES[ty], precision=precision, target=target)
    closures = dict(zip(fn.arg_names[1:4], (left, right, epilogue), strict=True))
    acc = tl.float64 if ty == "fp64" else tl.float32
    return build(
        fn, target, ["*" + ty] * 4 + ["i32"] * 9, config, **closures, **sizes, INPUT_PRECISION=precision, ACC=acc,
        NAME="conv_" + kind,
    )  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", CONVS)
def test_conv_half(kind: str, layer: str, target: str) -> None:
    loads = "LDGSTS.*128" if layer != "stem" else ""
    check(build_conv(kind, layer, "fp16", target, "tf32"), target, "conv_" + kind, True, loads)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("ty,precision", [("fp32", "tf32"), ("fp32", "ieee"), ("fp64", "ieee")])
@pytest.mark.parametrize("layer", ["stem", "down"])
@pytest.mark.parametrize("kind", CONVS)
def test_conv_wide(kind: str, layer: str, ty: str, precision: str, target: str) -> None:
    check(build_conv(kind, layer, ty, target, precision), target, "conv_" + kind)


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
    sizes = conv_sizes(32, 64, 112, 64, 3, 2)
    config = cfg.pool_config(cfg.pool_outputs(sizes, gradient))
    constants = {d: v for d, v in sizes.items() if d in fn.arg_names}
    kernel = build(
        fn, target, ["*fp16", "*fp16", "*u8"] + ["i32"] * 5, config, **constants, **extra, ACC=tl.float32,
        CHANNELS_LAST=True, NAME=name,
    )  # fmt: skip
    loads = "" if name == "gather" else r"LDG\.E\.128"
    check(kernel, target, name, loads=loads)


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
