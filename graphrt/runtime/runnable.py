"""Runnable: what a compiled program and one loaded from a folder have in common; Binary: what either runs.

Calling it runs one plan over one arena. Results are new arrays each time, so a later call never overwrites them; parameters
are updated in the shared ``State``. The same inputs and state give the same bits, run after run, on one target.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections import deque
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graphrt.errors import InputError
from graphrt.passes.open_batch import ROWS, OpenBatch
from graphrt.runtime.arrays import as_it_lies, from_dlpack, from_numpy, to_numpy
from graphrt.runtime.forking import PROGRAM, make_lock
from graphrt.runtime.state import State
from graphrt.signature import Signature
from graphrt.types import TensorType

AHEAD = 2  # batches that prefetch may bring before they are used


class Binary(Protocol):
    """A program as it runs. One that works in host memory only leaves all but ``run`` as it is here."""

    def run(self, inputs: Mapping[str, Any], state: State, tensors: bool = False) -> dict[str, Any]:
        """Runs every launch, reading ``inputs`` and ``state``, writing ``state``; returns the outputs.

        Inputs are arrays, or tensors that it ``takes``. With ``tensors`` the outputs are such tensors, else arrays.
        """

    def attach(self, state: State, written: Collection[str] = ()) -> None:
        """Makes ready to run with ``state``, of which it writes ``written``.

        On a GPU, whatever that holds for this program moves there for good.
        """
        return

    def takes(self, value: Any) -> bool:
        """Whether ``value`` is a tensor on the device where this runs, which need not pass through host memory."""
        return False

    def misplaced(self, value: Any) -> str:
        """Why a tensor lies where it cannot be read; empty where it can."""
        return ""

    def prefetch(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Starts to bring ``inputs`` to where the next run needs them; it is given what this returns."""
        return inputs


@dataclass(frozen=True)
class Calling:
    """How a program is called.

    ``needed`` names the inputs that are read; ``unpack`` says how results are given back: dict, list or single; ``updates``
    names the state that the program writes; ``batch`` says how one for any batch is called, of which types have the largest;
    ``model`` how the model was called that it is of.
    """

    needed: Sequence[str]
    unpack: str = "dict"
    updates: Sequence[str] = ()
    batch: OpenBatch | None = None
    model: Signature | None = None


class Runnable:
    """A program that can be called, whether compiled here or loaded. Call it with inputs by name.

    ``inputs`` and ``outputs`` are types by name. One of a model is called as the model was, and returns what the model did;
    inputs by name serve as well.
    """

    def __init__(
        self,
        target: str,
        inputs: Mapping[str, TensorType],
        outputs: Mapping[str, TensorType],
        state: State,
        binary: Binary,
        calling: Calling,
    ) -> None:
        self.target, self.inputs, self.outputs, self.state = target, dict(inputs), dict(outputs), state
        self._binary, self.batch, self._model = binary, calling.batch, calling.model
        self._needed, self._unpack, self._updates = list(calling.needed), calling.unpack, frozenset(calling.updates)
        binary.attach(state, self._updates)
        self._lock = make_lock(PROGRAM)
        self._lies = {
            n: (t.dtype.numpy, t.shape, tuple(s * t.dtype.itemsize for s in t.strides)) for n, t in self.inputs.items()
        }
        self._numbers: dict[str, tuple[Any, np.ndarray]] = {}  # the last number of each input, and its array
        self._checked: dict[str, tuple[Any, Any, Any, Any]] = {}  # the last tensor of each input, as it was: a weak reference
        self._ahead: deque[tuple[Mapping[str, Any], str, int]] = deque()  # inputs from prefetch, their kind (_asked), the rows

    def _where(self, name: str) -> str:
        """The origin of input ``name``, for messages."""
        return "a saved program"

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """Runs once. Inputs by name, as arrays, torch tensors, numbers or lists of numbers; one dict also serves (odd names).

        Numbers and lists become the input's dtype; arrays and tensors must have it: nothing is converted behind one's back.

        Arrays are read in place when they have the input's dtype, lie densely in its order and apart from the state that
        the program writes: those that do not are copied first, and none is ever written. Tensors of the GPU on which
        the program runs stay there, and so do the results, which are ready when torch's current stream is; results are
        torch tensors where an input is one. Inputs given to ``prefetch`` may be left out. Raises InputError.
        """
        inputs = self._named(args, inputs)
        with self._lock:
            ahead, kind, rows = self._ahead[0] if self._ahead else ({}, "", 0)
            own = self._bind(inputs, ahead)
            bound, kind = own, max(kind, self._asked(inputs))
            if self.batch is not None:
                rows = int(own.get(ROWS, rows))
            if self._ahead:
                bound = {**ahead, **own}
                self._ahead.popleft()
            if self.state.torn:
                self.state.require_whole()
            try:  # as ``_running``, whose block costs a microsecond
                results = self._binary.run(bound, self.state, kind == "device")
            finally:
                self.state.wrote(self._updates)
        if self.batch is not None:
            results = self.batch.cut(results, rows)
        if kind == "cpu":
            results = {name: from_numpy(a) for name, a in results.items()}
        return self._given(results, inputs)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """No other thread runs the program in the block, and all learn that it has written its state, as far as it came."""
        with self._lock:
            self.state.require_whole()
            try:
                yield
            finally:
                self.state.wrote(self._updates)

    def prefetch(self, *args: Any, **inputs: Any) -> None:
        """Starts copying inputs, as a call takes them, to the device while the work of other calls is under way.

        Calls take what was prefetched in that order, and use it where they are not given other inputs. Two batches may
        be on their way: prefetch(first); then for each, prefetch(the next) and call. The arrays must stay as they are until
        the call. Raises InputError, also for a third batch.
        """
        inputs = self._named(args, inputs)
        with self._lock:
            if len(self._ahead) == AHEAD:
                raise InputError(f"{AHEAD} prefetched batches wait already; call the program before the next prefetch")
            bound = self._bind(inputs, self.inputs)
            self._ahead.append((self._binary.prefetch(bound), self._asked(inputs), int(bound.get(ROWS, 0))))

    def forget(self) -> None:
        """Drops the batches that were prefetched and not used."""
        with self._lock:
            self._ahead.clear()

    def _asked(self, inputs: Mapping[str, Any]) -> str:
        """The kind of results to give: tensors on the program's ``device``, torch tensors on the ``cpu``, or ("") arrays."""
        tensors = [v for v in inputs.values() if _of_torch(type(v).__module__)]
        return ("device" if any(map(self._binary.takes, tensors)) else "cpu") if tensors else ""

    def _named(self, args: Sequence[Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call as inputs by name."""
        by_name = args[0] if len(args) == 1 and isinstance(args[0], Mapping) and not inputs else inputs
        if self._model is not None and not (by_name.keys() <= self.inputs.keys() and (by_name is not inputs or not args)):
            return self._model.bind(args, inputs)
        if len(args) > 1 or (args and not isinstance(args[0], Mapping)):
            named = ", ".join(f"{n}=..." for n in self.inputs if n != ROWS)
            raise InputError(f"inputs are passed by name: program({named}); the inputs are {self._signature()}")
        return {**(args[0] if args else {}), **inputs}

    def _given(self, results: dict[str, Any], inputs: Mapping[str, Any]) -> Any:
        """The return value of a call with ``inputs``: the model's, unless the user asked for values by name."""
        if self._unpack != "dict":
            values = list(results.values())
            return values[0] if self._unpack == "single" else values
        if self._model is None or [*self._model.outputs] != [*results]:
            return results
        return self._model.result(results, inputs)

    def _bind(self, inputs: Mapping[str, Any], ahead: Container[str] = ()) -> dict[str, Any]:
        """The inputs as the binary takes them; those of ``ahead`` need not be among them."""
        if not inputs.keys() <= self.inputs.keys():
            unknown = ", ".join(map(repr, sorted(inputs.keys() - self.inputs.keys())))
            raise InputError(f"no input {unknown}; the inputs are {self._signature()}")
        if self.batch is not None:
            inputs = self._filled(inputs, self.batch)
        missing = [n for n in self._needed if n not in inputs and n not in ahead]
        if missing:
            names, where = ", ".join(map(repr, missing)), self._where(missing[0])
            raise InputError(f"missing input {names} (defined at {where}); the inputs are {self._signature()}")
        return {name: self._array(name, value) for name, value in inputs.items()}

    def _filled(self, inputs: Mapping[str, Any], batch: OpenBatch) -> dict[str, Any]:
        """``inputs`` with the rows of the largest batch, those past the count zeros, and with the count."""
        shapes = {name: np.shape(value) for name, value in inputs.items() if name in batch.inputs}
        if ROWS in inputs:  # all rows are there, whatever is past the count
            return dict(inputs)
        rows = batch.count(shapes)
        if rows is None:
            return dict(inputs)
        if rows == batch.most:
            return {**inputs, ROWS: rows}
        filled = {name: self._padded(name, value, rows) if name in shapes else value for name, value in inputs.items()}
        return {**filled, ROWS: rows}

    def _padded(self, name: str, value: Any, rows: int) -> Any:
        """An input of ``rows`` of the largest batch."""
        assert self.batch is not None
        type, dim = self.inputs[name], self.batch.inputs[name]
        wanted = (*type.shape[:dim], rows, *type.shape[dim + 1 :])
        value = from_dlpack(value)
        if np.shape(value) != wanted:
            raise InputError(f"{self._described(name)}, got shape {list(np.shape(value))} of a batch of {rows}")
        place = (*[slice(None)] * dim, slice(rows))
        if self._binary.takes(value):
            whole = value.new_zeros(type.shape)
            whole[place] = value.detach()
            return whole
        array = to_numpy(value) if hasattr(value, "dtype") else np.asarray(value)
        if not hasattr(value, "dtype"):
            array = array.astype(type.dtype.numpy)
        whole = np.zeros([type.shape[d] for d in type.order or range(len(type.shape))], array.dtype)
        whole = whole.transpose(np.argsort(type.order)) if type.order else whole
        whole[place] = array
        return whole

    def _array(self, name: str, value: Any) -> Any:
        last = self._numbers.get(name)
        if last is not None and value is last[0]:
            return last[1]
        seen = self._checked.get(name)
        if seen is not None and seen[0]() is value and (value.shape, value.dtype, value.device) == seen[1:]:
            return value.detach() if value.requires_grad else value
        taken = self._binary.takes(value)
        lying = None if taken else as_it_lies(value, *self._lies[name])
        if lying is not None:
            return lying
        type, given, value = self.inputs[name], value, from_dlpack(value)
        if taken or self._binary.takes(value):
            bound = self._tensor(name, value)
            if value is given:
                self._checked[name] = weakref.ref(value), value.shape, value.dtype, value.device
            return bound
        if misplaced := self._binary.misplaced(value):
            raise InputError(f"{self._described(name)}, got a tensor that {misplaced}")
        try:
            plain = isinstance(value, bool | int | float | np.generic | list | tuple)
            array = _converted(value, type) if plain else to_numpy(value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise InputError(f"{self._described(name)}; {value!r} does not fit: {error}") from None
        if array.dtype.kind in "OUS":
            raise InputError(f"{self._described(name)}, got {value!r}")
        if array.shape != type.shape:
            raise InputError(f"{self._described(name)}, got shape {list(array.shape)}")
        if array.dtype != type.dtype.numpy:
            convert = f"convert it first, an array with .astype({type.dtype.name!r})"
            raise InputError(f"{self._described(name)}, got {array.dtype}; {convert}")
        if type.order is None:
            array = np.ascontiguousarray(array).reshape(type.shape)
        else:
            array = np.ascontiguousarray(array.transpose(type.order)).transpose(np.argsort(type.order))
        if not array.flags.aligned:  # kernels take every element for one that is
            array = array.copy(order="K")
        if isinstance(value, int | float):
            self._numbers[name] = value, array
        return array

    def _tensor(self, name: str, value: Any) -> Any:
        """A tensor of the program's device, in any memory order."""
        type = self.inputs[name]
        torch = sys.modules["torch"]
        if value.layout is not torch.strided:
            raise InputError(f"{self._described(name)}; a tensor of layout {value.layout} has no dense memory")
        if tuple(value.shape) != type.shape:
            raise InputError(f"{self._described(name)}, got shape {list(value.shape)}")
        if value.dtype is not getattr(torch, type.dtype.name):
            raise InputError(f"{self._described(name)}, got {value.dtype}; convert it first, with .to(torch.{type.dtype.name})")
        return value.detach() if value.requires_grad else value

    def _described(self, name: str) -> str:
        return f"input {name!r} is {self.inputs[name]} ({self._where(name)})"

    def _signature(self) -> str:
        named = [f"{n} : {t}" for n, t in self.inputs.items() if n != ROWS]
        batch = "" if self.batch is None else f"; any batch up to {self.batch.most}"
        return (", ".join(named) or "none") + batch

    def _about(self) -> str:
        return f"target={self.target}, {self._signature()} -> {', '.join(self.outputs)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._about()})"


@functools.cache
def _of_torch(module: str) -> bool:
    """Whether ``module``, of a class, is a part of torch."""
    return module.split(".")[0] == "torch"


def _converted(value: Any, type: TensorType) -> np.ndarray:
    """A number, or a list of them, which has no dtype of its own, as an array.

    Raises ValueError, OverflowError where the dtype does not hold it.
    """
    given = np.asarray(value)
    if given.dtype.kind not in "biuf" and given.dtype != type.dtype.numpy:
        raise ValueError(f"these are no numbers but {given.dtype}")
    array = np.asarray(value, type.dtype.numpy) if given.ndim == 0 else given.astype(type.dtype.numpy)
    if not type.dtype.is_float and not np.array_equal(array, given):
        raise ValueError(f"{type.dtype} does not hold it")
    return array
