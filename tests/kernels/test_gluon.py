"""``matmul_gluon`` as compiled code, and its own lines run as Python, where copies and products happen as late as they may.

What the template writes down and a compiler does not check is the order of loads, barriers and products. ``Stand`` is a model
of these: a copy happens when it is begun, or when its barrier is waited for; a product when it is begun, or when it must be
done. With copies early and products late, a block that is loaded again too soon gives another result; the other way round, one
that is used before it came.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Gluon has no interpreter", allow_module_level=True)

pytest.importorskip("triton")

import triton.language as tl
from ahead import build

from kernels.triton import closures as cl
from kernels.triton import gluon_config as gluon
from kernels.triton.cost import Machine

if gluon.unknown():
    pytest.skip(gluon.unknown(), allow_module_level=True)

from kernels.triton import matmul_gluon as template
from kernels.triton.tiles import grouped_tile

SIZES = {"BATCH": 1, "M": 512, "N": 768, "K": 512}


# --- compiled ---------------------------------------------------------------------------------------------------------


@pytest.mark.aot
@pytest.mark.parametrize("a_rows", [True, False])
@pytest.mark.parametrize("b_rows", [True, pytest.param(False, marks=pytest.mark.proof)])
@pytest.mark.parametrize("ty", ["bf16", pytest.param("fp16", marks=pytest.mark.proof)])
def test_compiled(ty: str, a_rows: bool, b_rows: bool) -> None:
    """No spills, wgmma, loads by the accelerator alone, stores of 16 bytes; as many programs as the arithmetic says."""
    found = gluon.gluon_configs(SIZES, 2, Machine("sm_90"), plain=True)
    assert len(found) == 3 and all(clocks > 0 for clocks, _ in found)
    for _, c in found:
        r = build(
            template.matmul_gluon,
            "sm_90",
            [f"*{ty}", f"*{ty}", f"*{ty}", f"*{ty}", SIZES["M"], SIZES["N"], SIZES["K"]],
            c,
            **{**SIZES, "EPILOGUE": cl.store_c_bias_relu, "A": 0, "B": 1, "A_ROWS": a_rows, "B_ROWS": b_rows},
            INPUT_PRECISION="tf32",
            ACC=tl.float32,
            NAME="linear",
        )
        assert r.name == "linear" and not r.spills and r.uses("HGMMA") and r.uses("UTMALDG"), r
        assert r.programs("sm_90") * r.warps >= 8, r
        assert all(".128" in i for i in r.accesses("STG.E")) and not r.accesses("LDGSTS"), r


def test_where_it_is_tried() -> None:
    def tried(arch: str = "sm_90", itemsize: int = 2, plain: bool = True, **sizes: int) -> int:
        return len(gluon.gluon_configs({**SIZES, **sizes}, itemsize, Machine(arch), plain=plain))

    assert tried() == 3 and tried(K=256) == 1 and not tried(K=128)
    assert not any((tried("sm_80"), tried("sm_100"), tried(itemsize=4), tried(plain=False), tried(BATCH=2)))


# --- run as Python ----------------------------------------------------------------------------------------------------


class Barrier:
    """A barrier in shared memory: the bytes that its phase expects, and the copies that it counts."""

    phase = wanted = came = 0
    ready = False

    def __init__(self) -> None:
        self.copies: list[Callable[[], None]] = []


class Shared:
    """A buffer in shared memory, NaN before anything was copied there."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def index(self, i: int) -> Any:
        return self.array[i] if isinstance(self.array, list) else Shared(self.array[i])

    def permute(self, order: Any) -> Shared:
        return Shared(self.array.transpose(order))


class Stand:
    """Stands in for Gluon: if ``early`` copies happen when they are begun, products when they must be done; else reversed."""

    int64, float32, constexpr, static_range = "int64", "float32", None, staticmethod(range)

    def __init__(self, early: bool, more: int = 0) -> None:
        self.early, self.more, self.under_way = early, more, list[Callable[[], None]]()
        same = SimpleNamespace(get_default_for=lambda *a: None)
        self.NVMMASharedLayout, self.BlockedLayout, self.SliceLayout = same, self._layout, self._layout
        self.NVMMADistributedLayout = self.MBarrierLayout = self._layout

    def _layout(self, *given: Any) -> None:
        return None

    def static_assert(self, holds: bool) -> None:
        assert holds

    def num_warps(self) -> int:
        return 8

    def full(self, shape: Any, value: float, dtype: Any, layout: Any) -> Any:
        return np.full(shape, value)

    def arange(self, start: int, end: int, layout: Any) -> Any:
        return np.arange(start, end)

    def convert_layout(self, value: Any, layout: Any) -> Any:
        return value

    def allocate_shared_memory(self, dtype: Any, shape: Any, layout: Any) -> Shared:
        return Shared([Barrier() for _ in range(shape[0])] if dtype == "int64" else np.full(shape, np.nan))

    def init(self, barrier: Barrier, count: int) -> None:
        assert count == 1 and not barrier.ready
        barrier.ready = True

    def invalidate(self, barrier: Barrier) -> None:
        assert barrier.ready and not barrier.wanted and not barrier.copies  # nothing comes any more
        barrier.ready = False

    def expect(self, barrier: Barrier, size: int, pred: bool) -> None:
        if pred:
            assert barrier.ready and not barrier.wanted  # the phase before is over, and was waited for
            barrier.wanted = size

    def wait(self, barrier: Barrier, parity: int) -> None:
        assert barrier.phase % 2 == parity, "the phase of another block"
        assert barrier.wanted and barrier.came == barrier.wanted, "waits for ever"
        for copy in barrier.copies:
            copy()
        barrier.phase, barrier.wanted, barrier.came, barrier.copies = barrier.phase + 1, 0, 0, []

    def make_tensor_descriptor(self, base: Any, shape: Any, strides: Any, block: Any, layout: Any) -> Any:
        assert strides == [shape[1], 1]
        return base.array.reshape(shape), block

    def async_copy_global_to_shared(self, matrix: Any, at: Any, barrier: Barrier, block: Shared, pred: bool) -> None:
        if not pred:
            return
        array, shape = matrix
        assert list(block.array.shape) == shape and barrier.wanted

        def copy() -> None:
            part = array[at[0] : at[0] + shape[0], at[1] : at[1] + shape[1]]
            block.array[...] = 0
            block.array[: part.shape[0], : part.shape[1]] = part

        barrier.came += 2 * block.array.size
        if self.early:
            copy()
        else:
            barrier.copies.append(copy)

    def warpgroup_mma(self, left: Shared, right: Shared, acc: Any, is_async: bool) -> Any:
        def multiply() -> None:
            acc[...] += left.array @ right.array

        self.under_way.append(multiply)
        if not self.early:
            self.under_way.pop()()
        return acc

    def warpgroup_mma_wait(self, under_way: int, deps: Any) -> Any:
        while len(self.under_way) > (under_way and under_way + self.more):
            self.under_way.pop(0)()
        return deps[0]


def product(stand: Stand, a: Any, b: Any, a_rows: bool, b_rows: bool, stages: int, tile: tuple[int, int, int]) -> Any:
    """``a @ b`` by the lines of the template, on ``stand``."""
    (m, k), n = a.shape, b.shape[1]
    c = np.full((m, n), np.nan)
    pointers = [
        SimpleNamespace(array=np.ascontiguousarray(x if rows else x.T), dtype=SimpleNamespace(element_ty=None))
        for x, rows in ((a, a_rows), (b, b_rows))
    ]
    names = {"gl": stand, "mbarrier": stand, "tma": stand, "fence_async_shared": lambda: None, "program": lambda pid: pid}
    names |= {name: getattr(stand, name) for name in ("warpgroup_mma", "warpgroup_mma_wait")} | {"min": min, "range": range}
    names["grouped_tile"] = FunctionType(grouped_tile.fn.__code__, {"tl": SimpleNamespace(minimum=min)})
    for name in ("matrix", "load"):
        names[name] = FunctionType(getattr(template, name).fn.__code__, names)

    def store(acc: Any, batch: int, m: Any, n: Any, mask: Any, args: Any) -> None:
        at = [np.broadcast_to(i, mask.shape)[mask] for i in (m, n)]
        assert np.isnan(c[at[0], at[1]]).all(), "stored twice"
        c[at[0], at[1]] = acc[mask]

    bm, bn, bk = tile
    for number in range(-(-m // bm) * -(-n // bn)):
        FunctionType(template.matmul_gluon.fn.__code__, names)(
            pointers, store, 0, 1, a_rows, b_rows, 1, m, n, k, "tf32", None, bm, bn, bk, stages, "name", number
        )
    assert not stand.under_way
    return c


@given(st.data(), st.integers(2, 5), st.booleans(), st.booleans(), st.booleans())
def test_order_of_loads_and_products(data: st.DataObject, stages: int, a_rows: bool, b_rows: bool, early: bool) -> None:
    m, n, k = (data.draw(st.integers(1, 40), label=name) for name in "mnk")
    rng = np.random.default_rng(m * n * k)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    found = product(Stand(early), a, b, a_rows, b_rows, stages, (16, 8, 4))
    np.testing.assert_allclose(found, a @ b, rtol=1e-9, atol=1e-9)


def test_a_block_that_is_loaded_too_soon_is_seen() -> None:
    """With one product more under way than the template allows."""
    a, b = np.eye(16) + 1, np.arange(256.0).reshape(16, 16)
    assert np.allclose(product(Stand(True), a, b, True, True, 2, (16, 16, 4)), a @ b)
    assert not np.allclose(product(Stand(True, more=1), a, b, True, True, 2, (16, 16, 4)), a @ b)
