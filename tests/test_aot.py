"""Every distinct kernel of training steps compiled for GPUs that are not here, and what the compiler made of it.

``make test`` has MLP and LeNet-5 in bfloat16, ``make proofs`` LeNet-5 in float32, ResNet-20 and the older of NVIDIA's GPUs,
``make kernels`` the large networks; golden files hold the figures (see golden_kernels).
"""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import pytest
from graphs import inception_step, lenet_step

import graphrt as grt
from graphrt import ops as F

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles kernels, so it cannot run under TRITON_INTERPRET=1", allow_module_level=True)

triton = pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

import golden_kernels  # noqa: E402

from graphrt.targets.triton.compile.usage import resident  # noqa: E402
from graphrt.targets.triton.target import ARCHITECTURES  # noqa: E402

pytestmark = pytest.mark.aot
# Two of NVIDIA's are much alike: the older one is for make proofs.
TARGETS = [pytest.param(a, marks=[pytest.mark.proof] * (a == "cuda:sm_80")) for a in ARCHITECTURES]
FEW = [pytest.param(a, marks=[pytest.mark.proof] * (a != "cuda:sm_90")) for a in ARCHITECTURES]
SMALL = [("mlp", "float32"), ("lenet5", "bfloat16")]
MIDDLE = [("lenet5", "float32"), ("resnet20", "float32"), ("resnet20", "bfloat16")]
LARGE = [("resnet50", "bfloat16"), ("resnet50", "float32"), ("vgg16", "bfloat16"), ("alexnet", "bfloat16")]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("model", "dtype"),
    [
        *SMALL,
        *(pytest.param(*x, marks=pytest.mark.proof) for x in MIDDLE),
        *(pytest.param(*x, marks=pytest.mark.kernels) for x in LARGE),
    ],
)
def test_training_step(model: str, dtype: str, target: str) -> None:
    program = golden_kernels.training_step(model, dtype, target)
    reports = program.kernels()
    assert sum(r.launches for r in reports) == program.launches
    golden_kernels.check(f"{model}_{dtype}_{target.split(':')[1]}", program, reports)
    found = [fault for r in reports for fault in golden_kernels.faults(r, target)]
    assert not found, "\n".join(found)


def test_a_worse_kernel_is_found() -> None:
    (report, *_) = golden_kernels.training_step("mlp", "bfloat16", "cuda:sm_90").kernels()
    row = golden_kernels._row(report)
    worse = {
        "registers": 3 * report.registers,
        "shared": 2 * report.shared + 1,
        "bytes": 2 * report.bytes,
        "launches": 7,
        "warps": 1,
        "narrow": ("loads",),
    }
    assert not list(golden_kernels._worse("", row, row))
    for figure, value in worse.items():
        assert len(list(golden_kernels._worse("", {**row, figure: value}, row))) == 1, figure
    assert report.tile is not None and not list(golden_kernels.faults(report, "cuda:sm_90"))
    table: dict[str, Any] = vars(report)
    for change in (
        {"spills": 32},
        {"narrow": ("stores",)},
        {"instructions": {"HMMA": 3}, "tile": (64, 64, 64)},
        {"instructions": {}, "tile": (16, 16, 16)},
    ):
        assert len(list(golden_kernels.faults(type(report)(**{**table, **change}), "cuda:sm_90"))) == 1, change


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "warps", "blocks"),
    [
        ("sm_90", 32, 0, 4, 16),  # 64 warps
        ("sm_90", 128, 0, 8, 2),  # 65,536 registers
        ("sm_90", 129, 0, 4, 3),  # given out by eights
        ("sm_90", 255, 0, 8, 1),
        ("sm_90", 32, 100 << 10, 4, 2),  # 228 KB, of which each block takes one more
        ("sm_80", 32, 81 << 10, 4, 2),
        ("sm_80", 32, 82 << 10, 4, 1),
        ("sm_90", 16, 0, 1, 32),
        ("gfx942", 64, 0, 4, 8),
        ("gfx942", 256, 40 << 10, 4, 1),
        ("sm_86", 16, 0, 1, 16),
        ("sm_89", 32, 0, 4, 12),  # 48 warps
    ],
)
def test_occupancy(arch: str, registers: int, shared: int, warps: int, blocks: int) -> None:
    assert resident(registers, shared, warps, f"cuda:{arch}") == blocks


def index_and_scan_ops() -> grt.Graph:
    """Every template that walks one dimension, in two dtypes, with arithmetic around it."""
    g = grt.Graph()
    for dtype in ("float32", "bfloat16"):
        x, table = g.input(f"x.{dtype}", (64, 1000), dtype), g.input(f"table.{dtype}", (5000, 256), dtype)
        token = g.input(f"token.{dtype}", (8, 32), "int64")
        rows = F.embedding(token, table)
        results = [F.cumsum(F.relu(x), 1), F.logcumsumexp(x, 1), F.cumprod(x, 0), F.cummax(x, 1)[0], F.topk(x, 10)[0]]
        results += [rows, grt.grad(F.sum(rows * rows), [table])[0], F.erfinv(F.tanh(x)) + F.atan2(x, F.expm1(x))]
        for i, y in enumerate(results):
            g.output(f"{dtype}.{i}", y)
    g.output("kept", F.nms(g.input("boxes", (300, 4)), g.input("scores", (300,)), 0.5))
    for dtype in ("float32", "float64"):
        g.output(f"values.{dtype}", F.svdvals(F.relu(g.input(f"matrices.{dtype}", (3, 60, 40), dtype))))
        g.output(f"inverse.{dtype}", F.inv(g.input(f"square.{dtype}", (3, 40, 40), dtype)))
    return g


@pytest.mark.parametrize("target", FEW)
def test_scans_sorts_gathers_and_scatters(target: str) -> None:
    """Nothing spills, and addresses that the data decides do not keep the rest from moving 16 bytes at a time."""
    reports = grt.compile(index_and_scan_ops(), target=target).kernels()
    assert {r.name.split("__")[0] for r in reports} >= {"scan", "sort", "scatter", "nms", "svd", "lu"}
    assert not [r for r in reports if r.spills]
    if target.startswith("cuda"):
        wide = [r for r in reports if any("128" in name for name in r.instructions)]
        assert len(wide) >= len(reports) // 2


@pytest.mark.parametrize("target", TARGETS)
def test_halves_reach_the_tensor_cores(target: str) -> None:
    """Also behind a prologue, whose scale and shift for each channel must not take a tile of shared memory in each stage."""
    g = grt.Graph()
    x = g.input("x", (32, 64, 28, 28), "bfloat16", order=(0, 2, 3, 1))
    scale, shift = g.input("scale", (64, 1, 1)), g.input("shift", (64, 1, 1))
    w = g.parameter("w", shape=(64, 64, 3, 3), dtype="bfloat16")
    a = F.cast(F.relu(F.cast(x, "float32") * scale + shift), "bfloat16")
    g.output("y", F.conv2d(a, w, padding=1))
    g.output("dw", grt.grad(F.sum(F.cast(F.relu(F.conv2d(a, w, padding=1)), "float32")), [w])[0])
    reports = [r for r in grt.compile(g, target=target).kernels() if r.name.startswith("conv")]
    core = {"cuda:sm_80": "HMMA", "cuda:sm_90": "HGMMA", "hip:gfx942": "v_mfma"}[target]
    assert len(reports) == 2
    for r in reports:
        assert any(name.startswith(core) for name in r.instructions), r
        assert not r.spills and r.shared <= 100 << 10, r


@pytest.mark.parametrize("target", TARGETS)
def test_columns_are_not_held_in_registers(target: str) -> None:
    """The batch norm of ResNet-50's last maps: 12,544 elements of each of 512 channels that lie side by side."""
    g = grt.Graph()
    x = g.input("x", (256, 7, 7, 512))
    y = F.relu((x - F.mean(x, (0, 1, 2), keepdim=True)) * F.rsqrt(F.var(x, (0, 1, 2), keepdim=True) + 1e-5))
    g.output("y", y)
    for r in grt.compile(g, target=target).kernels():
        assert not r.spills and not r.narrow, r


def test_program_for_an_absent_gpu_says_so() -> None:
    program = grt.compile(lenet_step(), target="cuda:sm_90")
    with pytest.raises(grt.errors.TargetError, match="cannot run on this machine"):
        program(x=np.zeros((64, 1, 32, 32), np.float32), target=np.zeros(64, np.int64), lr=0.1)
    assert "@triton.jit" in program.source(0)


def test_architecture_is_checked() -> None:
    with pytest.raises(grt.errors.TargetError, match="cuda:sm_80"):
        grt.compile(lenet_step(), target="cuda:90")


@pytest.mark.proof
@pytest.mark.parametrize("target", TARGETS)
def test_sibling_convolutions_and_concatenations(target: str) -> None:
    """A block of GoogLeNet: slices of channels are loaded and stored as wide as whole tensors."""
    program = grt.compile(inception_step(batch=32, channels=256, size=14, blocks=1, autocast="bfloat16"), target=target)
    assert {d.other for d in program.decisions if d.taken} >= {"one buffer", "conv_2 (siblings)"}, program.explain().full()
    reports = program.kernels()
    found = [fault for r in reports for fault in golden_kernels.faults(r, target)]
    assert not found, "\n".join(found)
    if target == "cuda:sm_90":
        assert not [r.title for r in reports if "loads" in r.narrow]


def whole_numbers() -> grt.Graph:
    """Quotients that are made whole, compared and used as positions, beside the remainders and powers of both precisions."""
    g = grt.Graph()
    for dtype in ("float32", "float64"):
        x, y = g.input(f"x.{dtype}", (4096,), dtype), g.input(f"y.{dtype}", (4096,), dtype)
        results = [
            F.floor_divide(x, y),
            F.remainder(x, y),
            F.fmod(x, y),
            F.divide(x, y, "trunc"),
            F.round(x / y),
            F.ceil(x / y),
        ]
        results += [F.cast(x / y, "int32"), x / y >= 1.0, x / y, F.index_select(x, 0, F.cast(F.clamp(x / y, 0, 4095), "int64"))]
        for i, z in enumerate(results):
            g.output(f"{dtype}.{i}", z)
    return g


def test_no_approximate_quotient_becomes_whole() -> None:
    """NVIDIA's ordinary division of float32 is off by up to two units: floor(41 / 41) may be 0."""
    from graphrt.targets.triton.compile.build import compile_kernel

    made = grt.compile(whole_numbers(), target="cuda:sm_90")._executable._compilation
    texts = [str(compile_kernel(code, made.module, "cuda:sm_90").asm["ptx"]) for code in made.codes]
    assert any("div.rn.f32" in text for text in texts) and any("div.rn.f64" in text for text in texts)
    for text in texts:
        assert not re.findall(r"\w+\.(?:approx|full)[.\w]*", text)


def in_float32(text: str) -> list[str]:
    """The instructions of PTX that take a double's function in float32.

    NVIDIA's erf of a double finds the whole exponent of e^t there, round(t log2 e), and its power of two, which is exact.
    """
    whole = re.findall(r"cvt\.rni\.f32\.f32\s+(%\w+), (%\w+);", text)
    exponents, rounded = {number for number, _ in whole}, {product for _, product in whole}
    scaled = re.findall(r"mul\.rn\.f32\s+(%\w+), (%\w+), 0f3FB8AA3B;", text)  # log2 e
    reduced = {double for product, double in scaled if product in rounded}
    found = [m[0] for m in re.finditer(r"(?:fma|div|lg2|sin|cos)\.\w+\.?\w*\.f32.*", text)]
    found += [m[0] for m in re.finditer(r"cvt\.\w*\.?f32\.f64\s+(%\w+),.*", text) if m[1] not in reduced]
    return found + [m[0] for m in re.finditer(r"ex2\.\w+\.?\w*\.f32\s+%\w+, (%\w+);", text) if m[1] not in exponents]


@pytest.mark.parametrize(
    "names", ["exp tanh atan2", pytest.param("expm1 log1p sinh atan erfc sin erfinv", marks=pytest.mark.proof)]
)
def test_float64_is_computed_in_double(names: str) -> None:
    """No function of a float64 goes through float32."""
    from graphrt.targets.triton.compile.build import compile_kernel

    g = grt.Graph()
    x = g.input("x", (4096,), "float64")
    operands = {"atan2": (x, x + 1.0), "erfinv": (F.tanh(x),)}
    for name in names.split():
        g.output(name, getattr(F, name)(*operands.get(name, (x,))))
    made = grt.compile(g, target="cuda:sm_90")._executable._compilation
    for code in made.codes:
        text = str(compile_kernel(code, made.module, "cuda:sm_90").asm["ptx"])
        assert re.search(r"(?:fma|mul)\.rn\.f64", text) and not in_float32(text)
