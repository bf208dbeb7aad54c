"""Reports on compiled kernels: registers, spills, shared memory, telling instructions, and how many blocks fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphrt.index import Expr
from graphrt.runtime.machine import Work
from graphrt.schedule.cost import Cost, launch_cost
from graphrt.schedule.kernel_ir import Kernel, PointwiseKernel
from graphrt.schedule.memory import blocks as blocks_of
from graphrt.schedule.memory import loads
from graphrt.targets.triton.compilation import Compilation
from graphrt.targets.triton.compile import instructions
from graphrt.targets.triton.compile.cubin import listings
from graphrt.targets.triton.compile.sass import work_of
from graphrt.targets.triton.compile.usage import resident, usage
from graphrt.targets.triton.emit.launch import LaunchCode
from graphrt.targets.triton.emit.options import lanes
from graphrt.targets.triton.image import Image
from graphrt.targets.triton.kernel import KernelBinary

_MUCH = 16  # a buffer of a smaller part of the bytes moved may be read or written as it comes


@dataclass(frozen=True)
class KernelReport:
    """One distinct kernel: ``title`` says what it computes, ``launches`` how often a run launches it, by ``programs``.

    Registers and spilled bytes are by thread, shared memory by block; ``blocks`` and ``warps`` is what fits on one
    multiprocessor; ``tile`` is rows, columns and depth of a contraction and ``operands`` the dtype it multiplies;
    ``bytes`` and ``flops`` are those of one launch as predicted from the plan. ``narrow`` names what could move 16 bytes at a
    time and does not: loads or stores of a buffer that lies in stretches of so many bytes and makes much of the traffic.
    ``work`` is what a static model reads in the code, of NVIDIA's GPUs; of others how many programs share a multiprocessor.
    """

    name: str
    title: str
    launches: int
    programs: int
    registers: int
    spills: int
    shared: int
    blocks: int
    warps: int
    instructions: Mapping[str, int]
    tile: tuple[int, int, int] | None
    operands: str
    bytes: int
    flops: int
    narrow: tuple[str, ...]
    work: Work


def reports(compilation: Compilation) -> list[KernelReport]:
    """Compiles every distinct kernel that has work, in the order of their first launches, and reads the results."""
    return _reports(compilation, compilation.image, compilation.parts)


def _reports(compilation: Compilation, image: Image, parts: Sequence[tuple[LaunchCode, Sequence[int]]]) -> list[KernelReport]:
    """The reports on the kernels of ``image``, whose launches are ``parts``: the code of each, and launches of the schedule."""
    arch = compilation.options.arch
    numbers = [launch.kernel for launch in image.launches]
    kernels = [(n, k) for n, k in enumerate(image.kernels) if isinstance(k, KernelBinary)]  # and no library's calls
    texts = listings([k.code for _, k in kernels], arch) if arch.startswith("sm") else [""] * len(kernels)
    return [
        _report(kernel, compilation, *parts[numbers.index(n)], numbers.count(n), text)
        for (n, kernel), text in zip(kernels, texts, strict=True)
    ]


def works(compilation: Compilation) -> list[Work | None]:
    """The work of each launch's code, compiled by itself; None of a library's calls and of launches without work."""
    image = compilation.apart
    kernels = [n for n, k in enumerate(image.kernels) if isinstance(k, KernelBinary)]
    parts = [(code, (i,)) for i, code in enumerate(compilation.codes) if code.grid]
    found = dict(zip(kernels, (r.work for r in _reports(compilation, image, parts)), strict=True))
    numbers = iter(image.launches)
    return [found.get(next(numbers).kernel) if code.grid else None for code in compilation.codes]


def _report(
    kernel: KernelBinary, compilation: Compilation, code: LaunchCode, of: Sequence[int], launches: int, text: str
) -> KernelReport:
    kernels, warps = [k for i in of for k in compilation.kernels[i]], kernel.threads // lanes(kernel.target)
    found = instructions.nvidia(text) if text else dict(kernel.instructions)
    registers, spills = usage(kernel.code, kernel.target)
    blocks = resident(registers, kernel.shared, warps, kernel.target)
    c, cost, one = code.constants, launch_cost(kernels), len(of) == 1
    product = cost.dtype is not None and "BK" in c  # also with other groups beside it
    title = compilation.launches[of[0]].description() if one else f"{len(of)} launches one after another"
    return KernelReport(
        name=code.display,
        title=title,
        launches=launches,
        programs=code.grid,
        registers=registers,
        spills=spills,
        shared=kernel.shared,
        blocks=blocks,
        warps=blocks * warps,
        instructions=found,
        tile=(c["BM"], c["BN"], c["BK"]) if product else None,
        operands=cost.dtype.name if product and cost.dtype else "",
        bytes=cost.bytes,
        flops=cost.flops,
        narrow=tuple(_narrow(kernels, cost, found)) if one else (),
        work=work_of(kernel, text if one else "", code.choice, cost),
    )


def _narrow(kernels: Sequence[Kernel], cost: Cost, found: Mapping[str, int]) -> Iterator[str]:
    every = [(kernel, block) for kernel in kernels for block in blocks_of(kernel)]
    loaded = {slot for kernel, block in every for slot, offset, _ in loads(block) if _lies_along(kernel, offset)}
    stored = {store.slot for _, block in every for store in block.stores}
    for what, slots, full in (("loads", loaded, instructions.WIDE_LOADS), ("stores", stored, instructions.WIDE_STORES)):
        largest = max(slots, key=lambda s: (s.type.nbytes, s.name), default=None)  # by name: the same one in every process
        if largest is None or not largest.type.ndim or largest.type.nbytes * _MUCH < cost.bytes:
            continue
        run = largest.type.shape[(largest.type.order or range(largest.type.ndim))[-1]] * largest.type.dtype.itemsize
        wide = (*full, *instructions.EIGHT_BYTES) if largest.type.dtype.itemsize == 1 else full  # eight elements of a mask
        if run % 16 == 0 and not any(name.startswith(wide) for name in found):
            yield what


def _lies_along(kernel: Kernel, offset: Expr) -> bool:
    """Whether neighbours in memory are loaded together: not where an elementwise kernel stores in another order."""
    if not isinstance(kernel, PointwiseKernel):
        return True
    inner = next((d for d in reversed(kernel.order) if kernel.shape[d] > 1), None)
    if inner is None:
        return True
    zero = dict.fromkeys(offset.axes(), Expr())
    return (offset.substitute({**zero, f"i{inner}": Expr(const=1)}) - offset.substitute(zero)).const == 1
