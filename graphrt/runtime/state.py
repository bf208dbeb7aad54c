"""State: the parameters, optimizer moments, running statistics and counters that programs share by name.

A buffer lies in memory as the layout pass decided; what a user sees is a view of it in the logical shape, so nothing is
copied and weights stay OIHW outside whatever they are inside.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graphrt.errors import InputError
from graphrt.runtime.arrays import from_numpy, to_numpy
from graphrt.runtime.forking import STATE, make_lock
from graphrt.runtime.pages import HUGE, pages
from graphrt.runtime.processes import processes
from graphrt.sharding import Sharding
from graphrt.threads import in_threads
from graphrt.types import TensorType, as_dtype

SMALL = 1 << 20  # elements that one thread fills as fast as several
ALIGNED = 64  # bytes of a line of a cache, in which buffers begin


def dense(type: TensorType) -> np.ndarray:
    """An uninitialised array of ``type``: memory in its order, shape as users see it."""
    return _as_seen(np.empty(_extents(type), type.dtype.numpy), type)


def zeros(types: Sequence[TensorType]) -> list[np.ndarray]:
    """An array of zeros of each of ``types``, as ``dense`` makes them, side by side in one piece of memory."""
    starts = [0, *itertools.accumulate(-(-type.nbytes // ALIGNED) * ALIGNED for type in types)]
    memory = pages(starts[-1], "of state") if starts[-1] >= HUGE else np.zeros(starts[-1] + ALIGNED, np.uint8)
    memory = memory[-memory.ctypes.data % ALIGNED :]
    # NumPy gives every empty slice the address of the whole; buffers are told apart by theirs.
    pieces = zip(starts, types, strict=False)
    return [over(memory[start : start + type.nbytes], type) if type.nbytes else dense(type) for start, type in pieces]


def is_zero(array: np.ndarray) -> bool:
    """Whether ``array`` is one zero seen everywhere; what else holds zeros would have to be read."""
    return array.size > 0 and not any(array.strides) and not array.reshape(-1)[:1].tobytes().strip(b"\0")


def over(memory: np.ndarray, type: TensorType) -> np.ndarray:
    """The bytes in ``memory`` as an array of ``type``, as ``dense`` makes them."""
    return _as_seen(memory.view(type.dtype.numpy).reshape(_extents(type)), type)


def _extents(type: TensorType) -> Sequence[int]:
    """The shape of ``type`` in memory."""
    return type.shape if type.order is None else [type.shape[d] for d in type.order]


def _as_seen(physical: np.ndarray, type: TensorType) -> np.ndarray:
    order = type.order
    return physical if order is None else physical.transpose(sorted(range(type.ndim), key=lambda i: order[i]))


class Device(Protocol):
    """The device on which a state's buffers lie while programs of a GPU use them."""

    where: str

    def place(self, flat: Any) -> Any:
        """The flat CPU tensor's values in the device's memory: a new tensor, or itself."""


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, by name; of one that ``State.save`` wrote, as they were. Raises InputError, OSError."""
    from safetensors import SafetensorError, safe_open

    if Path(path).is_dir():
        raise InputError(f"{path} is a folder, not a safetensors file")
    try:
        with safe_open(path, "numpy") as file:
            arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file, or not all of one: {error}") from None
    digest = metadata.pop("sha256", None)
    if digest is not None and digest != _digest(arrays, metadata):
        raise InputError(f"{path} is not what was written: its content has changed since")
    return arrays


def _few(names: Collection[str], most: int = 4) -> str:
    """The first of ``names``, and how many more there are."""
    first = ", ".join(sorted(names)[:most])
    return f"{first} and {len(names) - most} more" if len(names) > most else first


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """The digest of what a safetensors file holds."""
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_arrays(path: str | Path, arrays: dict[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes ``arrays`` and ``metadata`` as a safetensors file with a digest of both."""
    from safetensors.numpy import save_file

    save_file(arrays, path, metadata={**metadata, "sha256": _digest(arrays, metadata)})


class State(Mapping[str, np.ndarray]):
    """Arrays by name. Reading gives the current values, live on the CPU and copied from a GPU; ``set`` overwrites.

    A buffer never moves once a program has its address. ``lock`` is held by whoever puts work on it in order, so programs that
    share a state run one after the other, from whatever threads; ``stream`` has the last one of a GPU, behind which
    ``done`` is an event where the stream may go. What is read by name beside a run in another thread may be half written.

    A copy is a parameter in another dtype, which programs that update the parameter write as well; ``refresh`` makes it anew
    after anything else has written the parameter. Copies are not among the names.

    An array may be the memory of a torch tensor (``share``); where it cannot be, ``sync_to_torch`` copies.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._tensors: dict[str, Any] = {}  # torch tensors that stand behind names
        self._shared = set[str]()  # names whose memory ``share`` was given
        self._device: dict[str, Any] = {}  # flat torch tensors, where the values are once a GPU program has run
        self._home: Device | None = None  # where those are
        self.lock = make_lock(STATE)
        self.done: Any = None
        self.stream: Any = None
        self.types: dict[str, TensorType] = {}
        self.copies: dict[str, str] = {}  # the parameter of each
        self.sharding: dict[str, Sharding] = {}  # of those of which this process has a part
        self._stale: set[str] = set()  # copies to be made anew
        self._torn: set[str] = set()  # what a run may have written in part, before an exception ended it
        self._lent: set[str] = set()  # what a tensor of the device was given out for, into which anybody may write
        self.version = 0  # counts what programs and ``set`` wrote: a frozen program packs its parameters anew

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._device:
            with self._settled():
                self._memory(name)[...] = to_numpy(self._device[name])
        return self._arrays[name]

    def array(self, name: str) -> np.ndarray:
        """The buffer of ``name`` in host memory, in which a program of a GPU does not write."""
        return self._arrays[name]

    @property
    def away(self) -> bool:
        """Whether buffers lie on a device: then reading one copies it."""
        return bool(self._device)

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Holds the lock, with nothing under way on the device."""
        with self.lock:
            if self.stream is not None:
                (self.done or self.stream).synchronize()
            yield

    def _memory(self, name: str) -> np.ndarray:
        """The buffer of ``name`` as one dimension, in memory order."""
        array = self._arrays[name]
        return array.transpose(self.types[name].order or range(array.ndim)).reshape(-1)

    def on_device(self, name: str, device: Device) -> Any:
        """``name`` as a flat torch tensor on ``device``, moved there at first use and staying there.

        Raises InputError when it is on another device.
        """
        with self.lock:
            if name in self._device:
                if device is not self._home:
                    where = self._home.where if self._home else ""
                    raise InputError(f"state {name!r} lies on {where}; this program runs on {device.where}")
                return self._device[name]
            host = from_numpy(self._memory(name))
            tensor = device.place(host)
            if tensor.data_ptr() != host.data_ptr() or tensor.device != host.device:
                self._device[name], self._home = tensor, device
            return tensor

    def push(self, names: Iterable[str]) -> None:
        """Sends ``names`` to the device, where they are there, after a program of the CPU has written their arrays."""
        for name in self._device.keys() & set(names) if self.away else ():
            with self._settled():
                self._device[name].copy_(from_numpy(self._memory(name)))

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._arrays if name not in self.copies)

    def __len__(self) -> int:
        return len(self._arrays) - len(self.copies)

    def add(self, name: str, type: TensorType, initial: np.ndarray, copy_of: str = "") -> None:
        """Makes the buffer of ``name``, a copy of ``copy_of`` if given, unless it exists.

        Raises InputError when it exists with another type.
        """
        self.extend({name: type}, {name: initial}, {name: copy_of} if copy_of else {})

    def extend(self, types: Mapping[str, TensorType], initial: Mapping[str, np.ndarray], copies: Mapping[str, str]) -> None:
        """``add`` of several, those of ``copies`` copies of others; filled on all cores, since new memory is slow to get.

        Raises InputError when one exists with another type; nothing is added then.
        """
        for name, type in types.items():
            if name in self.types and not self.types[name].same(type):
                raise InputError(f"state {name!r} is {self.types[name]} already; this program wants {type}")
        new = [name for name in types if name not in self._arrays]
        for name, array in zip(new, zeros([types[name] for name in new]), strict=True):
            self.types[name], self._arrays[name] = types[name], array
        self.copies.update((name, copies[name]) for name in new if name in copies)
        self._stale.update(name for name in new if name in copies)

        def fill(name: str) -> None:
            if not is_zero(initial[name]):
                self._arrays[name][...] = initial[name]

        if sum(types[name].size for name in new) < SMALL:
            list(map(fill, new))
        else:
            in_threads(fill, new)

    def wrote(self, names: Collection[str]) -> None:
        """Takes note that a program has written ``names``, copies among them."""
        if names:
            self.version += 1
            if self.copies:
                self._stale.update(c for c, of in self.copies.items() if of in names and c not in names)

    def tear(self, names: Collection[str]) -> None:
        """Marks ``names``: a run ended while it wrote them. What is ``set`` or loaded since is whole again."""
        self._torn.update(names)

    @property
    def torn(self) -> bool:
        """Whether a run has written a part of it and not the rest."""
        return bool(self._torn)

    def require_whole(self) -> None:
        """Raises InputError if it is ``torn``."""
        if self._torn:
            first, *others = sorted(self._torn)
            names = f"{first!r}" + f" and {len(others)} more" * bool(others)
            raise InputError(
                f"a run was interrupted while it wrote the state {names}: some is new and some old; load a checkpoint "
                "(State.load, Trainer.load), or State.set each"
            )

    def require_apart(self, written: Collection[str]) -> None:
        """Raises InputError if one of ``written`` lies in memory that another name has too, as views of one tensor do."""
        starts = ((self._arrays[name].__array_interface__["data"][0], name) for name in self._shared)
        open: list[tuple[int, str]] = []  # where those that begin before end, and their names
        for start, name in sorted(starts):
            open = [(end, other) for end, other in open if end > start]
            for _, other in open:
                if name in written or other in written:
                    raise InputError(
                        f"state {other!r} and {name!r} lie in the same memory, and the program writes one of them: what the "
                        "other is would depend on the order in which it computes. Give one of them a copy (tensor.clone())"
                    )
            open.append((start + self._arrays[name].nbytes, name))

    def refresh(self, names: Collection[str]) -> None:
        """Makes those of ``names`` anew that are copies and may not be what their parameters are, on torch's current stream."""
        for name in names & self.copies.keys() if self.copies else ():
            of = self.copies[name]
            if name in self._stale or of in self._lent or of not in self._device:  # arrays of the host are always given out
                self._tensor(name).copy_(self._tensor(of))
                self._stale.discard(name)

    def share(self, name: str, tensor: Any) -> None:
        """Makes the memory of ``tensor``, torch's or an array, the buffer of ``name``; if not dense, or on a GPU, it is copied.

        Tensors may overlap as long as no program writes one of them. Raises InputError when the name exists.
        """
        if name in self._arrays:
            raise InputError(f"state {name!r} is {self.types[name]} already")
        array = to_numpy(tensor)
        order = sorted(range(array.ndim), key=lambda d: (-array.strides[d], d))
        type = TensorType(array.shape, as_dtype(array.dtype)).with_order(order)
        if not isinstance(tensor, np.ndarray):
            self._tensors[name] = tensor
        if array.strides == tuple(s * array.itemsize for s in type.strides) and array.flags.writeable:
            self.types[name], self._arrays[name] = type, array
            self._shared.add(name)
        else:
            self.add(name, type.with_order(None), array)

    def tensor(self, name: str) -> Any:
        """``name`` as a torch tensor over the memory that programs use; the shared one where there is one."""
        self._lent.add(name)
        return self._tensor(name)

    def _tensor(self, name: str) -> Any:
        type, flat = self.types[name], self._device.get(name)
        if flat is not None:
            return flat.as_strided(type.shape, type.strides)
        array, shared = self._arrays[name], self._tensors.get(name)
        return shared if shared is not None and to_numpy(shared).ctypes.data == array.ctypes.data else from_numpy(array)

    def sync_to_torch(self) -> None:
        """Copies the current values to the tensors of ``share`` that do not lie in this state's memory."""
        for name, tensor in self._tensors.items():
            array = self[name]  # fetched from the GPU if need be
            if to_numpy(tensor).ctypes.data != array.ctypes.data:
                tensor.detach().copy_(from_numpy(array))

    def whole(self, name: str) -> np.ndarray:
        """The array ``name``; of one of which each process of a mesh has a part, all parts, for which all must call this."""
        if name not in self.sharding:
            return self[name]
        sharding = self.sharding[name]
        return sharding.join(processes(sharding.mesh).all(self[name]))

    def _own_part(self, name: str, array: np.ndarray) -> np.ndarray:
        """``array``, or this process's part of it where it is all of ``name``."""
        sharding = self.sharding.get(name)
        if sharding is None or array.shape != sharding.whole:
            return array
        return sharding.part(array, processes(sharding.mesh).coordinates)

    def _given(self, name: str, value: Any) -> np.ndarray:
        """``value`` as an array of numbers that ``name`` may hold: no floats for integers, no integers for truth values."""
        own, what = self.types[name].dtype, f"state {name!r} is {self.types[name]}"
        try:
            array = to_numpy(value)
            given = as_dtype(array.dtype.newbyteorder("="))
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{what}; {type(value).__name__} does not fit: {error}") from None
        if not own.is_float and (given.is_float or (own.is_bool and not given.is_bool)):
            raise InputError(f"{what}, got {array.dtype}; convert it first, an array with .astype({own.name!r})")
        if own.is_int and given is not own and array.size and (array != array.astype(own.numpy)).any():
            raise InputError(f"{what}, got {array.min()} to {array.max()}")
        return array

    def set(self, name: str, value: Any) -> None:
        """Overwrites ``name``; what is sharded is given whole, or as the own part. Numbers are rounded to its dtype. Raises
        InputError for an unknown name, another shape, numbers that its dtype has none of, and a tensor without memory here."""
        if name not in self._arrays or name in self.copies:
            raise InputError(f"no state {name!r}; there is {', '.join(map(repr, self)) or 'none'}")
        array = self._own_part(name, self._given(name, value))
        if array.shape != self._arrays[name].shape:
            raise InputError(f"state {name!r} has shape {list(self._arrays[name].shape)}, got {list(array.shape)}")
        self.put(name, array)

    def put(self, name: str, array: np.ndarray) -> None:
        """Overwrites what this process has of ``name``: its part of what is sharded, or of a sum over processes."""
        with self.lock:
            self._arrays[name][...] = array
            self._torn.discard(name)
            self.wrote([name])
            self.push([name])

    def gathered(self, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """Everything, or ``names``, in logical (OIHW) layout; of what is sharded all parts, for which all processes must call
        this. Raises InputError if it is ``torn``."""
        self.require_whole()
        return {name: np.array(self.whole(name), order="C") for name in (self if names is None else names)}

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None, names: Iterable[str] | None = None) -> None:
        """Writes what is ``gathered`` as a safetensors file with a digest in its metadata. Raises InputError if ``torn``."""
        write_arrays(path, self.gathered(names), metadata or {})

    def load(self, path: str | Path, names: Mapping[str, str] | None = None, more: Callable[[str], bool] | None = None) -> None:
        """Reads what ``save`` wrote; ``names`` says what is called otherwise here, ``more`` which names are welcome if new.

        Raises InputError for a file that is no safetensors file or has been altered, and listing missing, unexpected and
        misshapen names and those of another dtype; then nothing is changed.
        """
        read = {(names or {}).get(name, name): array for name, array in read_arrays(path).items()}
        found = {name: self._own_part(name, array) for name, array in read.items()}
        missing, unexpected = self.keys() - found.keys(), {n for n in found.keys() - self.keys() if more is None or not more(n)}
        both = sorted(found.keys() & self.keys())
        shapes = [n for n in both if found[n].shape != self._arrays[n].shape]
        dtypes = [n for n in both if found[n].dtype != self._arrays[n].dtype]
        if missing or unexpected or shapes or dtypes:
            wrong = {"missing": missing, "unexpected": unexpected, "misshapen": shapes, "of another dtype": dtypes}
            raise InputError(f"{path} does not fit: {'; '.join(f'{k} {_few(names)}' for k, names in wrong.items() if names)}")
        for name, array in found.items():
            if name in self._arrays:
                self.set(name, array)
            else:
                self.add(name, TensorType(array.shape, as_dtype(array.dtype)), array)
