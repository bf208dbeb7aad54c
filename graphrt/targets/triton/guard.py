"""Watches what interpreted kernels do to memory: each access of each program of a launch is checked before it is made.

Programs of a launch run in any order, and at once. So none may store what another stores or loads, and none may touch what is
outside a buffer, unless a mask leaves the lane out. Each buffer gets addresses of its own, far from those of others, so that a
pointer that strays is known by the buffer it was made from; the elements it means are found behind the check. Atomics count as
stores, but for those on the word at which programs of a cooperative launch meet. These run in turns, each until it waits for
the others; what was loaded and stored before a meeting is forgotten when the last has come, for what follows is behind it.
"""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from triton.runtime import interpreter

from graphrt.errors import AccessError
from graphrt.targets.triton.turns import Turns

_SPACE = 44  # bits of the addresses that each buffer has to itself, half of them below it
_NOBODY, _MANY = -1, -2
MEETING = "barrier met"  # the buffer at which the programs of a launch meet
_PENDING = 1 << 22  # loaded units that are kept in mind


class _Pointer:
    """An argument in place of a tensor: its type, and an address that only the watch understands."""

    def __init__(self, dtype: Any, address: int) -> None:
        self.dtype, self._address = dtype, address

    def data_ptr(self) -> int:
        """The address, as Triton asks for it."""
        return self._address


class _Memory:
    """Bytes that some buffers of a launch share, and the programs that loaded and stored each unit of them.

    Loads are noted in one piece when something is stored, which to most buffers nothing is, or when they are many.
    """

    def __init__(self, start: int, end: int, unit: int) -> None:
        self.start, self.end, self.unit, self.size = start, end, unit, -(-(end - start) // unit)
        self.stored: np.ndarray | None = None
        self._loaded: np.ndarray | None = None
        self._pending: list[tuple[int, np.ndarray]] = []
        self._lanes = 0

    def load(self, program: int, units: np.ndarray) -> None:
        """Notes that ``program`` loads ``units``."""
        self._pending.append((program, units))
        self._lanes += units.size
        if self._lanes > _PENDING:
            self._settle()

    def store(self, program: int, units: np.ndarray) -> None:
        """Notes that ``program`` stores ``units``."""
        if self.stored is None:
            self.stored = np.full(self.size, _NOBODY, np.int32)
        self.stored[units] = program

    def loaded(self, units: np.ndarray) -> np.ndarray | None:
        """The programs that loaded ``units``; None where nobody has loaded anything."""
        self._settle()
        return None if self._loaded is None else self._loaded[units]

    def _settle(self) -> None:
        if self._pending and self._loaded is None:
            self._loaded = np.full(self.size, _NOBODY, np.int32)
        for program, units in self._pending:
            assert self._loaded is not None
            found = self._loaded[units]
            self._loaded[units] = np.where((found == _NOBODY) | (found == program), program, _MANY)
        self._pending.clear()
        self._lanes = 0

    def forget(self) -> None:
        """Forgets who loaded and stored what."""
        self.stored = self._loaded = None
        self._pending.clear()
        self._lanes = 0


class Watch:
    """One launch of ``kernel`` on ``buffers``, tensors of the CPU by name; its programs meet where ``turns`` are taken."""

    def __init__(self, kernel: str, buffers: Sequence[tuple[str, Any]], turns: Turns | None = None) -> None:
        self._kernel, self._buffers, self._turns = kernel, buffers, turns
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

    def atomic(self, addresses: np.ndarray, mask: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The addresses in memory of what the running program changes at once. Raises AccessError."""
        number = _number(int(addresses.reshape(-1)[0]))
        if self._turns is None or not 0 <= number < len(self._buffers) or self._buffers[number][0] != MEETING:
            return self.store(addresses, mask, values)
        if not values.any():  # it looks whether the others have come
            self._turns.give()
        return (addresses - self._bases[number] + self._real[number]).astype(np.uint64)

    def changed(self, before: np.ndarray, values: np.ndarray) -> None:
        """Takes note that the running program comes to a meeting where ``before`` was: behind the last all begins anew."""
        with np.errstate(over="ignore"):
            if self._turns is not None and (((before + values) ^ before) < 0).any():
                for memory in self._memory:
                    memory.forget()

    def _access(self, addresses: np.ndarray, mask: np.ndarray, itemsize: int, values: np.ndarray | None) -> np.ndarray:
        mask = np.asarray(mask)  # of a descriptor's box it is the bare memory
        addresses, mask = np.broadcast_arrays(addresses.astype(np.int64), mask.astype(bool))
        every = bool(mask.all())
        lanes = addresses.reshape(-1) if every else addresses[mask]
        if not lanes.size:
            return np.zeros(addresses.shape, np.uint64)
        stored = None
        if values is not None:
            values = np.broadcast_to(values, addresses.shape)
            stored = values.reshape(-1) if every else values[mask]
        low, high = int(lanes.min()), int(lanes.max())
        if (number := _number(low)) == _number(high):  # as almost always
            real = self._one(number, lanes, low, high, itemsize, stored)
        else:
            real = np.empty_like(lanes)
            numbers = (lanes + (1 << _SPACE - 1) >> _SPACE) - 1
            for number in map(int, np.unique(numbers)):
                mine = numbers == number
                part = lanes[mine]
                ends = int(part.min()), int(part.max())
                real[mine] = self._one(number, part, *ends, itemsize, None if stored is None else stored[mine])
        if every:
            return real.astype(np.uint64).reshape(addresses.shape)
        found = np.zeros(addresses.shape, np.uint64)
        found[mask] = real.astype(np.uint64)
        return found

    def _one(self, number: int, lanes: np.ndarray, low: int, high: int, itemsize: int, stored: np.ndarray | None) -> np.ndarray:
        """The addresses in memory of ``lanes``, from ``low`` to ``high``, of which all mean buffer ``number``."""
        verb = "loads" if stored is None else "stores"
        if not 0 <= number < len(self._buffers):
            self._fail(f"{verb} at an address that no buffer has")
        base, nbytes = int(self._bases[number]), self._buffers[number][1].nbytes
        at = lanes - base
        if low < base or high - base + itemsize > nbytes:
            outside = (at < 0) | (at + itemsize > nbytes)
            self._fail(f"{verb} {self._element(number, at[outside][0])}, which is outside")
        self._record(number, at, itemsize, stored)
        return at + int(self._real[number])

    def _record(self, number: int, at: np.ndarray, itemsize: int, stored: np.ndarray | None) -> None:
        """Notes which elements of a buffer, ``at`` bytes from its start, the running program touches."""
        program, memory, start = _program(), self._memory[number], int(self._real[number])
        units = (at + (start - memory.start)) // memory.unit
        if itemsize > memory.unit:
            units = (units[:, None] + np.arange(itemsize // memory.unit)).reshape(-1)

        def meet(others: np.ndarray | None, what: str) -> None:
            if others is None:
                return
            met = (others != _NOBODY) & (others != program)
            if met.any():
                other, where = int(others[met][0]), units[met][0] * memory.unit + memory.start - start
                who = "other programs" if other == _MANY else f"program {other}"
                self._fail(f"{what.split()[0]} {self._element(number, where)}, which {who} {what.split()[1]} too")

        meet(None if memory.stored is None else memory.stored[units], "loads stores" if stored is None else "stores stores")
        if stored is None:
            memory.load(program, units)
            return
        meet(memory.loaded(units), "stores loads")
        if not (at[1:] > at[:-1]).all() and not _distinct(units, memory.size):
            self._twice(number, at, stored)
        memory.store(program, units)

    def _twice(self, number: int, at: np.ndarray, stored: np.ndarray) -> None:
        """Raises AccessError where lanes store different values in one place."""
        order = np.argsort(at, kind="stable")
        places = at[order]
        again = places[1:] == places[:-1]
        if not again.any():
            return
        bits = np.ascontiguousarray(stored[order]).view(np.uint8).reshape(len(at), -1)
        twice = again & (bits[1:] != bits[:-1]).any(1)
        if twice.any():
            self._fail(f"stores two values at once at {self._element(number, places[1:][twice][0])}")

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


class _Together(_Executor):
    """Runs the programs of a launch by ``turns``."""

    def __init__(self, fn: Any, arg_names: Any, grid: Any, turns: Turns) -> None:
        super().__init__(fn, arg_names, grid)
        self._turns = turns

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        scope = interpreter._patch_lang(self.fn)
        try:
            bound = inspect.getcallargs(self.fn, *args, **kwargs)
            given = {n: a if n in self.constexprs else interpreter._implicit_cvt(a) for n, a in bound.items()}
            interpreter.interpreter_builder.set_grid_dim(*self.grid, 1, 1)
            self._turns.run(lambda number: self.fn(**given))
        finally:
            scope.restore()


def launch(
    function: Any,
    grid: tuple[int, ...],
    args: Sequence[Any],
    constants: Mapping[str, Any],
    names: Sequence[str] = (),
    together: bool = False,
) -> None:
    """Runs ``function`` on ``grid`` programs, as the interpreter would; ``names`` are those of the tensors in ``args``.

    Programs that run ``together`` may wait for each other. Raises AccessError at the first access that one may not make.
    """
    found = [*_tensors(args)]
    buffers = [(names[i] if i < len(names) else f"argument {i}", t) for i, t in enumerate(found)]
    builder = interpreter.interpreter_builder
    turns = Turns(math.prod(grid), lambda number: builder.set_grid_idx(number, 0, 0)) if together else None
    watch = Watch(str(constants.get("NAME", function.__name__)), buffers, turns)
    pointers = iter(watch.pointers)
    with _watched(watch):
        try:
            body, given = function.rewrite(), (*_replaced(args, pointers),)
            if turns is None:
                _Executor(body, function.arg_names, grid)(*given, **constants)
            else:
                _Together(body, function.arg_names, grid, turns)(*given, **constants)
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
        at = handle(watch.atomic(ptr.data, mask.data, val.data), ptr.dtype)
        before = change(op, at, val, mask, *args)
        watch.changed(before.data, val.data)
        return before

    hooks = {"create_masked_load": masked_load, "create_masked_store": masked_store}
    hooks |= {"create_atomic_cas": atomic_cas, "create_atomic_rmw": atomic_rmw}
    vars(builder).update(hooks)
    try:
        yield
    finally:
        for name in hooks:
            delattr(builder, name)


def _number(address: int) -> int:
    """The number of the buffer whose address space ``address`` is in."""
    return (address + (1 << _SPACE - 1) >> _SPACE) - 1


def _distinct(units: np.ndarray, size: int) -> bool:
    """Whether no two of ``units``, numbers below ``size``, are the same; without sorting them."""
    last, own = np.empty(size, np.int32), np.arange(units.size, dtype=np.int32)
    last[units] = own
    return bool((last[units] == own).all())


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
