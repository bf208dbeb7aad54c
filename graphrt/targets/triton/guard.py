"""Watches what interpreted kernels do to memory: each access of each program of a launch is checked before it is made.

Programs of a launch run in any order, and at once. So none may store what another stores or loads, and none may touch what is
outside a buffer, unless a mask leaves the lane out. Each buffer gets addresses of its own, far from those of others, so that a
pointer that strays is known by the buffer it was made from; the elements it means are found behind the check. Atomics count as
stores: no kernel here needs one.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton.runtime import interpreter

from graphrt.errors import AccessError

_SPACE = 44  # bits of the addresses that each buffer has to itself, half of them below it
_NOBODY, _MANY = -1, -2


class _Pointer:
    """An argument in place of a tensor: its type, and an address that only the watch understands."""

    def __init__(self, dtype: Any, address: int) -> None:
        self.dtype, self._address = dtype, address

    def data_ptr(self) -> int:
        """The address, as Triton asks for it."""
        return self._address


class _Memory:
    """Bytes that some buffers of a launch share, and the programs that loaded and stored each unit of them."""

    def __init__(self, start: int, end: int, unit: int) -> None:
        self.start, self.end, self.unit = start, end, unit
        self.stored, self.loaded = (np.full(-(-(end - start) // unit), _NOBODY, np.int32) for _ in range(2))


class Watch:
    """One launch of ``kernel`` on ``buffers``, tensors of the CPU by name."""

    def __init__(self, kernel: str, buffers: Sequence[tuple[str, Any]]) -> None:
        self._kernel, self._buffers = kernel, buffers
        starts = [t.data_ptr() for _, t in buffers]
        self._real = np.array(starts, np.int64)
        self._bases = np.array([(i + 1 << _SPACE) + start % 256 for i, start in enumerate(starts)], np.int64)
        self._memory = _memories([t for _, t in buffers])
        self.pointers = [_Pointer(t.dtype, int(base)) for (_, t), base in zip(buffers, self._bases, strict=True)]

    def load(self, addresses: np.ndarray, mask: np.ndarray, itemsize: int) -> np.ndarray:
        """The addresses in memory of what the running program loads. Raises AccessError."""
        return self._access(addresses, mask, itemsize, None)

    def store(self, addresses: np.ndarray, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The addresses in memory of what the running program stores. Raises AccessError."""
        return self._access(addresses, mask, values.dtype.itemsize, values)

    def _access(self, addresses: np.ndarray, mask: np.ndarray, itemsize: int, values: np.ndarray | None) -> np.ndarray:
        mask = np.asarray(mask)  # of a descriptor's box it is the bare memory
        addresses, mask = np.broadcast_arrays(addresses.astype(np.int64), mask.astype(bool))
        lanes, found = addresses[mask], np.zeros(addresses.shape, np.uint64)
        numbers = (lanes + (1 << _SPACE - 1) >> _SPACE) - 1
        verb = "loads" if values is None else "stores"
        stored = None if values is None else np.broadcast_to(values, addresses.shape)[mask]
        real = np.zeros_like(lanes)
        for number in np.unique(numbers):
            if not 0 <= number < len(self._buffers):
                self._fail(f"{verb} at an address that no buffer has")
            mine = numbers == number
            at = lanes[mine] - self._bases[number]
            outside = (at < 0) | (at + itemsize > self._buffers[number][1].nbytes)
            if outside.any():
                self._fail(f"{verb} {self._element(number, at[outside][0])}, which is outside")
            real[mine] = at + self._real[number]
            self._record(int(number), at, itemsize, None if stored is None else stored[mine])
        found[mask] = real.astype(np.uint64)
        return found

    def _record(self, number: int, at: np.ndarray, itemsize: int, stored: np.ndarray | None) -> None:
        """Notes which elements of a buffer, ``at`` bytes from its start, the running program touches."""
        program, memory, start = _program(), self._memory[number], int(self._real[number])
        units = (at + (start - memory.start)) // memory.unit
        units = (units[:, None] + np.arange(max(itemsize // memory.unit, 1))).reshape(-1)

        def meet(others: np.ndarray, what: str) -> None:
            met = (others != _NOBODY) & (others != program)
            if met.any():
                other, where = int(others[met][0]), units[met][0] * memory.unit + memory.start - start
                who = "other programs" if other == _MANY else f"program {other}"
                self._fail(f"{what.split()[0]} {self._element(number, where)}, which {who} {what.split()[1]} too")

        meet(memory.stored[units], "loads stores" if stored is None else "stores stores")
        loaded = memory.loaded[units]
        if stored is None:
            memory.loaded[units] = np.where((loaded == _NOBODY) | (loaded == program), program, _MANY)
            return
        meet(loaded, "stores loads")
        order = np.argsort(at, kind="stable")
        bits = np.ascontiguousarray(stored[order]).view(np.uint8).reshape(len(at), -1)
        twice = (at[order][1:] == at[order][:-1]) & (bits[1:] != bits[:-1]).any(1)
        if twice.any():
            self._fail(f"stores two values at once at {self._element(number, at[order][1:][twice][0])}")
        memory.stored[units] = program

    def _element(self, number: int, at: int) -> str:
        name, tensor = self._buffers[number]
        return f"element {int(at) // tensor.element_size()} of {name} ({tensor.numel()} of {str(tensor.dtype).split('.')[-1]})"

    def _fail(self, what: str) -> None:
        own = [
            f
            for f in traceback.extract_stack()
            if "/triton/runtime/" not in f.filename and "/triton/language/" not in f.filename
        ]
        line = next((f for f in reversed(own) if f.filename != __file__), None)
        place = f" ({line.filename.rsplit('/', 1)[-1]}:{line.lineno}: {line.line})" if line else ""
        raise AccessError(f"{self._kernel}: program {_program()} {what}{place}")


class _Executor(interpreter.GridExecutor):
    """Runs the programs of a launch on pointers as they are: there is no other device to copy from, or to."""

    def _init_args_hst(self, args_dev: Any, kwargs: Any) -> tuple[Any, Any]:
        return args_dev, kwargs

    def _restore_args_dev(self, *args: Any) -> None:
        pass


def launch(
    function: Any, grid: tuple[int, ...], args: Sequence[Any], constants: Mapping[str, Any], names: Sequence[str] = ()
) -> None:
    """Runs ``function`` on ``grid`` programs, as the interpreter would; ``names`` are those of the tensors in ``args``.

    Raises AccessError at the first access that a program may not make.
    """
    found = [*_tensors(args)]
    buffers = [(names[i] if i < len(names) else f"argument {i}", t) for i, t in enumerate(found)]
    watch = Watch(str(constants.get("NAME", function.__name__)), buffers)
    pointers = iter(watch.pointers)
    with _watched(watch):
        try:
            _Executor(function.rewrite(), function.arg_names, grid)(*_replaced(args, pointers), **constants)
        except interpreter.InterpreterError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, AccessError):
                cause = cause.__cause__
            if cause is None:
                raise
            raise cause from None


@contextmanager
def _watched(watch: Watch) -> Iterator[None]:
    """The interpreter's accesses to memory go through ``watch`` inside."""
    builder, handle = interpreter.interpreter_builder, interpreter.TensorHandle
    load, store = builder.create_masked_load, builder.create_masked_store
    swap, change = builder.create_atomic_cas, builder.create_atomic_rmw

    def masked_load(ptrs: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        itemsize = max(ptrs.get_element_ty().primitive_bitwidth // 8, 1)
        return load(handle(watch.load(ptrs.data, mask.data, itemsize), ptrs.dtype), mask, *args, **kwargs)

    def masked_store(ptrs: Any, value: Any, mask: Any, *args: Any, **kwargs: Any) -> Any:
        return store(handle(watch.store(ptrs.data, mask.data, value.data), ptrs.dtype), value, mask, *args, **kwargs)

    def atomic_cas(ptr: Any, cmp: Any, val: Any, *args: Any) -> Any:
        return swap(handle(watch.store(ptr.data, np.ones_like(ptr.data, bool), val.data), ptr.dtype), cmp, val, *args)

    def atomic_rmw(op: Any, ptr: Any, val: Any, mask: Any, *args: Any) -> Any:
        return change(op, handle(watch.store(ptr.data, mask.data, val.data), ptr.dtype), val, mask, *args)

    hooks = {"create_masked_load": masked_load, "create_masked_store": masked_store}
    hooks |= {"create_atomic_cas": atomic_cas, "create_atomic_rmw": atomic_rmw}
    vars(builder).update(hooks)
    try:
        yield
    finally:
        for name in hooks:
            delattr(builder, name)


def _program() -> int:
    builder = interpreter.interpreter_builder
    (x, y, z), (wide, high, _) = builder.grid_idx, builder.grid_dim
    return int(x + wide * (y + high * z))


def _tensors(args: Sequence[Any]) -> Iterator[Any]:
    """The tensors among ``args`` and in their tuples, in order."""
    for arg in args:
        if isinstance(arg, tuple):
            yield from _tensors(arg)
        elif hasattr(arg, "data_ptr"):
            yield arg


def _replaced(args: Sequence[Any], pointers: Iterator[_Pointer]) -> tuple[Any, ...]:
    """``args`` with the next of ``pointers`` in place of each tensor."""
    return tuple(
        _replaced(a, pointers) if isinstance(a, tuple) else next(pointers) if hasattr(a, "data_ptr") else a for a in args
    )


def _memories(tensors: Sequence[Any]) -> list[_Memory]:
    """The memory of each tensor, one where they overlap."""
    spans = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors if t.nbytes)
    joined: list[list[int]] = []
    for start, end in spans:
        if joined and start < joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    found, memories = [], []
    for start, end in joined:
        inside = [t for t in tensors if t.nbytes and start <= t.data_ptr() < end]
        memories.append(_Memory(start, end, math.gcd(*(n for t in inside for n in (t.element_size(), t.data_ptr() - start)))))
    for t in tensors:
        found.append(next((m for m in memories if m.start <= t.data_ptr() < m.end), _Memory(0, 0, 1)))
    return found
