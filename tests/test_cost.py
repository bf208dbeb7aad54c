"""What a launch is counted to move and compute, and the predictions made from that."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import numpy as np
import pytest

import graphrt as grt
from graphrt import ops as F
from graphrt.errors import ArgumentError
from graphrt.runtime.machine import COMPUTE, DATA_SHEETS, LAUNCH, MEMORY, find_data_sheet
from graphrt.runtime.roofline import Estimate, predict
from graphrt.schedule.cost import launch_cost

CUDA = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="plans for a GPU are made in the lane that compiles"
)


def costs(g: grt.Graph, target: str = "cpu") -> list[tuple[int, int, int]]:
    """(bytes read, bytes written, flops) of each launch."""
    found = [launch_cost(kernels) for kernels in grt.compile(g, target=target).kernel_ir]
    return [(c.read, c.written, c.flops) for c in found]


def test_a_broadcast_operand_counts_once() -> None:
    g = grt.Graph()
    g.output("y", g.input("x", (64, 32)) + g.input("b", (32,)))
    assert costs(g) == [(4 * (64 * 32 + 32), 4 * 64 * 32, 64 * 32)]


def test_a_buffer_read_twice_counts_once_and_one_updated_twice() -> None:
    g = grt.Graph()
    x = g.input("x", (64, 32))
    g.output("y", x + F.permute(x, (0, 1)) * 2.0)
    assert costs(g)[0][:2] == (4 * 64 * 32, 4 * 64 * 32)
    g = grt.Graph()
    p = g.parameter("p", np.zeros((100,), np.float32))
    g.update(p, p * 2.0)
    assert costs(g) == [(400, 400, 100)]


def test_only_what_is_read_of_a_table_counts() -> None:
    g = grt.Graph()
    g.output("y", F.embedding(g.input("i", (8,), "int64"), g.input("table", (5000, 16))))
    ((read, written, _),) = costs(g)
    assert read == 8 * 8 + 4 * 8 * 16 and written == 4 * 8 * 16


@CUDA
def test_rows_that_do_not_fit_are_read_by_each_pass() -> None:
    sizes = {}
    for row in (1 << 10, 1 << 20):
        g = grt.Graph()
        g.output("y", F.softmax(g.input("x", (4, row))))
        sizes[row] = sum(read for read, _, _ in costs(g, "cuda:sm_90")) / (4 * 4 * row)
    assert sizes[1 << 10] == 1.0 and sizes[1 << 20] >= 2.0


@CUDA
def test_prediction_is_the_roofline() -> None:
    device = find_data_sheet("cuda:sm_90")

    def one(build: Callable[[grt.Graph], grt.Value]) -> Estimate:
        g = grt.Graph()
        g.output("y", build(g))
        return predict(grt.compile(g, target="cuda:sm_90"), device, 1)

    large = one(lambda g: g.input("x", (1 << 26,)) * 2.0).launches[0]
    assert large.bound == "memory" and large.seconds == pytest.approx(2 * 4 * (1 << 26) / (MEMORY * device.memory * 1e12))
    small = one(lambda g: g.input("x", (8,)) * 2.0).launches[0]
    assert small.bound == "launch" and small.seconds == LAUNCH
    estimate = one(lambda g: g.input("x", (4096, 4096)) @ g.input("w", (4096, 4096)))
    (product,) = estimate.launches
    assert product.bound == "compute"
    assert product.seconds == pytest.approx(2 * 4096**3 / (COMPUTE * device.float32 * 1e12))
    shown = str(estimate)
    assert "not measured" in shown and "images/s" in shown and shown.count("\n") == len(estimate.launches) + 3
    again = json.loads(json.dumps(estimate.to_json()))
    assert again["predicted"] is True and again["device"]["name"] == "H200" and len(again["kernels"]) == again["launches"]


@CUDA
@pytest.mark.parametrize(
    ("dtype", "precision", "rate"),
    [
        ("float32", "highest", 66.9),
        ("float32", "medium", 494.7),
        ("float32", "high", 494.7 / 3),
        ("bfloat16", "highest", 989.4),
    ],
)
def test_products_run_at_the_rate_of_their_operands(dtype: str, precision: str, rate: float) -> None:
    g = grt.Graph()
    g.output("y", g.input("x", (4096, 4096), dtype) @ g.input("w", (4096, 4096), dtype))
    program = grt.compile(g, target="cuda:sm_90", float32_matmul_precision=precision)
    (found,) = predict(program, find_data_sheet("cuda:sm_90"), 1).launches
    assert found.bound == "compute" and found.seconds == pytest.approx(2 * 4096**3 / (COMPUTE * rate * 1e12))


def test_devices() -> None:
    assert find_data_sheet("cuda:sm_90", "H100").name == "H100" and find_data_sheet("hip:gfx942").name == "MI300X"
    assert find_data_sheet("cpu", "A100").arch == "sm_80"
    assert len({d.name for d in DATA_SHEETS}) == len(DATA_SHEETS)
    for target, name in (("cuda:sm_90", "A100"), ("cuda:sm_75", None), ("cuda:sm_90", "B200")):
        with pytest.raises(ArgumentError, match=r"there is H200 \(sm_90\)"):
            find_data_sheet(target, name)


@CUDA
@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize("precision", ["tf32", "ieee"])
def test_tiles_are_what_a_multiprocessor_can_hold(itemsize: int, precision: str) -> None:
    """Powers of two, and of programs that walk the tiles no more than have room for their stages side by side."""
    from graphrt.kernels.triton.config import matmul_configs
    from graphrt.kernels.triton.cost import Machine, multiprocessor

    machine, walking = Machine(precision=precision), 0
    for m, n, k in ((4096, 4096, 512), (65536, 64, 64), (8192, 1024, 256), (100, 30, 7)):
        for _, c in matmul_configs({"BATCH": 1, "M": m, "N": n, "K": k}, itemsize, machine):
            assert all(c[name].bit_count() == 1 for name in ("BM", "BN", "BK", "num_warps"))
            stages = c["num_stages"] * c["BK"] * (c["BM"] + c["BN"]) * itemsize
            walking += c["PROGRAMS"] > 0
            assert c["PROGRAMS"] * stages <= machine.units * (multiprocessor("sm_90").shared + 1024)
    assert walking
