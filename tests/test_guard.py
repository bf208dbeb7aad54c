"""What watched kernels may not do to memory, planted and named; and that the kernels of each kind of launch do none of it.

``make kernels-checked`` runs every interpreted test in this way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED
from zoo import ZOO, steps

import graphrt as grt
from graphrt import ops as F
from graphrt.errors import AccessError

if not INTERPRETED:
    pytest.skip("needs TRITON_INTERPRET=1, set before Triton is imported", allow_module_level=True)

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from graphrt.kernels.triton import closures as cl  # noqa: E402
from graphrt.kernels.triton.matmul import matmul  # noqa: E402

from graphrt.targets.triton import guard  # noqa: E402
from graphrt.targets.triton.emit import codegen  # noqa: E402

pytestmark = pytest.mark.interpret


@pytest.fixture(autouse=True)
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHRT_GUARD", "1")


# --- faults ------------------------------------------------------------------------------------------------------


@triton.jit
def sound(x, y):
    """Each program its own elements, and one before the first under a mask."""
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.store(y + i, tl.load(x + i - 1, mask=(i > 0) & (i <= 10), other=0.0), mask=i < 10)


@triton.jit
def loads_before(x, y):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.store(y + i, tl.load(x + i - 1), mask=i < 10)


@triton.jit
def without_mask(x, y):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.store(y + i, tl.load(x + i, mask=i < 10))


@triton.jit
def strays_to_another(x, y):
    """``y`` lies in front of ``x``: the address is that of an element, but of the wrong buffer."""
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.store(y + i + 10, tl.load(x + i, mask=i < 10), mask=i < 10)


@triton.jit
def overlaps(x, y):
    i = tl.program_id(0) * 3 + tl.arange(0, 4)
    tl.store(y + i, tl.load(x + i, mask=i < 10), mask=i < 10)


@triton.jit
def loads_what_others_store(x, y):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.store(y + i, tl.load(y + i - 1, mask=(i > 0) & (i < 10), other=0.0), mask=i < 10)


@triton.jit
def stores_what_others_load(x, y):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.store(y + i, tl.load(y + i + 1, mask=i < 9, other=0.0), mask=i < 10)


@triton.jit
def two_values(x, y):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.store(y + i // 2, tl.load(x + i, mask=i < 10), mask=i < 10)


@triton.jit
def adds_to_one(x, y):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.atomic_add(y + 7, tl.sum(tl.load(x + i, mask=i < 10, other=0.0)))


@triton.jit
def from_nowhere(x, y):
    i = tl.program_id(0) * 4 + tl.arange(0, 4)
    tl.store(y + i, tl.load(x + i.to(tl.int64) * (1 << 46), mask=i < 10), mask=i < 10)


FAULTS: dict[Any, str] = {
    loads_before: "program 0 loads element -1 of x (10 of float32), which is outside",
    without_mask: "program 2 stores element 10 of y (10 of float32), which is outside",
    strays_to_another: "program 0 stores element 10 of y (10 of float32), which is outside",
    overlaps: "program 1 stores element 3 of y (10 of float32), which program 0 stores too",
    loads_what_others_store: "program 1 loads element 3 of y (10 of float32), which program 0 stores too",
    stores_what_others_load: "program 1 stores element 4 of y (10 of float32), which program 0 loads too",
    two_values: "program 0 stores two values at once at element 0 of y (10 of float32)",
    adds_to_one: "program 1 stores element 7 of y (10 of float32), which program 0 stores too",
    from_nowhere: "program 0 loads at an address that no buffer has",
}


@pytest.mark.parametrize("pending", [guard._PENDING, 0])  # loads that are noted later, or at once
@pytest.mark.parametrize("kernel", FAULTS, ids=lambda k: k.__name__)
def test_what_is_wrong_is_named(kernel: Any, pending: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_PENDING", pending)
    memory = torch.arange(20.0)
    y, x = memory[:10], memory[10:]
    with pytest.raises(AccessError) as caught:
        guard.launch(kernel, (3,), (x, y), {}, ("x", "y"))
    text = str(caught.value)
    assert text.startswith(f"{kernel.__name__}: {FAULTS[kernel]} (test_guard.py:"), text
    assert ": tl." in text  # the line itself


def test_what_is_right_runs() -> None:
    x, y = torch.arange(10.0), torch.full((10,), -1.0)
    guard.launch(sound, (3,), (x, y), {}, ("x", "y"))
    np.testing.assert_array_equal(y, [0, *range(9)])


def test_buffers_that_share_memory_are_one() -> None:
    """A launch may have one place twice, under two names: what is stored by one is loaded by the other."""
    memory = torch.arange(10.0)
    with pytest.raises(AccessError, match=r"program 1 loads element 3 of x .*, which program 0 stores too"):
        guard.launch(sound, (3,), (memory, memory), {}, ("x", "y"))


@triton.jit
def stores_all(acc, b, m, n, mask, ARGS):
    tl.store(ARGS[2] + (b * ARGS[4] + m) * ARGS[5] + n, acc)


def test_a_closure_without_its_mask() -> None:
    a, b, c = torch.ones(5, 4), torch.ones(4, 6), torch.zeros(5, 6)
    sizes = dict(BATCH=1, M=5, N=6, K=4, BM=16, BN=16, BK=16, PROGRAMS=0, INPUT_PRECISION="ieee", ACC=tl.float32, NAME="mm")
    closures = dict(LOAD_A=cl.load_a, LOAD_B=cl.load_b)
    args = (a, b, c, c, 5, 6, 4)
    guard.launch(matmul, (1,), (args,), {**closures, "EPILOGUE": cl.store_c, **sizes}, ("a", "b", "c", "bias"))
    np.testing.assert_array_equal(c, np.full((5, 6), 4.0))
    with pytest.raises(AccessError, match=r"mm: program 0 stores element 30 of c \(30 of float32\), which is outside"):
        guard.launch(matmul, (1,), (args,), {**closures, "EPILOGUE": stores_all, **sizes}, ("a", "b", "c", "bias"))


@pytest.mark.parametrize(
    "before,after,message",
    [
        (
            "mask = i < 3000",
            "mask = i < 3100",
            r"program 2 loads element 3000 of input x \(3000 of float32\), which is outside",
        ),
        (
            "pid * 1024",
            "pid * 1000",
            r"program 1 stores element 1000 of output y \(3000 of float32\), which program 0 stores too",
        ),
    ],
)
def test_a_fault_in_generated_code(before: str, after: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's run says which kernel, and names its buffers as its graph does."""
    real: Callable[..., Any] = codegen.LaunchPrinter.parts

    def altered(self: Any, launch: Any) -> Any:
        text, parts = real(self, launch)
        assert any(before in line for line in text), text
        return [line.replace(before, after) for line in text], parts

    g = grt.Graph()
    g.output("y", F.exp(g.input("x", (3000,))))
    feeds = {"x": np.zeros(3000, np.float32)}
    np.testing.assert_array_equal(grt.compile(g, target="interpret")(feeds)["y"], np.ones(3000))
    monkeypatch.setattr(codegen.LaunchPrinter, "parts", altered)
    with pytest.raises(AccessError, match="exp: " + message):
        grt.compile(g, target="interpret")(feeds)


# --- kernels -----------------------------------------------------------------------------------------------------


QUICK = ("resnet50",)  # what make test takes; make kernels-checked all


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.proof]) for n in ZOO])
def test_training_steps_keep_to_their_buffers(name: str, dtype: str) -> None:
    """Two steps of each kind of network, on blocks as large as a GPU's: losses are the reference's."""
    losses = steps(name, ("interpret", "reference"), dtype)
    np.testing.assert_allclose(*losses, rtol=1e-3 if dtype == "float32" else 0.05)
