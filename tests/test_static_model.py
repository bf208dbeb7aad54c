"""The static model of compiled kernels: ways and loops in NVIDIA's machine code, and the limit that binds a launch."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import graphrt as grt
from graphrt import ops as F
from graphrt.runtime.machine import Work, find_data_sheet
from graphrt.runtime.roofline import Estimate, predict

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles kernels, so it cannot run under TRITON_INTERPRET=1", allow_module_level=True)

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.targets.triton.compile.sass import Task, flow, instructions, work

H200 = find_data_sheet("cuda:sm_90")


def listing(*lines: str) -> str:
    """A disassembler's listing of ``lines``, whose instructions lie at 0x00, 0x10, 0x20, ..."""
    return "\n".join(f"        /*{16 * i:04x}*/    {line} ;" for i, line in enumerate(lines))


LOOP = listing(
    "S2R R0, SR_CTAID.X",
    "@P1 BRA 0x90",  # to a shorter way
    "LDGSTS.E.BYPASS.128 [R4], desc[UR4][R2.64]",  # 0x20: the loop
    "@!PT LDS RZ, [RZ]",
    "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4].tnspB, R24",
    "HGMMA.64x128x16.F32.BF16 R24, R8, gdesc[UR4], R24, gsb0",  # its left operand lies in registers
    "@!P0 BRA 0x20",
    "STG.E.128 desc[UR4][R12.64], R4",
    "EXIT",
    "STG.E desc[UR4][R12.64], R4",  # 0x90
    "EXIT",
    "BRA 0xb0",  # what fills the end
)


def test_the_longest_way_and_its_loop() -> None:
    way = flow(instructions(LOOP))
    assert list(way.blocks) == [0x00, 0x20, 0x70] and way.loops == [frozenset([0x20])]
    assert [i.idle for i in instructions(LOOP)].count(True) == 1


def test_loops_run_until_the_work_is_done() -> None:
    """Eight trips of two products of 64x128x16 by each of two groups of four warps; one more wave is one more turn."""
    flops = 8 * 2 * 2 * 2 * 64 * 128 * 16
    found = work(LOOP, "sm_90", 8, 1000, 2, Task(flops=flops, moved=64))
    assert found.loops["tensor"] == flops / 4096 and "tensor" not in found.rest
    assert found.loops["shared"] == 8 * (2 * 32 * (64 + 128 + 128) / 128 + 8 * 512 / 128)
    assert found.loops["issue"] == 8 * 5 * 8 / 4 and found.rest["issue"] == 4 * 8 / 4
    assert found.loops["l2"] == 8 * 8 * 512 / 64
    assert found.latency == 8 * 800
    twice = work(LOOP, "sm_90", 8, 1000, 2, Task(flops=2 * flops, ahead=2))
    assert twice.loops["tensor"] == 2 * found.loops["tensor"] and twice.latency == found.latency
    loads = work(LOOP.replace("HGMMA", "NOTHING"), "sm_90", 8, 1000, 2, Task(read=8 * 8 * 512))
    assert loads.latency == 8 * 800 and loads.loops["issue"] == found.loops["issue"]


def test_a_jump_by_a_table_leads_to_what_nothing_else_leads_to() -> None:
    code = listing("S2R R0, SR_CTAID.X", "BRX R6 -0x10", "EXIT", "MOV R1, R2", "STG.E [R12.64], R4", "EXIT", "BRA 0x60")
    assert list(flow(instructions(code)).blocks) == [0x00, 0x30]


def test_loops_in_loops_and_ways_that_part() -> None:
    code = listing(
        "MOV R1, R2",
        "MOV R3, R2",  # 0x10: over all tiles
        "HMMA.16816.F32.BF16 R4, R8, R12, R4",  # 0x20: over a tile's depth
        "@P0 BRA 0x20",
        "@P1 BRA 0x60",
        "STG.E.128 desc[UR4][R12.64], R4",
        "@P2 BRA 0x10",  # 0x60
        "EXIT",
    )
    way = flow(instructions(code))
    assert sorted(map(sorted, way.loops)) == [[0x10, 0x20, 0x40, 0x50, 0x60], [0x20]]
    found = work(code, "sm_90", 4, 132, 1, Task(flops=12 * 4 * 4096, turns=3))
    assert found.loops["issue"] == 12 * 2 + 3 * 4 and found.rest["issue"] == 2
    assert found.loops["shared"] == 3 * 4 * 512 / 128


def test_the_fullest_multiprocessor_decides() -> None:
    loops, rest = {"tensor": 100.0, "shared": 60.0, "issue": 10.0}, {"shared": 50.0, "issue": 70.0}

    def limits(programs: int, resident: int) -> dict[str, float]:
        return Work(programs, resident, loops, rest, 1000.0).limits(132)

    assert limits(10 * 132, 2) == {"tensor": 1000.0, "shared": 1100.0, "issue": 800.0, "latency": 5000.0}
    assert limits(10 * 132 + 1, 2)["tensor"] == 1100.0 and limits(10 * 132 + 1, 2)["latency"] == 6000.0
    assert limits(10 * 132, 1) == {"tensor": 1700.0, "shared": 1100.0, "issue": 800.0, "latency": 10000.0}  # nothing overlaps
    assert limits(1, 8) == {"tensor": 170.0, "shared": 110.0, "issue": 80.0, "latency": 1000.0}


def estimate(build: Callable[[grt.Graph], grt.Value], target: str = "cuda:sm_90", **options: str) -> Estimate:
    """The bound from the compiled code of one output."""
    g = grt.Graph()
    g.output("y", build(g))
    return predict(grt.compile(g, target=target, **options), find_data_sheet(target), 1, compiled=True)


@pytest.mark.parametrize(("dtype", "precision", "rate"), [("bfloat16", "highest", 4096), ("float32", "medium", 2048)])
def test_a_large_product_is_bound_by_tensor_cores_or_shared_memory(dtype: str, precision: str, rate: int) -> None:
    """Tensor cores have all its flops to do, at their rate, and the last wave is nearly full."""
    found = estimate(
        lambda g: g.input("x", (4096, 4096), dtype) @ g.input("w", (4096, 4096), dtype), float32_matmul_precision=precision
    )
    (product,) = found.launches
    assert product.bound in ("tensor", "shared") and product.seconds == max(product.limits.values())
    least = 2 * 4096**3 / (132 * rate * 1e9 * H200.clock)
    assert least <= product.limits["tensor"] <= 1.1 * least <= 2 * least >= product.limits["shared"]
    assert "bound by " in str(found) and "not measured" in str(found) and found.to_json()["compiled"] is True


def test_a_plain_product_on_halves_takes_a_larger_tile() -> None:
    """Shared memory is no longer slower than tensor cores; what else a kernel has to hold leaves no room for it."""

    def product(g: grt.Graph, behind: str, dtype: str = "bfloat16") -> grt.Value:
        y = g.input("x", (4096, 4096), dtype) @ g.input("w", (4096, 4096), dtype)
        return y + g.input("z", (4096, 4096) if behind == "map" else (4096,), dtype) if behind else y

    def tile(behind: str, target: str = "cuda:sm_90", dtype: str = "bfloat16") -> tuple[int, int]:
        g = grt.Graph()
        g.output("y", product(g, behind, dtype))
        (code,) = grt.compile(g, target=target)._executable._compilation.codes
        return code.config["BM"], code.config["BN"]

    assert tile("") == tile("vector") == (128, 256) and tile("map") == (128, 128)
    assert max(tile("", "cuda:sm_80")) == max(tile("", "hip:gfx942")) == max(tile("", dtype="float32")) * 2 == 128
    (large,), (small,) = (estimate(lambda g, behind=behind: product(g, behind)).launches for behind in ("", "map"))
    assert large.limits["shared"] <= 1.01 * large.limits["tensor"] and large.seconds < 0.85 * small.seconds


def test_exact_products_are_bound_by_what_is_issued() -> None:
    (product,) = estimate(lambda g: g.input("x", (2048, 2048)) @ g.input("w", (2048, 2048))).launches
    least = 2048**3 / (132 * 128 * 1e9 * H200.clock)  # a fused operation of each lane in each clock
    assert product.bound in ("issue", "shared") and least <= product.limits["issue"] <= 2 * least


@pytest.mark.parametrize("target", ["cuda:sm_90", "cuda:sm_80", "hip:gfx942"])
def test_elementwise_is_bound_by_memory(target: str) -> None:
    (large,) = estimate(lambda g: g.input("x", (1 << 26,)) * 2.0, target).launches
    assert large.bound == "memory" and large.limits["latency"] < large.seconds
    (small,) = estimate(lambda g: g.input("x", (8,)) * 2.0, target).launches
    assert small.bound == "launch"


def test_few_programs_are_bound_by_their_own_waiting() -> None:
    """A scan of one line is one program: what its bytes take from memory says nothing."""
    (scan,) = estimate(lambda g: F.cumsum(g.input("x", (1, 1 << 20)), 1)).launches
    assert scan.bound == "latency" and scan.seconds > 50 * scan.limits["memory"]
    assert scan.limits["l2"] == pytest.approx(2 * 4 * 2**20 / 64 / (1e9 * H200.clock))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_longer_rows_take_more_trips(dtype: str) -> None:
    """However far the compiler unrolls a loop, it runs until all is read."""
    (short,), (long,) = (
        estimate(lambda g, size=size: F.sum(g.input("x", (16896, size), dtype), 1)).launches for size in (1 << 15, 1 << 16)
    )
    for limit in ("issue", "shared", "latency", "memory"):
        assert long.limits[limit] == pytest.approx(2 * short.limits[limit], rel=0.2), limit
